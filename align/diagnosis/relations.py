"""Explanations as relations between two arrays: each is tried, and what restores parity to rounding is the cause.

A relation says how one side's array would come from the other's. It counts only if it holds for every element, and
if the elements that differed are so many and so different that it cannot hold by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.result import Diagnosis

ROUNDING = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-9}
"""Fractions of scale within which an array of that dtype is restored; integers must be equal."""

NEEDED_BITS = 40.0
"""How improbable a relation must be as a coincidence: 2**-40, as two float32 numbers that agree in all digits."""

BITS_OF_A_NUMBER = 24.0
"""What a number that was fitted to the arrays takes away from a relation's evidence: a float32's digits."""

GAIN = 0.1
"""A relation that leaves more than this part of the difference explains nothing."""

COUNTED = 4096
"""Differing elements that are looked at for evidence, which is plenty."""

Pair = tuple[Array, Array]
"""One tap's arrays: the reference's, the other side's."""


@dataclass(frozen=True)
class Relation:
    """How one side's array may come from the other's.

    `tried` names it in a few words, `cause` and `fix` are for people if it holds. `change` makes the reference's
    array of the other side's, or, `forward`, what the other side has of the reference's. `fitted` is how many
    numbers were taken from the arrays themselves. An `exact` one must restore every bit, others may leave rounding,
    or what is `allowed`. A `certain` one restores every bit and needs no further evidence, like a dtype. A `fact` is
    seen in the records and undoes nothing, like an order.
    """

    tried: str
    cause: str
    fix: str
    change: Callable[[Array], Array | None]
    forward: bool = False
    fitted: int = 0
    exact: bool = False
    allowed: float | None = None
    certain: bool = False
    fact: bool = False


@dataclass(frozen=True)
class Trial:
    """What became of a relation on one pair: the differences without and with it, and the evidence in bits."""

    before: float
    after: float
    holds: bool
    bits: float


def explain(place: str, relations: Iterable[Relation], pairs: Sequence[Pair]) -> Diagnosis:
    """The first relation that holds at `place`, whose arrays are the first of `pairs`, or what was tried.

    The other pairs are of the same kind: where the relation, fitted to the first, holds too, they are
    evidence that small tensors cannot give by themselves.
    """
    tried: list[str] = []
    for relation in relations:
        if relation.fact:
            return Diagnosis(place, relation.cause, relation.fix, tried=(relation.tried,))
        first = try_relation(relation, *pairs[0])
        if first.holds and (relation.certain or first.bits + _others(relation, pairs) >= NEEDED_BITS):
            return Diagnosis(
                place, relation.cause, relation.fix, first.before, first.after, (relation.tried,)
            )
        if relation.tried not in tried:
            tried.append(relation.tried)
    return Diagnosis(place, tried=tuple(tried))


def _others(relation: Relation, pairs: Sequence[Pair]) -> float:
    trials = [try_relation(relation, a, b) for a, b in pairs[1:]]
    return sum(trial.bits + BITS_OF_A_NUMBER * relation.fitted for trial in trials if trial.holds)


def try_relation(relation: Relation, a: Array, b: Array) -> Trial:
    """Apply a relation to a pair: reference and other."""
    before = distance(a, b)
    changed = relation.change(a if relation.forward else b)
    goal = b if relation.forward else a
    if changed is None or changed.shape != goal.shape or goal.size == 0:
        return Trial(before, np.inf, False, 0.0)
    after = distance(goal, changed)
    holds = after <= _allowed(relation, goal, before)
    bits = (
        evidence(a, b, goal, _finest(relation, goal)) - BITS_OF_A_NUMBER * relation.fitted if holds else 0.0
    )
    return Trial(before, after, holds, bits)


def _allowed(relation: Relation, goal: Array, before: float) -> float:
    if relation.exact or relation.certain:
        return 0.0
    if relation.allowed is not None:
        return relation.allowed
    return min(ROUNDING.get(goal.dtype.name, 0.0), GAIN * before)


def evidence(a: Array, b: Array, goal: Array, finest: float) -> float:
    """How many bits of difference between the sides are explained if `goal` is met within `finest` of its scale.

    Elements that differ in the same way count once.
    """
    scale = max(scale_of(goal), scale_of(a) if goal.dtype.kind == "f" else 0.0)
    tolerance = finest * scale or 1.0
    if a.shape != b.shape:
        goals = np.unique(goal.reshape(-1)).astype(np.float64)
        return float(np.log2(1 + np.abs(goals - np.median(goals)) / tolerance).sum())
    x, y = numbers(a).reshape(-1), numbers(b).reshape(-1)
    differing = np.flatnonzero((x != y) & ~(np.isnan(x) & np.isnan(y)))[:COUNTED]
    pairs = np.unique(np.stack([x[differing], y[differing]]), axis=1)
    no_number = 2.0**20 * (scale or 1.0)  # a NaN against a number is no rounding
    with np.errstate(invalid="ignore"):
        gaps = np.nan_to_num(np.abs(pairs[0] - pairs[1]), nan=no_number, posinf=no_number)
    return float(np.log2(1 + gaps / tolerance).sum())


def _finest(relation: Relation, goal: Array) -> float:
    """The fraction of scale to which a relation meets its goal."""
    if goal.dtype.kind != "f":
        return 0.0
    if relation.exact or relation.certain:
        return float(np.finfo(goal.dtype).eps)
    rounding = ROUNDING.get(goal.dtype.name, 0.0)
    return rounding if relation.allowed is None else min(max(relation.allowed, 1e-15), 1.0)


def distance(a: Array, b: Array) -> float:
    """max|a - b| as a fraction of a's scale; 1 for arrays of different shapes, NaN equal to NaN."""
    if a.shape != b.shape:
        return 1.0
    if a.size == 0:
        return 0.0
    x, y = numbers(a), numbers(b)
    both = np.isnan(x) & np.isnan(y)
    with np.errstate(invalid="ignore"):
        gap = float(np.where(both | (x == y), 0.0, np.abs(x - y)).max())
    if np.isnan(gap):
        return np.inf
    return gap / (scale_of(a) or 1.0)


def scale_of(a: Array) -> float:
    """max|a| over finite elements, 0 without any."""
    x = numbers(a)
    finite = x[np.isfinite(x)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def numbers(a: Array) -> Array:
    """The array in float64."""
    return a if a.dtype == np.float64 else a.astype(np.float64)


def is_constant(a: Array) -> bool:
    """Whether all elements are the same (of one element or none: yes)."""
    return a.size < 2 or bool((a == a.reshape(-1)[0]).all())


def nothing(tried: str) -> Relation:
    """What was tried, for arrays that it cannot be tried on."""
    return Relation(tried, "", "", lambda _: None)


def observed(tried: str, cause: str, fix: str) -> Relation:
    """Something that the records show and that nothing undoes."""
    return Relation(tried, cause, fix, lambda _: None, fact=True)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have one shape and the same values everywhere, NaN included."""
    return a.shape == b.shape and distance(a, b) == 0.0
