"""The backward stage on one side: the gradients of the training loss, from the loss back to the input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Names
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder, arguments_of, inputs_of, tensors_in
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call, named_outputs
from stdc_parity.align.stages.loss import (
    PlainLoss,
    Projection,
    build_loss,
    for_loss,
    kind_of_loss,
    loss_parameters,
    to_tensors,
)
from stdc_parity.converters.architecture import Side, is_transposed

STAGE = "backward"
CALLS = "backward-calls"
ISOLATED = "backward-isolated"


def capture(session: Session, spec: RunSpec) -> Record:
    """Run forward, loss and backward; record gradients in backward order.

    First the loss and its terms, then the gradients of the network's outputs, then for each stage from the
    last back to the first the gradient of its output and those of its parameters, the inputs' last.
    """
    framework, pair = session.framework, session.pair(spec)
    network, loss = session.network(spec, fresh=True), build_loss(session, spec)
    recorder = Recorder(framework)
    gradients: dict[str, Array] = {}
    stops = []

    def watch(path: str, module: Any) -> None:
        def seen(inputs: Sequence[Any], result: Any) -> None:
            _keeper(session, recorder.call_name(path), gradients)(inputs, result)

        stops.append(framework.watch(module, seen))

    for path, module in framework.modules(network):
        if path in pair.stages:
            watch(path, module)
    arrays, target = session.training_case(spec)
    inputs = [framework.variable(array) for array in arrays]
    for number, tensor in enumerate(inputs):
        _keeper(session, f"input{number or ''}", gradients)((), tensor)
    result = call(network, pair, [tensor.clone() for tensor in inputs])
    for name, output in named_outputs(pair, result):
        _keeper(session, name, gradients)((), output)
    total, terms = loss(for_loss(result), to_tensors(framework, target))
    for stop in stops:
        stop()
    # A projection is no part of the pair: its signed sums may cancel, and then are nothing but rounding.
    judged = {} if isinstance(loss, Projection) else {"total": total, **terms}
    for name, term in judged.items():
        recorder.add(f"loss {name}", "loss", "loss", kind_of_loss(loss), term)
    if framework.learns(total):
        framework.backward(total)
    parameters = {**framework.parameters(network), **loss_parameters(framework, loss)}
    found = {name: framework.gradient(parameter) for name, parameter in parameters.items()}
    names = framework.official_names(network)
    split, hidden = session.apart({name: array for name, array in found.items() if array is not None})
    found = {name: array for name, array in found.items() if name not in hidden}
    present = split | {
        names[name][0] if name in names else name: to_official(framework.SIDE, names, name, a)
        for name, a in found.items()
        if a is not None
    }
    names_of_outputs = pair.outputs or [name for name in gradients if name.partition("[")[0] == "output"]
    _add_in_order(recorder, pair, names_of_outputs, gradients, present)
    return recorder.record(STAGE)


def to_official(side: Side, names: Names, name: str, array: Array) -> Array:
    """An array that is shaped like `side`'s parameter of that name, in the official shape (its own inverse).

    `names` are `Framework.official_names` of the network.
    """
    return array.T if name in names and is_transposed(side, names[name][1]) else array


def _keeper(session: Session, name: str, gradients: dict[str, Array]) -> Any:
    """A hook that keeps the gradient of a module's output under `name`."""

    def seen(_inputs: Sequence[Any], result: Any) -> None:
        for suffix, tensor in tensors_in(result, session.framework):
            session.framework.on_gradient(tensor, partial(gradients.__setitem__, name + suffix))

    return seen


def _add_in_order(
    recorder: Recorder,
    pair: Pair,
    outputs: Sequence[str],
    gradients: dict[str, Array],
    parameters: dict[str, Array],
) -> None:
    for name in reversed(outputs):
        if name in gradients:
            recorder.add_array(f"grad {name}", "gradient", gradients.pop(name))
    for stage in reversed(pair.stages):
        own = [key for key in gradients if re.split(r"[#\[]", key)[0] == stage]
        for name in sorted(own, reverse=True):  # later calls first
            recorder.add_array(f"grad {name}", "gradient", gradients.pop(name), stage)
        for name in [key for key in reversed(parameters) if key.startswith(f"{stage}.")]:
            recorder.add_array(f"grad {name}", "gradient", parameters.pop(name), name.rpartition(".")[0])
    for name in reversed(parameters):
        recorder.add_array(f"grad {name}", "gradient", parameters[name], name.rpartition(".")[0])
    for name, array in gradients.items():
        recorder.add_array(f"grad {name}", "gradient", array)


