"""Why a learning rate differs: another count of steps, or another formula."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stdc_parity.align.diagnosis.curves import EXACT, Curve, describe_curve
from stdc_parity.align.diagnosis.relations import distance
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

PLACES = 3
BY_STEP = " step by step"
"""How the taps end that count steps as the optimizer does."""

LATE = (1, -1, 2, -2, 3, -3)
"""How many iterations a rate may be late (or early, below 0)."""

HELD = (2, 5, 10, 20, 50, 100, 186, 200, 250, 371, 500, 743, 1000, 1487, 2975)
"""Iterations of an epoch that are tried besides those at which the curve changes; some are Cityscapes'."""

FEWEST = 6
"""Different rates that a curve must have for a count of steps to be told from it."""

MULTIPLIER = 1e-6
"""How near to a whole number a group's multiplier is."""

TRIED = (
    "float32",
    "a factor",
    "late or early",
    "held for an epoch",
    "a lower bound",
    "a lost multiplier",
    "another formula",
)


def explain_schedule(failing: Sequence[Comparison], reference: Record, other: Record) -> list[Diagnosis]:
    """A diagnosis for the first rate that differs, and for those after it with another cause."""
    found: dict[str, Diagnosis] = {}
    taps = {comparison.tap for comparison in failing}
    seen: list[tuple[Array, Array]] = []
    for comparison in failing:
        if comparison.tap.endswith(BY_STEP) and comparison.tap.removesuffix(BY_STEP) in taps:
            continue
        if comparison.tap in reference.arrays and comparison.tap in other.arrays:
            pair = reference.arrays[comparison.tap], other.arrays[comparison.tap]
            if any(_alike(pair, known) for known in seen):
                continue
            seen.append(pair)
            diagnosis = _explain(comparison.tap, reference, other)
            found.setdefault(diagnosis.cause, diagnosis)
        else:
            group = next(iter(comparison.paths.values()))
            cause = f"Only one side has the group {group}."
            found.setdefault(cause, Diagnosis(comparison.tap, cause, "Use the same groups."))
    return list(found.values())[:PLACES]


def _alike(pair: tuple[Array, Array], known: tuple[Array, Array]) -> bool:
    """Whether two groups' rates differ by a multiplier alone."""
    a, b = (side / (np.abs(pair[0]).max() or 1.0) for side in pair)
    x, y = (side / (np.abs(known[0]).max() or 1.0) for side in known)
    return (
        a.shape == x.shape
        and b.shape == y.shape
        and np.allclose(a, x, rtol=1e-9)
        and np.allclose(b, y, rtol=1e-9)
    )


def _explain(tap: str, reference: Record, other: Record) -> Diagnosis:
    a, b = (record.arrays[tap].astype(np.float64) for record in (reference, other))
    if a.shape != b.shape or len(a) < FEWEST or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Diagnosis(tap, tried=TRIED)
    for cause, fix, predicted in (*_counted(a, b), *_bounded(tap, a, b, reference)):
        known = np.isfinite(predicted)
        after = float(np.abs(predicted[known] - b[known]).max() / a.max())
        if known.sum() >= FEWEST and after <= EXACT and _enough(b[known]):
            return Diagnosis(tap, cause, fix, distance(a, b), after)
    stated = _formulas(a, b)
    if stated:
        causes, fixes = zip(*stated, strict=True)
        return Diagnosis(
            tap,
            f"The rate's formula differs: {'; '.join(causes)}.",
            "; ".join(dict.fromkeys(fixes)),
            distance(a, b),
            EXACT,
        )
    return Diagnosis(tap, tried=TRIED)


def _enough(rates: Array) -> bool:
    """Whether a curve has so many different rates, or jumps, that one can tell a count of steps from it."""
    return len(np.unique(rates)) >= FEWEST or (len(rates) > 1000 and len(np.unique(rates)) > 1)


Candidate = tuple[str, str, Array]
"""Cause, fix, and the other side's curve as it would be; NaN where it cannot be told."""


