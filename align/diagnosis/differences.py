"""Two traces of one module, compared: which calls are missing, too many, others, or with other settings or inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from stdc_parity.align.diagnosis.meanings import differing
from stdc_parity.align.framework import Array
from stdc_parity.align.tracing import WHOLE, Call, Edit, Trace

MAX_REGION = 8
"""Differences between more calls than these are no explanation."""

STATISTICS = {"_mean": "running_mean", "_variance": "running_var", "_weight": "weight", "scale": "weight"}
QUIET = {"clone", "reshape", "zeros_like", "ones_like", "contiguous", "to", "type"}
"""Calls that need no counterpart: they change no value."""
COPIES = {"detach", "cpu", "clone"}
"""Calls by which a result is read."""


@dataclass(frozen=True)
class Difference:
    """One difference between what the reference calls and what we call.

    `kind` is "settings", "inputs", "missing", "extra", "other" or "outputs"; `there` is the number of the
    reference's call, `here` ours (-1: none). Of "settings", `name` is the one that differs, `value` the reference's
    in our words and `own` ours. `edits` are ways to undo it, alternatives.
    """

    kind: str
    there: int = -1
    here: int = -1
    name: str = ""
    value: Any = None
    own: Any = None
    edits: Sequence[Edit] = ()


class Values:
    """Which of our values is which of the reference's."""

    def __init__(self, torch: Trace, paddle: Trace, before: float) -> None:
        """Compare all of one with all of the other that have the same shape, but for axes of length 1."""
        self.tolerance = max(1e-11, min(1e-5, before * 1e-3))
        self._paddle = paddle
        names = {_official(name): number for number, name in paddle.parameters.items()}
        self.to_here = {n: names[name] for n, name in torch.parameters.items() if name in names}
        self.matched: set[int] = set()
        ours = {number: np.squeeze(array) for number, array in paddle.values.items()}
        for number, array in torch.values.items():
            one = np.squeeze(array)
            equal = [n for n, other in ours.items() if same_values(one, other, self.tolerance)]
            if equal:
                self.to_here[number] = equal[0]
                self.matched.update(equal)

    def here(self, numbers: Sequence[int]) -> list[int] | None:
        """Our numbers of the reference's values, None if we do not have them all."""
        found = [self.to_here[number] for number in numbers if number in self.to_here]
        return found if len(found) == len(numbers) else None

    def alike(self, one: Sequence[int], other: Sequence[int]) -> bool:
        """Whether two lists of our values are the same, by number or by value."""
        return len(one) == len(other) and all(self._equal(a, b) for a, b in zip(one, other, strict=True))

    def _equal(self, a: int, b: int) -> bool:
        x, y = self._paddle.values.get(a), self._paddle.values.get(b)
        return a == b or (
            x is not None and y is not None and same_values(np.squeeze(x), np.squeeze(y), self.tolerance)
        )


def _official(name: str) -> str:
    path, dot, last = name.rpartition(".")
    return f"{path}{dot}{STATISTICS.get(last, last)}"


def same_values(a: Array, b: Array, tolerance: float) -> bool:
    """Whether two arrays agree in shape, and in value to a fraction of the first one's scale."""
    if a.shape != b.shape or (a.dtype.kind == "f") != (b.dtype.kind == "f"):
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    scale = float(np.abs(a).max(initial=0.0))
    return bool(np.isfinite(scale)) and bool(np.abs(a - b).max(initial=0.0) <= tolerance * scale)


