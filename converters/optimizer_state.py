"""Optimizer state: torch's SGD state dict <-> Paddle's Momentum accumulators, so that a training can go on elsewhere.

torch numbers parameters in the order in which the optimizer got them; Paddle names each accumulator after its
parameter. So the order must be known: that of the network's parameters, or of its training recipe's groups, or a list
of names. An order is taken only if the groups' sizes and every buffer's shape fit it, and if no other fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stdc_parity.converters.architecture import Architecture, is_transposed
from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.families import loss_shapes, training_orders
from stdc_parity.converters.opened import Opened, officially_named, plainly_named
from stdc_parity.converters.statedict import Array

VELOCITY = "_velocity_0"
"""How Paddle names a Momentum accumulator in a process that builds one optimizer: PARAMETER_velocity_0."""

TORCH_GROUPS = "torch param_groups"
"""Under this key a .pdopt of ours keeps torch's settings, which Paddle has in the optimizer's constructor."""

SCHEDULER = "LR_Scheduler"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
DEFAULTS: Mapping[str, Any] = {
    "dampening": 0, "nesterov": False, "maximize": False, "foreach": None, "differentiable": False, "fused": None,
}  # fmt: skip
"""torch.optim.SGD's, for settings that nobody gave."""

Order = tuple[tuple[str, ...], ...]
"""Names of parameters, group by group."""


@dataclass(frozen=True)
class Parameters:
    """What the network tells of its parameters: shapes in PyTorch by name, in order.

    `transposed` are those that Paddle has the other way round; `dtype` is the first parameter's.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: np.dtype[Any]
    transposed: frozenset[str]
    architecture: Architecture | None


@dataclass(frozen=True)
class Momentum:
    """The state of SGD with momentum: buffers by PyTorch names and in PyTorch's shapes, in groups.

    `groups` are torch's settings for each group of `order`. Parameters without a buffer were never updated.
    `iteration` is the recipe's, `scheduler` a learning rate scheduler's `last_epoch` and `last_lr`.
    """

    buffers: Mapping[str, Array]
    order: Order
    groups: tuple[Mapping[str, Any], ...]
    iteration: int | None = None
    scheduler: Mapping[str, Any] | None = None


def parameters_of(net: Opened) -> Parameters:
    """The parameters of the network that a checkpoint is of: all of its tensors but norms' statistics and buffers."""
    architecture = net.architecture
    named = plainly_named(net) if architecture is None else officially_named(net, architecture)
    order = (
        list(named.tensors)
        if architecture is None
        else [n for n in architecture.tensors if n in named.tensors]
    )
    kinds = {} if architecture is None else architecture.tensors
    idle = {name for name, spec in kinds.items() if spec.kind == "buffer"}
    shapes = {
        name: named.tensors[name].shape
        for name in order
        if name.rpartition(".")[2] not in BUFFERS and name not in idle
    }
    transposed = frozenset(
        name for name in shapes if name in kinds and is_transposed("paddle", kinds[name].kind)
    )
    dtype = next((named.tensors[name].dtype for name in shapes), np.dtype(np.float32))
    return Parameters(shapes, dtype, transposed, architecture)


def orders_of(parameters: Parameters) -> Iterator[Order]:
    """The orders that trainings use: one group of all parameters; the groups of the network's recipe."""
    every = tuple(parameters.shapes)
    yield (every,)
    if parameters.architecture is not None:
        yield from training_orders(parameters.architecture, every)


def find_optimizer(root: object) -> tuple[Mapping[str, Any], Mapping[Any, Any]]:
    """torch's optimizer state in what a file holds, and the dict around it; CheckpointError if there is none."""
    if isinstance(root, Mapping):
        if "param_groups" in root and "state" in root:
            return root, root
        found = [v for v in root.values() if isinstance(v, Mapping) and "param_groups" in v and "state" in v]
        if len(found) == 1:
            return found[0], root
        if found:
            raise CheckpointError(
                f"the file holds {len(found)} optimizers' states", "Save the one that is meant alone."
            )
    raise CheckpointError(
        "the file holds no optimizer's state",
        "torch's has `state` and `param_groups`: optimizer.state_dict().",
    )


