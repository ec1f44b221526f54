"""Predicting every file that was named: results beside each other in a folder, bad files reported and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stdc_parity.align.infer.palette import CLASSES, Bytes, name_of
from stdc_parity.align.infer.pictures import (
    BadInput,
    import_pillow,
    label_map,
    marked,
    mask_map,
    overlay,
    picture,
    read_image,
    side_by_side,
)
from stdc_parity.align.infer.resample import Floats, classes_of, lead_where, resize
from stdc_parity.align.infer.runtimes import Runtimes
from stdc_parity.align.infer.sources import Item, check_targets, make_folder
from stdc_parity.align.infer.video import Writer, import_av, open_video
from stdc_parity.align.spec import Side
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.errors import UsageError, shown
from stdc_parity.fixtures.images import normalised

IDS = {"train": ("labelTrainIds",), "label": ("labelIds",), "both": ("labelTrainIds", "labelIds")}
"""The label maps that can be written, by the endings that Cityscapes gives to files of them."""

WHOLE = 0.95
"""The share of its frames that a video must have: what containers say of their number is not exact."""

SHOWN = 3
"""How many of the largest classes are named."""


@dataclass(frozen=True)
class Options:
    """How to predict: the image's sides are `scale` of its own for the network, `ids` is a key of IDS, `opacity` that
    of an overlay's colours; two compared runtimes may differ in a share of `most` of a file's pixels."""

    scale: float = 0.5
    ids: str = "train"
    opacity: float = 0.5
    most: float = 1e-4
    force: bool = False


@dataclass(frozen=True)
class Prediction:
    """The classes of an image's pixels by each runtime, train ids uint8 (h, w), and of how many there are.

    `different` counts the pixels that two runtimes give other classes; `lead` is the largest by which the first one's
    class leads at such a pixel, as a fraction of its scores' scale: rounding alone gives no more than 1e-5 or so.
    """

    maps: Mapping[Side, Bytes]
    classes: int
    different: int = 0
    lead: float = 0.0

    @property
    def first(self) -> Bytes:
        """The map of the first runtime."""
        return next(iter(self.maps.values()))


@dataclass
class Outcome:
    """What became of the files: those that are done, those that were bad, those whose maps differ too much."""

    done: int = 0
    bad: list[str] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """3 if a file was bad, else 1 if runtimes differ, else 0."""
        return BadInput.exit_code if self.bad else 1 if self.differ else 0


class Watch:
    """Told what happens, a verb for each; the command shows it."""

    def begin(self, item: Item, frames: int) -> None:
        """A file is next; a video may say how many frames it has."""

    def step(self) -> None:
        """A frame of a video, or an image, is done."""

    def say(self, line: str) -> None:
        """A result, for standard output."""

    def warn(self, line: str) -> None:
        """A file that was bad, for standard error."""


def endings(sides: Sequence[Side], options: Options) -> tuple[list[str], list[str]]:
    """How the names of an image's results end, and those of a video's."""
    kinds = IDS[options.ids]
    if len(sides) == 1:
        return [*(f"{kind}.png" for kind in kinds), "overlay.png"], ["overlay.mp4"]
    maps = [f"{side}_{kind}.png" for side in sides for kind in kinds]
    return [*maps, "different.png", "compare.png"], ["compare.mp4"]


def check(items: Sequence[Item], sides: Sequence[Side], options: Options) -> None:
    """Raise UsageError if a result may not be written, MissingFramework if images or videos cannot be read here."""
    import_pillow()
    if any(item.is_video for item in items):
        import_av()
    check_targets(items, *endings(sides, options), force=options.force)


def predict_all(items: Sequence[Item], runtimes: Runtimes, options: Options, watch: Watch) -> Outcome:
    """Predict every item, and write its results. What is bad about one is reported, and the next one goes on.

    Raises UsageError if a result cannot be written or the network is not one for segmentation.
    """
    outcome = Outcome()
    for item in items:
        try:
            if not item.path.is_file():
                raise BadInput("it is no file")
            do = _do_video if item.is_video else _do_image
            over = do(item, runtimes, options, watch)
        except (BadInput, MemoryError) as error:
            why = error.message if isinstance(error, BadInput) else "there is not enough memory for it"
            watch.warn(f"{shown(item.name)}: skipped, {why}")
            outcome.bad.append(item.name)
        else:
            outcome.done += 1
            outcome.differ += [item.name] if over else []
    return outcome


def predict(rgb: Bytes, runtimes: Runtimes, scale: float) -> Prediction:
    """The classes of an image's pixels, at its own size: scaled, through the network, and its scores scaled back.

    As upstream's evaluation does it (evaluation.py): normalised pixels and logits are resampled, and the scaled size
    is rounded down. A size that a graph takes goes before the scale. Raises BadInput.
    """
    height, width = rgb.shape[:2]
    own_height, own_width = runtimes.size
    size = own_height or max(1, int(height * scale)), own_width or max(1, int(width * scale))
    scores = runtimes.scores(resize(normalised(rgb), *size))
    maps = {side: classes_of(each, height, width) for side, each in scores.items()}
    first: Floats = scores[runtimes.sides[0]]
    if len(maps) == 1:
        return Prediction(maps, first.shape[0])
    mask = np.not_equal(*maps.values())
    return Prediction(maps, first.shape[0], int(mask.sum()), lead_where(first, mask) if mask.any() else 0.0)


def _do_image(item: Item, runtimes: Runtimes, options: Options, watch: Watch) -> bool:
    """Predict an image; whether two runtimes differ too much on it."""
    watch.begin(item, 0)
    rgb = read_image(item.path)
    found = predict(rgb, runtimes, options.scale)
    results = _results(rgb, found, options)
    make_folder(item.place.parent)
    for ending, data in results.items():
        with atomic_write(item.target(ending), force=options.force, source=item.path) as file:
            file.write(data)
    watch.step()
    over = found.different > options.most * found.first.size
    watch.say(f"{shown(item.name)}: {rgb.shape[0]}x{rgb.shape[1]} · {describe(found, found.first.size, options)}")
    return over


def _results(rgb: Bytes, found: Prediction, options: Options) -> dict[str, bytes]:
    """The files of an image's results, by the endings of their names."""
    ids = {kind: kind == "labelIds" for kind in IDS[options.ids]}
    if any(ids.values()) and found.classes != len(CLASSES):
        raise UsageError(
            f"--ids {options.ids}: the network has {found.classes} classes, label ids are known for {len(CLASSES)}",
            "--ids train writes the numbers of the classes.",
        )
    several = len(found.maps) > 1
    results = {
        f"{side}_{kind}.png" if several else f"{kind}.png": label_map(train_ids, found.classes, labels=labels)
        for side, train_ids in found.maps.items()
        for kind, labels in ids.items()
    }
    if several:
        results["different.png"] = mask_map(np.not_equal(*found.maps.values()))
    shown_as = "compare.png" if several else "overlay.png"
    return {**results, shown_as: picture(_view(rgb, found, options))}


