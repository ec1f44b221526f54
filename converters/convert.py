"""One conversion from file to file, and the same rules in memory for whoever loads a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stdc_parity.converters.architecture import Architecture, Side
from stdc_parity.converters.atomic import Follow, not_followed
from stdc_parity.converters.containers import (
    Contents,
    read_container,
    write_npz,
    write_paddle,
    write_safetensors,
    write_torch,
)
from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.layout import Layout
from stdc_parity.converters.layout_remarks import layout_remarks
from stdc_parity.converters.layouts import get_layout, structure_of, twin_layout
from stdc_parity.converters.pieces import (
    PIECE,
    Phases,
    Progress,
    array_pieces,
    no_phases,
    no_progress,
)
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
from stdc_parity.converters.rules_plan import apply_rules, plan_rules, side_of
from stdc_parity.converters.sniffing import MXNET, NPZ, ONNX, SAFETENSORS, SHARDS
from stdc_parity.converters.statedict import Array, StateDict, find_state_dict

if TYPE_CHECKING:
    from stdc_parity.converters.casting import Loss
    from stdc_parity.converters.rules import Rules

SUFFIXES = (
    ".tar", ".pth", ".pt", ".ckpt", ".bin", ".pdparams", ".pdopt", ".pkl", ".safetensors.index.json",
    ".safetensors", ".npz", ".onnx", ".params", ".gz", ".tgz",
)  # fmt: skip
TARGET_SUFFIX: Mapping[Side, str] = {"torch": ".pth", "paddle": ".pdparams"}
OWN_SUFFIXES: Mapping[Side, tuple[str, ...]] = {"torch": (".tar", ".pth", ".pt", ".ckpt"), "paddle": (".pdparams",)}
NEUTRAL = (".safetensors", ".npz")
"""Suffixes of containers that either framework's names may be in."""
FORMAT: Mapping[Side, str] = {"torch": "pt", "paddle": "np"}
"""What safetensors' metadata call a side's tensors; Paddle's own tools read "np"."""

_SAME_NAMES = (
    "To another container or dtype with the same names: `stdc-convert relayout SRC DST`, DST ending in "
    ".safetensors for instance."
)

ONNX_NOTE = (
    "Exporters fold norms into convolutions, rename what they fold, and leave out what the graph does not use. "
    "To keep names: torch.onnx.export(..., "
    "training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, dynamo=False)."
)


