"""Plan, then apply: what becomes of every key, decided before any tensor is touched.

A plan accounts for every key of the source and of the target: copied, transposed, dropped for a stated
reason, or created for a stated reason. What cannot be accounted for is a problem, and all problems of a
checkpoint are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stdc_parity.converters import stdc
from stdc_parity.converters.architecture import (
    PADDLE_SUFFIX,
    Architecture,
    Side,
    TensorSpec,
    paddle_name,
    paddle_shape,
)
from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.pieces import array_pieces
from stdc_parity.converters.statedict import Array, StateDict

Rule = Literal["copy", "transpose", "abs", "drop", "create"]
Abn = Literal["auto", "yes", "no"]

ABN_EPS = 1e-5
"""InPlaceABN scales with |weight| + eps: upstream's modules/src/inplace_abn_cpu.cpp, `forward_cpu`."""

MODELS = tuple(stdc.LAYERS) + tuple(stdc.BACKBONE)
MAX_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Entry:
    """What becomes of one tensor. `source` is None for a created one, `target` None for a dropped one.

    Names are those of the state dict, its wrapper's prefixes stripped; shapes are each side's own.
    """

    source: str | None
    target: str | None
    rule: Rule
    reason: str
    source_shape: tuple[int, ...] | None
    target_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Plan:
    """The account of a conversion from `source_side`'s names to the other side's."""

    source_side: Side
    architecture: Architecture
    abn: bool
    entries: tuple[Entry, ...]

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


def recognise(tensors: Mapping[str, Array], side: Side) -> Architecture | None:
    """The architecture whose tensors these are, by their names, or None."""
    shapes = {_torch_name(name, side): tensor.shape for name, tensor in tensors.items()}
    return stdc.recognise(shapes, side)


def choose_architecture(tensors: Mapping[str, Array], side: Side, model: str | None) -> Architecture:
    """The recognised architecture, held against `model` if the user named one.

    Raises UsageError when `model` is another network than the checkpoint looks like, CheckpointError when
    nothing is recognised.
    """
    found = recognise(tensors, side)
    if model is not None and model not in MODELS:
        raise UsageError(f"--model {shown(model)}: there is no such model", note=f"There are: {', '.join(MODELS)}.")
    if found is not None:
        if model is not None and model != found.name:
            raise UsageError(
                f"--model {model}: the checkpoint looks like {found.describe()}",
                note=f"Leave out --model, or say --model {found.name}.",
            )
        return found
    if model is not None:
        return stdc.architecture(model)
    keys = ", ".join(shown(name) for name in list(tensors)[:4])
    raise CheckpointError(
        f"none of the known architectures has these {len(tensors)} keys ({keys}, …)",
        note=f"Known are {', '.join(MODELS)} by their official names; --model NAME lists what is missing.",
    )


def make_plan(
    state: StateDict, architecture: Architecture, source_side: Side, *, abn: Abn = "auto", aliases: bool = False
) -> Plan:
    """Decide what becomes of every key of `state`, and of every key that the other side needs.

    `aliases` adds upstream's second names of the backbone's tensors to a PyTorch target. Raises
    CheckpointError that lists every problem, UsageError when `abn` is "yes" and there is no such norm.
    """
    problems: list[str] = []
    if source_side == "torch":
        use_abn = _decide_abn(state.tensors, architecture, abn)
        entries = list(_torch_to_paddle(state.tensors, architecture, use_abn, problems))
    else:
        if abn == "yes":
            raise UsageError("--abn yes: Paddle checkpoints have no InPlaceABN weights to rewrite")
        use_abn = False
        entries = list(_paddle_to_torch(state.tensors, architecture, aliases, problems))
    known = {entry.source for entry in entries}
    problems += [f"{shown(name)}: unexpected, {architecture.name} has no such tensor"
                 for name in state.tensors if name not in known]  # fmt: skip
    if problems:
        raise _all_problems(problems, architecture)
    dropped = state.dropped.items()
    entries += [Entry(name, None, "drop", f"not a tensor: {what}", None, None) for name, what in dropped]
    return Plan(source_side, architecture, use_abn, tuple(entries))


