"""What a conversion between layouts could not express, and what whoever loads its target has to do, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from stdc_parity.converters.entries import NO_BIAS, Entry
from stdc_parity.converters.errors import shown
from stdc_parity.converters.plan import Plan


def layout_remarks(plan: Plan) -> Iterator[str]:
    """A sentence for each thing that only one of a plan's layouts can express; none between the twins' own."""
    lost = [entry for entry in plan.entries if entry.loss]
    biases = [shown(entry.source) for entry in lost if entry.reason.endswith(NO_BIAS)]
    if biases:
        what = "1 bias that is" if len(biases) == 1 else f"{len(biases)} biases that are"
        yield (
            f"{plan.target.name} has no place for {what} not zero, which --drop-nonzero-bias drops; the network "
            f"then computes otherwise: {', '.join(biases)}."
        )
    for entry in lost:
        if not entry.reason.endswith(NO_BIAS):
            yield f"{shown(entry.source)} loses {entry.loss}."
    ones = Counter((_what(entry, plan), entry.reason) for entry in plan.entries if _is_of_one_layout(entry))
    yield from (f"{count} {what}: {reason}." for (what, reason), count in ones.items())
    yield from filter(None, (plan.source.caveat, plan.target.advice))


def _is_of_one_layout(entry: Entry) -> bool:
    """Whether only one layout has the tensor; counters and aliases aside, which frameworks differ in."""
    aside = entry.official.endswith(".num_batches_tracked") or entry.reason.startswith("alias")
    return bool(entry.official and entry.rule in ("create", "drop") and not entry.loss and not aside)


def _what(entry: Entry, plan: Plan) -> str:
    what = "biases of zeros" if entry.reason.endswith(NO_BIAS) else "tensors"
    if entry.rule == "drop":
        return f"{what} left out"
    if not plan.target.lines:  # a rules file's, which says what with
        return f"{what} made up"
    return f"{what} made up" if entry.reason.endswith(NO_BIAS) else f"{what} made up (zeros, norms that do nothing)"
