"""Relations between images after the same transform: normalising, resizing, cropping, changing colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from stdc_parity.align.diagnosis.colours import Enhanced, explain_colours
from stdc_parity.align.diagnosis.relations import Relation, nothing, numbers, observed
from stdc_parity.align.diagnosis.resampling import CODE, TRAITS, which_way
from stdc_parity.align.framework import Array

Sides = tuple[Array, Array, Array]
"""What a transform was given, what it gave on the reference side, what on the other."""

GRIDS = (1 / 4, 1 / 8, 1 / 10, 1 / 20, 1 / 40)
"""Steps that lists of scales have, coarse ones first: a scale that was drawn from a range seldom lies on one."""

MANY = 4
"""How many samples it takes to tell a list of scales from a range."""

COLOURED = 4
"""How many samples are looked at for what their colours have in common."""

GREY_LEVELS = 2 / 255
"""What a model of the colours may be off by where a factor, which is fitted, falls next to a whole number."""


# --- normalising --------------------------------------------------------------------------------------------


def normalisations(named: str, samples: Sequence[Sides]) -> Iterator[Relation]:
    """Other figures in (pixel / scale - mean) / std: both sides' are fitted to the pixels they were given."""
    before, a, b = samples[0]
    if (
        before.ndim != 3
        or before.dtype != np.uint8
        or a.dtype.kind != "f"
        or a.ndim != 3
        or a.shape != b.shape
    ):
        yield nothing("other mean, deviation or scale")
        return
    pixels = np.moveaxis(before, 2, 0) if a.shape == (before.shape[2], *before.shape[:2]) else before
    if pixels.shape != a.shape:
        return
    fits = [_lines(pixels, side) for side in (a, b)]
    if any(fit is None for fit in fits):
        return
    (slope, offset), (other_slope, other_offset) = (fit for fit in fits if fit is not None)
    cause, fix = _figures(named, slope, offset, other_slope, other_offset)
    shape = (-1, 1, 1)
    predicted = numbers(pixels) * other_slope.reshape(shape) + other_offset.reshape(shape)
    yield Relation(
        "other mean, deviation or scale", cause, fix, lambda _: predicted, forward=True, fitted=2 * len(slope)
    )


def _lines(pixels: Array, result: Array) -> tuple[Array, Array] | None:
    """The slope and offset of each channel (first axis), if straight lines give `result` to float32 rounding."""
    x, y = (numbers(side).reshape(len(side), -1) for side in (pixels, result))
    centred = x - x.mean(1, keepdims=True)
    spread = (centred**2).sum(1)
    if not spread.all():
        return None
    slope = (centred * y).sum(1) / spread
    offset = y.mean(1) - slope * x.mean(1)
    gap = np.abs(slope[:, np.newaxis] * x + offset[:, np.newaxis] - y).max()
    return (slope, offset) if gap <= 2e-6 * np.abs(y).max() else None


def _figures(
    named: str, slope: Array, offset: Array, other_slope: Array, other_offset: Array
) -> tuple[str, str]:
    """In words what another line for each channel means, with the reference's scale taken to be 255."""
    std, mean = 1 / (255 * slope), -offset / (255 * slope)
    fix = f"(image / 255 - {_row(mean)}) / {_row(std)}"
    for scale in (1.0, 256.0, 128.0):
        if _near(1 / (scale * other_slope), std) and _near(-other_offset * std, mean):
            how = "not divided by 255" if scale == 1 else f"divided by {scale:g}, not by 255"
            return f"{named}: pixels are {how} before mean and deviation.", fix
    other_std, other_mean = 1 / (255 * other_slope), -other_offset / (255 * other_slope)
    if _near(other_mean, mean) and _near(other_std, np.ones_like(std)):
        return (
            f"{named}: the mean is subtracted, but nothing is divided by the deviation (std is left out).",
            fix,
        )
    if _near(other_mean, mean[::-1]) and _near(other_std, std[::-1]):
        return f"{named}: mean and std are reversed: they are those of the channels in BGR order.", fix
    if _near(other_mean, np.zeros_like(mean)) and _near(other_std, np.ones_like(std)):
        return f"{named}: pixels are divided by 255, but not normalised with mean and std.", fix
    if _near(other_mean, np.full_like(mean, 0.5)) and _near(other_std, np.full_like(std, 0.5)):
        return f"{named}: mean and std are 0.5, PaddleSeg's default, not {_row(mean)} and {_row(std)}.", fix
    given = f"mean {_row(other_mean)} and std {_row(other_std)}"
    return f"{named}: normalised with {given}, not with {_row(mean)} and {_row(std)}.", fix