def apply_plan(plan: Plan, tensors: Mapping[str, Array], batches: Mapping[str, int]) -> dict[str, Array]:
    """The target's tensors by name: views of the source's where the rule allows, in the plan's order.

    `batches` gives the values of counters to create (`num_batches_tracked`), 0 for those not in it.
    """
    aliases = plan.architecture.aliases
    result: dict[str, Array] = {}
    for entry in plan.entries:
        if entry.target is None:
            continue
        if entry.rule == "create" or entry.source is None:
            result[entry.target] = np.array(batches.get(aliases.get(entry.target, entry.target), 0), np.int64)
        else:
            result[entry.target] = RULES[entry.rule](tensors[entry.source])
    return result


def counters(plan: Plan, tensors: Mapping[str, Array]) -> dict[str, int]:
    """The counters (`num_batches_tracked`) that the plan drops, so that the way back can restore them."""
    specs = plan.architecture.tensors.items()
    names = [name for name, spec in specs if spec.kind == "norm.batches" and name in tensors]
    return {name: int(tensors[name].item()) for name in names}


def _abs_plus_eps(weight: Array) -> Array:
    scale: Array = np.abs(weight) + np.asarray(ABN_EPS, weight.dtype)
    return scale


RULES: Mapping[Rule, Callable[[Array], Array]] = {
    "copy": lambda tensor: tensor,
    "transpose": lambda tensor: tensor.T,
    "abs": _abs_plus_eps,
}


def _torch_name(name: str, side: Side) -> str:
    """The PyTorch name of a tensor that `side` calls `name`."""
    if side == "paddle":
        for torch_suffix, paddle_suffix in PADDLE_SUFFIX.values():
            if name.endswith(f".{paddle_suffix}"):
                return name.removesuffix(paddle_suffix) + torch_suffix
    return name


def _torch_to_paddle(
    tensors: Mapping[str, Array], architecture: Architecture, abn: bool, problems: list[str]
) -> Iterator[Entry]:
    for name, spec in architecture.tensors.items():
        if name not in tensors:
            if spec.kind != "norm.batches":
                problems.append(f"{name}: missing, {architecture.name} needs {spec.shape}")
            continue
        shape = tensors[name].shape
        if spec.kind == "norm.batches" and tensors[name].size == 1:
            if not _is_count(tensors[name]):
                problems.append(f"{name}: {tensors[name].item()} is no number of batches")
            yield Entry(name, None, "drop", "Paddle's batch norm keeps no counter", shape, None)
            continue
        _check_shape(name, shape, spec.shape, architecture, problems)
        norm = name.rpartition(".")[0]
        is_abn = abn and spec.kind == "norm.weight" and norm in architecture.abn_norms
        rule: Rule = "transpose" if spec.kind == "linear" else "abs" if is_abn else "copy"
        reason = "Paddle's Linear weight is (in, out)" if rule == "transpose" else ""
        if rule == "abs":
            reason = f"InPlaceABN scales with |weight| + {ABN_EPS:g}"
        yield Entry(name, paddle_name(name, spec.kind), rule, reason, shape, paddle_shape(spec))
    yield from _drop_aliases(tensors, architecture, "torch", problems)


def _drop_aliases(
    tensors: Mapping[str, Array], architecture: Architecture, side: Side, problems: list[str]
) -> Iterator[Entry]:
    for torch_alias, torch_canonical in architecture.aliases.items():
        kind = architecture.tensors[torch_canonical].kind
        alias, canonical = (name if side == "torch" else paddle_name(name, kind)
                            for name in (torch_alias, torch_canonical))  # fmt: skip
        if alias in tensors:
            if canonical in tensors and not same_bytes(tensors[alias], tensors[canonical]):
                problems.append(f"{alias} is another name of {canonical}, but their values differ")
            yield Entry(alias, None, "drop", f"alias of {canonical}, equal bytes", tensors[alias].shape, None)


