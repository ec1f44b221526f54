"""One conversion from file to file, and the same rules in memory for whoever loads a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stdc_parity.converters.architecture import Architecture, Side
from stdc_parity.converters.containers import (
    Contents,
    read_container,
    write_paddle,
    write_torch,
)
from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.layout import Layout
from stdc_parity.converters.layout_remarks import layout_remarks
from stdc_parity.converters.layouts import get_layout, twin_layout
from stdc_parity.converters.plan import (
    Abn,
    Plan,
    apply_plan,
    choose_architecture,
    counters,
    make_plan,
    naming,
    recognise_layout,
)
from stdc_parity.converters.statedict import Array, StateDict, find_state_dict

SUFFIXES = (".tar", ".pth", ".pt", ".ckpt", ".bin", ".pdparams", ".pdopt", ".pkl")
TARGET_SUFFIX: Mapping[Side, str] = {"torch": ".pth", "paddle": ".pdparams"}


@dataclass(frozen=True)
class Conversion:
    """A conversion that is planned, with the source opened and nothing written yet.

    `tensors` are the target's, by name; `batches` the norms' counters by PyTorch name; `remarks` are
    lines that the user should see (InPlaceABN, non-finite values, other state dicts in the file).
    """

    source: Path
    contents: Contents
    state: StateDict
    plan: Plan
    tensors: Mapping[str, Array]
    batches: Mapping[str, int]
    remarks: tuple[str, ...]

    @property
    def target_side(self) -> Side:
        """The framework whose names the target has."""
        return self.plan.target.side


def other(side: Side) -> Side:
    """The other framework."""
    return "paddle" if side == "torch" else "torch"


def default_target(source: Path, side: Side, layout: str = "") -> Path:
    """`STDCNet1446_76.47.tar` -> `STDCNet1446_76.47.pdparams`: known suffixes go, dots in the name stay.

    With `layout` it is `STDCNet1446_76.47.mmseg.pth`, as the suffix alone might give the source's name.
    """
    name = source.name
    while (end := next((s for s in SUFFIXES if name.lower().endswith(s) and len(name) > len(s)), None)) is not None:
        name = name[: -len(end)]
    name += f".{layout}{TARGET_SUFFIX[side]}" if layout else TARGET_SUFFIX[side]
    return source.parent / name  # with_name would refuse "." and "/"


def open_state_dict(source: str | os.PathLike[str], key: str | None = None) -> tuple[Contents, StateDict, Side]:
    """Read a checkpoint of either framework: its container, its state dict, and whose names it uses."""
    contents = read_container(source)
    try:
        state = find_state_dict(contents.root, key=key)
        return contents, state, naming(state.tensors, contents.framework)
    except CheckpointError as error:
        raise CheckpointError(f"{shown(os.fspath(source))}: {error.message}", error.note) from None


def plan_conversion(
    source: Path,
    to: Side | None,
    *,
    target: Layout | None = None,
    model: str | None = None,
    key: str | None = None,
    abn: Abn = "auto",
    aliases: bool = False,
    drop_nonzero_bias: bool = False,
) -> Conversion:
    """Read `source` and decide everything; nothing is written.

    `to` is the framework to convert to, None for any; `target` the layout, by default that of the framework's
    twin. Raises CheckpointError for what the file is or lacks, UsageError for options that
    do not fit it.
    """
    target = target or choose_target(to, None)
    contents, state, side = open_state_dict(source, key)
    _refuse_no_change(source, state, side, to, target)
    try:
        architecture = choose_architecture(state.tensors, side, model)
        plan = make_plan(
            state, architecture, side,
            target=target, abn=abn, aliases=aliases, drop_nonzero_bias=drop_nonzero_bias,
        )  # fmt: skip
    except CheckpointError as error:
        raise CheckpointError(f"{shown(source.name)}: {error.message}", error.note) from None
    batches = counters(plan, state.tensors) if side == "torch" else contents.batches
    if not all(0 <= count < 1 << 63 for count in batches.values()):
        raise CheckpointError(f"{shown(source.name)}: the counters of batches behind the tensors are damaged")
    tensors = apply_plan(plan, state.tensors, batches)
    return Conversion(source, contents, state, plan, tensors, batches, tuple(remarks(state, plan)))


def choose_target(to: Side | None, layout: str | None) -> Layout:
    """The target's layout. Raises UsageError for an unknown one, or one of the framework that `to` is not."""
    if layout is None:
        return twin_layout(to or "paddle")
    target = get_layout(layout)
    if to is not None and target.side != to:
        raise UsageError(
            f"--to-layout {layout} has {_FRAMEWORK[target.side]} names ({target.title}), this writes "
            f"{_FRAMEWORK[to]}",
            note=f"`stdc-convert relayout SRC --to-layout {target.name}` converts from any layout to it.",
        )
    return target


