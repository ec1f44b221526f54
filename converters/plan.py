"""Plan, then apply: what becomes of every key, decided before any tensor is touched.

A plan accounts for every key of the source and of the target: copied, transposed, dropped for a stated
reason, or created for a stated reason. What cannot be accounted for is a problem, and all problems of a
checkpoint are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

from stdc_parity.converters import families
from stdc_parity.converters.architecture import PADDLE_SUFFIX, Architecture, Side
from stdc_parity.converters.entries import (
    ABN_EPS,
    Entry,
    Rule,
    Task,
    drop_aliases,
    make_entries,
    negative,
    same_bytes,
)
from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.families import MODELS, part_of
from stdc_parity.converters.layout import Layout, places
from stdc_parity.converters.layouts import all_layouts, twin_layout
from stdc_parity.converters.statedict import Array, StateDict

__all__ = ["Abn", "Entry", "Plan", "Rule", "same_bytes"]  # what others take from here though it lives elsewhere
Abn = Literal["auto", "yes", "no"]

MAX_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Plan:
    """The account of a conversion from one layout's names to another's."""

    source: Layout
    target: Layout
    architecture: Architecture
    abn: bool
    entries: tuple[Entry, ...]

    @property
    def source_side(self) -> Side:
        """The framework whose names the source has."""
        return self.source.side

    @property
    def is_between_twins(self) -> bool:
        """Whether both layouts are those of the frameworks' twins."""
        return all(layout is twin_layout(layout.side) for layout in (self.source, self.target))

    def count(self, rule: Rule) -> int:
        """How many entries follow `rule`."""
        return sum(entry.rule == rule for entry in self.entries)


def naming(tensors: Mapping[str, Array], default: Side) -> Side:
    """Whose names these are: the statistics of norms are called `_mean` in Paddle, `running_mean` in
    PyTorch. Without a norm among them, `default` (the container's framework) decides."""
    last = {name.rpartition(".")[2] for name in tensors}
    torch, paddle = (any(pair[i] in last for pair in PADDLE_SUFFIX.values()) for i in (0, 1))
    if torch and paddle:
        raise CheckpointError("the keys mix PyTorch's norm statistics (running_mean) with Paddle's (_mean)")
    return "torch" if torch else "paddle" if paddle else default


def recognise_layout(tensors: Mapping[str, Array], side: Side) -> Layout:
    """The layout of `side` that knows most of these names; the twin's if no other one knows more."""
    return _recognise_names(tensors, side)[0]


def recognise(tensors: Mapping[str, Array], side: Side) -> Architecture | None:
    """The architecture whose tensors these are, by their names, or None."""
    names = official_names(tensors, side)
    return families.recognise({name: tensors[theirs].shape for theirs, name in names.items()}, side)


def official_names(tensors: Mapping[str, Array], side: Side) -> dict[str, str]:
    """The official name of each tensor that the recognised layout knows; of every one if that is the twin's."""
    return {theirs: name for theirs, name in _recognise_names(tensors, side)[1].items() if theirs in tensors}


def _recognise_names(tensors: Mapping[str, Array], side: Side) -> tuple[Layout, Mapping[str, str]]:
    """The layout of the names, and the official name of each that it knows (of all of them if it is the twin's)."""
    twin = twin_layout(side)
    best: tuple[Layout, Mapping[str, str]] = (twin, {name: torch_name(name, side) for name in tensors})
    most = 0
    for layout, model in product((twin, *all_layouts().values()), families.WHOLE):
        if layout.side == side and most < len(tensors) and layout.fits(_every_tensor(model)):
            names = _known_names(layout.name, model)
            known = len(names.keys() & tensors.keys())
            if known > most:
                most = known
                best = best if layout is twin else (layout, names)
    return best


@cache
def _known_names(name: str, model: str) -> Mapping[str, str]:
    """A layout's names for a model's tensors, with their official names."""
    layout, architecture = all_layouts()[name], _every_tensor(model)
    names = {place.name: official for official, place in places(layout, architecture).items()}
    if layout.aliases and layout.side == "torch":
        names |= architecture.aliases
    return names


@cache
def _every_tensor(model: str) -> Architecture:
    """The model with all tensors that a variant of it may have."""
    return families.every_tensor(model)