def _is_count(tensor: Array) -> bool:
    """Whether the one value of a tensor is what a batch norm's counter can be."""
    value = np.float64(tensor.item())
    return bool(value == np.floor(value) and 0 <= value < 2.0**63)


def _paddle_to_torch(
    tensors: Mapping[str, Array], architecture: Architecture, aliases: bool, problems: list[str]
) -> Iterator[Entry]:
    created: list[Entry] = []
    for name, spec in architecture.tensors.items():
        entry = _back_to_torch(name, name, spec, tensors, architecture, problems)
        if entry is not None:
            created.append(entry)
            yield entry
    yield from _drop_aliases(tensors, architecture, "paddle", problems)
    if aliases:
        by_target = {entry.target: entry for entry in created}
        for alias, canonical in architecture.aliases.items():
            if canonical in by_target:
                entry = by_target[canonical]
                yield Entry(entry.source, alias, entry.rule, f"alias of {canonical}",
                            entry.source_shape, entry.target_shape)  # fmt: skip


def _back_to_torch(
    name: str,
    target: str,
    spec: TensorSpec,
    tensors: Mapping[str, Array],
    architecture: Architecture,
    problems: list[str],
) -> Entry | None:
    if spec.kind == "norm.batches" and name in tensors:
        _check_shape(name, tensors[name].shape, (), architecture, problems)
        return Entry(name, target, "copy", "", tensors[name].shape, ())
    if spec.kind == "norm.batches":
        return Entry(None, target, "create", "PyTorch's batch norm counts its batches", None, ())
    source = paddle_name(name, spec.kind)
    if source not in tensors:
        problems.append(f"{source}: missing, {architecture.name} needs {paddle_shape(spec)}")
        return None
    _check_shape(source, tensors[source].shape, paddle_shape(spec), architecture, problems)
    rule: Rule = "transpose" if spec.kind == "linear" else "copy"
    reason = "PyTorch's Linear weight is (out, in)" if rule == "transpose" else ""
    return Entry(source, target, rule, reason, tensors[source].shape, spec.shape)


def _decide_abn(tensors: Mapping[str, Array], architecture: Architecture, abn: Abn) -> bool:
    """Whether the weights of the architecture's ABN norms are InPlaceABN's.

    The published segmentation checkpoints show it by their counters: plain batch norms count batches,
    InPlaceABN registers no counter.
    """
    if abn == "no":
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


def _check_shape(
    name: str, shape: tuple[int, ...], needed: tuple[int, ...], architecture: Architecture, problems: list[str]
) -> None:
    if shape != needed:
        turned = " (a Linear weight in the other framework's order?)" if shape == needed[::-1] and shape else ""
        problems.append(f"{name}: checkpoint has {shape}, {architecture.name} needs {needed}{turned}")


def same_bytes(a: Array, b: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bits (NaNs and signed zeros included)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides:
        return True
    pairs = zip(array_pieces(a), array_pieces(b), strict=True)
    return all(np.array_equal(np.frombuffer(x, np.uint8), np.frombuffer(y, np.uint8)) for x, y in pairs)


def _all_problems(problems: list[str], architecture: Architecture) -> CheckpointError:
    lines = [f"  {problem}" for problem in problems]
    left = len(lines) - MAX_PROBLEMS_SHOWN
    if left > 0:  # the last ones too: missing keys stand first, unexpected ones last
        lines[MAX_PROBLEMS_SHOWN - 5 : -5] = [f"  … {left} more …"]
    return CheckpointError(
        f"{len(problems)} problem{'s' if len(problems) != 1 else ''} with the checkpoint "
        f"as {architecture.describe()}:\n" + "\n".join(lines),
        note="Nothing was written. `stdc-convert inspect` shows what the file holds.",
    )