def from_torch(root: object, parameters: Parameters, order: Order | None) -> Momentum:
    """The momentum that a torch checkpoint holds; raises CheckpointError if it is not SGD's or no order fits."""
    optimizer, around = find_optimizer(root)
    groups, state = optimizer["param_groups"], optimizer["state"]
    if not isinstance(groups, list) or not all(
        isinstance(g, Mapping) and isinstance(g.get("params"), list) for g in groups
    ):
        raise CheckpointError("the optimizer's param_groups are damaged")
    _refuse_other_kinds(groups, state)
    numbers = [list(group["params"]) for group in groups]
    buffers = {number: _buffer(state[number]) for number in state}
    chosen = _choose_order(numbers, buffers, parameters, order)
    names = dict(zip(_flat(numbers), _flat(chosen), strict=True))
    unknown = [number for number in buffers if number not in names]
    if unknown:
        raise CheckpointError(f"the optimizer has state for {shown(unknown[0])}, which is in no group")
    scheduler = next(
        (around[k] for k in ("scheduler", "lr_scheduler") if isinstance(around.get(k), Mapping)), None
    )
    return Momentum(
        {names[number]: array for number, array in buffers.items() if array is not None},
        chosen,
        tuple({k: v for k, v in group.items() if _is_setting(k, v)} for group in groups),
        optimizer["it"] if type(optimizer.get("it")) is int else None,
        _scheduler(scheduler),
    )


def _refuse_other_kinds(groups: Sequence[Mapping[str, Any]], state: Any) -> None:
    if not isinstance(state, Mapping) or not all(isinstance(entry, Mapping) for entry in state.values()):
        raise CheckpointError("the optimizer's state is damaged")
    others = {str(key) for entry in state.values() for key in entry} - {"momentum_buffer"}
    if others:
        raise CheckpointError(
            f"the optimizer is not SGD with momentum: its state has {', '.join(map(shown, sorted(others)[:5]))}",
            "Only torch.optim.SGD and paddle.optimizer.Momentum are converted.",
        )
    for setting in ("dampening", "maximize"):
        if any(group.get(setting) for group in groups):
            raise CheckpointError(f"the optimizer uses {setting}, which Paddle's Momentum does not have")


def _buffer(entry: Mapping[str, Any]) -> Array | None:
    buffer = entry.get("momentum_buffer")
    if buffer is not None and not isinstance(buffer, np.ndarray):
        raise CheckpointError(f"a momentum buffer is no tensor that is read ({shown(buffer)})")
    return buffer


def _is_setting(key: object, value: object) -> bool:
    plain = isinstance(value, bool | int | float | str | None)
    return isinstance(key, str) and key not in ("params", "param_names") and plain


def _scheduler(state: Mapping[Any, Any] | None) -> Mapping[str, Any] | None:
    """The part of a torch scheduler's state that Paddle's have too."""
    if state is None or type(state.get("last_epoch")) is not int:
        return None
    rates = state.get("_last_lr")
    rate = rates[0] if isinstance(rates, list) and rates and isinstance(rates[0], float) else None
    return {"last_epoch": state["last_epoch"]} | ({} if rate is None else {"last_lr": rate})


def _choose_order(
    numbers: list[list[Any]], buffers: Mapping[Any, Array | None], parameters: Parameters, given: Order | None
) -> Order:
    """The only order whose groups have the sizes of `numbers` and whose shapes are those of `buffers`."""
    flat = _flat(numbers)
    if len(set(flat)) != len(flat):
        raise CheckpointError("the optimizer has one parameter in two groups")
    candidates = [given] if given is not None else list(dict.fromkeys(orders_of(parameters)))
    sizes = [len(group) for group in numbers]
    shapes = {**parameters.shapes, **loss_shapes(parameters.architecture)}
    fitting, problem = [], ""
    for order in candidates:
        if [len(group) for group in order] != sizes:
            continue
        wrong = [(name, array) for number, name in zip(flat, _flat(order), strict=True)
                 if (array := buffers.get(number)) is not None and array.shape != shapes.get(name)]  # fmt: skip
        if wrong:
            name, array = wrong[0]
            problem = (
                f"; by the one of these sizes {shown(name)} {shapes.get(name)} has a buffer {array.shape}"
            )
        else:
            fitting.append(order)
    if len(fitting) != 1:
        known = ", ".join(str([len(group) for group in order]) for order in candidates)
        raise CheckpointError(
            f"the optimizer's groups have {sizes} parameters, and "
            f"{len(fitting) or 'no'} known order fits them{problem}",
            f"Known for this network are {known}. "
            "Give the names in the optimizer's order with --order FILE, one a line.",
        )
    return fitting[0]


def _flat(groups: Iterable[Iterable[Any]]) -> list[Any]:
    return [item for group in groups for item in group]


def to_paddle(momentum: Momentum, parameters: Parameters, names: Mapping[str, str] | None) -> dict[str, Any]:
    """What `paddle.save` would write for it.

    `names` gives Paddle's name of each parameter; without it, accumulators are called after the official
    names, as `models_paddle.optim.Optimizer.set_state_dict` wants them. A parameter that was never updated gets
    zeros, which both frameworks treat like none. Raises UsageError if `names` lacks a parameter.
    """
    root: dict[str, Any] = {}
    shapes = {**parameters.shapes, **loss_shapes(parameters.architecture)}
    for name in (name for group in momentum.order for name in group):
        own = name if names is None else names.get(name)
        if own is None:
            raise UsageError(f"--names: its file has no Paddle name for {shown(name)}")
        array = momentum.buffers.get(name)
        array = np.zeros(shapes[name], parameters.dtype) if array is None else array
        root[own + VELOCITY] = array.T if name in parameters.transposed else array
    if momentum.scheduler is not None:
        root[SCHEDULER] = dict(momentum.scheduler)
    if momentum.iteration is not None:
        root["it"] = momentum.iteration
    root[TORCH_GROUPS] = [
        {**settings, "names": list(group)}
        for settings, group in zip(momentum.groups, momentum.order, strict=True)
    ]
    return root


