"""Gathering a report's evidence from the records of a rung: statistics, histograms, error maps, predictions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from stdc_parity.align.compare import Folders, load_pair
from stdc_parity.align.evidence import Evidence, Numbers, Picture
from stdc_parity.align.framework import Array
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, StageResult, badness
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.converters.errors import CheckpointError
from stdc_parity.fixtures import scenes
from stdc_parity.fixtures.images import seeded_image

MOST = 8
"""Taps of a rung that evidence is gathered for: what is to blame, then outputs and predictions, then the worst."""

CELLS = 48
"""Cells of a histogram."""

LARGEST = (128, 256)
"""Height and width that pictures are shrunk to."""

FEW = 32
"""Elements of a tap that are shown one by one."""

Arrays = Mapping[Side, Array]


def gather(result: StageResult, spec: RunSpec, pair: Pair, whole: Folders, apart: Folders) -> StageResult:
    """`result` with evidence for what fails on it, from the records in `whole`, and those of its parts in `apart`.

    A tap that one side lacks, or that neither recorded, has none.
    """
    if result.failures or (all(result.comparisons) and not result.blamed):
        return result
    records = {own: _load(folders, name) for own, folders, name in _sources(result, whole, apart)}
    found = []
    for comparison, own in _chosen(result):
        pairs = records.get(own)
        if pairs is None or any(comparison.tap not in record.arrays for record in pairs):
            continue
        if any(record.arrays[comparison.tap].size > 1 for record in pairs):  # one value has been said already
            found.append(_evidence(comparison, own, pairs, spec, pair))
    return replace(result, evidence=found)


def _sources(result: StageResult, whole: Folders, apart: Folders) -> Iterator[tuple[bool, Folders, str]]:
    yield False, whole, result.stage
    yield True, apart, f"{result.stage}-isolated"


def _load(folders: Folders, name: str) -> tuple[Record, Record] | None:
    try:
        return load_pair(folders, name)
    except CheckpointError:  # not recorded
        return None


def _chosen(result: StageResult) -> list[tuple[Comparison, bool]]:
    """The taps to show, each with whether it is of a part run by itself."""
    own = {c.tap: c for c in result.parts}
    apart = result.blocked_by != "" and result.isolated
    failing = [c for c in result.comparisons if not c]
    chosen = [(c, own.get(c.tap) is c) for c in result.blamed]
    shown = [c for c in failing if c.kind in ("output", "prediction")][:2]
    shown += [c for c in failing if _is_matrix(c)][:2]
    shown += [*failing[:1], *sorted(failing, key=badness, reverse=True)[:2]]
    for comparison in shown:
        if all(comparison.tap != other.tap for other, _ in chosen):
            chosen.append((comparison, apart))
    return chosen[:MOST]


def _is_matrix(comparison: Comparison) -> bool:
    shape = comparison.shape
    return comparison.kind == "count" and len(shape) == 2 and shape[0] == shape[1] > 1


def _evidence(
    comparison: Comparison, own: bool, records: tuple[Record, Record], spec: RunSpec, pair: Pair
) -> Evidence:
    arrays = {record.side: record.arrays[comparison.tap] for record in records}
    finite = {side: _finite(array) for side, array in arrays.items()}
    bounds = _bounds(list(finite.values()))
    a, b = arrays.values()
    same = a.shape == b.shape
    return Evidence(
        tap=comparison.tap,
        own=own,
        numbers={side: _numbers(array, finite[side]) for side, array in arrays.items()},
        bounds=bounds,
        counts={side: np.histogram(values, CELLS, bounds)[0] for side, values in finite.items()},
        pictures=_pictures(comparison, arrays, records, spec, pair),
        elements=arrays if same and 1 < a.size <= FEW else {},
        confusion=arrays if same and _is_matrix(comparison) else {},
    )


def _finite(array: Array) -> Array:
    flat = array.reshape(-1)
    if flat.dtype.kind != "f":
        return flat.astype(np.float64)
    return flat[np.isfinite(flat)]


def _numbers(array: Array, finite: Array) -> Numbers:
    filled = finite if finite.size else np.zeros(1)
    return Numbers(
        size=array.size,
        minimum=float(filled.min()),
        maximum=float(filled.max()),
        mean=float(filled.mean(dtype=np.float64)),
        deviation=float(filled.std(dtype=np.float64)),
        zeros=int((array == 0).sum()),
        not_finite=array.size - finite.size,
    )


def _bounds(values: Sequence[Array]) -> tuple[float, float]:
    """The range of all values, never empty."""
    filled = [array for array in values if array.size] or [np.zeros(1)]
    low, high = float(min(a.min() for a in filled)), float(max(a.max() for a in filled))
    margin = max(abs(low), abs(high), 1e-30) * 1e-6
    return (low, high) if high - low > margin else (low - margin, high + margin)


def _pictures(
    comparison: Comparison, arrays: Arrays, records: tuple[Record, Record], spec: RunSpec, pair: Pair
) -> list[Picture]:
    a, b = arrays.values()
    if comparison.kind == "sample":
        return _of_samples(comparison, arrays)
    if comparison.kind == "prediction":
        label = records[0].arrays.get(f"{comparison.tap.removesuffix(' prediction')} label")
        if a.ndim != 3 or a.shape != b.shape:
            return []
        label = label[0] if label is not None and label.shape == a.shape else None
        return _of_classes(
            {side: array[0] for side, array in arrays.items()}, _scene(comparison, spec, pair), label
        )
    if a.ndim != 4 or a.shape != b.shape or a.dtype.kind != "f" or min(a.shape[2:]) < 2:
        return []
    error = Picture("error", _error(a, b, comparison.scale, axes=(0, 1)))
    if comparison.kind == "output" and pair.recipe is not None and a.shape[1] == pair.recipe.num_classes:
        classes = {side: array[0].argmax(axis=0) for side, array in arrays.items()}  # (h, w)
        image = _input_image(spec, pair) if a.shape[2:] == spec.size else None
        given = [Picture("image", _thin(image))] if image is not None else []
        return [*given, *_of_classes(classes, None, None), error]
    return [error]


def _scene(comparison: Comparison, spec: RunSpec, pair: Pair) -> Array | None:
    """The scene of a prediction, RGB uint8 (h, w, 3); None if the tap is of none, or of another size."""
    found = re.match(r"scene (\d{1,6}) ", comparison.tap)
    if found is None or comparison.shape[1:] != spec.size or pair.recipe is None:
        return None
    if pair.recipe.case is not None:  # images of the pair's own
        (image, *_), _ = pair.recipe.case(replace(spec, batch=1), int(found[1]))
        return _to_rgb(image[0].transpose(1, 2, 0)) if image.ndim == 4 and image.shape[1] == 3 else None
    drawn: Array = scenes.scene(spec.seed, int(found[1]), spec.size)[0]
    return drawn


def _of_samples(comparison: Comparison, arrays: Arrays) -> list[Picture]:
    """Both sides' images or labels, (h, w, 3) or (h, w), and where they differ."""
    a, b = arrays.values()
    if any(array.ndim not in (2, 3) or min(array.shape[:2]) < 2 for array in (a, b)):
        return []
    pictures = []
    for side, array in arrays.items():
        if array.ndim == 3:
            planes = array if array.shape[2] == 3 else np.moveaxis(array, 0, 2)
            if planes.shape[2] == 3:
                pictures.append(Picture("image", _thin(_to_rgb(planes)), side))
        else:
            pictures.append(Picture("classes", _thin(array.astype(np.uint8)), side))
    if a.shape == b.shape:
        channels = tuple(i for i in (0, 2) if a.ndim == 3 and a.shape[i] == 3)[-1:]
        pictures.append(Picture("error", _error(a, b, comparison.scale, channels)))
    return pictures


