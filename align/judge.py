"""Comparing two records and judging every tap: DESIGN's rules of what "the same" means, in numpy.

The worst element counts, never a mean; nothing is broadcast, cast or transposed to make it fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.pair import Floor
from stdc_parity.align.record import Record, Tap
from stdc_parity.align.result import Comparison, Verdict
from stdc_parity.align.spec import Side

UNJUDGED = ("input", "margin")
"""Kinds of taps that go along with others and are not compared themselves."""

ZERO = 1e-13
"""The fraction of the stage's largest float64 gradient under which a gradient is rounding and no value."""

CHUNK = 1 << 18
"""Elements compared at a time: the temporaries then stay in the processor's cache."""


@dataclass(frozen=True)
class Tolerance:
    """How far apart two taps may be.

    With `tol`, max|a - b| <= tol * max|reference|. With `atol` or `rtol`, |a - b| <= atol + rtol * |reference|
    for every element, numpy.allclose's rule.
    """

    tol: float = 1e-5
    atol: float | None = None
    rtol: float | None = None

    @property
    def elementwise(self) -> bool:
        """Whether numpy.allclose's rule is asked for."""
        return self.atol is not None or self.rtol is not None

    def describe(self) -> str:
        """The rule in one line, as an error message needs it."""
        if self.elementwise:
            return f"|a-b| <= {self.atol or 0:g} + {self.rtol or 0:g} * |reference|, every element"
        return f"max|a-b| <= {self.tol:g} * max|reference|"


@dataclass(frozen=True)
class _Gap:
    """What comparing two arrays of one shape and dtype gives; `excess` is > 0 where a rule is broken."""

    error: float = 0.0
    scale: float = 0.0
    excess: float = -1.0
    worst: int = 0
    finite: int = 0
    unmatched: int = 0
    unmatched_at: int = -1


def allowed(tap: str, tol: float, floors: Sequence[Floor]) -> float:
    """The fraction of its scale that `tap` may differ by: `tol`, or more for a known floor."""
    return next((max(tol, floor.relative) for floor in floors if re.fullmatch(floor.taps, tap)), tol)


Rule = Callable[[Tap], Tolerance]
"""Which tolerance applies to a tap."""


def compare_records(
    reference: Record, other: Record, tolerance: Tolerance | Rule, floors: Sequence[Floor] = ()
) -> list[Comparison]:
    """Compare two records tap by tap, in the reference's execution order; inputs are not judged.

    A tap that only one side has is DIVERGED. `floors` are known differences, for records in float64.
    """
    others = {tap.name: tap for tap in other.taps if tap.kind not in UNJUDGED}
    comparisons = []
    for tap in reference.taps:
        if tap.kind in UNJUDGED:
            continue
        twin = others.pop(tap.name, None)
        if twin is None:
            if not _nothing(tap, reference):
                comparisons.append(_missing(tap, reference.side, other.side))
        else:
            pair = (reference.arrays[tap.name], other.arrays[twin.name])
            rule = tolerance if isinstance(tolerance, Tolerance) else tolerance(tap)
            rule = replace(rule, tol=allowed(tap.name, rule.tol, floors)) if floors else rule
            comparisons.append(compare_tap(tap, twin, pair, (reference.side, other.side), rule))
    left = [tap for tap in others.values() if not _nothing(tap, other)]
    comparisons += [_missing(tap, other.side, reference.side) for tap in left]
    return _forgive_zeros(comparisons)


def _forgive_zeros(comparisons: list[Comparison]) -> list[Comparison]:
    """Float64 gradients that are zero but for rounding (a bias before a batch norm) have nothing to agree on."""
    doubles = [c for c in comparisons if c.kind == "gradient" and c.dtype == "float64"]
    largest = max((c.scale for c in doubles), default=0.0)
    return [
        replace(c, verdict=Verdict.PASS)
        if not c and not c.why and c in doubles and max(c.scale, c.error) < ZERO * largest
        else c
        for c in comparisons
    ]