def choose_architecture(tensors: Mapping[str, Array], side: Side, model: str | None) -> Architecture:
    """The recognised architecture, or `model` if the user named one: that, or what inference needs of it.

    Raises UsageError when `model` is another network than the checkpoint looks like, CheckpointError when
    nothing is recognised.
    """
    found = recognise(tensors, side)
    if model is not None and model not in MODELS:
        raise UsageError(f"--model {shown(model)}: there is no such model", note=f"There are: {', '.join(MODELS)}.")
    if found is not None:
        if model is not None and model != found.name:
            if (part := part_of(found, model)) is not None:
                return part
            raise UsageError(
                f"--model {model}: the checkpoint looks like {found.describe()}",
                note=f"Leave out --model, or say --model {' or '.join((found.name, *_parts_of(found)))}.",
            )
        return found
    if model is not None:
        return families.architecture(model)
    keys = ", ".join(shown(name) for name in list(tensors)[:4])
    raise CheckpointError(
        f"none of the known architectures has these {len(tensors)} keys ({keys}, …)",
        note=f"Known are {', '.join(MODELS)} by their official names; --model NAME lists what is missing.",
    )


def _parts_of(whole: Architecture) -> list[str]:
    """The names of what inference needs of `whole`."""
    return [model for model in MODELS if part_of(whole, model) is not None]


def make_plan(
    state: StateDict,
    architecture: Architecture,
    source_side: Side,
    *,
    target: Layout | None = None,
    abn: Abn = "auto",
    aliases: bool = False,
    drop_nonzero_bias: bool = False,
) -> Plan:
    """Decide what becomes of every key of `state`, and of every key that the target needs.

    `target` is a layout of either framework, by default that of the other framework's twin. `aliases` adds
    upstream's second names of the backbone's tensors to the official layout. `drop_nonzero_bias` lets go of
    biases that the target has no place for though they are not zero. Raises CheckpointError that lists every
    problem, UsageError when `abn` is "yes" and there is no such norm or `aliases` is for another layout.
    """
    source = recognise_layout(state.tensors, source_side)
    target = target or twin_layout("paddle" if source_side == "torch" else "torch")
    _check_fit(architecture, source, target)
    if aliases and not (target.aliases and target.side == "torch" and architecture.aliases):
        whose = target.name if architecture.aliases else architecture.name
        raise UsageError(f"--aliases: {whose} has no second names")
    use_abn = decide_abn(state.tensors, architecture, abn, source)
    task = Task(state.tensors, architecture, source, target, use_abn, drop_nonzero_bias)
    entries = list(make_entries(task))
    by_official = {entry.official: entry for entry in entries if entry.target}
    entries += drop_aliases(task)
    known = {entry.source for entry in entries}
    task.problems.extend(f"{shown(name)}: unexpected, {architecture.name} has no such tensor"
                         for name in state.tensors if name not in known)  # fmt: skip
    if task.problems or task.biases:
        raise _all_problems(task)
    if aliases:
        entries += [
            replace(by_official[name], target=alias, reason=f"alias of {name}")
            for alias, name in architecture.aliases.items()
            if name in by_official
        ]
    dropped = state.dropped.items()
    entries += [Entry(name, None, "drop", f"not a tensor: {what}", None, None) for name, what in dropped]
    return Plan(source, target, architecture, use_abn, tuple(entries))


def _check_fit(architecture: Architecture, *layouts: Layout) -> None:
    """Raise CheckpointError if a layout cannot hold the architecture."""
    for layout in layouts:
        if not layout.fits(architecture):
            raise CheckpointError(
                f"{layout.name} cannot hold {architecture.describe()}: {layout.title} has no such network"
            )
        for fact, needed in layout.facts.items():
            if architecture.facts.get(fact) not in needed:
                raise CheckpointError(
                    f"{layout.name} cannot hold {architecture.describe()}: its {fact} is "
                    f"{architecture.facts.get(fact)}, {layout.title} needs {' or '.join(map(str, needed))}"
                )


def apply_plan(plan: Plan, tensors: Mapping[str, Array], batches: Mapping[str, int]) -> dict[str, Array]:
    """The target's tensors by name: views of the source's where the rule allows, in the plan's order.

    `batches` gives the values of counters to create (`num_batches_tracked`) by their official names, 0 for
    those not in it. Other created tensors have the dtype of the source's first weight, constants float32.
    """
    sources = (entry.source for entry in plan.entries if entry.official.endswith(".weight"))
    dtype = next((tensors[name].dtype for name in sources if name is not None), np.dtype(np.float32))
    result: dict[str, Array] = {}
    for entry in plan.entries:
        if entry.target is None:
            continue
        if entry.source is not None:
            result[entry.target] = RULES[entry.rule](tensors[entry.source])
        elif entry.official.endswith(".num_batches_tracked"):
            result[entry.target] = np.array(batches.get(entry.official, 0), np.int64)
        elif entry.official:
            result[entry.target] = np.full(entry.target_shape or (), entry.fill, dtype)
        else:
            result[entry.target] = plan.target.constants[entry.target].array()
    return result


