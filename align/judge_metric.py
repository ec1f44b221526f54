"""Judging the metric stage: integers of given logits must be equal; the network's own predictions may differ
only where two classes are nearly tied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.record import PLAIN, Record, Tap
from stdc_parity.align.result import Comparison, Verdict

MEAN_IOU = 1e-4
"""How far scores of the networks' own predictions may differ, absolutely."""


def judge_metric(
    reference: Record, other: Record, tolerance: Tolerance
) -> tuple[list[Comparison], list[str]]:
    """Comparisons of every tap, and what there is to say of the pixels that changed class.

    A flipped pixel is explained if the lead of the winning class is within twice the tolerance (a fraction
    of the logits' scale) on both sides.
    """
    flips, unexplained, on_border, ties = 0, 0, 0, 0
    comparisons = []
    for comparison in compare_records(reference, other, _rule):
        if comparison.kind == "prediction" and not comparison.why:
            flipped, bad, border, tied = _flips(comparison.tap, reference, other, tolerance)
            flips, unexplained, on_border = flips + flipped, unexplained + bad, on_border + border
            ties += tied
            why = f"{bad} of {flipped} pixels changed class without a near tie" if bad else ""
            verdict = Verdict.DIVERGED if bad else Verdict.PASS
            comparison = replace(comparison, verdict=verdict, why=why)
        comparisons.append(comparison)
    settled = [
        _settled(c, reference, other, ties if "evaluate" in c.tap else flips, unexplained)
        for c in comparisons
    ]
    return settled, list(_remarks(reference, other, flips, unexplained, on_border))


def _rule(tap: Tap) -> Tolerance:
    if tap.kind == "score" and tap.name.startswith("network"):
        return Tolerance(atol=MEAN_IOU, rtol=0.0)
    if tap.type == PLAIN:
        return Tolerance(1e-5)
    return Tolerance(0.0) if tap.kind != "score" else Tolerance(atol=0.0, rtol=1e-12)


def _settled(
    comparison: Comparison, reference: Record, other: Record, flips: int, unexplained: int
) -> Comparison:
    """The network's own counts may differ by as many pixels as changed class, if those are explained.

    The evaluation loops see the scenes in other batches, so there every near tie may fall the other way.
    """
    if comparison.kind != "count" or comparison or comparison.why or not comparison.tap.startswith("network"):
        return comparison
    a, b = (record.arrays[comparison.tap] for record in (reference, other))
    moved = int(np.abs(a - b).sum())
    return replace(comparison, verdict=Verdict.PASS) if moved <= 2 * flips and not unexplained else comparison


def _flips(tap: str, reference: Record, other: Record, tolerance: Tolerance) -> tuple[int, int, int, int]:
    """How many pixels changed class, how many of them without a near tie, how many on a class border; near ties."""
    name = tap.removesuffix(" prediction")
    a, b = reference.arrays[tap], other.arrays[tap]
    flipped = a != b
    margins = [record.arrays[f"{name} margin"] for record in (reference, other)]
    tied = np.maximum(*margins) <= 2 * max(tolerance.tol, 1e-7)
    border = _borders(reference.arrays[f"{name} label"])
    return int(flipped.sum()), int((flipped & ~tied).sum()), int((flipped & border).sum()), int(tied.sum())


def _borders(label: Array) -> Array:
    """Where a pixel's right or lower neighbour, or it as such a neighbour, has another label."""
    border = np.zeros(label.shape, bool)
    down, across = label[:, 1:] != label[:, :-1], label[:, :, 1:] != label[:, :, :-1]
    border[:, 1:] |= down
    border[:, :-1] |= down
    border[:, :, 1:] |= across
    border[:, :, :-1] |= across
    return border


def _remarks(reference: Record, other: Record, flips: int, unexplained: int, on_border: int) -> Iterator[str]:
    pixels = sum(array.size for name, array in reference.arrays.items() if name.endswith(" prediction"))
    yield (
        f"{flips} of {pixels} predicted pixels changed class, {on_border} of them on class borders; "
        f"{flips - unexplained} are near ties"
    )
    for name, a in reference.arrays.items():
        alike = name in other.arrays and other.arrays[name].shape == a.shape
        if alike and name.startswith("network") and name.endswith("mean IoU"):
            yield f"{name}: {float(a):.6f}, {float(other.arrays[name]) - float(a):+.1e} on {other.side}"
        if flips and alike and name.startswith("network") and name.endswith("IoU by class"):
            delta = np.nan_to_num(other.arrays[name] - a)
            worst = int(np.abs(delta).argmax())
            yield f"{name}: class {worst} moves most, {delta[worst]:+.1e}"