def compare_tap(
    tap: Tap, twin: Tap, arrays: tuple[Array, Array], sides: tuple[Side, Side], tolerance: Tolerance
) -> Comparison:
    """Judge one tap: `arrays` and `sides` have the reference first."""
    a, b = arrays
    result = Comparison(
        tap=tap.name,
        kind=tap.kind,
        paths={sides[0]: tap.path, sides[1]: twin.path},
        types={sides[0]: tap.type, sides[1]: twin.type},
        verdict=Verdict.DIVERGED,
        shape=a.shape,
        dtype=str(a.dtype),
    )
    if a.shape != b.shape:
        return replace(result, why=f"shape {a.shape} on {sides[0]}, {b.shape} on {sides[1]}")
    if a.dtype != b.dtype:
        return replace(result, why=f"dtype {a.dtype} on {sides[0]}, {b.dtype} on {sides[1]}")
    gap = _measure(a.reshape(-1), b.reshape(-1), tolerance)
    at = gap.unmatched_at if gap.unmatched else gap.worst
    values = (float(a.reshape(-1)[at]), float(b.reshape(-1)[at])) if a.size else (0.0, 0.0)
    why = _why(gap, a.size)
    return replace(
        result,
        verdict=Verdict.DIVERGED if why or gap.excess > 0 else Verdict.PASS,
        error=gap.error,
        scale=gap.scale,
        relative=gap.error / gap.scale if gap.scale else 0.0 if gap.error == 0 else float("inf"),
        index=tuple(int(i) for i in np.unravel_index(at, a.shape)) if a.size else (),
        values=dict(zip(sides, values, strict=True)),
        why=why,
    )


def _why(gap: _Gap, size: int) -> str:
    if gap.unmatched:
        return f"NaN or Inf in {gap.unmatched} places where the other side has something else"
    return "nothing finite to compare on either side" if size and not gap.finite else ""


def _measure(a: Array, b: Array, tolerance: Tolerance) -> _Gap:
    """Compare two flat arrays in chunks. Integers and booleans are compared as numbers."""
    if a.size == 0:
        return _Gap()
    gap, scale = _Gap(), _scale(a)
    for start in range(0, a.size, CHUNK):
        x, y = _numbers(a[start : start + CHUNK]), _numbers(b[start : start + CHUNK])
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(x - y)
            if tolerance.elementwise:
                excess = difference - ((tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * np.abs(x))
            else:
                excess = difference
        gap = _with_chunk(gap, x, y, difference, excess, start)
    if tolerance.elementwise:
        return replace(gap, scale=scale)
    return replace(gap, scale=scale, excess=gap.error - tolerance.tol * scale)


def _with_chunk(gap: _Gap, x: Array, y: Array, difference: Array, excess: Array, start: int) -> _Gap:
    top = int(np.argmax(excess))  # a NaN counts as the largest
    if np.isfinite(excess[top]):
        finite = x.size
    else:
        kept = np.isfinite(x) & np.isfinite(y)
        same = kept | (x == y) | (np.isnan(x) & np.isnan(y))
        finite, bad = int(kept.sum()), np.flatnonzero(~same)
        if bad.size:
            first = gap.unmatched_at if gap.unmatched else start + int(bad[0])
            gap = replace(gap, unmatched=gap.unmatched + bad.size, unmatched_at=first)
        if not finite:
            return gap
        excess, difference = np.where(kept, excess, -np.inf), np.where(kept, difference, 0)
        top = int(np.argmax(excess))
    gap = replace(gap, finite=gap.finite + finite, error=max(gap.error, float(difference.max())))
    if float(excess[top]) > gap.excess:
        gap = replace(gap, excess=float(excess[top]), worst=start + top)
    return gap


def _scale(a: Array) -> float:
    """max|a| over finite elements; 0 if there are none."""
    low, high = float(a.min()), float(a.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = np.abs(_numbers(a)[np.isfinite(_numbers(a))])
        return float(finite.max()) if finite.size else 0.0
    return max(abs(low), abs(high))


def _numbers(a: Array) -> Array:
    """Floats of at least 32 bits as they are, everything else as float64 (exact up to 2**53)."""
    return a if a.dtype in (np.float32, np.float64) else a.astype(np.float64)


def _nothing(tap: Tap, record: Record) -> bool:
    """Whether a tap is the gradient of a module's unused output: Paddle has zeros there, PyTorch nothing."""
    of_output = tap.kind == "gradient" and tap.name.startswith((f"grad {tap.path}[", f"grad {tap.path}#"))
    return of_output and not record.arrays[tap.name].any()


def _missing(tap: Tap, there: Side, absent: Side) -> Comparison:
    return Comparison(
        tap=tap.name,
        kind=tap.kind,
        paths={there: tap.path},
        types={there: tap.type},
        verdict=Verdict.DIVERGED,
        why=f"only the {there} side has it, {absent} does not",
    )


def failing(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that do not agree, in order."""
    return [comparison for comparison in comparisons if not comparison]
