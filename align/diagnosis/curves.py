"""Learning rate curves as formulas: a warm-up, a peak, a decay and its end, fitted to a recorded curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stdc_parity.align.framework import Array

EXACT = 1e-9
"""How near to a curve in float64 a formula must come, as a fraction of its peak."""

POINTS = 240
"""Places of a curve that a formula is fitted to; it is then held against all."""

ROUNDS = 60


@dataclass(frozen=True)
class Warmup:
    """The part before the peak: its shape ("none" without one, "" if unknown), first rate and length in steps."""

    shape: str
    start: float
    length: int


@dataclass(frozen=True)
class Decay:
    """The part after the peak: its kind ("" if unknown) and the numbers of its formula.

    `power` is a polynomial's, or an exponential's factor for each step. It begins at the peak rate at step `begins`
    and reaches the rate `end` at step `ends`. `falls` are the steps and factors of a rate that falls at steps.
    """

    kind: str
    power: float = 0.0
    begins: float = 0.0
    ends: float = 0.0
    end: float = 0.0
    falls: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Curve:
    """A curve's parts, and how far the formulas are from it at worst, as a fraction of the peak."""

    peak: float
    warmup: Warmup
    decay: Decay


def describe_curve(rates: Array) -> Curve:
    """The formula of a curve: float64 (iterations,)."""
    peak = float(rates.max())
    top = int(np.argmax(rates >= peak * (1 - EXACT)))
    warmup = _warmup(rates, peak, top)
    return Curve(peak, warmup, _decay(rates, peak, top))


def _warmup(rates: Array, peak: float, top: int) -> Warmup:
    start = float(rates[0])
    if top == 0:
        return Warmup("none", start, 0)
    steps, rising = np.arange(top + 1), rates[: top + 1]
    if np.abs(rising[:-1] - start).max() <= EXACT * peak:
        return Warmup("constant", start, top)
    if np.abs(rising - (start + (peak - start) * steps / top)).max() <= EXACT * peak:
        return Warmup("linear", start, top)
    if start > 0 and np.abs(rising - start * (peak / start) ** (steps / top)).max() <= EXACT * peak:
        return Warmup("exponential", start, top)
    return Warmup("", start, top)


def _decay(rates: Array, peak: float, top: int) -> Decay:
    count = len(rates)
    after = np.arange(top + 1, count)
    falling = rates[top + 1 :]
    if len(falling) < 4:
        return Decay("")
    changes = np.flatnonzero(np.diff(rates[top:]))
    if len(changes) <= 12:
        falls = tuple((int(top + i + 1), float(rates[top + i + 1] / rates[top + i])) for i in changes)
        return Decay("steps" if falls else "constant", falls=falls)
    ratio = float(falling[1] / falling[0]) if falling[0] else 0.0
    if (
        0 < ratio < 1
        and np.abs(falling - falling[0] * ratio ** np.arange(len(falling))).max() <= EXACT * peak
    ):
        return Decay("exponential", power=float(np.log(ratio)), begins=top)
    for kind, formula, starts in (("poly", _poly, (1.0, 0.9, 2.0)), ("cosine", _cosine, (1.0,))):
        for free in ((), ("end",), ("ends",), ("ends", "end")):
            found = _fit(formula, kind, free, starts, after, falling, peak, top, count)
            if found is not None:
                return found
    return Decay("")


Formula = Callable[[Array, Array, float], Array]
"""A decay's rates at steps, from (steps, numbers (ends, end, power or begins), peak)."""


def _poly(steps: Array, numbers: Array, peak: float) -> Array:
    """A power of what remains: numbers are (ends, end, power, rate at the first step)."""
    ends, end, power, first = numbers
    left = np.clip((ends - steps) / max(ends - steps[0], 1e-9), 0, None)
    return np.asarray((first - end) * left**power + end)


def _cosine(steps: Array, numbers: Array, peak: float) -> Array:
    """Half a cosine from the peak: numbers are (ends, end, begins, peak)."""
    ends, end, begins, top = numbers
    done = np.clip((steps - begins) / max(ends - begins, 1e-9), 0, 1)
    return np.asarray(end + (top - end) * 0.5 * (1 + np.cos(np.pi * done)))


def _fit(
    formula: Formula,
    kind: str,
    free: Sequence[str],
    starts: Sequence[float],
    steps: Array,
    rates: Array,
    peak: float,
    top: int,
    count: int,
) -> Decay | None:
    """A decay of that formula, if one meets every rate; `free` are "ends" and "end" where they are not the usual."""
    keep = np.unique(np.linspace(0, len(steps) - 1, POINTS).astype(int))
    keep = keep[: max(8, int(0.97 * len(keep)))]  # a power's slope is steep at the end
    x, y = steps[keep], rates[keep]
    for begin in starts:
        for ends in (
            (float(count), 0.7 * count, float(count - 1), float(count + top))
            if "ends" in free
            else (float(count),)
        ):
            numbers = np.array(
                [ends, 0.0, begin if kind == "poly" else top, float(y[0]) if kind == "poly" else peak]
            )
            fixed = [name not in free for name in ("ends", "end")] + [False, False]
            numbers = _least_squares(formula, numbers, fixed, x, y, peak)
            with np.errstate(all="ignore"):
                gap = (
                    np.abs(formula(steps, numbers, peak) - rates).max()
                    if np.isfinite(numbers).all()
                    else np.inf
                )
            if gap <= EXACT * peak:
                return _named(kind, numbers, peak, int(steps[0]))
    return None


def _named(kind: str, numbers: Array, peak: float, first: int) -> Decay:
    ends, end, shape, rate = (float(n) for n in numbers)
    if kind == "cosine":
        return Decay(kind, begins=shape, ends=ends, end=end)
    share = (rate - end) / (peak - end)
    begins = ends - (ends - first) / share ** (1 / shape)
    return Decay(kind, power=shape, begins=begins, ends=ends, end=end)


def _least_squares(
    formula: Formula, numbers: Array, fixed: Sequence[bool], x: Array, y: Array, peak: float
) -> Array:
    """Gauss-Newton with a numerical slope; what it gives is judged by whoever asked."""
    moving = np.flatnonzero(~np.array(fixed))
    damping = 1e-3
    with np.errstate(all="ignore"):
        gap = formula(x, numbers, peak) - y
        for _ in range(ROUNDS):
            slopes = np.stack([_slope(formula, numbers, i, x, peak) for i in map(int, moving)], axis=1)
            size = np.sqrt((slopes**2).sum(0)) + 1e-300
            scaled = slopes / size
            system = scaled.T @ scaled + damping * np.eye(len(moving))
            if not np.isfinite(system).all():
                break
            trial = numbers.copy()
            trial[moving] -= np.linalg.solve(system, scaled.T @ gap) / size
            missed = formula(x, trial, peak) - y
            if np.isfinite(missed).all() and (missed @ missed) < (gap @ gap):
                numbers, gap, damping = trial, missed, damping / 10
            else:
                damping *= 10
            if damping > 1e6 or not gap.any():
                break
    return numbers


def _slope(formula: Formula, numbers: Array, which: int, x: Array, peak: float) -> Array:
    step = 1e-6 * max(abs(numbers[which]), peak * 1e-2)
    up, down = numbers.copy(), numbers.copy()
    up[which] += step
    down[which] -= step
    return np.asarray((formula(x, up, peak) - formula(x, down, peak)) / (2 * step))
