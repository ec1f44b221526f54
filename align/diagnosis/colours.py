"""Changes of brightness, contrast and saturation: by which factors and in which order an image was changed.

They are Pillow's enhancers (ImageEnhance: a blend with black, with the mean grey, with the grey image), which
paddle.vision and torchvision use for PIL images too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from stdc_parity.align.framework import Array

NAMES = ("brightness", "contrast", "saturation")
ORDERS = tuple(permutations(range(3)))

SHARE = 0.97
"""The share of values that a model must give to the bit to be the one."""

NEAR = 0.03
"""How far a ratio of fitted factors may be from constant: they are known to about 1/255."""

WAYS = tuple(way for way in product((-1, 0, 1), repeat=3) if any(way))
"""The directions in which a fit moves: a change of one factor is much like one of two others."""

STEPS = 300
"""Small steps in drawn directions that end a fit."""

Factors = tuple[float, float, float]


@dataclass(frozen=True)
class Enhanced:
    """One sample on both sides: the image before, the reference's and the other side's after it."""

    before: Array
    reference: Array
    other: Array


@dataclass(frozen=True)
class Change:
    """What differs about the colours: cause and fix, and the other side's image as predicted of the first sample."""

    cause: str
    fix: str
    predicted: Array


def enhance(image: Array, order: Sequence[int], factors: Sequence[float] | Array) -> Array:
    """`image` uint8 (h, w, 3) with its brightness (0), contrast (1) and saturation (2) changed in an order."""
    for which in order:
        if which == 0:
            base = np.zeros_like(image)
        elif which == 1:
            base = np.full_like(image, int(grey(image).mean() + 0.5))
        else:
            base = np.repeat(grey(image)[..., np.newaxis], 3, axis=2)
        image = _blend(base, image, factors[which])
    return image


def grey(image: Array) -> Array:
    """Pillow's grey image uint8 (h, w): fixed-point weights of ITU-R 601."""
    r, g, b = (image[..., i].astype(np.uint32) for i in range(3))
    return ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(np.uint8)


def _blend(base: Array, image: Array, factor: float) -> Array:
    """Pillow's Image.blend: in float32, cut to whole numbers."""
    low, high = base.astype(np.float32), image.astype(np.float32)
    blended: Array = np.clip(low + np.float32(factor) * (high - low), 0, 255).astype(np.uint8)
    return blended


def share_equal(a: Array, b: Array) -> float:
    """The share of values that are equal."""
    return float((a == b).mean()) if a.shape == b.shape else 0.0


def fit(before: Array, after: Array, order: Sequence[int] = (0, 1, 2)) -> tuple[Factors, float]:
    """The factors that make `after` of `before` best, and the share of values that they give to the bit."""
    factors: Array = np.array(_start(before, after))
    best = _misfit(before, after, order, factors)
    step = 0.02
    while step > 1e-4:
        trials = [factors + step * np.array(way) for way in WAYS]
        misfits = [_misfit(before, after, order, trial) for trial in trials]
        least = int(np.argmin(misfits))
        if misfits[least] < best:
            factors, best = trials[least], misfits[least]
        else:
            step /= 2
    factors = _refined(before, after, order, factors, best)
    made = tuple(float(f) for f in factors)
    return (made[0], made[1], made[2]), share_equal(enhance(before, order, made), after)


def _refined(before: Array, after: Array, order: Sequence[int], factors: Array, best: float) -> Array:
    """Factors after small steps in any direction, for what remains is a narrow valley."""
    random = np.random.default_rng(0)
    for step in np.geomspace(2e-3, 5e-5, STEPS):
        trial = factors + step * random.standard_normal(3)
        found = _misfit(before, after, order, trial)
        if found < best:
            factors, best = trial, found
    return factors


def _misfit(before: Array, after: Array, order: Sequence[int], factors: Array) -> float:
    predicted = enhance(before, order, factors)
    return float(np.abs(predicted.astype(np.int16) - after.astype(np.int16)).mean())