def from_paddle(
    root: object,
    parameters: Parameters,
    names: Mapping[str, str] | None,
    order: Order | None,
    settings: Mapping[str, Any],
) -> Momentum:
    """The momentum in a .pdopt: every accumulator must be a velocity of one of the parameters.

    Torch's groups are those that the file keeps, if `to_paddle` made it, else one group of `order` (or of the
    network's parameters) with `settings`. Raises CheckpointError for what does not fit.
    """
    if not isinstance(root, Mapping):
        raise CheckpointError("the file holds no optimizer's state")
    arrays = {str(key): value for key, value in root.items() if isinstance(value, np.ndarray)}
    shapes = {**parameters.shapes, **loss_shapes(parameters.architecture)}
    by_own = (
        {names[name]: name for name in shapes if name in names} if names else {name: name for name in shapes}
    )
    buffers: dict[str, Array] = {}
    problems = []
    for key, array in arrays.items():
        own, _, _number = key.rpartition("_velocity_")
        name = by_own.get(own)
        if name is None:
            problems.append(f"{shown(key)}: no velocity of a known parameter")
            continue
        buffers[name] = array.T if name in parameters.transposed else array
        if buffers[name].shape != shapes[name]:
            problems.append(f"{shown(key)}: {array.shape} is not the shape of {shown(name)}")
    if problems or not arrays:
        hint = (
            "Give the .pdparams that paddle.save(layer.state_dict()) wrote with --names."
            if names is None
            else None
        )
        lines = "\n".join(f"  {problem}" for problem in problems[:10])
        raise CheckpointError(
            f"{len(problems)} of {len(arrays)} accumulators do not fit the network:\n{lines}", hint
        )
    kept = _kept_groups(root.get(TORCH_GROUPS), shapes)
    if kept is None and settings.get("lr") is None:
        last = root.get(SCHEDULER)
        rate = last.get("last_lr") if isinstance(last, Mapping) else None
        if not isinstance(rate, float):
            raise UsageError(
                "the file does not say the learning rate, which torch's state has", "Give it with --lr."
            )
        settings = {**settings, "lr": rate}
    chosen, groups = kept or ((order or (tuple(parameters.shapes),)), ({**DEFAULTS, **settings},))
    if kept is None and len(chosen) != 1:
        groups = tuple(groups[0] for _ in chosen)
    iteration = root.get("it")
    return Momentum(
        buffers,
        chosen,
        groups,
        iteration if type(iteration) is int else None,
        _scheduler(root.get(SCHEDULER)),
    )


def _kept_groups(kept: Any, shapes: Mapping[str, Any]) -> tuple[Order, tuple[Mapping[str, Any], ...]] | None:
    if not isinstance(kept, list):
        return None
    order = tuple(tuple(group["names"]) if isinstance(group, Mapping) and isinstance(group.get("names"), list) else ()
                  for group in kept)  # fmt: skip
    flat = [name for group in order for name in group]
    if (
        not flat
        or len(set(map(str, flat))) != len(flat)
        or any(not isinstance(n, str) or n not in shapes for n in flat)
    ):
        raise CheckpointError("the groups of torch that the file keeps are damaged")
    return order, tuple(
        {k: v for k, v in group.items() if k != "names" and _is_setting(k, v)} for group in kept
    )


def to_torch(momentum: Momentum) -> dict[str, Any]:
    """What `torch.optim.SGD.load_state_dict` takes (and the recipe's iteration as `it`, if it is known)."""
    numbers = {name: i for i, name in enumerate(name for group in momentum.order for name in group)}
    stray = [name for name in momentum.buffers if name not in numbers]
    if stray:
        raise CheckpointError(f"{shown(stray[0])} has a velocity and is in no group of the order")
    state = {
        numbers[name]: {"momentum_buffer": momentum.buffers[name]}
        for name in numbers
        if name in momentum.buffers
    }
    groups = [
        {**settings, "params": [numbers[name] for name in group]}
        for settings, group in zip(momentum.groups, momentum.order, strict=True)
    ]
    root: dict[str, Any] = {"state": state, "param_groups": groups}
    return root | ({} if momentum.iteration is None else {"it": momentum.iteration})