def _counted(a: Array, b: Array) -> Iterator[Candidate]:
    """Another count of steps: late, early, doubled, once an epoch."""
    steps = np.arange(len(a))
    for late in LATE:
        words = "one iteration" if abs(late) == 1 else f"{abs(late)} iterations"
        cause = f"Every rate comes {words} {'late' if late > 0 else 'early'} (shifted by {late:+d})"
        cause += ": the schedule is stepped " + (
            "after the rate is asked for, or counts from 1." if late > 0
            else "before the first update, or the count goes up (step) before the rate is asked for."
        )  # fmt: skip
        yield (
            cause,
            "Set the rate of iteration it, update, then count on: learning_rate(it).",
            _at(a, steps - late),
        )
    yield (
        "The schedule is stepped twice in every iteration: rates come at double speed.",
        "Step it once: in the loop or in a callback.",
        _at(a, 2 * steps, hold=True),
    )
    yield (
        "The schedule is stepped twice in every iteration: rates come at double speed.",
        "Step it once: in the loop or in a callback.",
        _at(a, 2 * steps),
    )
    jumps = np.flatnonzero(np.diff(b)) + 1
    for length in dict.fromkeys([*(int(jump) for jump in jumps[:1]), *HELD]):
        if 1 < length < len(a) // 2:
            held = f"The rate is held for {length} iterations: the schedule is stepped once an epoch"
            yield f"{held}.", "scheduler.step() after every batch", _at(a, steps // length * length)
            cause = f"{held}, but counts in iterations (of T_max, milestones or steps)."
            yield (
                cause,
                "scheduler.step() after every batch, or T_max and milestones in epochs",
                _at(a, steps // length),
            )


def _at(a: Array, steps: Array, *, hold: bool = False) -> Array:
    inside = (steps >= 0) & (steps < len(a))
    return np.where(inside | hold, a[np.clip(steps, 0, len(a) - 1)], np.nan)


def _bounded(tap: str, a: Array, b: Array, reference: Record) -> Iterator[Candidate]:
    """The same curve rounded, multiplied, cut off below, or without its group's multiplier from some step on."""
    yield (
        "Rates are rounded to float32 (precision).",
        "Compute rates as Python floats.",
        a.astype(np.float32).astype(np.float64),
    )
    factor = float(np.median(b[a > 0] / a[a > 0])) if (a > 0).any() else 1.0
    yield (
        f"Every rate is {factor:.6g} times the reference's (a constant factor).",
        f"lr * {1 / factor:.6g}" if factor else "lr",
        factor * a,
    )
    low = float(b.min())
    if low > a.min():
        yield (
            f"No rate is below {low:.6g}: a lower bound (floor, minimum) cuts the end off.",
            "No lower bound.",
            np.maximum(a, low),
        )
    first = int(np.argmax(a != b))
    lost = b[first] / a[first] if first and a[first] else 0.0
    if 0 < lost < 0.6 and abs(1 / lost - round(1 / lost)) < MULTIPLIER:
        cause = (
            f"From step {first} on the rate is {lost:.6g} times the reference's: the group's multiplier "
            f"({1 / lost:.6g}) is lost then."
        )
        yield (
            cause,
            "set_lr(rate * multiplier) for every group",
            np.where(np.arange(len(a)) < first, a, a * lost),
        )


# --- formulas -----------------------------------------------------------------------------------------------


def _formulas(a: Array, b: Array) -> list[tuple[str, str]]:
    """What differs between two curves' formulas, if they have one: causes and fixes."""
    right, wrong = describe_curve(a), describe_curve(b)
    stated = [*_of_peak(right, wrong), *_of_warmup(right, wrong), *_of_decay(right, wrong)]
    if not stated:
        stated = list(_of_restart(a, b))
    return stated


def _of_peak(right: Curve, wrong: Curve) -> Iterator[tuple[str, str]]:
    known = right.decay.kind and wrong.decay.kind
    if known and _apart(right.peak, wrong.peak) and right.warmup.shape and wrong.warmup.shape:
        yield (
            f"its peak is {wrong.peak:.6g}, not {right.peak:.6g}: the base lr is {wrong.peak / right.peak:.6g} times "
            "as large",
            f"lr={right.peak:.6g}",
        )


def _of_warmup(right: Curve, wrong: Curve) -> Iterator[tuple[str, str]]:
    a, b = right.warmup, wrong.warmup
    if not (a.shape and b.shape) or a.shape == b.shape == "none":
        return
    if "none" in (a.shape, b.shape):
        what = (
            "left out" if b.shape == "none" else f"{b.length} iterations long, where the reference has none"
        )
        yield f"the warm-up is {what}", f"warm up for {a.length} iterations" if a.length else "no warm-up"
        return
    zero = ", from zero" if b.start == 0 else ""
    if a.shape != b.shape:
        yield f"the warm-up is {b.shape}{zero}, not {a.shape}", _warm(right)
    elif _apart(a.start, b.start, right.peak):
        yield f"the warm-up starts at {b.start:.6g}, not {a.start:.6g}", _warm(right)
    if a.length != b.length:
        off = f" ({b.length - a.length:+d}: off by one step)" if abs(a.length - b.length) == 1 else ""
        yield (
            f"the warm-up's length is {b.length} iterations, not {a.length}{off}",
            f"warmup_steps={a.length}",
        )


def _warm(curve: Curve) -> str:
    formula = {
        "exponential": "start * (peak / start) ** (it / steps)",
        "linear": "start + (peak - start) * it / steps",
        "constant": "a constant rate",
    }[curve.warmup.shape]
    return f"a warm-up of {formula} with start {curve.warmup.start:.6g}, {curve.warmup.length} steps"


def _of_decay(right: Curve, wrong: Curve) -> Iterator[tuple[str, str]]:
    a, b = right.decay, wrong.decay
    if not (a.kind and b.kind):
        return
    if a.kind == "steps" and b.kind == "constant":
        yield (
            f"the rate stays constant, where the reference's falls {_falls(a.falls)}: no milestone is reached, as "
            "when they are counted in other steps (iterations, epochs)",
            "milestones in the steps that are counted",
        )
    elif a.kind == "poly" and b.kind == "poly":
        yield from _of_poly(right, wrong)
    elif a.kind != b.kind:
        yield f"the decay is {_called(wrong)}, not {_called(right)}", f"a decay by {_called(right)}"
    elif a.kind == "cosine":
        if _apart(a.end, b.end, right.peak):
            yield (
                f"the cosine's end rate (eta_min, the floor) is {b.end:.6g}, not {a.end:.6g}",
                f"eta_min={a.end:.6g}",
            )
        if abs(a.ends - b.ends) > 0.1:
            yield (
                f"the cosine's length (T_max) is {b.ends - b.begins:.6g}, not {a.ends - a.begins:.6g}",
                f"T_max={a.ends - a.begins:.6g}",
            )
    elif a.kind == "exponential" and _apart(a.power, b.power):
        natural = abs(b.power + np.exp(a.power)) < 1e-6
        how = (
            f"exp({b.power:.6g} * it): the natural exponential with the same gamma"
            if natural
            else f"{np.exp(b.power):.6g} ** it"
        )
        yield (
            f"the decay is {how}, not {np.exp(a.power):.6g} ** it",
            f"paddle.optimizer.lr.ExponentialDecay(gamma={np.exp(a.power):.6g})",
        )
    elif a.kind == "steps" and a.falls != b.falls:
        yield (
            f"the rate falls {_falls(b.falls)}, the reference's {_falls(a.falls)}",
            f"milestones and gamma: {_falls(a.falls)}",
        )


def _of_poly(right: Curve, wrong: Curve) -> Iterator[tuple[str, str]]:
    a, b = right.decay, wrong.decay
    if abs(a.power - b.power) > 1e-6:
        linear = " (linear, PolynomialDecay's default)" if abs(b.power - 1) < 1e-6 else ""
        yield f"the polynomial's power is {b.power:.6g}{linear}, not {a.power:.6g}", f"power={a.power:.6g}"
    if _apart(a.end, b.end, right.peak):
        default = ", PolynomialDecay's default" if abs(b.end - 1e-4) < 1e-9 else ""
        yield f"the polynomial's end rate is {b.end:.6g}{default}, not {a.end:.6g}", f"end_lr={a.end:.6g}"
    if abs(a.ends - b.ends) > 0.1:
        off = " (off by one)" if abs(abs(a.ends - b.ends) - 1) < 0.1 else ""
        yield (
            f"the decay ends at iteration {b.ends:.6g}, not {a.ends:.6g}{off}",
            f"max_iter={a.ends:.6g} (total iterations)",
        )
    if abs(a.begins - b.begins) > 0.1 and _warmups_alike(right, wrong):
        yield (
            f"the decay (poly) counts from iteration {b.begins:.0f}, not {a.begins:.0f}: "
            f"{'with' if b.begins < a.begins else 'without'} the warm-up's iterations",
            f"(it - {a.begins:.0f}) / ({a.ends:.0f} - {a.begins:.0f})",
        )


def _warmups_alike(right: Curve, wrong: Curve) -> bool:
    return (
        right.warmup.shape == wrong.warmup.shape and right.warmup.length == wrong.warmup.length
    ) or "" in (
        right.warmup.shape,
        wrong.warmup.shape,
    )


def _of_restart(a: Array, b: Array) -> Iterator[tuple[str, str]]:
    """A decay that begins again where the reference stays at its end."""
    last = int(np.flatnonzero(np.diff(a))[-1]) + 1 if np.diff(a).any() else 0
    if (
        0 < last < len(a) - FEWEST
        and np.abs(a[:last] - b[:last]).max() <= EXACT * a.max()
        and b[last + 1] > b[last]
    ):
        yield (
            f"after iteration {last} the decay begins again (it cycles), where the reference stays at {a[-1]:.6g}",
            "cycle=False",
        )


def _called(curve: Curve) -> str:
    names = {
        "poly": f"a polynomial of power {curve.decay.power:.6g}",
        "cosine": "a cosine",
        "exponential": "an exponential",
    }
    return names.get(curve.decay.kind, curve.decay.kind)


def _falls(falls: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"to {factor:.6g} (gamma) at step (milestone) {step}" for step, factor in falls[:4])


def _apart(a: float, b: float, scale: float = 0.0) -> bool:
    return abs(a - b) > 1e-7 * max(abs(a), abs(b)) and abs(a - b) > EXACT * scale
