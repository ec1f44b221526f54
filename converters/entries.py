"""What becomes of each key: one entry a tensor, from one layout's names to another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from stdc_parity.converters.architecture import Architecture, Kind, Side, TensorSpec, paddle_name
from stdc_parity.converters.layout import Layout, Place, find_reason, places, why_absent, with_biases
from stdc_parity.converters.pieces import array_pieces
from stdc_parity.converters.statedict import Array

Rule = Literal[
    "copy", "transpose", "abs", "pair", "unpair", "drop", "create", "permute", "reshape", "split", "pack"
]  # fmt: skip

ABN_EPS = 1e-5
"""InPlaceABN scales with |weight| + eps: upstream's modules/src/inplace_abn_cpu.cpp, `forward_cpu`."""

FILL: Mapping[Kind, float] = {"norm.weight": 1.0, "norm.running_var": 1.0}
"""What tensors are created with that the source has no place for; 0 for all other kinds."""

NO_BIAS = "convolutions there have no bias"
"""How the reason for a bias ends that only one of the layouts has."""

_TURNED: Mapping[Side, str] = {
    "paddle": "Paddle's Linear weight is (in, out)",
    "torch": "PyTorch's Linear weight is (out, in)",
}


@dataclass(frozen=True)
class Entry:
    """What becomes of one tensor. `source` is None for a created one, `target` None for a dropped one.

    Names are those of the state dict, its wrapper's prefixes stripped; shapes are each side's own. `official`
    is the tensor's official name, "" for what no architecture has. A created tensor is full of `fill`. `loss`
    says what of the source's values the target cannot express, "" if nothing.
    """

    source: str | None
    target: str | None
    rule: Rule
    reason: str
    source_shape: tuple[int, ...] | None
    target_shape: tuple[int, ...] | None
    official: str = ""
    fill: float = 0.0
    loss: str = ""


@dataclass(frozen=True)
class Task:
    """What the entries are made from; what is wrong with the checkpoint is put into `problems` and `biases`.

    `tensors` has the source's names; `abn` says that its ABN norms hold InPlaceABN weights; `drop_bias` that
    biases which the target has no place for are dropped even if they are not zero (else `biases` names them).
    """

    tensors: Mapping[str, Array]
    architecture: Architecture
    source: Layout
    target: Layout
    abn: bool
    drop_bias: bool
    problems: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)


def make_entries(task: Task) -> Iterator[Entry]:
    """An entry for every tensor that the task's source has or its target needs, but for aliases."""
    here, there = places(task.source, task.architecture), places(task.target, task.architecture)
    for name, spec in with_biases(task.architecture.tensors):
        come, go = here.get(name), there.get(name)
        if spec.kind == "norm.batches":
            entry = _count(task, name, come, go)
        elif come is None:
            entry = None if go is None else _create(task, name, spec, go)
        elif come.name not in task.tensors:
            task.problems.append(f"{come.name}: missing, {task.architecture.name} needs {come.shape}")
            entry = None
        elif go is None:
            entry = _leave(task, name, spec, come)
        else:
            entry = _move(task, name, spec, come, go)
        if entry is not None:
            yield entry
    yield from _unused(task)
    yield from _constants(task)
    if task.source.older:
        yield from _older(task, {place.name for place in here.values()})


def _unused(task: Task) -> Iterator[Entry]:
    """The tensors of a larger form of the network, which a checkpoint of that has."""
    unused = task.architecture.unused
    larger = replace(task.architecture, tensors={name: each.spec for name, each in unused.items()})
    for name, come in places(task.source, larger).items():
        if come.name in task.tensors:
            tensor = task.tensors[come.name]
            check_shape(task, come, tensor.shape)
            of = unused[name] if name in unused else unused[f"{name.removesuffix('bias')}weight"]
            yield Entry(come.name, None, "drop", of.reason, tensor.shape, None, name)