def differences(torch: Trace, paddle: Trace, values: Values) -> Iterator[list[Difference]]:
    """Everything that differs between the calls of the two traces, in order; more lists are other ways to see it."""
    all_theirs, all_ours = _focus(torch), _focus(paddle)
    theirs = [i for i in all_theirs if not _idle(torch.calls[i])]
    ours = [j for j in all_ours if not _idle(paddle.calls[j])]
    first = _compared(torch, paddle, theirs, ours, values)
    outputs = _outputs(torch, paddle, values)
    yield [*first, *outputs]
    every = _compared(torch, paddle, all_theirs, all_ours, values)
    if every != first:
        yield [*every, *outputs]
    if len(ours) > len(
        theirs
    ):  # the same calls may be there twice: the last ones are then the ones that count
        last = _compared(torch, paddle, theirs, ours, values, backwards=True)
        if last != first:
            yield last
    apart = any(difference.kind in ("missing", "extra") for difference in first)
    if apart and torch.focus is None and len(torch.calls) == len(paddle.calls):
        pairs = enumerate(zip(torch.calls, paddle.calls, strict=True))
        yield [d for i, (a, b) in pairs if a.name != b.name for d in _pair(torch, paddle, i, i, values)]


def _compared(
    torch: Trace,
    paddle: Trace,
    theirs: Sequence[int],
    ours: Sequence[int],
    values: Values,
    *,
    backwards: bool = False,
) -> list[Difference]:
    found: list[Difference] = []
    names = [torch.calls[i].name for i in theirs], [paddle.calls[j].name for j in ours]
    for i1, i2, j1, j2 in _blocks(*names, backwards=backwards):
        if i2 - i1 == j2 - j1:
            for i, j in zip(theirs[i1:i2], ours[j1:j2], strict=True):
                found += _pair(torch, paddle, i, j, values)
        else:
            after = ours[j2] if j2 < len(ours) else len(paddle.calls)
            for j in ours[j1:j2]:
                found += [_extra(j), *_unusual(paddle, j)]
            found += [_missing(torch, paddle, i, after) for i in theirs[i1:i2]]
    return found


def _idle(call: Call) -> bool:
    """Whether a call needs no counterpart."""
    nothing = {"add": 0, "multiply": 1}.get(call.name)
    return call.name in QUIET or (nothing is not None and call.settings.get("y") == nothing)


def _focus(trace: Trace) -> Sequence[int]:
    return range(len(trace.calls)) if trace.focus is None else trace.focus


def focused(trace: Trace, result: Array, shared: set[int]) -> Trace | None:
    """The trace with those calls in focus that lead to `result` from values that both sides have."""
    flat = np.ravel(result)
    made = [
        j
        for j, call in enumerate(trace.calls)
        if any(n >= 0 and same_values(flat, np.ravel(trace.values[n]), 0.0) for n in call.outputs)
    ]
    made = [j for j in made if trace.calls[j].name not in COPIES]
    if not made:
        return None
    return replace(trace, focus=_origin(trace, made[0], shared))


def _blocks(theirs: list[str], ours: list[str], *, backwards: bool) -> Iterator[tuple[int, int, int, int]]:
    """Which calls stand for each other, as ranges of both; equally long ones are pairs."""
    if not backwards:
        for _, *block in SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
            yield block[0], block[1], block[2], block[3]
        return
    turned = SequenceMatcher(None, theirs[::-1], ours[::-1], autojunk=False).get_opcodes()
    n, m = len(theirs), len(ours)
    for _, i1, i2, j1, j2 in reversed(turned):
        yield n - i2, n - i1, m - j2, m - j1


def _pair(torch: Trace, paddle: Trace, i: int, j: int, values: Values) -> Iterator[Difference]:
    there, here = torch.calls[i], paddle.calls[j]
    if there.name != here.name:
        yield Difference("other", i, j, edits=[_function(j, "replace", there)] if _unary(there) else ())
        return
    for name, (value, own) in differing(there, here).items():
        yield Difference("settings", i, j, name, value, own, [Edit(j, "set", settings={name: value})])
    mapped = values.here([number for _, number in there.inputs])
    own_inputs = [number for _, number in here.inputs]
    if mapped is not None and len(mapped) == len(own_inputs) and not values.alike(mapped, own_inputs):
        yield Difference("inputs", i, j, edits=[Edit(j, "inputs", values=mapped)])
    elif len(there.inputs) != len(own_inputs):
        yield Difference("inputs", i, j)


def _extra(j: int) -> Difference:
    return Difference("extra", -1, j, edits=[Edit(j, "skip")])


