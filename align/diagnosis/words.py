"""Differences in words: a cause for people, and the line to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from stdc_parity.align.diagnosis.differences import Difference
from stdc_parity.align.diagnosis.meanings import NOTES
from stdc_parity.align.tracing import MODE, Call, Settings, Trace

TYPES = {
    "adaptive_avg_pool2d": "AdaptiveAvgPool2D",
    "adaptive_max_pool2d": "AdaptiveMaxPool2D",
    "avg_pool2d": "AvgPool2D",
    "batch_norm": "BatchNorm2D",
    "conv1d": "Conv1D",
    "conv2d": "Conv2D",
    "conv2d_transpose": "Conv2DTranspose",
    "group_norm": "GroupNorm",
    "layer_norm": "LayerNorm",
    "leaky_relu": "LeakyReLU",
    "max_pool2d": "MaxPool2D",
    "pixel_shuffle": "PixelShuffle",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "sigmoid": "Sigmoid",
}
"""The layer classes that people know functions by."""

MAX_CALLS = 10
"""How many calls of a module's code are told at most."""

MAX_SENTENCES = 3
"""A cause of more parts than these tells nobody what to do."""

UNKNOWN = "a tensor from elsewhere"
"""The origin of a value that no call of the trace has made."""

IGNORED = 255
"""The label that Cityscapes' train ids have for what is not trained."""

MEANING = {
    "greater_than": "a threshold",
    "greater_equal": "a threshold",
    "less_than": "a threshold",
    "less_equal": "a threshold",
    "equal": "which labels are meant, the ignored ones for instance",
    "not_equal": "which labels are meant, the ignored ones for instance",
    "pow": "an exponent: a square, a gamma",
    "square": "an exponent: a square",
    "add": "a smoothing, an epsilon or a term of a sum",
    "cross_entropy": "which pixels count, and how they are averaged",
    "detach": "it stops the gradient",
    "register_hook": "the hook changes the gradient, by a factor for instance",
    "flip": "it turns the order of an axis round",
    "astype": "it rounds to another precision, float16 for instance",
    "multiply": "a factor, a scale",
    "divide": "a factor, a scale",
    "transpose": "it changes the order of the axes",
    "channel_shuffle": "it changes the order of the channels",
}
"""What a call does that is easily overlooked."""


def describe(found: Sequence[Difference], torch: Trace, paddle: Trace) -> tuple[str, str]:
    """The cause and the fix for differences that were undone together; empty if there are no words for them."""
    reordered = _reordered(found, torch, paddle)
    if reordered:
        return reordered
    texts = [_one(difference, torch, paddle) for difference in found]
    if not all(cause for cause, _ in texts) or _sliced(found, paddle):
        return "", ""
    causes, fixes = (list(dict.fromkeys(text[i] for text in texts)) for i in (0, 1))
    return ("; ".join(causes), "; ".join(fixes)) if len(causes) <= MAX_SENTENCES else ("", "")


def rewritten(torch: Trace, paddle: Trace) -> tuple[str, str]:
    """The cause and the fix for code whose calls are others altogether, if the original's give what they must."""
    here, there = ([call(each) for each in trace.calls] for trace in (paddle, torch))
    if not here or not there or len(there) > MAX_CALLS:
        return "", ""
    own = ", ".join(here[:MAX_CALLS]) + (", …" if len(here) > MAX_CALLS else "")
    return f"other code: it calls {own}; the original {', '.join(there)}", "; ".join(there)


def _apart(here: list[str], there: list[str]) -> tuple[list[str], list[str]]:
    """Two lists without what they begin and end with both."""
    while here and there and here[0] == there[0]:
        here, there = here[1:], there[1:]
    while here and there and here[-1] == there[-1]:
        here, there = here[:-1], there[:-1]
    return here, there


