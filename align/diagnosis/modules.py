"""Why a module differs by itself: its calls on both sides are compared, and each difference is undone and tried.

What is tried runs on the other side (not the reference's) with the inputs that the reference's module had. A cause
is stated only if undoing it makes the module agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stdc_parity.align.diagnosis import words
from stdc_parity.align.diagnosis.averages import averages
from stdc_parity.align.diagnosis.differences import (
    MAX_REGION,
    Difference,
    Values,
    differences,
    focused,
    program,
    region,
    structure,
)
from stdc_parity.align.diagnosis.meanings import attribute_pairs, in_paddles_words, tidied
from stdc_parity.align.record import Record
from stdc_parity.align.result import Diagnosis
from stdc_parity.align.stages.explain import VALUE, trace_of
from stdc_parity.align.tracing import WHOLE, Edit, Trace

MAX_TOLD = 2
"""More differences than these at once are no cause that helps."""

PARTLY = 1e-3
"""What is left of a difference that was nearly explained."""

MAX_TRIALS = 80
"""How many changes are tried on one module."""


@dataclass(frozen=True)
class Lab:
    """How a module is run: `trace()` gives both sides' records, the reference's first; `run(edits)` the other side's
    with changes, None if it raises; `gap(record)` is the largest difference from the reference's as a fraction of
    its scale, and whether that is agreement.
    """

    trace: Callable[[], tuple[Record, Record]]
    run: Callable[[Sequence[Edit]], Record | None]
    gap: Callable[[Record], tuple[float, bool]]


def explain_module(place: str, lab: Lab, only: str = "") -> Diagnosis:
    """Find out why the module at `place` differs; `only` is the one result that has to agree, of many."""
    reference, other = lab.trace()
    before, fine = lab.gap(other)
    if fine:
        return Diagnosis(place, before=before, tried=("the module run alone, which agrees",))
    torch, paddle = in_paddles_words(trace_of(reference)), tidied(trace_of(other))
    values = Values(torch, paddle, before)
    if only:
        ends = (torch, reference, set(values.to_here)), (paddle, other, values.matched)
        torch, paddle = (focused(t, record.arrays[only], shared) or t for t, record, shared in ends)
    tried: list[str] = []
    partly: Diagnosis | None = None
    for number, (what, edits, cause, fix) in enumerate(_candidates(torch, paddle, values)):
        if number >= MAX_TRIALS:
            break
        record = lab.run(edits)
        after, fine = lab.gap(record) if record is not None else (float("inf"), False)
        if fine and cause:
            return Diagnosis(place, cause, fix, before, after)
        if cause and after < (partly.after if partly is not None else PARTLY * before):
            partly = Diagnosis(
                place, f"{cause} (a smaller difference of another kind remains)", fix, before, after
            )
        if what not in tried:
            tried.append(what)
    unexplained = Diagnosis(place, before=before, tried=tuple(tried[:12]))
    return partly or _kink(place, reference, other, before) or unexplained


def _kink(place: str, reference: Record, other: Record, before: float) -> Diagnosis | None:
    """Whether gradients differ only where the input is exactly 0, where a function has a kink."""
    inputs = trace_of(reference).inputs
    for name, array in reference.arrays.items():
        twin = other.arrays.get(name)
        if name.startswith("own grad") and name.endswith("input[0]") and twin is not None and inputs:
            given = reference.arrays[f"{VALUE}{inputs[0]}"]
            wrong = ~np.isclose(array, twin, rtol=1e-9, atol=1e-12)
            if given.shape == array.shape == twin.shape and wrong.any() and not given[wrong].any():
                cause = (
                    "the gradients differ only where the input is exactly 0, where the function has a kink"
                )
                fix = (
                    "Another function with the same values may have the other gradient at zero; or leave it."
                )
                return Diagnosis(place, cause, fix, before, 0.0)
    return None


Candidate = tuple[str, Sequence[Edit], str, str]
"""What is tried in words, the changes, and the cause and the fix if they help."""


def _candidates(torch: Trace, paddle: Trace, values: Values) -> Iterator[Candidate]:
    yield from _attributes(torch, paddle)
    yield from _inputs(torch, paddle)
    yield from averages(torch, paddle)
    ways = list(differences(torch, paddle, values))
    for found in ways:
        for difference in found:
            for edit in difference.edits:
                yield words.short(difference), [edit], *words.describe([difference], torch, paddle)
        undone = [difference for difference in found if difference.edits]
        if len(undone) > 1:
            yield from _together(undone, torch, paddle)
    yield from _values(torch, paddle, values)
    whole = program(torch, values) if torch.outputs else None
    if whole is not None and 0 < len(ways[0]) <= MAX_REGION:
        told = words.describe(ways[0], torch, paddle)
        yield "the original's calls, one by one", [whole], *(told if told[0] else words.rewritten(torch, paddle))


def _attributes(torch: Trace, paddle: Trace) -> Iterator[Candidate]:
    pairs = attribute_pairs(torch.attributes, paddle.attributes)
    for name, other, value, own in pairs:
        cause, fix = words.attribute(torch.type, paddle.type, name, other, value, own)
        yield f"{other} = {value}", [Edit(WHOLE, "attribute", settings={other: value})], cause, fix
    if len(pairs) > 1:
        texts = [words.attribute(torch.type, paddle.type, *pair) for pair in pairs]
        cause, fix = "; ".join(text[0] for text in texts), "; ".join(text[1] for text in texts)
        settings = {other: value for _, other, value, _ in pairs}
        yield "all settings at once", [Edit(WHOLE, "attribute", settings=settings)], cause, fix
    frozen = sorted(set(paddle.attributes.get("frozen", ())) - set(torch.attributes.get("frozen", ())))
    own = [name for name in frozen if "." not in name and not name.startswith("_")]
    for names in [[name] for name in own] + ([own] if len(own) > 1 else []):
        what = " and ".join(names)
        yield (
            f"a gradient for {what}",
            [Edit(WHOLE, "gradient", n) for n in names],
            *words.frozen(paddle.type, what),
        )


def _together(found: Sequence[Difference], torch: Trace, paddle: Trace) -> Iterator[Candidate]:
    """All differences at once, then pairs of neighbours, then all but one."""
    groups = [list(found), *_alike(found, torch, paddle)]
    if 2 < len(found) <= MAX_REGION:
        groups += [[a, b] for a, b in pairwise(found)]
        groups += [[*found[:i], *found[i + 1 :]] for i in range(len(found))]
    for group in groups:
        for choice in range(max(len(difference.edits) for difference in group)):
            edits = [d.edits[min(choice, len(d.edits) - 1)] for d in group]
            yield f"{len(group)} differences at once", edits, *words.describe(group, torch, paddle)


def _alike(found: Sequence[Difference], torch: Trace, paddle: Trace) -> list[list[Difference]]:
    """Differences of one kind in calls of one name: what is done wrong at every turn of a loop."""
    kinds: dict[tuple[str, str, str], list[Difference]] = {}
    for difference in found:
        call = paddle.calls[difference.here] if difference.here >= 0 else torch.calls[difference.there]
        kinds.setdefault((difference.kind, call.name, difference.name), []).append(difference)
    return [group for group in kinds.values() if 1 < len(group) < len(found)]


def _values(torch: Trace, paddle: Trace, values: Values) -> Iterator[Candidate]:
    """The reference's value in the place of one of ours: what lies before it is the cause, if the rest agrees."""
    for there, here in region(torch, paddle, values):
        found = structure(torch, paddle, there, here, values)
        clear = len(found) == 1 or (len(found) <= MAX_TOLD and all(d.kind != "other" for d in found))
        cause, fix = words.describe(found, torch, paddle) if found and clear else ("", "")
        edit = Edit(here, "value", values=torch.calls[there].outputs)
        yield f"the original's {words.call(torch.calls[there])}", [edit], cause, fix