def _start(before: Array, after: Array) -> Factors:
    """Factors from a linear model of the pixels that nothing clips: after = a * p + b * grey + c."""
    clear = (before < 160).all(2) & (after > 2).all(2) & (after < 253).all(2)
    if clear.sum() < 50:
        return 1.0, 1.0, 1.0
    p, g = before[clear].astype(np.float64), grey(before)[clear].astype(np.float64)
    columns = np.stack([p.reshape(-1), np.repeat(g, 3), np.ones(p.size)], axis=1)
    a, b, c = np.linalg.lstsq(columns, after[clear].astype(np.float64).reshape(-1), rcond=None)[0]
    both, mean = a + b, float(grey(before).mean())
    if not (0.05 < both < 10 and 0.05 < both + (c + 1) / mean < 10):
        return 1.0, 1.0, 1.0
    brightness = both + (c + 1) / mean  # each rounding cuts half a level
    return brightness, both / brightness, a / both


def explain_colours(place: str, samples: Sequence[Enhanced], others: Sequence[Enhanced]) -> Change | None:
    """What the other side does differently to the colours of `samples`, None if no model of it holds.

    `others` are further samples, whose factors the reference may have drawn for another index.
    """
    first = samples[0]
    fits = {order: fit(first.before, first.reference, order) for order in ORDERS}
    order = max(fits, key=lambda order: fits[order][1])
    factors, share = fits[order]
    if share < SHARE:
        return None
    words = ", ".join(NAMES[i] for i in order)
    for swapped in (o for o in ORDERS if o != order):
        predicted = enhance(first.before, swapped, factors)
        if share_equal(predicted, first.other) >= SHARE:
            cause = (
                f"{place}: the colours are changed in another order: {', '.join(NAMES[i] for i in swapped)}."
            )
            return Change(cause, f"The reference's order: {words}.", predicted)
    for which, name in enumerate(NAMES):
        without = [1.0 if i == which else factor for i, factor in enumerate(factors)]
        predicted = enhance(first.before, order, without)
        if share_equal(predicted, first.other) >= SHARE:
            return Change(f"{place}: {name} is not changed (left out).", f"Add {name}: {words}.", predicted)
    for sample in others:
        drawn, share = fit(sample.before, sample.reference, order)
        predicted = enhance(first.before, order, drawn)
        if share >= SHARE and share_equal(predicted, first.other) >= SHARE:
            cause = f"{place}: the colours get another sample's factors: the choices are seeded without the index."
            return Change(cause, "Seed the choices by the index too.", predicted)
    return _narrowed(place, samples, order)


def _narrowed(place: str, samples: Sequence[Enhanced], order: Sequence[int]) -> Change | None:
    """Whether all factors deviate from 1 by a constant multiple of the reference's."""
    drawn, made = [], []
    for sample in samples:
        (reference, share), (other, fitted) = (
            fit(sample.before, after, order) for after in (sample.reference, sample.other)
        )
        if min(share, fitted) >= SHARE:
            drawn.append(reference)
            made.append(other)
    a, b = np.array(drawn) - 1, np.array(made) - 1
    if len(drawn) < 2:
        return None
    ratio = float((a * b).sum() / (a * a).sum())
    if np.abs(b - ratio * a).max() > NEAR * np.abs(a).max() or abs(ratio - 1) < NEAR:
        return None
    factors = 1 + ratio * (np.array(drawn[0]) - 1)
    how = "narrower" if ratio < 1 else "wider"
    return Change(
        f"{place}: the factors' range is {how}: all deviate from 1 by {ratio:.2f} times the reference's, "
        f"as with 0.5 * {ratio:.2f} = {0.5 * ratio:.2f} for 0.5.",
        f"brightness, contrast and saturation ranges {1 / ratio:.3g} times as wide",
        enhance(samples[0].before, order, factors),
    )