def _view(rgb: Bytes, found: Prediction, options: Options) -> Bytes:
    """What people look at: the overlay, or both and where they differ."""
    overlays: dict[str, Bytes] = {
        side: overlay(rgb, each, found.classes, options.opacity) for side, each in found.maps.items()
    }
    if len(overlays) == 1:
        return next(iter(overlays.values()))
    mask = np.not_equal(*found.maps.values())
    return side_by_side({**overlays, f"{found.different:,} pixels differ": marked(rgb, mask)})


def describe(found: Prediction, pixels: int, options: Options) -> str:
    """The largest classes, or how many of `pixels` differ."""
    if len(found.maps) > 1:
        return describe_difference(found.different, pixels, found.lead, options.most)
    counts = np.bincount(found.first.ravel(), minlength=found.classes)
    largest = [n for n in np.argsort(-counts, kind="stable")[:SHOWN] if counts[n]]
    return ", ".join(f"{name_of(int(n), found.classes)} {100 * counts[n] / pixels:.1f} %" for n in largest)


def describe_difference(different: int, pixels: int, lead: float, most: float) -> str:
    """How many of `pixels` differ, by which lead, and whether that is too many."""
    text = f"{different:,} of {pixels:,} pixels differ ({100 * different / pixels:.2g} %)"
    if different:
        text += f", won by a lead of at most {lead:.1e} of scale"
    return text + (f" · over {100 * most:.2g} %" if different > most * pixels else "")


def _do_video(item: Item, runtimes: Runtimes, options: Options, watch: Watch) -> bool:
    """Predict a video frame by frame; whether two runtimes differ too much on it."""
    count = different = pixels = 0
    lead = 0.0
    with open_video(item.path) as video:
        watch.begin(item, video.count)
        make_folder(item.place.parent)
        (ending,) = endings(runtimes.sides, options)[1]
        target = item.target(ending)
        with atomic_write(target, force=options.force, source=item.path) as file, Writer(file, video.rate) as writer:
            for frame in video.frames:
                found = predict(frame.rgb, runtimes, options.scale)
                writer.add(_view(frame.rgb, found, options), frame.time, frame.base)
                count, pixels = count + 1, pixels + found.first.size
                different, lead = different + found.different, max(lead, found.lead)
                watch.step()
            if count < WHOLE * max(1, video.count):
                raise BadInput(f"it ends after {count} of {video.count} frames")
    height, width = frame.rgb.shape[:2]
    said = describe_difference(different, pixels, lead, options.most) if len(runtimes.sides) > 1 else ""
    watch.say(f"{shown(item.name)}: {count} frames of {height}x{width}{' · ' if said else ''}{said}")
    return different > options.most * pixels