def _near(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-5))


def _row(values: Array) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


# --- resizing -----------------------------------------------------------------------------------------------


def resized(named: str, samples: Sequence[Sides]) -> Iterator[Relation]:
    """Resized to the same size in another way; every sample must show the same one."""
    before, a, b = samples[0]
    tried = "ways to resize: " + ", ".join(CODE)
    if a.shape != b.shape or before.shape[:2] == a.shape[:2] or before.dtype != np.uint8:
        yield nothing(tried)
        return
    ways = [(which_way(before, a), which_way(before, b)) for before, a, b in samples if a.shape == b.shape]
    right, wrong = ways[0]
    if not (right and wrong) or right == wrong or any(way != (right, wrong) for way in ways):
        yield nothing(tried)
        return
    traits = [f"{way}{', ' + TRAITS[way] if way in TRAITS else ''}" for way in (wrong, right)]
    cause = f"{named} is resized by {traits[0]}; the reference by {traits[1]}."
    yield Relation(tried, cause, CODE[right], lambda _: b, forward=True, certain=True)


def scales(named: str, samples: Sequence[Sides]) -> Iterator[Relation]:
    """Resized to another size: which scales each side has, if they are of another list or of none."""
    before, a, b = samples[0]
    if a.shape == b.shape or a.ndim != before.ndim or before.dtype != np.uint8 or len(samples) < MANY:
        return
    found = [[_scale(before, side) for before, *sides in samples for side in (sides[i],)] for i in (0, 1)]
    grids = [next((g for g in GRIDS if all(_on_grid(g, scale) for scale in side)), 0.0) for side in found]
    if any(low > high for side in found for low, high in side) or not grids[0]:
        return
    listed = _listing(found[0], grids[0])
    if not grids[1]:
        drawn = ", ".join(f"{low:.3f}" for low, _ in found[1][:4])
        cause = (
            f"{named} is scaled by {drawn}, …: drawn from a range (uniform), where the reference takes its "
            f"scales from a list ({listed})."
        )
        yield observed("the sizes", cause, "random.choice(scales)")
        return
    own = _listing(found[1], grids[1])
    cause = f"{named} is scaled by {own}, the reference's by {listed}: another list of scales."
    yield observed("the sizes", cause, "Use the reference's list of scales.")


def _listing(scales: Sequence[tuple[float, float]], grid: float) -> str:
    return ", ".join(
        f"{value:.4g}" for value in sorted({np.ceil(low / grid - 1e-9) * grid for low, _ in scales})
    )


def _scale(before: Array, after: Array) -> tuple[float, float]:
    """The least and the greatest scale that give these sizes, cut to whole pixels."""
    sides = list(zip(before.shape[:2], after.shape[:2], strict=True))
    return max(y / x for x, y in sides), min((y + 1) / x for x, y in sides)


def _on_grid(grid: float, scale: tuple[float, float]) -> bool:
    low, high = scale
    return bool(np.ceil(low / grid - 1e-9) * grid < high)


# --- cropping -----------------------------------------------------------------------------------------------