def _refuse_no_change(source: Path, state: StateDict, side: Side, to: Side | None, target: Layout) -> None:
    """Raise UsageError if the checkpoint is what it is to become."""
    own = recognise_layout(state.tensors, side)
    if side == to:
        way = f"The other way is `stdc-convert {side}2{other(side)}`."
        if own is not target:
            way += f" Between {_FRAMEWORK[side]} layouts: `stdc-convert relayout SRC --to-layout {target.name}`."
        raise UsageError(f"{shown(source.name)} has {_FRAMEWORK[side]} names already", note=way)
    if own is target:
        raise UsageError(f"{shown(source.name)} has the layout {own.name} ({own.title}) already")


def write_conversion(
    conversion: Conversion, target: Path, *, force: bool = False, wrap: str | None = None
) -> None:
    """Write the target in one step; `wrap` puts the state dict of a PyTorch target under that key.

    Raises UsageError when `target` exists (without `force`), is the source, or cannot be written.
    """
    if conversion.target_side == "paddle":
        write_paddle(
            target, conversion.tensors, force=force, source=conversion.source, batches=conversion.batches
        )
    else:
        write_torch(target, conversion.tensors, force=force, source=conversion.source, wrap=wrap)


def remarks(state: StateDict, plan: Plan) -> list[str]:
    """What a person should know about this checkpoint, a sentence each."""
    lines = []
    if plan.abn:
        count = plan.count("abs")
        lines.append(
            f"InPlaceABN: {count} head norms were trained with |weight| + 1e-5 as their scale and are written so "
            "(--abn no to copy them)."
        )
    elif plan.source_side == "torch" and plan.architecture.abn_norms and not _counts(state):
        lines.append(
            "No norm counts batches, so the file does not show whether its head norms were InPlaceABN: "
            "their weights are copied (--abn yes for |weight| + 1e-5)."
        )
    lines += layout_remarks(plan)
    if state.others:
        others = [shown(path) or "the top" for path in state.others]
        lines.append(
            f"Taken from {shown(state.where) or 'the top'}; the file also has state dicts under "
            f"{', '.join(others[:10])}{', …' if len(others) > 10 else ''} (--key)."
        )
    bad = [shown(name) for name, tensor in state.tensors.items() if not _finite(tensor)]
    if bad:
        lines.append(f"NaN or Inf in {len(bad)} tensors: {', '.join(bad[:5])}{', …' if len(bad) > 5 else ''}.")
    return lines


def _counts(state: StateDict) -> bool:
    return any(name.endswith(".num_batches_tracked") for name in state.tensors)


@dataclass(frozen=True)
class Weights:
    """A checkpoint as one side's twin loads it: tensors by that side's names, and what it was."""

    tensors: Mapping[str, Array]
    architecture: Architecture
    remarks: tuple[str, ...]


def weights_for(side: Side, tensors: StateDict, naming_side: Side, *, model: str | None = None) -> Weights:
    """`tensors`, a state dict in either framework's names and any layout, as `side`'s twin loads it.

    For the twin whose names it has, only aliases go and InPlaceABN's weights become a batch norm's; for
    the other one the converter's plan is applied. So the two sides' weights differ by the conversion
    alone, which is part of what an align run proves.
    """
    architecture = choose_architecture(tensors.tensors, naming_side, model)
    plan = make_plan(tensors, architecture, naming_side, target=twin_layout(side))
    return Weights(apply_plan(plan, tensors.tensors, {}), architecture, tuple(remarks(tensors, plan)))


_FRAMEWORK: Mapping[Side, str] = {"torch": "PyTorch's", "paddle": "Paddle's"}


def _finite(tensor: Array) -> bool:
    if tensor.dtype.kind in "biu" or tensor.size == 0:
        return True
    if tensor.dtype.kind == "f":
        # A sum is one pass without a temporary; an overflow to Inf only costs the exact test.
        with np.errstate(all="ignore"):
            if np.isfinite(tensor.sum(dtype=np.float64 if tensor.itemsize == 8 else np.float32)):
                return True
    return bool(np.isfinite(tensor.astype(np.float32)).all())
