"""Judging the train stage against its control: the reference side trained twice, once with rounding-sized noise.

A gap between the frameworks that stays within a small multiple of the control's is what any rounding does
to this training. The learning rates are not subject to chaos and must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.record import Record
from stdc_parity.align.result import Arbitration, Comparison, Verdict

AFTER_FIRST, AT_THE_END = -1, -2
"""Groups of the state after the first iteration, and after the last."""

MAX_GROWTH = 1e3

HORIZON = 1e-3
"""Where a gap of this fraction of the loss is allowed, the training has become chaotic and proves little."""

MULTIPLE = 20.0
"""How many times the control's envelope a gap may be; clean runs reach 6 (benchmarks/clean_runs.py)."""

FLOORS = {"loss": 1e-8, "parameter": 1e-8, "momentum": 5e-5, "buffer": 1e-6}
"""Fractions of scale that are never held against a side: what Paddle's float32 interpolation ratios do in
float64, which the control (one framework) does not have. Momentum buffers start as gradients."""


def judge_train(reference: Record, other: Record, control: Record) -> tuple[list[Comparison], list[str]]:
    """Comparisons of every tap against the control's envelope of its kind, and where the curves part."""
    envelopes = _envelopes(reference, control)
    comparisons = []
    for comparison in compare_records(reference, other, Tolerance(atol=0.0, rtol=1e-12)):
        if comparison.kind != "rate" and not comparison.why:
            envelope = envelopes[_group(comparison.tap, comparison.kind)]
            limit = MULTIPLE * envelope + FLOORS[comparison.kind]
            verdict = Verdict.PASS if comparison.relative <= limit else Verdict.DIVERGED
            noise = {reference.side: envelope}
            comparison = replace(
                comparison, verdict=verdict, arbiter=Arbitration(comparison.relative, limit, noise)
            )
        comparisons.append(comparison)
    return comparisons, _remarks(comparisons, reference, control)


def _group(tap: str, kind: str) -> tuple[str, int]:
    """What shares an envelope: losses up to an iteration, parameters or momentum buffers at one time."""
    found = re.match(r"iteration (\d+): ", tap)
    return kind, int(found[1]) if found else AFTER_FIRST if "after iteration 0" in tap else AT_THE_END


def _envelopes(reference: Record, control: Record) -> Mapping[tuple[str, int], float]:
    """The control's largest gap of each group, as a fraction of scale; for losses up to each iteration."""
    gaps: dict[tuple[str, int], float] = {}
    for tap in reference.taps:
        key = _group(tap.name, tap.kind)
        gap = _relative(reference.arrays[tap.name], control.arrays[tap.name])
        gaps[key] = max(gaps.get(key, 0.0), gap)
    for kind, iteration in sorted(gaps):
        if iteration > 0:
            gaps[kind, iteration] = max(gaps[kind, iteration], gaps.get((kind, iteration - 1), 0.0))
    return _one_step_ahead(gaps)


def _one_step_ahead(gaps: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """The envelopes of the next iteration for each: another framework may part one step before the control.

    The last iteration, and the state after it, are taken to grow as the losses did in their last step.
    """
    losses = [gaps[key] for key in sorted(gaps) if key[0] == "loss"]
    growth = min(max(losses[-1] / losses[-2], 1.0), MAX_GROWTH) if len(losses) > 1 and losses[-2] else 1.0
    ahead = dict(gaps)
    for kind, iteration in gaps:
        if iteration >= 0:
            ahead[kind, iteration] = gaps.get((kind, iteration + 1), gaps[kind, iteration] * growth)
        elif iteration == AT_THE_END:
            ahead[kind, iteration] = gaps[kind, iteration] * growth
    return ahead


def _relative(a: Array, b: Array) -> float:
    scale = float(np.abs(a).max()) if a.size else 0.0
    return float(np.abs(a - b).max()) / scale if scale else 0.0


def _remarks(comparisons: list[Comparison], reference: Record, control: Record) -> list[str]:
    lines = []
    for comparison in comparisons:
        if comparison.kind == "loss" and comparison.tap.endswith(": total"):
            step = comparison.tap.removesuffix(": total")
            strays = _relative(reference.arrays[comparison.tap], control.arrays[comparison.tap])
            apart = comparison.why or f"apart {comparison.relative:.1e}"
            values = " and ".join(f"{value:.6f}" for value in comparison.values.values())
            lines.append(f"{step}: loss {values}, {apart}, control {strays:.1e}")
    limits = {c.tap: c.arbiter.agreed for c in comparisons if c.arbiter and c.tap.endswith(": total")}
    chaotic = next((tap for tap, limit in limits.items() if limit > HORIZON), None)
    if chaotic is not None:
        lines.append(
            f"From {chaotic.removesuffix(': total')} on the control itself strays too far to prove anything."
        )
    first = next((c for c in comparisons if not c), None)
    if first is not None:
        lines.append(f"The two sides part at {first.tap}; the control does not explain it.")
    return lines