def _sliced(found: Sequence[Difference], paddle: Trace) -> bool:
    """Whether one of several pieces of a tensor is all that was found: the others are what matters too."""
    pieces = [d for d in found if d.kind == "extra" and paddle.calls[d.here].name == "__getitem__"]
    joined = {n for call in paddle.calls if call.name == "concat" for _, n in call.inputs}
    return any(set(paddle.calls[d.here].outputs) & joined for d in pieces)


def _reordered(found: Sequence[Difference], torch: Trace, paddle: Trace) -> tuple[str, str] | None:
    """The same in another order, if that is all: calls, or the settings of several calls of one function."""
    missing = Counter(torch.calls[d.there].name for d in found if d.kind in ("missing", "other"))
    extra = Counter(paddle.calls[d.here].name for d in found if d.kind in ("extra", "other"))
    if missing and missing == extra and all(d.kind in ("missing", "extra", "other", "inputs") for d in found):
        here, there = _apart([c.name for c in paddle.calls], [c.name for c in torch.calls])
        names = " and ".join(dict.fromkeys(missing))
        cause = f"{names} swapped or in another order: {', '.join(here)}; in the original {', '.join(there)}"
        return cause, f"Call them in the order {', '.join(there)}."
    if len(found) > 1 and all(d.kind == "settings" for d in found) and len({d.name for d in found}) == 1:
        own, right = ([str(getattr(d, part)) for d in found] for part in ("own", "value"))
        if own != right and sorted(own) == sorted(right):
            name = paddle.calls[found[0].here].name
            text = f"{', '.join(own)}, in the original for {', '.join(right)}"
            return f"{name} is called for {text}: swapped, in another order", f"{name} for {', '.join(right)}"
    return None


def _one(difference: Difference, torch: Trace, paddle: Trace) -> tuple[str, str]:
    there = torch.calls[difference.there] if difference.there >= 0 else None
    here = paddle.calls[difference.here] if difference.here >= 0 else None
    if difference.kind == "settings" and here is not None:
        return _settings(difference, here, paddle)
    if there is not None and here is not None:
        if difference.kind == "inputs":
            return _inputs(there, here, torch, paddle)
        meaning = f" ({MEANING[there.name]})" if there.name in MEANING else ""
        return f"{call(here)} stands where the original has {call(there)}{meaning}", code(there)
    if there is not None:
        return _missing(there, torch, paddle)
    if here is not None:
        return _extra(here, torch, paddle)
    own, right = ([origin(trace, number) for number in trace.outputs] for trace in (paddle, torch))
    wrong = [(a, b) for a, b in zip(own, right, strict=True) if a != b] or [
        (", ".join(own), ", ".join(right))
    ]
    text = "; ".join(f"{a} where the original returns {b}" for a, b in wrong)
    return f"it returns {text}", f"return {', '.join(right)}"


def _settings(difference: Difference, here: Call, paddle: Trace) -> tuple[str, str]:
    name, own, value = difference.name, difference.own, difference.value
    title = TYPES.get(here.name, here.name)
    if name == "item":
        right = f"x[{_index(value)}]"
        kept = " (the number of kept elements)" if isinstance(value, str) and isinstance(own, str) else ""
        return f"x[{_index(own)}] is taken where the original takes {right}{kept}", right
    note = f": {NOTES[name]}" if name in NOTES else f" ({MEANING[here.name]})" if here.name in MEANING else ""
    if (
        isinstance(value, tuple)
        and isinstance(own, tuple)
        and sorted(map(str, own)) == sorted(map(str, value))
    ):
        note = f" (swapped, in another order){note}"
    note += _count(own, value, paddle)
    return (
        f"{title} has {name}={own!r} where PyTorch's side has {name}={value!r}{note}",
        f"{title}(..., {name}={value!r})",
    )


