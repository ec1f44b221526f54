"""Why a metric differs: the counts or the scores are computed again from what was recorded, in the ways ports do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from stdc_parity.align.diagnosis.relations import Relation, explain, nothing, observed
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

IGNORED = 255
PLACES = 3
GIVEN = "given logits"
SCORED = 1e-12
"""How near a score in float64 is met, as a fraction of scale."""

Score = Callable[[Array], Array]
"""A score of a confusion matrix int64 (c, c), labels in its rows."""


def explain_metric(failing: Sequence[Comparison], reference: Record, other: Record) -> list[Diagnosis]:
    """A diagnosis for the first count that differs, or for each kind of score that does by itself."""
    counts = [c for c in failing if c.tap.endswith(": confusion matrix") and not c.why]
    if counts:
        return [_explain_counts(counts[0].tap, failing, reference, other)]
    found = [d for d in (_of_shape_or_mode(c, reference, other) for c in failing) if d is not None]
    if found:
        return found[:PLACES]
    for kind, variants in SCORES.items():
        taps = [c.tap for c in failing if c.tap.endswith(f": {kind}") and c.tap in other.arrays]
        taps = [tap for tap in taps if _matrix_of(tap) in reference.arrays]
        if taps:
            found.append(_explain_scores(kind, taps, variants, reference, other))
    return found[:PLACES] or [Diagnosis(failing[0].tap, tried=("counts and scores computed again",))]


def _of_shape_or_mode(comparison: Comparison, reference: Record, other: Record) -> Diagnosis | None:
    """Scores that were broadcast, and a network that an evaluation leaves in another mode."""
    tap = comparison.tap
    if tap not in reference.arrays or tap not in other.arrays:
        return None
    a, b = reference.arrays[tap], other.arrays[tap]
    if (
        a.ndim == 1
        and b.shape == (len(a), len(a))
        and all(np.array_equal(row, a, equal_nan=True) for row in b)
    ):
        cause = f"{tap} has the shape {b.shape}, the reference's {a.shape} in every row: (c, 1) broadcasts."
        return Diagnosis(tap, cause, "totals of shape (c,)", 1.0, 0.0)
    if tap.startswith("train mode after ") and a.size == b.size == 1:
        cause = (
            f"{tap.removeprefix('train mode after ')} leaves the network in {'train' if b else 'eval'} mode."
        )
        fix = "put the mode back after an evaluation: network.train()" if a else "network.eval()"
        return Diagnosis(tap, cause, fix)
    return None


def _matrix_of(tap: str) -> str:
    return f"{tap.rpartition(': ')[0]}: confusion matrix"


# --- counts -------------------------------------------------------------------------------------------------


def _explain_counts(tap: str, failing: Sequence[Comparison], reference: Record, other: Record) -> Diagnosis:
    a, b = reference.arrays[tap], other.arrays[tap]
    taps = [c.tap for c in failing if c.tap.endswith(": confusion matrix") and not c.why]
    pairs = [(reference.arrays[t], other.arrays[t]) for t in dict.fromkeys([tap, *taps]) if t in other.arrays]
    return explain(tap, _of_counts(tap, a, b, reference), pairs)


def _of_counts(tap: str, a: Array, b: Array, reference: Record) -> Iterator[Relation]:
    if a.shape != b.shape or a.ndim != 2:
        yield nothing("the confusion matrix counted in other ways")
        return
    yield Relation(
        "transposed",
        f"{tap} is transposed: predictions are in its rows, labels in the reference's.",
        "num_classes * label + prediction",
        np.transpose,
        certain=True,
    )
    classes = len(a)
    prediction, labels = (reference.arrays.get(f"{GIVEN}: {what}") for what in ("classes", "labels"))
    if tap.startswith(GIVEN) and prediction is not None and labels is not None:
        for cause, fix, counted in _counts(prediction.astype(np.int64), labels.astype(np.int64), classes):
            yield Relation(
                "counted in other ways",
                f"{tap}: {cause}.",
                fix,
                partial(_given, given=counted),
                forward=True,
                exact=True,
            )
    yield from _exchanged(tap, a, b)
    yield from _stored(tap, a, b)


def _stored(tap: str, a: Array, b: Array) -> Iterator[Relation]:
    """Counts that a dtype cannot hold, or that lack very few pixels."""
    for dtype in (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float16, np.float32):
        name = np.dtype(dtype).name
        with np.errstate(over="ignore", invalid="ignore"):
            kept = a.astype(dtype).astype(b.dtype) if np.dtype(dtype).kind != "f" or a.max() < 6e4 else a
        how = "overflow" if np.dtype(dtype).kind != "f" else "are rounded"
        yield Relation(
            "counts in another dtype", f"{tap}: counts {how} in {name}.", "Count in int64.",
            partial(_given, given=kept), forward=True, exact=True,
        )  # fmt: skip
    missing = int(a.sum()) - int(b.sum())
    cells = np.argwhere(a != b)
    if len(cells) == 1 and 0 < abs(missing) <= 2:
        row, column = (int(i) for i in cells[0])
        what = "is lost" if missing > 0 else "is counted twice"
        cause = (
            f"{tap}: one pixel {what}, of label {row} and prediction {column} (the last or the first one?)."
        )
        yield observed("a lost pixel", cause, "Count all pixels.")
    if len(cells) == 2 and not missing and np.abs(a - b).max() <= 1:
        cause = f"{tap}: one pixel is counted in another class: {cells[0].tolist()} for {cells[1].tolist()}."
        yield observed("one pixel in another class", cause, "Compare the predictions pixel by pixel.")


def _counts(prediction: Array, labels: Array, classes: int) -> Iterator[tuple[str, str, Array]]:
    """The ways of counting that ports have."""
    ignored = labels == IGNORED
    skip = "Leave out what is labelled 255: kept = label != 255"
    for value in dict.fromkeys((0, classes - 1, IGNORED % classes)):
        counted = _count(prediction, np.where(ignored, value, labels), classes)
        yield f"ignored pixels (255) are counted as class {value}", skip, counted
    flat = classes * labels + prediction
    small = flat[~ignored] % 256
    if classes**2 > 255:
        cause = "indices of cells overflow in uint8 (256 cells)"
        yield (
            cause,
            "label.astype('int64') * classes + prediction",
            np.bincount(small, minlength=classes**2).reshape(classes, classes),
        )
    yield (
        "ignored pixels (255) are counted in the last cells, into which indices are clipped",
        skip,
        np.bincount(np.minimum(flat, classes**2 - 1).reshape(-1), minlength=classes**2).reshape(
            classes, classes
        ),
    )
    yield (
        "ignored pixels (255) are counted where the prediction is, as if they were right",
        skip,
        _count(prediction, np.where(ignored, prediction, labels), classes),
    )
    for value in (0, classes - 1):
        kept = ~ignored & (labels != value)
        counted = _count(prediction[kept], labels[kept], classes)
        yield (
            f"class {value} is left out (ignored) besides 255",
            f"Ignore 255 alone, not class {value}.",
            counted,
        )
    kept = ~ignored & (prediction != 0)
    yield (
        "pixels that are predicted as class 0 are left out",
        "Leave out pixels by their label alone.",
        _count(prediction[kept], labels[kept], classes),
    )
    for by in (1, -1):
        counted = _count((prediction + by) % classes, labels, classes)
        yield f"predictions are shifted by {by:+d} class", "Count classes from 0 on both sides.", counted


def _count(prediction: Array, labels: Array, classes: int) -> Array:
    kept = (labels >= 0) & (labels < classes)
    flat = classes * labels[kept] + prediction[kept]
    return np.bincount(flat.reshape(-1), minlength=classes**2).reshape(classes, classes)


def _exchanged(tap: str, a: Array, b: Array) -> Iterator[Relation]:
    """Two classes exchanged, in predictions, in labels or in both."""
    rows, columns = np.flatnonzero((a != b).any(1)), np.flatnonzero((a != b).any(0))
    for moved, axes, what in ((columns, (1,), "predictions"), (rows, (0,), "labels"), (rows, (0, 1), "both")):
        if len(moved) == 2:
            order = np.arange(len(a))
            order[moved] = order[moved[::-1]]
            cause = f"{tap}: classes {moved[0]} and {moved[1]} are exchanged (swapped) in {what}."
            yield Relation(
                "two classes exchanged",
                cause,
                "One order of classes.",
                partial(_take, order=order, axes=axes),
                exact=True,
            )


def _take(b: Array, order: Array, axes: Sequence[int]) -> Array:
    for axis in axes:
        b = np.take(b, order, axis=axis)
    return b


# --- scores -------------------------------------------------------------------------------------------------


def iou(matrix: Array, absent: float = np.nan, epsilon: float = 0.0) -> Array:
    """Intersection over union of every class, `absent` for one that is neither labelled nor predicted."""
    hit = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            np.where(union > 0, (hit + (epsilon if epsilon >= 1 else 0)) / (union + epsilon), absent)
        )


def _share_of(matrix: Array, axis: int) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.diag(matrix) / matrix.sum(axis))


def _dice(matrix: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * np.diag(matrix) / (matrix.sum(0) + matrix.sum(1)))


def _labelled(matrix: Array) -> Array:
    return np.asarray(matrix.sum(1) > 0)


def _mean(values: Array) -> Array:
    known = values[~np.isnan(values)]
    return np.array(known.mean() if len(known) else np.nan)


def _single(matrix: Array) -> Array:
    hit, rows, columns = (side.astype(np.float32) for side in (np.diag(matrix), matrix.sum(1), matrix.sum(0)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(hit / (rows + columns - hit), np.float64)


def _rounded(matrix: Array, digits: int) -> Array:
    return np.asarray(iou(matrix).round(digits))


ABSENT = "Leave classes out that are neither labelled nor predicted: numpy.nanmean."
UNION = "hit / (labelled + predicted - hit)"
IOU: Mapping[str, tuple[str, Score]] = {
    "classes without pixels (absent) have 0 where the reference has NaN": (ABSENT, partial(iou, absent=0.0)),
    "classes without pixels (absent) have 1 where the reference has NaN": (ABSENT, partial(iou, absent=1.0)),
    "classes that are absent have the IoU 0, and 1e-10 is added below": (ABSENT, lambda m: iou(m, 0.0, 1e-10)),
    "it is the recall, hits by labelled pixels": (UNION, partial(_share_of, axis=1)),
    "it is the precision, hits by predicted pixels": (UNION, partial(_share_of, axis=0)),
    "it is Dice (F1), twice the hits by the sum": (UNION, _dice),
    "1 is added above and below (smoothing)": ("hit / union without smoothing", partial(iou, epsilon=1.0)),
    "it is rounded to float32": ("float64", lambda m: iou(m).astype(np.float32).astype(np.float64)),
    "it is computed in float32": ("float64", lambda m: _single(m)),
    **{
        f"an epsilon of {eps:g} is added below{' and absent classes have 0' if absent == 0 else ''}": (
            UNION, partial(iou, absent=absent, epsilon=eps),
        )
        for eps in (1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3) for absent in (0.0, np.nan)
    },
    **{
        f"it is rounded to {digits} digits": ("no rounding before the mean", partial(_rounded, digits=digits))
        for digits in (4, 3, 2, 5, 6)
    },
}  # fmt: skip
MEAN: Mapping[str, tuple[str, Score]] = {
    "absent classes count as 0: the sum is divided by all classes": (ABSENT, lambda m: np.nan_to_num(iou(m)).mean()),
    "absent classes count as 1": (ABSENT, lambda m: iou(m, 1.0).mean()),
    "absent classes make it NaN": (ABSENT, lambda m: iou(m).mean()),
    "only classes that are labelled count; one that is predicted alone does not": (
        "Count every class that is labelled or predicted.", lambda m: _mean(iou(m)[_labelled(m)]),
    ),
    "class 0 is left out (as a background)": ("Count class 0 too.", lambda m: _mean(iou(m)[1:])),
    "the last class is left out": ("Count all classes.", lambda m: _mean(iou(m)[:-1])),
    "classes are weighted by their pixels (frequency-weighted IoU)": (
        "The plain mean.", lambda m: np.array(np.nansum(iou(m) * m.sum(1)) / m.sum()),
    ),
    "it is the mean recall (class accuracy)": ("The mean of the IoU.", lambda m: _mean(_share_of(m, 1))),
    "it is the mean precision": ("The mean of the IoU.", lambda m: _mean(_share_of(m, 0))),
    "it is the mean of Dice (F1)": ("The mean of the IoU.", lambda m: _mean(_dice(m))),
    "it is the median": ("The mean.", lambda m: np.array(np.nanmedian(iou(m)))),
    "it is in percent": ("A fraction.", lambda m: 100 * _mean(iou(m))),
    "it is rounded to float32": ("float64", lambda m: np.float64(np.float32(_mean(iou(m))))),
}  # fmt: skip
ACCURACY: Mapping[str, tuple[str, Score]] = {
    "it is the mean accuracy of the classes": ("hits by all pixels that count", lambda m: _mean(_share_of(m, 1))),
    "it is the mean accuracy of all classes, absent ones counting as 0": (
        "hits by all pixels that count", lambda m: np.nan_to_num(_share_of(m, 1)).mean(),
    ),
    "it is in percent": ("A fraction.", lambda m: np.array(100 * np.diag(m).sum() / m.sum())),
    "it is rounded to float32": ("float64", lambda m: np.float64(np.float32(np.diag(m).sum() / m.sum()))),
}  # fmt: skip
SCORES: Mapping[str, Mapping[str, tuple[str, Score]]] = {
    "IoU by class": IOU,
    "mean IoU": MEAN,
    "pixel accuracy": ACCURACY,
}
"""What else a score may be, with the line to write."""


def _explain_scores(
    kind: str,
    taps: Sequence[str],
    variants: Mapping[str, tuple[str, Score]],
    reference: Record,
    other: Record,
) -> Diagnosis:
    """One diagnosis for all matrices that a score was taken of."""
    a, b = (
        np.concatenate([np.atleast_1d(r.arrays[tap]).astype(np.float64) for tap in taps])
        for r in (reference, other)
    )
    matrices = [other.arrays[_matrix_of(tap)] for tap in taps]
    relations = []
    for words, (fix, score) in variants.items():
        with np.errstate(all="ignore"):
            made = np.concatenate(
                [np.atleast_1d(np.asarray(score(matrix), np.float64)) for matrix in matrices]
            )
        relations.append(
            Relation(
                "other scores",
                f"{kind}: {words}.",
                fix,
                partial(_given, given=made),
                forward=True,
                allowed=SCORED,
            )
        )
    return explain(taps[0], relations, [(a, b)])


def _given(_: Array, given: Array) -> Array:
    return given
