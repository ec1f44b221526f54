"""The arbiter: is a float32 difference rounding, or a bug? A float64 run of both sides settles it.

Rounding: the two sides agree in float64, and their float32 gap is of the size of the distance that each
side's own float32 result has from its float64 one. Asked about every tap it works the other way too: what
hides under a float32 tolerance, such as a wrong epsilon, shows in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.judge import allowed
from stdc_parity.align.pair import Floor
from stdc_parity.align.record import Record
from stdc_parity.align.result import Arbitration, Comparison, Verdict

AGREED = 1e-7
"""The largest fraction of a tap's scale that two sides may differ by in float64.

Clean twins stay under 3e-8 (their gradients, which pass through kernels with float32 constants); an epsilon
of 1.1e-5 for 1e-5, the weakest fault we plant, shows with 4e-7 in its own norm.
"""

NOISE_FACTOR = 50.0
"""How many times each side's own rounding the float32 gap may be; benchmarks/noise.py measures clean runs."""


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
    return [
        _judge(c, single, double, allowed(c.tap, AGREED, floors)) if (every or not c) and not c.why else c
        for c in comparisons
    ]


def _judge(
    comparison: Comparison, single: tuple[Record, Record], double: tuple[Record, Record], limit: float
) -> Comparison:
    tap = comparison.tap
    a, b = (record.arrays[tap] for record in single)
    wide = [record.arrays.get(tap) for record in double]
    if wide[0] is None or wide[1] is None or wide[0].shape != a.shape or wide[1].shape != b.shape:
        return replace(comparison, verdict=Verdict.DIVERGED, why="the float64 run has no such tap")
    scale = float(np.abs(wide[0]).max()) if a.size else 0.0
    gap64 = _distance(wide[0], wide[1]) / (scale or 1.0)
    noise = [_distance(a, wide[0]) / (scale or 1.0), _distance(b, wide[1]) / (scale or 1.0)]
    figures = Arbitration(gap64, limit, dict(zip(comparison.paths, noise, strict=True)))
    if not gap64 <= limit:
        return replace(comparison, verdict=Verdict.DIVERGED, arbiter=figures)
    if comparison:
        return replace(comparison, arbiter=figures)
    explained = comparison.error <= NOISE_FACTOR * min(noise) * (scale or 1.0) + limit * scale
    return replace(comparison, verdict=Verdict.ROUNDING if explained else Verdict.DIVERGED, arbiter=figures)


def _distance(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max()) if a.size else 0.0