def _of_classes(classes: Arrays, scene: Array | None, label: Array | None) -> list[Picture]:
    """The scene, the truth, both sides' winning classes (h, w), and where they disagree."""
    a, b = classes.values()
    if a.shape != b.shape:
        return []
    apart = a != b
    pictures = [Picture("scene", _thin(scene))] if scene is not None else []
    pictures += [Picture("label", _thin(label))] if label is not None else []
    pictures += [Picture("classes", _thin(array.astype(np.uint8)), side) for side, array in classes.items()]
    return [*pictures, Picture("disagreement", _shrink(apart), share=float(apart.mean()))]


def _input_image(spec: RunSpec, pair: Pair) -> Array | None:
    """The network's first input as an RGB image uint8 (h, w, 3), if it is one."""
    drawn = (
        pair.inputs(spec) if callable(pair.inputs) else (seeded_image(spec.size, spec.batch, spec.seed),)
    )
    first = drawn[0]
    return _to_rgb(first[0].transpose(1, 2, 0)) if first.ndim == 4 and first.shape[1] == 3 else None


def _to_rgb(planes: Array) -> Array:
    """(h, w, 3) as uint8; floating-point values are stretched to the whole range."""
    if planes.dtype == np.uint8:
        return planes
    low, high = float(np.nanmin(planes)), float(np.nanmax(planes))
    stretched: Array = (
        np.nan_to_num((planes - low) / ((high - low) or 1.0) * 255).clip(0, 255).astype(np.uint8)
    )
    return stretched


def _error(a: Array, b: Array, scale: float, axes: tuple[int, ...]) -> Array:
    """|a - b| as fractions of `scale`, the largest along `axes`, shrunk to a picture; not finite is infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(np.subtract(a, b, dtype=np.float32)).max(axis=axes)
    shrunk: Array = _shrink(np.where(np.isfinite(gap), gap, np.inf)) / np.float32(scale or 1.0)
    return shrunk


def _steps(shape: Sequence[int]) -> tuple[int, int]:
    step = max(1, *(-(-side // most) for side, most in zip(shape, LARGEST, strict=False)))
    return step, step


def _thin(picture: Array) -> Array:
    """Every so many-th pixel of (h, w, …)."""
    down, across = _steps(picture.shape)
    thinned: Array = np.ascontiguousarray(picture[::down, ::across])
    return thinned


def _shrink(picture: Array) -> Array:
    """(h, w) in cells that each show the largest of their pixels."""
    down, across = _steps(picture.shape)
    rows = np.maximum.reduceat(picture, np.arange(0, picture.shape[0], down), axis=0)
    shrunk: Array = np.maximum.reduceat(rows, np.arange(0, picture.shape[1], across), axis=1)
    return shrunk