def _count(own: Any, value: Any, paddle: Trace) -> str:
    """A remark on numbers that count labels: all of them, or those that are not ignored."""
    for array in paddle.values.values():
        if array.dtype.kind in "iu" and array.size > 1 and isinstance(own, int) and isinstance(value, int):
            known = {
                array.size: "all labels",
                int((array != IGNORED).sum()): "the labels that are not ignored",
            }
            if own in known and value in known and own != value:
                return f" ({own} are {known[own]}, {value} are {known[value]})"
    return ""


def _inputs(there: Call, here: Call, torch: Trace, paddle: Trace) -> tuple[str, str]:
    own = [origin(paddle, number) for _, number in here.inputs]
    right = [origin(torch, number) for _, number in there.inputs]
    if own != right and sorted(own) == sorted(right):
        return (
            f"{here.name} gets its inputs in another order: {', '.join(own)}; in the original "
            f"{', '.join(right)} (swapped, so that channels are permuted)",
            f"{here.name}({', '.join(right)})",
        )
    if len(own) != len(right):
        absent = [text for text in right if text not in own]
        more = f": {', '.join(absent)} is missing" if absent else ""
        return (
            f"{here.name} gets {', '.join(own)}, in the original {', '.join(right)}{more}",
            f"{here.name}({', '.join(right)})",
        )
    remark = _in_place(there, torch) or _labels(there, here, torch, paddle)
    wrong = [(a, b) for a, b in zip(own, right, strict=True) if a != b]
    if (not wrong and not remark) or UNKNOWN in own:
        return "", ""
    wrong = wrong or [(", ".join(own), ", ".join(right))]
    text = "; ".join(f"{a} where the original gives it {b}" for a, b in wrong)
    return f"{here.name} is given {text}{remark}", f"{here.name}({', '.join(right)})"


def _labels(there: Call, here: Call, torch: Trace, paddle: Trace) -> str:
    """A remark on labels that were changed: which class became which, or a shift."""
    for (_, a), (_, b) in zip(there.inputs, here.inputs, strict=True):
        one, other = torch.values.get(a), paddle.values.get(b)
        if one is None or other is None or one.dtype.kind not in "iu" or one.shape != other.shape:
            continue
        turns = [(axis, by) for axis in range(one.ndim) for by in (1, -1)]
        moved = [(axis, by) for axis, by in turns if (np.roll(one, by, axis) == other).mean() > 0.95]
        changes = Counter(
            zip(one[one != other].tolist(), other[one != other].tolist(), strict=True)
        ).most_common(3)
        if moved and changes:
            return f" (labels shifted by one along axis {moved[0][0]}: a row or column off by one)"
        if changes and sum(count for _, count in changes) > 0.9 * int((one != other).sum()):
            return f" ({', '.join(f'label {x} became {y} in {n} places' for (x, y), n in changes)})"
    return ""


def _in_place(there: Call, torch: Trace) -> str:
    """A remark if what the reference's call is given was changed in place."""
    made = {number: one for one in torch.calls for number in one.outputs}
    changed = [made[n].name for _, n in there.inputs if n in made and made[n].settings.get("inplace")]
    return f" (which the original changes in place, with {changed[0]}_)" if changed else ""


def _missing(there: Call, torch: Trace, paddle: Trace) -> tuple[str, str]:
    source = ", ".join(origin(torch, number) for _, number in there.inputs)
    if there.module and not any(c.name == there.name for c in paddle.calls):
        what = f"{there.name} is missing: it is not called in the port; the original gives it {source}"
    else:
        what = f"{call(there)} is missing{_times(there, torch, paddle)}: the original applies it to {source}"
    meaning = f"; {MEANING[there.name]}" if there.name in MEANING else ""
    return what + meaning, f"{code(there)} on {source}"


