"""The arbiter: is a float32 difference rounding, or a bug? A float64 run of both sides settles it.

Rounding: the two sides agree in float64, and their float32 gap is of the size of the distance that each
side's own float32 result has from its float64 one. Asked about every tap it works the other way too: what
hides under a float32 tolerance, such as a wrong epsilon, shows in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.judge import allowed
from stdc_parity.align.pair import Floor
from stdc_parity.align.record import Record
from stdc_parity.align.result import Arbitration, Comparison, Verdict
from stdc_parity.align.spec import Side

AGREED = 1e-9
"""The largest fraction of a tap's scale that two sides may differ by in float64, where no floor is known.

`python benchmarks/clean_runs.py` sees up to 2e-13 in modules and 1e-14 in statistics of clean twins; an epsilon
of 1.1e-5 for 1e-5, the weakest fault we plant, shows with 1e-7 in its own norm.
"""

SUMMED = 1e-6
"""What a mean over all pixels of an image may round on one side alone, by the order in which it adds them up: a clean
run at 256x512 has 1e-5 of scale between the sides, which this and NOISE_FACTOR cover, and 5e-8 on PyTorch's."""

NOISE_FACTOR = 20.0
"""How many times each side's own rounding the float32 gap may be; clean runs reach 2 (benchmarks/clean_runs.py)."""

VANISHED = 1e5
"""How many times its float64 scale a float32 result must be off to be a zero that only rounding fills."""


def arbitrate(
    comparisons: Sequence[Comparison],
    single: tuple[Record, Record],
    double: tuple[Record, Record],
    floors: Sequence[Floor],
    *,
    every: bool,
) -> list[Comparison]:
    """Ask the float64 records about the taps that differ in float32, or about `every` tap.

    `single` and `double` are the float32 and float64 records, the reference's first.
    """
    asked = [c if (every or not c) and not c.why else None for c in comparisons]
    figures = [_measure(c, single, double, floors) if c is not None else None for c in asked]
    envelope = [0.0, 0.0]
    judged = []
    for comparison, measured in zip(comparisons, figures, strict=True):
        if measured is None:
            judged.append(comparison)
            continue
        so_far = [max(pair) for pair in zip(envelope, measured.noise.values(), strict=True)]
        if _is_rounding(comparison, measured):
            envelope = so_far
        noise = max(so_far) if comparison.kind == "gradient" else min(so_far)
        if comparison.kind == "loss":
            noise = max(noise, min(max(so_far), SUMMED))
        judged.append(_judge(comparison, measured, noise))
    return judged


def arbitrate_alone(
    comparisons: Sequence[Comparison], single: Mapping[Side, Record], double: Record
) -> list[Comparison]:
    """Ask one side's float64 record about taps that differ in float32, where the other side has none.

    Rounding: the side without float64 is about as far from that result as the other side's own float32 one. That
    there is no gap between two float64 results, which would show a small fault, cannot be said.
    """
    envelope = 0.0
    judged = []
    for comparison in comparisons:
        wide = double.arrays.get(comparison.tap)
        if comparison or comparison.why or wide is None or wide.shape != comparison.shape:
            judged.append(comparison)
            continue
        scale = float(np.abs(wide[np.isfinite(wide)]).max(initial=0)) or 1.0
        noise = {side: _distance(record.arrays[comparison.tap], wide) / scale for side, record in single.items()}
        envelope = max(envelope, noise[double.side])
        figures = Arbitration(float("nan"), AGREED, noise)
        explained = comparison.relative <= NOISE_FACTOR * envelope
        verdict = Verdict.ROUNDING if explained else Verdict.DIVERGED
        judged.append(replace(comparison, verdict=verdict, arbiter=figures))
    return judged


def _is_rounding(comparison: Comparison, figures: Arbitration) -> bool:
    """Whether a tap's distance from its float64 result says how much the taps after it may round.

    Not that of a zero, which is millions of times its size, of an overflow, or of a target, where a pixel on
    the edge of a threshold falls to one side in float32 and to the other in float64.
    """
    finite = all(np.isfinite(noise) for noise in figures.noise.values())
    return finite and comparison.kind != "target" and not _vanishes(comparison, figures)


def _measure(
    comparison: Comparison,
    single: tuple[Record, Record],
    double: tuple[Record, Record],
    floors: Sequence[Floor],
) -> Arbitration | None:
    """The float64 figures of one tap, None if the float64 run has no such tap."""
    tap = comparison.tap
    a, b = (record.arrays[tap] for record in single)
    wide = [record.arrays.get(tap) for record in double]
    if wide[0] is None or wide[1] is None or wide[0].shape != a.shape or wide[1].shape != b.shape:
        return None
    scale = float(np.abs(wide[0][np.isfinite(wide[0])]).max(initial=0)) or 1.0
    noise = (_distance(a, wide[0]) / scale, _distance(b, wide[1]) / scale)
    gap64 = _distance(wide[0], wide[1]) / scale
    return Arbitration(gap64, allowed(tap, AGREED, floors), dict(zip(comparison.paths, noise, strict=True)))


def _judge(comparison: Comparison, figures: Arbitration, noise: float) -> Comparison:
    """Judge one tap by its float64 figures and `noise`, a side's largest rounding so far.

    That is the smaller of the two sides', so that one with reduced precision is not excused by itself. Of
    gradients it is the larger: they jump where one side alone rounds across a threshold (a ReLU, a kept pixel). So
    it is of losses, up to SUMMED.
    """
    if not figures.gap64 <= figures.agreed and not _vanishes(comparison, figures):
        return replace(comparison, verdict=Verdict.DIVERGED, arbiter=figures)
    if comparison:
        return replace(comparison, arbiter=figures)
    explained = comparison.relative <= NOISE_FACTOR * noise + figures.agreed
    return replace(comparison, verdict=Verdict.ROUNDING if explained else Verdict.DIVERGED, arbiter=figures)


def _vanishes(comparison: Comparison, figures: Arbitration) -> bool:
    """Whether the tap is zero in exact arithmetic (a bias before a batch norm): nothing but rounding.

    Its size then shrinks with the precision: what is 1e-8 in float32 is 1e-17 in float64, so that each side's
    distance from its float64 result is millions of times that result's scale, and of the float64 sides' distance.
    """
    least = VANISHED * max(1.0, figures.gap64)
    return comparison.kind == "gradient" and all(noise > least for noise in figures.noise.values())


def _distance(a: Array, b: Array) -> float:
    """max|a - b|; what is not finite must be the same on both sides."""
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.abs(np.subtract(a, b, dtype=np.float64))
    if not np.isfinite(gaps).all():
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.where(np.isnan(gaps), np.inf, gaps))
    return float(gaps.max(initial=0))