def crop_relations(
    named: str, samples: Sequence[Sides], others: Sequence[Sides], what: str
) -> Iterator[Relation]:
    """Padded where the reference resizes, or cut out at another place."""
    before, a, b = samples[0]
    if a.shape != b.shape or before.ndim != a.ndim or before.dtype != np.uint8:
        return
    height, width = (min(x, y) for x, y in zip(before.shape[:2], b.shape[:2], strict=True))
    rest = [b[height:].reshape(-1), b[:, width:].reshape(-1)]
    fill = np.unique(np.concatenate(rest)) if sum(part.size for part in rest) else np.zeros(0)
    if len(fill) == 1:
        padded = np.full_like(b, fill[0])
        top, left = _found(before, b[:height, :width]) or (0, 0)
        padded[:height, :width] = before[top : top + height, left : left + width]
        cause = f"{named}: what is smaller than the crop is padded with {fill[0]}, where the reference enlarges it."
        fix = "Resize a sample that is too small until it fits, as the reference's crop; padding cannot restore it."
        yield Relation("padded", cause, fix, partial(_given, given=padded), forward=True, exact=True)
    if before.shape[0] >= b.shape[0] and before.shape[1] >= b.shape[1]:
        yield from _moved(named, samples, others)


def _moved(named: str, samples: Sequence[Sides], others: Sequence[Sides]) -> Iterator[Relation]:
    """Cut out at another place; if both are the same share of the free room, one side's room is a pixel larger."""
    tried = "cut out at another place"
    places, larger = [], True
    for before, a, b in (*samples, *others):
        right, wrong = _found(before, a), _found(before, b)
        if right is None or wrong is None:
            continue
        places.append((right, wrong))
        for i in (0, 1):
            room = before.shape[i] - a.shape[i]
            larger = larger and _one_more(right[i], wrong[i], room)
    before, a, b = samples[0]
    here = _found(before, b)
    if here is None or _found(before, a) is None:
        yield nothing(tried)
        return
    (top, left), at = here, _found(before, a)
    cause = f"{named} is cut out at (top, left) = {here}, the reference's at {at}."
    fix = "left = int(random() * (width - crop_width)), top alike"
    if larger and len(places) > 1:
        cause += (
            f" In all of {len(places)} samples that is the same draw with one place more to choose from: the last "
            "one is included (inclusive), as with randint."
        )
        cut = before[top : top + b.shape[0], left : left + b.shape[1]]
        yield Relation(tried, cause, fix, partial(_given, given=cut), forward=True, exact=True)
    else:
        yield nothing(tried)


def _one_more(right: int, wrong: int, room: int) -> bool:
    """Whether int(r * room) and int(r * (room + 1)) can be these for one r."""
    if room <= 0:
        return right == wrong == 0 or room < 0
    low = max(right / room, wrong / (room + 1))
    return low < min((right + 1) / room, (wrong + 1) / (room + 1))


def _found(image: Array, part: Array) -> tuple[int, int] | None:
    """Where in `image` the first place is that looks like `part`."""
    rows, columns = image.shape[0] - part.shape[0] + 1, image.shape[1] - part.shape[1] + 1
    for top in range(max(0, rows)):
        for left in range(max(0, columns)):
            if np.array_equal(image[top, left : left + part.shape[1]], part[0]) and np.array_equal(
                image[top : top + part.shape[0], left : left + part.shape[1]], part
            ):
                return top, left
    return None


# --- colours ------------------------------------------------------------------------------------------------


def recoloured(named: str, samples: Sequence[Sides], others: Sequence[Sides]) -> Iterator[Relation]:
    """Brightness, contrast and saturation changed in another way: a model of Pillow's enhancers, fitted."""
    shown = [Enhanced(*sides) for sides in samples[:COLOURED] if _is_rgb(sides)]
    if not shown or not _is_rgb(samples[0]):
        return
    change = explain_colours(
        named, shown, [Enhanced(*sides) for sides in others[:COLOURED] if _is_rgb(sides)]
    )
    if change is None:
        yield nothing("other factors or another order of brightness, contrast and saturation")
        return
    yield Relation(
        "brightness, contrast and saturation",
        change.cause,
        change.fix,
        partial(_given, given=change.predicted),
        forward=True,
        allowed=GREY_LEVELS,
    )


def _is_rgb(sides: Sides) -> bool:
    return all(
        s.ndim == 3 and s.shape == sides[0].shape and s.dtype == np.uint8 and s.shape[2] == 3 for s in sides
    )


def _given(_: Array, given: Array) -> Array:
    return given