@dataclass(frozen=True)
class Conversion:
    """A conversion that is planned, with the source opened and nothing written yet.

    `tensors` are the target's, by name; `batches` the norms' counters by PyTorch name; `remarks` are
    lines that the user should see (InPlaceABN, non-finite values, other state dicts in the file). `loss` is
    what another dtype cost, if one was asked for.
    """

    source: Path
    contents: Contents
    state: StateDict
    plan: Plan
    tensors: Mapping[str, Array]
    batches: Mapping[str, int]
    remarks: tuple[str, ...]
    loss: Loss | None = None

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


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it is none, which whoever reads it will say."""
    return path.stat().st_size if path.is_file() else 0


def open_state_dict(
    source: str | os.PathLike[str],
    key: str | None = None,
    member: str | None = None,
    progress: Progress = no_progress,
    rules: Rules | None = None,
    to: Side | None = None,
) -> tuple[Contents, StateDict, Side]:
    """Read a checkpoint of either framework: its container, its state dict, and whose names it uses.

    `key` leads to the state dict in it, `member` names the file if `source` is an archive of several. `rules`, if
    there are some, tell which prefixes are a wrapper's and whose names they are; if both sides' names and shapes are
    alike, a container that is nobody's has those of the side that is not to be converted `to`.
    """
    contents = read_container(source, member=member, progress=progress)
    structured = structure_of(contents.container) if contents.container == MXNET else None
    try:
        if rules is not None:
            known = rules.names("torch") | rules.names("paddle")
            state = find_state_dict(contents.root, key=key, known=known, structured=structured)
            neutral = to is not None and contents.container in (SAFETENSORS, SHARDS, NPZ, ONNX)
            default = other(to) if to is not None and neutral else contents.framework
            return contents, state, side_of(rules, state.tensors, default)
        state = find_state_dict(contents.root, key=key, structured=structured)
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
    member: str | None = None,
    abn: Abn = "auto",
    aliases: bool = False,
    drop_nonzero_bias: bool = False,
    dtype: str | None = None,
    same_layout: bool = False,
    rules: Rules | None = None,
    phases: Phases = no_phases,
) -> Conversion:
    """Read `source` and decide everything; nothing is written. `dtype` is another one for floating point.
    `phases` is told what takes long.

    `to` is the framework to convert to, None for any; `target` the layout, by default that of the framework's
    twin, or the source's own if there is no framework; it may be the source's own only with `same_layout`.
    With `rules` they alone say what becomes of each key: no architecture or layout is asked.
    Raises CheckpointError for what the file is or lacks, UsageError for options that do not fit it.
    """
    contents, state, side = open_state_dict(source, key, member, phases("reading", size_of(source)), rules, to)
    try:
        if rules is not None:
            if side == to:
                raise UsageError(f"{shown(source.name)} has {_FRAMEWORK[side]} names of {rules.origin} already")
            plan = plan_rules(rules, state, side, to or side)
        else:
            own = recognise_layout(state.tensors, side)
            target = target or (own if to is None else twin_layout(to))
            _refuse_no_change(source, side, to, own, target, same_layout)
            architecture = choose_architecture(state.tensors, side, model)
            plan = make_plan(
                state, architecture, side,
                target=target, abn=abn, aliases=aliases, drop_nonzero_bias=drop_nonzero_bias,
            )  # fmt: skip
    except CheckpointError as error:
        note = ONNX_NOTE if contents.container == ONNX else error.note
        raise CheckpointError(f"{shown(source.name)}: {error.message}", note) from None
    batches = counters(plan, state.tensors) if side == "torch" else contents.batches
    if not all(0 <= count < 1 << 63 for count in batches.values()):
        raise CheckpointError(f"{shown(source.name)}: the counters of batches behind the tensors are damaged")
    if rules is None:
        tensors = apply_plan(plan, state.tensors, batches)
    else:
        tensors = apply_rules(rules, state.tensors, side, plan.target.side, batches)
    contents.mapped.watch = phases("checking", sum(tensor.nbytes for tensor in state.tensors.values()))
    notes, loss = remarks(state, plan, contents.mapped.used), None
    if dtype is not None:
        contents.mapped.watch = phases("rounding", sum(tensor.nbytes for tensor in tensors.values()))
        from stdc_parity.converters.casting import cast_tensors

        tensors, loss = cast_tensors(tensors, dtype, contents.mapped)
        notes.append(loss.describe())
    return Conversion(source, contents, state, plan, tensors, batches, tuple(notes), loss)


def choose_target(to: Side | None, layout: str | None) -> Layout | None:
    """The target's layout, None for the source's own. Raises UsageError for an unknown one, or one of the
    framework that `to` is not."""
    if layout is None:
        return None if to is None else twin_layout(to)
    target = get_layout(layout)
    if target.container:
        raise UsageError(f"--to-layout {layout}: {target.container} files are read and not written")
    if to is not None and target.side != to:
        raise UsageError(
            f"--to-layout {layout} has {_FRAMEWORK[target.side]} names ({target.title}), this writes "
            f"{_FRAMEWORK[to]}",
            note=f"`stdc-convert relayout SRC --to-layout {target.name}` converts from any layout to it.",
        )
    return target


def _refuse_no_change(
    source: Path, side: Side, to: Side | None, own: Layout, target: Layout, same_layout: bool
) -> None:
    """Raise UsageError if the checkpoint is what it is to become."""
    if side == to:
        way = f"The other way is `stdc-convert {side}2{other(side)}`."
        if own is not target:
            way += f" Between {_FRAMEWORK[side]} layouts: `stdc-convert relayout SRC --to-layout {target.name}`."
        else:
            way += f" {_SAME_NAMES}"
        raise UsageError(f"{shown(source.name)} has {_FRAMEWORK[side]} names already", note=way)
    if own is target and not same_layout:
        raise UsageError(f"{shown(source.name)} has the layout {own.name} ({own.title}) already", note=_SAME_NAMES)


def write_conversion(
    conversion: Conversion,
    target: Path,
    *,
    force: bool = False,
    wrap: str | None = None,
    shard_size: int | None = None,
    phases: Phases = no_phases,
    follow: Follow = not_followed,
) -> list[Path]:
    """Write the target in one step, and give the files it is in.

    `target`'s suffix decides: .safetensors and .npz are those, any other is the framework's own container.
    `wrap` puts the state dict of a PyTorch target under that key; `shard_size` in bytes spreads a larger
    .safetensors over several files. Raises UsageError when `target` exists (without `force`), is the source,
    or cannot be written, or when an option does not fit it.
    """
    mapped = conversion.contents.mapped
    mapped.watch = phases("writing", sum(tensor.nbytes for tensor in conversion.tensors.values()))
    return write_target(
        target, conversion.tensors, conversion.target_side, conversion.batches, force, conversion.source, wrap,
        shard_size, mapped.used, follow,
    )  # fmt: skip


def check_options(target: Path, wrap: str | None, shard_size: int | None) -> None:
    """Raise UsageError when an option does not fit the target's suffix."""
    suffix = target.suffix.lower()
    if wrap is not None and suffix in NEUTRAL:
        raise UsageError(f"--wrap {shown(wrap)}: {suffix} files hold tensors by name and no dict around them")
    if shard_size is not None and suffix != ".safetensors":
        raise UsageError("--shard-size is for .safetensors targets")