def _older(task: Task, known: Set[str]) -> Iterator[Entry]:
    """The tensors that only older releases of the source's code base hold."""
    for name in [name for name in task.tensors if name not in known]:
        reason = find_reason(task.source.older, name, task.architecture)
        if reason is not None:
            yield Entry(name, None, "drop", reason, task.tensors[name].shape, None)


def _move(task: Task, name: str, spec: TensorSpec, come: Place, go: Place) -> Entry:
    """A tensor that both layouts have."""
    tensor = task.tensors[come.name]
    check_shape(task, come, tensor.shape)
    rule: Rule = "copy"
    reason = loss = ""
    if spec.kind == "linear" and task.source.side != task.target.side:
        rule, reason = "transpose", _TURNED[task.target.side]
    elif task.abn and spec.kind == "norm.weight" and name.rpartition(".")[0] in task.architecture.abn_norms:
        rule, reason = "abs", f"InPlaceABN scales with |weight| + {ABN_EPS:g}"
    elif go.pair and not come.pair:
        rule, reason = "pair", f"{task.target.name} has two channels here, (not X, X)"
    elif come.pair and not go.pair:
        rule, reason = "unpair", f"the second of {task.source.name}'s two channels, (not X, X)"
        if tensor.shape == come.shape and not np.array_equal(tensor[:1], negative(tensor[1:])):
            loss = "the first of its two channels, which is not the second's negative"
    return Entry(come.name, go.name, rule, reason, tensor.shape, go.shape, name, loss=loss)


def _leave(task: Task, name: str, spec: TensorSpec, come: Place) -> Entry:
    """A tensor that the target has no place for."""
    tensor = task.tensors[come.name]
    check_shape(task, come, tensor.shape)
    reason, loss = why_absent(task.target, name, task.architecture) or "", ""
    if spec.kind == "bias" and not reason:
        reason = f"{task.target.name}'s {NO_BIAS}"
        if np.any(tensor != 0):
            loss = f"a bias that is not zero (up to {np.abs(tensor.astype(np.float64)).max():.2g})"
            if not task.drop_bias:
                task.biases.append(f"{come.name}: {loss}, {reason}")
    elif not reason:
        task.problems.append(f"{come.name}: {task.target.name} has no place for it")
    return Entry(come.name, None, "drop", reason, tensor.shape, None, name, loss=loss)


def _create(task: Task, name: str, spec: TensorSpec, go: Place) -> Entry:
    """A tensor that the source has no place for."""
    reason = why_absent(task.source, name, task.architecture) or ""
    if spec.kind == "bias" and not reason:
        reason = f"{task.source.name}'s {NO_BIAS}"
    elif not reason:
        task.problems.append(f"{go.name}: {task.source.name} has no such tensor")
    return Entry(None, go.name, "create", reason, None, go.shape, name, FILL.get(spec.kind, 0.0))


def _count(task: Task, name: str, come: Place | None, go: Place | None) -> Entry | None:
    """A norm's counter of batches, which any source may lack, and which Paddle's norms don't have."""
    tensor = None if come is None else task.tensors.get(come.name)
    if tensor is None or come is None:
        if go is None or task.target.side == "paddle":
            return None
        return Entry(None, go.name, "create", "PyTorch's batch norm counts its batches", None, (), name)
    dropped = go is None or task.target.side == "paddle"
    if tensor.size != 1 or not dropped:
        check_shape(task, come, tensor.shape)
    if tensor.size == 1 and not is_count(tensor):
        task.problems.append(f"{come.name}: {tensor.item()} is no number of batches")
    if go is None or dropped:
        gone = why_absent(task.target, name, task.architecture) or "Paddle's batch norm keeps no counter"
        return Entry(come.name, None, "drop", gone, tensor.shape, None, name)
    return Entry(come.name, go.name, "copy", "", tensor.shape, (), name)


def is_count(tensor: Array) -> bool:
    """Whether the one value of a tensor is what a batch norm's counter can be."""
    value = np.float64(tensor.item())
    return bool(value == np.floor(value) and 0 <= value < 2.0**63)