def _inputs(torch: Trace, paddle: Trace) -> Iterator[Candidate]:
    """What may be wrong with an input before any call: a mask that means the opposite, axes in another order."""
    for position, number in enumerate(paddle.inputs):
        if number in paddle.values and paddle.values[number].dtype == bool:
            edit = Edit(WHOLE, "before", "logical_not", values=(position,))
            cause = (
                f"the mask (input {position}) must be inverted: PyTorch hides where it is True, Paddle keeps"
            )
            yield f"input {position} inverted", [edit], cause, "~mask (paddle.logical_not)"
    for name, (perm, cause, fix) in LAYOUTS.items():
        if all(any(call.name == name for call in trace.calls) for trace in (torch, paddle)):
            turn = {"perm": perm}
            edits = [Edit(WHOLE, do, "transpose", settings=turn) for do in ("before", "after")]
            yield f"{name} with other axes", edits, cause, fix


LAYOUTS = {
    "scaled_dot_product_attention": (
        (0, 2, 1, 3),
        "scaled_dot_product_attention takes another layout: Paddle's axes are (batch, length, heads, size), "
        "PyTorch's (batch, heads, length, size)",
        "transpose([0, 2, 1, 3]) before and after it",
    )
}
"""Functions whose tensors have their axes in another order in Paddle."""