def check_names(conversion: Conversion, target: Path, wrap: str | None) -> None:
    """Raise UsageError if the names that were planned do not fit the target's suffix, or the wrapper."""
    side, name, suffix = conversion.target_side, conversion.plan.target.name, target.suffix.lower()
    if wrap is not None and side == "paddle":
        raise UsageError(f"--wrap: {name} is a layout of Paddle, whose files have no wrapper")
    if suffix in OWN_SUFFIXES[other(side)]:
        whose = _FRAMEWORK[other(side)]
        raise UsageError(
            f"{shown(target.name)} would hold {_FRAMEWORK[side]} names, and {suffix} is {whose} suffix",
            note=f"For {whose} names: --to-layout {twin_layout(other(side)).name} of `stdc-convert relayout`. For "
            f"{_FRAMEWORK[side]}: let DST end in {TARGET_SUFFIX[side]}, {' or '.join(NEUTRAL)}.",
        )


def write_target(
    target: Path,
    tensors: Mapping[str, Array],
    side: Side,
    batches: Mapping[str, int],
    force: bool,
    source: Path,
    wrap: str | None = None,
    shard_size: int | None = None,
    progress: Progress = no_progress,
    follow: Follow = not_followed,
) -> list[Path]:
    """Write `tensors`, which have `side`'s names; see `write_conversion`."""
    check_options(target, wrap, shard_size)
    suffix = target.suffix.lower()
    if suffix == ".safetensors":
        return write_safetensors(
            target, tensors, force=force, source=source, format=FORMAT[side],
            batches=batches if side == "paddle" else None, shard_size=shard_size, progress=progress,
            follow=follow,
        )  # fmt: skip
    if suffix == ".npz":
        write_npz(target, tensors, force=force, source=source, progress=progress, follow=follow)
    elif side == "paddle":
        write_paddle(
            target, tensors, force=force, source=source, batches=batches, progress=progress, follow=follow
        )
    else:
        write_torch(
            target, tensors, force=force, source=source, wrap=wrap, progress=progress, follow=follow
        )
    return [target]


def remarks(state: StateDict, plan: Plan, used: Progress = no_progress) -> list[str]:
    """What a person should know about this checkpoint, a sentence each; `used` is told the bytes read for it."""
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
    with np.errstate(all="ignore"):
        bad = [shown(name) for name, tensor in state.tensors.items() if not _finite(tensor, used)]
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


def _finite(tensor: Array, used: Progress) -> bool:
    if tensor.dtype.kind in "biu" or tensor.size == 0:
        finite = True
    elif tensor.nbytes <= PIECE:
        finite = _all_finite(tensor)
    else:
        dtype = tensor.dtype.newbyteorder("=")
        for piece in array_pieces(tensor):
            if not _all_finite(np.frombuffer(piece, dtype)):
                return False
            used(len(piece))
        return True
    used(tensor.nbytes)
    return finite


def _all_finite(values: Array) -> bool:
    wide = np.float64 if values.itemsize == 8 else np.float32
    # A sum is one pass without a temporary; an overflow to Inf only costs the exact test.
    if values.dtype.kind == "f" and isfinite(values.sum(dtype=wide)):
        return True
    return bool(np.isfinite(values.astype(wide)).all())