def _unusual(paddle: Trace, j: int) -> Iterator[Difference]:
    """Settings of a call without a counterpart that are not its defaults."""
    call = paddle.calls[j]
    for name, (value, own) in differing(replace(call, settings={}), call).items():
        yield Difference("settings", -1, j, name, value, own, [Edit(j, "set", settings={name: value})])


def _missing(torch: Trace, paddle: Trace, i: int, j: int) -> Difference:
    """The reference's call `i` has no counterpart; it belongs before our call `j`."""
    call = torch.calls[i]
    edits = []
    if _unary(call):
        if j < len(paddle.calls):
            edits.append(_function(j, "before", call))
        if j > 0:
            edits.append(_function(j - 1, "after", call))
        if i == len(torch.calls) - 1:
            edits.append(_function(WHOLE, "after", call))
        if j == 0:
            edits.append(_function(WHOLE, "before", call))
    return Difference("missing", i, -1, edits=edits)


def _outputs(torch: Trace, paddle: Trace, values: Values) -> list[Difference]:
    """Whether other values are returned, though ours has the right ones."""
    mapped = values.here(torch.outputs)
    if mapped is None or len(mapped) != len(paddle.outputs) or values.alike(mapped, paddle.outputs):
        return []
    return [Difference("outputs", edits=[Edit(WHOLE, "outputs", values=mapped)])]


def _function(at: int, do: str, call: Call) -> Edit:
    name = f"module:{call.name}" if call.module else call.name
    return Edit(at, do, name, settings={k: v for k, v in call.settings.items() if k != "inplace"})


def _unary(call: Call) -> bool:
    """Whether a call has one tensor, and that is no parameter."""
    return len(call.inputs) == 1 and call.inputs[0][1] >= 0


def region(torch: Trace, paddle: Trace, values: Values) -> Iterator[tuple[int, int]]:
    """Pairs of calls (the reference's, ours) whose results may stand for each other: what neither side shares yet."""
    theirs = [i for i in _focus(torch) if any(n not in values.to_here for n in torch.calls[i].outputs)]
    ours = [j for j in _focus(paddle) if any(n not in values.matched for n in paddle.calls[j].outputs)]
    for j in ours:
        sizes = [paddle.values[n].size for n in paddle.calls[j].outputs if n >= 0]
        same = [
            i for i in theirs if [torch.values[n].size for n in torch.calls[i].outputs if n >= 0] == sizes
        ]
        for i in sorted(same, key=lambda i: (torch.calls[i].name != paddle.calls[j].name, i)):
            yield i, j


def structure(torch: Trace, paddle: Trace, there: int, here: int, values: Values) -> list[Difference]:
    """What differs between how the reference gets the result of its call `there` and we that of `here`."""
    theirs = _origin(torch, there, set(values.to_here))
    ours = _origin(paddle, here, values.matched)
    if len(theirs) > MAX_REGION or len(ours) > MAX_REGION:
        return []
    return _compared(torch, paddle, theirs, ours, values)


def _origin(trace: Trace, last: int, shared: set[int]) -> list[int]:
    """The calls that lead to call `last` from values that both sides have, in order."""
    wanted, found = [last], set()
    while wanted:
        number = wanted.pop()
        if number in found:
            continue
        found.add(number)
        for _, value in trace.calls[number].inputs:
            if value >= 0 and value not in shared:
                wanted += [i for i, call in enumerate(trace.calls) if value in call.outputs][-1:]
    return sorted(found)


def program(torch: Trace, values: Values) -> Edit | None:
    """The reference's calls as an edit of ours, None if they use a parameter that we do not have."""
    calls = []
    for call in torch.calls:
        if any(number < 0 and number not in values.to_here for _, number in call.inputs):
            return None
        inputs = [(key, values.to_here[number] if number < 0 else number) for key, number in call.inputs]
        settings = {key: value for key, value in call.settings.items() if key != "inplace"}
        calls.append(replace(call, inputs=inputs, settings=settings))
    return Edit(WHOLE, "program", values=[*torch.inputs, *torch.outputs], program=calls)
