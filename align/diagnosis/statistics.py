"""Why running statistics differ after a pass in train mode: how far they moved, and towards what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from stdc_parity.align.diagnosis.relations import Relation, explain, nothing, numbers
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

MOMENTUM = 0.1
"""PyTorch's momentum of a batch norm: the weight of the new value. Paddle's 0.9 is that of the old one."""

TWICE = (1 - (1 - MOMENTUM) ** 2) / MOMENTUM
"""How far two equal updates move, as a multiple of one."""

MOST = 1 << 24
"""Values of a channel that a correction n / (n - 1) is looked for up to."""

RELATED = 20

AMPLIFIED = 2e-6
"""What rounding leaves of float32 statistics whose step is multiplied, as a fraction of scale."""


def explain_statistics(failing: Sequence[Comparison], reference: Record, other: Record) -> list[Diagnosis]:
    """A diagnosis for the first running mean and the first running variance that differ."""
    found = {}
    for role in ("running_mean", "running_var"):
        taps = [c.tap for c in failing if c.kind == "buffer" and not c.why and c.tap.endswith(f".{role}")]
        known = [tap for tap in taps if f"{tap} before" in reference.arrays and tap in other.arrays]
        if known:
            pairs = [(reference.arrays[tap], other.arrays[tap]) for tap in known[: 1 + RELATED]]
            found[known[0]] = explain(known[0], _relations(known, reference, other), pairs)
    return list(found.values())


def explain_each(failing: Sequence[Comparison], reference: Record, other: Record) -> dict[str, Diagnosis]:
    """By its tap, a cause for each running statistic that a norm leaves by itself, of those that have one.

    The records are those of modules that ran one by one, a norm that is called twice once for each call.
    """
    found = {}
    for role in ("running_mean", "running_var"):
        taps = [c.tap for c in failing if c.kind == "buffer" and not c.why and c.tap.endswith(f".{role}")]
        known = [tap for tap in taps if f"{tap} before" in reference.arrays and tap in other.arrays]
        for number, tap in enumerate(known):
            order = [tap, *known[:number], *known[number + 1 :]][: 1 + RELATED]
            pairs = [(reference.arrays[name], other.arrays[name]) for name in order]
            diagnosis = explain(tap, _relations(order, reference, other), pairs)
            if diagnosis:
                found[tap] = diagnosis
    return found


def _relations(taps: Sequence[str], reference: Record, other: Record) -> Iterator[Relation]:
    """Relations for the first of `taps`; the others are of the same role."""
    name = taps[0]
    a, b = reference.arrays[name], other.arrays[name]
    old = reference.arrays[f"{name} before"]
    moved = numbers(a) - old
    yield Relation(
        "not updated",
        f"{name} is not updated in train mode: it is what it was before the pass.",
        "Let the norm track its statistics (use_global_stats=None, network.train()).",
        partial(_given, given=old),
        forward=True,
        exact=True,
    )
    every = [(reference.arrays[tap], other.arrays[tap], reference.arrays[f"{tap} before"]) for tap in taps]
    step = _share(every)
    new = MOMENTUM * step
    other_way = (
        ", which is Paddle's for PyTorch's 0.9, or 0.9 taken over unchanged" if abs(new - 0.9) < 1e-3 else ""
    )
    cause = (
        f"{name} moves {step:.5g} times as far as the reference's: for a momentum of {MOMENTUM:g} in PyTorch (0.9 in "
        f"Paddle) that is {new:.5g}, in Paddle momentum={1 - new:.5g}{other_way}."
    )
    if abs(step - TWICE) < 1e-3:
        cause = f"{name} is updated twice in one pass: it moves {step:.4g} = (1 - 0.9**2) / 0.1 times as far."
    predicted = old + step * moved
    yield _for_every(
        every, "another momentum", cause, "momentum=0.9 (Paddle's is 1 - PyTorch's)", predicted, step
    )
    if name.endswith("running_var"):
        yield from _corrected(name, a, b, old)
    else:
        yield nothing("a variance with or without n / (n - 1)")


def _share(every: Sequence[tuple[Array, Array, Array]]) -> float:
    """How far the other side's statistics moved, as a multiple of the reference's."""
    a, b, old = (np.concatenate([numbers(sides[i]).reshape(-1) for sides in every]) for i in (0, 1, 2))
    moved = a - old
    size = float(moved @ moved)
    return float(moved @ (b - old)) / size if size else 1.0


def _for_every(
    every: Sequence[tuple[Array, Array, Array]],
    tried: str,
    cause: str,
    fix: str,
    predicted: Array,
    step: float,
) -> Relation:
    """A relation that makes of each reference array what its own start and `step` make of it."""
    starts = {a.tobytes(): old for a, _, old in every}

    def change(a: Array) -> Array:
        old = starts[a.tobytes()]
        return np.asarray(old + step * (numbers(a) - old))

    return Relation(tried, cause, fix, change, forward=True, fitted=1, allowed=AMPLIFIED * max(1.0, step))


def _corrected(name: str, a: Array, b: Array, old: Array) -> Iterator[Relation]:
    """The batch's variance by n in place of n - 1, or the other way round: n is fitted and must be whole.

    Paddle's kernel takes its momentum in float32, for float64 statistics too: that is tried beside the exact one.
    """
    tried = "a variance with or without n / (n - 1)"
    batch = (numbers(a) - (1 - MOMENTUM) * old) / MOMENTUM
    for keep in (1 - MOMENTUM, float(np.float32(1 - MOMENTUM))):
        other_batch = (numbers(b) - keep * old) / (1 - keep)
        ratio = float(batch @ other_batch / (batch @ batch)) if batch.ndim == 1 and batch.any() else 1.0
        n = 1 / (1 - ratio) if ratio < 1 else 1 + 1 / (ratio - 1) if ratio > 1 else np.inf
        if not 1.5 < n < MOST or abs(n - round(n)) > max(0.02, 1e-5 * n * n):
            yield nothing(tried)
            continue
        whole = round(n)
        factor = (whole - 1) / whole if ratio < 1 else whole / (whole - 1)
        biased, unbiased = "divided by n (biased)", "divided by n - 1 (unbiased)"
        wrong, right = (biased, unbiased) if ratio < 1 else (unbiased, biased)
        yield Relation(
            tried,
            f"{name} takes the batch's variance {wrong}, the reference's {right}: it is {factor:.7g} times the "
            f"reference's, n = {whole}.",
            f"running_var with the variance times {'n / (n - 1)' if ratio < 1 else '(n - 1) / n'}, n = {whole}",
            partial(_given, given=keep * old + (1 - keep) * factor * batch),
            forward=True,
        )


def _given(_: Array, given: Array) -> Array:
    return given