def _extra(here: Call, torch: Trace, paddle: Trace) -> tuple[str, str]:
    source = ", ".join(origin(paddle, number) for _, number in here.inputs)
    used = [one.name for one in paddle.calls if {n for _, n in one.inputs} & set(here.outputs)]
    before = f", before {TYPES.get(used[0], used[0])}" if used else ""
    times = _times(here, paddle, torch)
    what = f"{call(here)} is one too many{times}, on {source}{before}: the original has nothing there"
    whole = str(here.settings.get("dtype", "float")).startswith(("int", "uint", "bool"))
    meaning = (
        f"; {MEANING[here.name]}" if here.name in MEANING and not (here.name == "astype" and whole) else ""
    )
    return what + meaning, f"Take {call(here)} out."


def _times(one: Call, trace: Trace, other: Trace) -> str:
    more, fewer = (sum(c.name == one.name for c in t.calls) for t in (trace, other))
    words = {1: "once", 2: "twice", 3: "three times"}
    if not more > fewer > 0:
        return ""
    return f" (called {words.get(more, more)}, {words.get(fewer, fewer)} on the other side)"


def attribute(torch: str, paddle: str, name: str, other: str, value: Any, own: Any) -> tuple[str, str]:
    """The cause and the fix for a layer that keeps another setting, or a network that is run in another mode."""
    if name == MODE:
        cause = f"the network is run in {own} mode, where the original runs it in {value} mode"
        return (
            f"{cause}: norms take the batch's statistics in train mode, their own in eval mode",
            f"net.{value}()",
        )
    public = other.lstrip("_")
    note = f": {NOTES[public]}" if public in NOTES else ""
    return (
        f"{paddle} has {public}={own!r}; PyTorch's {torch} ({name}) means {public}={value!r}{note}",
        f"{paddle}(..., {public}={value!r})",
    )


def frozen(paddle: str, name: str) -> tuple[str, str]:
    """The cause and the fix for a parameter without a gradient."""
    return (
        f"{paddle}.{name} is frozen (stop_gradient=True): it gets no gradient, in PyTorch it does",
        f"{name}.stop_gradient = False",
    )


def short(difference: Difference) -> str:
    """What undoing a difference is, in a word or two."""
    names = {
        "inputs": "other inputs",
        "missing": "a call more",
        "extra": "a call less",
        "outputs": "other outputs",
    }
    if difference.kind == "settings":
        return f"other {difference.name}"
    return names.get(difference.kind, "another function")


def call(one: Call) -> str:
    """A call with those settings that tell something."""
    if one.module:
        return one.name
    if one.name == "__getitem__":
        return f"x[{_index(one.settings.get('item', ''))}]"
    return f"{one.name}({_arguments(one.settings)})"


def code(one: Call) -> str:
    """The line to write for a call."""
    if one.module:
        return f"self.{one.name}(x)"
    if one.name == "__getitem__":
        return call(one)
    settings = _arguments(one.settings)
    title = f" ({TYPES[one.name]})" if one.name in TYPES else ""
    return f"{one.name}(x{', ' if settings else ''}{settings}){title}"


def _index(item: Any) -> str:
    items = item if isinstance(item, tuple) else (item,)
    return ", ".join(str(each) for each in items)


def _arguments(settings: Settings) -> str:
    loose = [repr(value) for key, value in settings.items() if key.isdigit()]
    named = [f"{key}={value!r}" for key, value in settings.items() if not key.isdigit() and value is not None]
    return ", ".join([*loose, *named[:6]])


def origin(trace: Trace, number: int) -> str:
    """Where a value comes from."""
    if number < 0:
        return trace.parameters.get(number, "a parameter")
    for one in reversed(trace.calls):
        if number in one.outputs:
            if len(one.outputs) > 1:
                return f"output {list(one.outputs).index(number)} of {one.name}"
            return f"the result of {one.name}"
    if number in trace.inputs:
        return f"input {trace.inputs.index(number)}" if len(trace.inputs) > 1 else "the input"
    if number in trace.values and trace.values[number].dtype.kind in "iu":
        return "the labels as they were given"
    return UNKNOWN