def _constants(task: Task) -> Iterator[Entry]:
    """The tensors that only one of the layouts has, with values that nothing changes."""
    for name, constant in task.source.constants.items():
        if name in task.tensors:
            tensor = task.tensors[name]
            same = np.array_equal(tensor, constant.array().astype(tensor.dtype))
            loss = "" if same else "values that are not the constant's"
            yield Entry(name, None, "drop", f"a constant of {task.source.name}'s own", tensor.shape, None, loss=loss)
    for name, constant in task.target.constants.items():
        if name not in task.source.constants and f"{constant.beside}.weight" in task.architecture.tensors:
            yield Entry(None, name, "create", f"a constant of {task.target.name}'s own", None, constant.array().shape)


def drop_aliases(task: Task) -> Iterator[Entry]:
    """Entries for the second names of tensors that the source has; a problem where the bytes differ."""
    if not task.source.aliases:
        return
    for alias, canonical, name in _aliases(task):
        tensor = task.tensors[alias]
        if canonical in task.tensors and not same_bytes(tensor, task.tensors[canonical]):
            task.problems.append(f"{alias} is another name of {canonical}, but their values differ")
        yield Entry(alias, None, "drop", f"alias of {canonical}, equal bytes", tensor.shape, None, name)


def _aliases(task: Task) -> Iterator[tuple[str, str, str]]:
    """(alias, the name that it is another of, that one's official name) for the source's aliases.

    Slices of a Sequential keep their numbers in torch and start again at 0 in Paddle: a file of Paddle's own
    has a block 0 in its second stage, which none of torch's names is.
    """
    architecture, side = task.architecture, task.source.side
    kinds = {name: spec.kind for name, spec in with_biases(architecture.known)}
    known = dict(architecture.aliases)
    for alias, name in architecture.aliases.items():
        if kinds[name] in ("conv", "linear"):
            known[f"{alias.removesuffix('weight')}bias"] = f"{name.removesuffix('weight')}bias"
    if side == "paddle":
        restarted = {_restart(alias, architecture): name for alias, name in known.items()}
        names = {paddle_name(a, kinds[n]) for a, n in restarted.items() if a not in known}
        if any(name in task.tensors for name in names):
            known = restarted
    for alias, name in known.items():
        pair = (alias, name) if side == "torch" else (paddle_name(alias, kinds[name]), paddle_name(name, kinds[name]))
        if pair[0] in task.tensors:
            yield *pair, name


def _restart(alias: str, architecture: Architecture) -> str:
    """`x8.0.2.…` -> `x8.0.0.…`: the alias as Paddle numbers it."""
    stage, _, rest = alias.partition(".0.")
    number, _, rest = rest.partition(".")
    first = architecture.groups[stage.rpartition("x")[2] + "x"].start
    return f"{stage}.0.{int(number) - first}.{rest}"


def check_shape(task: Task, place: Place, shape: tuple[int, ...]) -> None:
    """A problem if the source's tensor does not have the shape that it needs."""
    needed = place.shape
    if shape != needed:
        turned = " (a Linear weight in the other framework's order?)" if shape == needed[::-1] and shape else ""
        task.problems.append(f"{place.name}: checkpoint has {shape}, {task.architecture.name} needs {needed}{turned}")


def negative(tensor: Array) -> Array:
    """-tensor in its dtype, for any dtype that a hostile file may give a weight (numpy negates no bool)."""
    turned: Array = (tensor * np.int8(-1)).astype(tensor.dtype)
    return turned


def same_bytes(a: Array, b: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bits (NaNs and signed zeros included)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides:
        return True
    pairs = zip(array_pieces(a), array_pieces(b), strict=True)
    return all(np.array_equal(np.frombuffer(x, np.uint8), np.frombuffer(y, np.uint8)) for x, y in pairs)