def capture_calls(session: Session, spec: RunSpec) -> Record:
    """Run forward, loss and backward; record every module's inputs and the gradients of its outputs."""
    framework, pair = session.framework, session.pair(spec)
    network, loss = session.network(spec, fresh=True), build_loss(session, spec)
    recorder = Recorder(framework)
    pending: list[tuple[str, str, dict[str, Array]]] = []
    stops = []

    def watch(path: str, module: Any) -> None:
        def seen(inputs: Any, result: Any) -> None:
            name = recorder.call_name(path)
            recorder.add_inputs(name, path, type(module).__name__, inputs)
            gradients: dict[str, Array] = {}
            _keeper(session, "", gradients)((), result)
            pending.append((name, path, gradients))

        stops.append(framework.watch(module, seen))

    for path, module in framework.modules(network):
        if path:
            watch(path, module)
    arrays, labels = session.training_case(spec)
    inputs, target = [framework.variable(array) for array in arrays], to_tensors(framework, labels)
    result = call(network, pair, [tensor.clone() for tensor in inputs])
    outputs = [tensor for _, tensor in tensors_in(result, framework)]
    recorder.add("network input", "input", "network", type(network).__name__, inputs)
    gradients: dict[str, Array] = {}
    _keeper(session, "", gradients)((), outputs)
    pending.append(("network", "network", gradients))
    recorder.add_inputs("loss", "loss", kind_of_loss(loss), {"outputs": for_loss(result), "target": target})
    for stop in stops:
        stop()
    total, _ = loss(for_loss(result), target)
    if framework.learns(total):
        framework.backward(total)
    for name, path, kept in pending:
        for suffix, array in kept.items():
            recorder.add_array(f"{name} gradient{suffix}", "input", array, path)
    return recorder.record(CALLS)


def replay(session: Session, spec: RunSpec, reference: Record) -> Record:
    """Run each module of this side backward on the reference's inputs and output gradients.

    Records the gradients of the module's inputs and parameters, from the loss back. Both sides do this on
    the same reference, so what differs is a module's own doing.
    """
    return replay_modules(session, spec, modules_of(session, spec), reference)


def modules_of(session: Session, spec: RunSpec) -> dict[str, Any]:
    """The modules that `replay` runs, by their paths: those of the network, itself and the loss."""
    network, loss = session.network(spec, fresh=True), build_loss(session, spec)
    modules = dict(session.framework.modules(network)) | {"network": network}
    return modules if isinstance(loss, Projection) else modules | {"loss": loss}


def replay_modules(session: Session, spec: RunSpec, modules: Mapping[str, Any], reference: Record) -> Record:
    """`replay` with given modules by their paths."""
    pair = session.pair(spec)
    recorder = Recorder(session.framework)
    calls = inputs_of(reference)
    given: dict[str, dict[str, Array]] = {}
    for tap in reference.taps:
        name, found, suffix = tap.name.rpartition(" gradient")
        if found:
            calls.setdefault(name, (tap.path, {}))
            given.setdefault(name, {})[suffix] = reference.arrays[tap.name]
    for name, (path, inputs) in reversed(calls.items()):
        gradients = given.get(name, {})
        if path in modules and (gradients or path == "loss"):
            try:
                own = _own_gradients(session, pair, (path, modules[path]), (reference, name, inputs), gradients)
            except Exception:
                if spec.own is None:
                    raise
                continue  # as in the forward stage
            for key, array in own.items():
                kind = type(modules[path]).__name__
                recorder.add_array(f"own grad {name} {key}", "gradient", array, path, kind)
    return recorder.record(ISOLATED)


def _own_gradients(
    session: Session,
    pair: Pair,
    of: tuple[str, Any],
    called: tuple[Record, str, dict[str, Array]],
    gradients: dict[str, Array],
) -> dict[str, Array]:
    """The gradients of a module's inputs and own parameters, for given gradients of its outputs.

    `of` is the module with its path, `called` the record of calls, this one's name and inputs by their places.
    """
    framework, (path, loss), (reference, name, inputs) = session.framework, of, called
    module = loss.loss if isinstance(loss, PlainLoss) else loss
    is_network = framework.is_network(module)
    tensors = {suffix: framework.variable(array) for suffix, array in inputs.items()}
    before = framework.state(module) if is_network else {}
    if path == "loss":
        _, both = arguments_of(reference, name, tensors)
        result = loss(both["outputs"], both["target"])[0]
        given = [(result, np.ones((), framework.to_array(result).dtype))]
    else:
        copies = {suffix: tensor.clone() for suffix, tensor in tensors.items()}  # a leaf cannot be changed in place
        if path == "network":
            result = [tensor for _, tensor in tensors_in(call(module, pair, list(copies.values())), framework)]
        else:
            positional, named = arguments_of(reference, name, copies)
            result = module(*positional, **named)
        found = tensors_in(result, framework)
        given = [(tensor, gradients[suffix]) for suffix, tensor in found if suffix in gradients]
    own = {key: value for key, value in framework.parameters(module).items() if "." not in key} if is_network else {}
    floating = [(i, suffix) for i, suffix in enumerate(tensors) if inputs[suffix].dtype.kind == "f"]
    wanted = {f"input[{i}]": tensors[suffix] for i, suffix in floating} | own
    if not wanted or not given:
        return {}
    seeds = [framework.to_tensor(array) for _, array in given]
    arrays = framework.vjp([tensor for tensor, _ in given], list(wanted.values()), seeds)
    if is_network:
        framework.load(module, before)
    names = framework.official_names(module) if is_network else {}
    return {
        names[key][0] if key in names else key: to_official(framework.SIDE, names, key, array)
        for key, array in zip(wanted, arrays, strict=True)
        if array is not None
    }
