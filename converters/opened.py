"""A checkpoint opened to be compared: its tensors under names that both frameworks and all containers share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stdc_parity.converters.architecture import Architecture, Side, is_transposed
from stdc_parity.converters.closeness import gap_between
from stdc_parity.converters.containers import Contents
from stdc_parity.converters.convert import open_state_dict, size_of
from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.layout import Layout, places, why_absent, with_biases
from stdc_parity.converters.layouts import twin_layout
from stdc_parity.converters.pieces import Phases, no_phases
from stdc_parity.converters.plan import RULES, decide_abn, recognise, recognise_layout, torch_name
from stdc_parity.converters.rules import Rules
from stdc_parity.converters.rules_plan import apply_rules
from stdc_parity.converters.statedict import Array, StateDict

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Opened:
    """A checkpoint of either framework; `architecture` is None if it is none that is known."""

    path: Path
    contents: Contents
    state: StateDict
    side: Side
    architecture: Architecture | None


@dataclass(frozen=True)
class Named:
    """Tensors by PyTorch names and in PyTorch's shapes, and the file's own names of them.

    `aliases` counts second names with equal bytes, which are left out.
    """

    tensors: Mapping[str, Array]
    original: Mapping[str, str]
    aliases: int

    @property
    def counts_batches(self) -> bool:
        """Whether a norm's counter is among them."""
        return any(name.endswith(f".{COUNTER}") for name in self.tensors)


def open_checkpoint(
    path: str | os.PathLike[str],
    key: str | None = None,
    member: str | None = None,
    phases: Phases = no_phases,
    rules: Rules | None = None,
) -> Opened:
    """Open the checkpoint at `path`, whose names `rules` tell if there are some; raises CheckpointError, UsageError
    as `open_state_dict` does."""
    contents, state, side = open_state_dict(path, key, member, phases("reading", size_of(Path(path))), rules)
    architecture = recognise(state.tensors, side) if rules is None else None
    return Opened(Path(path), contents, state, side, architecture)


def named_by_rules(opened: Opened, rules: Rules) -> Named:
    """Its tensors by PyTorch's names and in PyTorch's shapes, as the rules have them.

    What only one side has is left out; what has no rule, or not the rule's shape, keeps its name.
    """
    tensors, side = opened.state.tensors, opened.side
    shared = [rule for rule in rules.tensors if rule.torch is not None and rule.paddle is not None]
    fitting = [r for r in shared if (name := r.name(side)) in tensors and tensors[name or ""].shape == r.shape(side)]
    given = {rule.name(side) for rule in fitting}
    alone = rules.names(side) - {rule.name(side) for rule in shared}
    moved = apply_rules(replace(rules, tensors=tuple(fitting)), tensors, side, "torch", {})
    kept = {name: tensor for name, tensor in tensors.items() if name not in given and name not in alone}
    original = {rule.torch or "": opened.state.original[rule.name(side) or ""] for rule in fitting}
    return Named(kept | moved, {name: opened.state.original[name] for name in kept} | original, 0)


def plainly_named(opened: Opened) -> Named:
    """Its tensors as they are, under the file's names but for the norms' statistics, which PyTorch's names call."""
    tensors = {torch_name(name, opened.side): name for name in opened.state.tensors}
    if len(tensors) != len(opened.state.tensors):
        raise CheckpointError(
            f"{shown(opened.path.name)}: two keys name one tensor once the norms' are renamed"
        )
    return Named(
        {name: opened.state.tensors[own] for name, own in tensors.items()},
        {name: opened.state.original[own] for name, own in tensors.items()},
        0,
    )


def officially_named(opened: Opened, architecture: Architecture) -> Named:
    """Its tensors under official names: Linear weights as PyTorch has them, aliases of equal bytes left out.

    The counters that `torch2paddle` put behind a Paddle file's tensors are among them.
    """
    plain = _by_layout(opened, architecture)
    tensors: dict[str, Array] = {}
    aliases, specs = 0, architecture.known
    for name, tensor in plain.tensors.items():
        canonical = plain.tensors.get(architecture.aliases.get(name, ""))
        if canonical is not None and same_bits(tensor, canonical):
            aliases += 1
            continue
        spec = specs.get(architecture.aliases.get(name, name))
        turned = spec is not None and is_transposed(opened.side, spec.kind) and tensor.ndim == 2
        tensors[name] = tensor.T if turned else tensor
    return Named(tensors | _counters(opened, tensors), plain.original, aliases)


def layout_of(opened: Opened) -> Layout:
    """The layout of its names."""
    return recognise_layout(opened.state.tensors, opened.side)


def _by_layout(opened: Opened, architecture: Architecture) -> Named:
    """Its tensors under official names, as the file's framework has them, whatever its layout is.

    Of two channels (not X, X) the second is taken; constants of the layout's own are left out if unchanged.
    What the layout does not know keeps its name.
    """
    layout = layout_of(opened)
    if layout is twin_layout(opened.side):
        return plainly_named(opened)
    known = {place.name: (official, place) for official, place in places(layout, architecture).items()}
    tensors, original = {}, {}
    for own, tensor in opened.state.tensors.items():
        constant = layout.constants.get(own)
        if constant is not None and np.array_equal(tensor, constant.array().astype(tensor.dtype)):
            continue
        name, place = known.get(own, (torch_name(own, opened.side), None))
        if name in tensors:
            raise CheckpointError(f"{shown(opened.path.name)}: two keys name one tensor once they are renamed")
        is_pair = place is not None and place.pair and tensor.shape == place.shape
        tensors[name] = tensor[1:] if is_pair else tensor
        original[name] = opened.state.original[own]
    return Named(tensors, original, 0)


def without_what_is_of_one_layout(
    a: Named, b: Named, layout: Layout, architecture: Architecture
) -> tuple[Named, int]:
    """`a` without what `layout`, that of `b`, has no place for, and how many tensors that are.

    Biases that official convolutions lack are left out if they are zeros, and kept to be seen if not.
    """
    biases = {name for name, spec in with_biases(architecture.tensors) if spec.kind == "bias"}
    kept = {
        name: tensor
        for name, tensor in a.tensors.items()
        if name in b.tensors
        or not (why_absent(layout, name, architecture) or (name in biases and not np.any(tensor != 0)))
    }
    return Named(kept, a.original, a.aliases), len(a.tensors) - len(kept)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and gap_between(a, b) is None


def with_abn_rewritten(named: Named, architecture: Architecture) -> Named:
    """InPlaceABN's weights as the batch norm's that scales alike."""
    weights = {f"{norm}.weight" for norm in architecture.abn_norms}
    tensors = {name: RULES["abs" if name in weights else "copy"](t) for name, t in named.tensors.items()}
    return Named(tensors, named.original, named.aliases)


def is_abn(opened: Opened, architecture: Architecture) -> bool:
    """Whether its head norms' weights are InPlaceABN's, as far as the file shows."""
    try:
        return layout_of(opened).abn and decide_abn(opened.state.tensors, architecture, "auto")
    except CheckpointError:
        return False


def _counters(opened: Opened, tensors: Mapping[str, Array]) -> dict[str, Array]:
    counts = {name: count for name, count in opened.contents.batches.items() if name not in tensors}
    if not all(0 <= count < 1 << 63 for count in counts.values()):
        raise CheckpointError(
            f"{shown(opened.path.name)}: the counters of batches behind the tensors are damaged"
        )
    return {name: np.array(count, np.int64) for name, count in counts.items()}