def counters(plan: Plan, tensors: Mapping[str, Array]) -> dict[str, int]:
    """The source's counters (`num_batches_tracked`) by official name, so that the way back can restore them."""
    counted = [entry for entry in plan.entries if entry.official.endswith(".num_batches_tracked")]
    return {entry.official: int(tensors[entry.source].item()) for entry in counted if entry.source is not None}


def _abs_plus_eps(weight: Array) -> Array:
    scale: Array = np.abs(weight) + np.asarray(ABN_EPS, weight.dtype)
    return scale


RULES: Mapping[Rule, Callable[[Array], Array]] = {
    "copy": lambda tensor: tensor,
    "transpose": lambda tensor: tensor.T,
    "abs": _abs_plus_eps,
    "pair": lambda tensor: np.concatenate([negative(tensor), tensor]),
    "unpair": lambda tensor: tensor[1:],
}


def torch_name(name: str, side: Side) -> str:
    """The PyTorch name of a tensor that `side` calls `name`."""
    if side == "paddle":
        for torch_suffix, paddle_suffix in PADDLE_SUFFIX.values():
            if name.endswith(f".{paddle_suffix}"):
                return name.removesuffix(paddle_suffix) + torch_suffix
    return name


def decide_abn(
    tensors: Mapping[str, Array], architecture: Architecture, abn: Abn, source: Layout | None = None
) -> bool:
    """Whether the weights of the architecture's ABN norms are InPlaceABN's.

    The published segmentation checkpoints show it by their counters: plain batch norms count batches,
    InPlaceABN registers no counter. `source` is the layout
    of the tensors (None for the official one); only some layouts' checkpoints were ever trained with it.
    """
    can_be = source is None or source.abn
    if source is not None and abn == "yes" and not can_be:
        whose = "Paddle" if source.side == "paddle" else source.name
        raise UsageError(f"--abn yes: {whose} checkpoints have no InPlaceABN weights to rewrite")
    if abn == "no" or not can_be:
        return False
    if not architecture.abn_norms:
        if abn == "yes":
            raise UsageError(f"--abn yes: {architecture.name} has no norms that upstream trains as InPlaceABN")
        return False
    if abn == "yes":
        return True
    norms = {norm for norm in architecture.abn_norms if f"{norm}.weight" in tensors}
    counted = {norm for norm in norms if f"{norm}.num_batches_tracked" in tensors}
    others_count = any(f"{norm}.num_batches_tracked" in tensors for norm in architecture.other_norms)
    if counted and counted != norms:
        bare = sorted(norms - counted)
        raise CheckpointError(
            f"cannot tell whether the head norms are InPlaceABN: {len(counted)} of {len(norms)} "
            f"count batches, {', '.join(bare[:3])}{', …' if len(bare) > 3 else ''} do not",
            note="Say which with --abn yes or --abn no.",
        )
    return not counted and others_count


def _all_problems(task: Task) -> CheckpointError:
    lines, source = list(task.problems), task.source
    left = len(lines) - MAX_PROBLEMS_SHOWN
    if left > 0:  # the last ones too: missing keys stand first, unexpected ones last
        lines[MAX_PROBLEMS_SHOWN - 5 : -5] = [f"… {left} more …"]
    lines += task.biases  # every one, as the user is asked whether they may go
    count = len(task.problems) + len(task.biases)
    names = "" if source is twin_layout(source.side) else f" in the layout {source.name}"
    note = "Nothing was written. `stdc-convert inspect` shows what the file holds."
    if task.biases:
        note += f" `stdc-convert … --drop-nonzero-bias` drops {len(task.biases)} biases; the network then computes "
        note += "otherwise."
    return CheckpointError(
        f"{count} problem{'s' if count != 1 else ''} with the checkpoint as {task.architecture.describe()}{names}:\n"
        + "\n".join(f"  {line}" for line in lines),
        note=note,
    )
