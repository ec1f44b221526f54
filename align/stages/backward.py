"""The backward stage on one side: the gradients of the training loss, from the loss back to the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Names
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder, tensors_in
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call, outputs_of
from stdc_parity.align.stages.loss import Projection, build_loss, loss_parameters
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
    for path, module in framework.modules(network):
        if path in pair.stages:
            stops.append(framework.watch(module, _keeper(session, path, gradients)))
    arrays, target = session.training_case(spec)
    inputs = [framework.variable(array) for array in arrays]
    for number, tensor in enumerate(inputs):
        _keeper(session, f"input{number or ''}", gradients)((), tensor)
    outputs = outputs_of(call(network, pair, [tensor.clone() for tensor in inputs]))
    for name, output in zip(pair.outputs, outputs, strict=False):
        _keeper(session, name, gradients)((), output)
    total, terms = loss(outputs, framework.to_tensor(target))
    for stop in stops:
        stop()
    # A projection is no part of the pair: its signed sums may cancel, and then are nothing but rounding.
    judged = {} if isinstance(loss, Projection) else {"total": total, **terms}
    for name, term in judged.items():
        recorder.add(f"loss {name}", "loss", "loss", type(loss).__name__, term)
    framework.backward(total)
    parameters = {**framework.parameters(network), **loss_parameters(framework, loss)}
    found = {name: framework.gradient(parameter) for name, parameter in parameters.items()}
    names = framework.official_names(network)
    present = {
        names[name][0] if name in names else name: to_official(framework.SIDE, names, name, a)
        for name, a in found.items()
        if a is not None
    }
    _add_in_order(recorder, pair, gradients, present)
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
    recorder: Recorder, pair: Pair, gradients: dict[str, Array], parameters: dict[str, Array]
) -> None:
    for name in reversed(pair.outputs):
        if name in gradients:
            recorder.add_array(f"grad {name}", "gradient", gradients.pop(name))
    for stage in reversed(pair.stages):
        for name in [key for key in gradients if key == stage or key.startswith(f"{stage}[")]:
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
        def seen(inputs: Sequence[Any], result: Any) -> None:
            name = recorder.call_name(path)
            recorder.add(f"{name} input", "input", path, type(module).__name__, tuple(inputs), share=True)
            gradients: dict[str, Array] = {}
            _keeper(session, "", gradients)((), result)
            pending.append((name, path, gradients))

        stops.append(framework.watch(module, seen))

    for path, module in framework.modules(network):
        if path:
            watch(path, module)
    arrays, labels = session.training_case(spec)
    inputs, target = [framework.variable(array) for array in arrays], framework.to_tensor(labels)
    outputs = outputs_of(call(network, pair, [tensor.clone() for tensor in inputs]))
    recorder.add("network input", "input", "network", type(network).__name__, inputs)
    gradients: dict[str, Array] = {}
    _keeper(session, "", gradients)((), outputs)
    pending.append(("network", "network", gradients))
    recorder.add("loss input", "input", "loss", type(loss).__name__, (*outputs, target))
    for stop in stops:
        stop()
    total, _ = loss(outputs, target)
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
    calls: dict[str, tuple[str, list[Array], dict[str, Array]]] = {}
    for tap in reference.taps:
        for what in (" input", " gradient"):
            name, found, suffix = tap.name.rpartition(what)
            if found:
                _, inputs, gradients = calls.setdefault(name, (tap.path, [], {}))
                if what == " input":
                    inputs.append(reference.arrays[tap.name])
                else:
                    gradients[suffix] = reference.arrays[tap.name]
    for name, (path, inputs, gradients) in reversed(calls.items()):
        if path in modules and (gradients or path == "loss"):
            own = _own_gradients(session, pair, path, modules[path], inputs, gradients)
            for key, array in own.items():
                kind = type(modules[path]).__name__
                recorder.add_array(f"own grad {name} {key}", "gradient", array, path, kind)
    return recorder.record(ISOLATED)


def _own_gradients(
    session: Session, pair: Pair, path: str, module: Any, inputs: list[Array], gradients: dict[str, Array]
) -> dict[str, Array]:
    """The gradients of a module's inputs and own parameters, for given inputs and gradients of its outputs."""
    framework = session.framework
    tensors = [framework.variable(array) for array in inputs]
    before = framework.state(module)
    if path == "loss":
        result = module(tensors[:-1], tensors[-1])[0]
        given = [(result, np.ones((), inputs[0].dtype))]
    else:
        copies = [tensor.clone() for tensor in tensors]  # a leaf cannot be changed in place
        result = call(module, pair, copies) if path == "network" else module(*copies)
        found = tensors_in(outputs_of(result) if path == "network" else result, framework)
        given = [(tensor, gradients[suffix]) for suffix, tensor in found if suffix in gradients]
    own = {key: value for key, value in framework.parameters(module).items() if "." not in key}
    wanted = {f"input[{i}]": tensor for i, tensor in enumerate(tensors) if inputs[i].dtype.kind == "f"} | own
    if not wanted or not given:
        return {}
    seeds = [framework.to_tensor(array) for _, array in given]
    arrays = framework.vjp([tensor for tensor, _ in given], list(wanted.values()), seeds)
    framework.load(module, before)
    names = framework.official_names(module)
    return {
        names[key][0] if key in names else key: to_official(framework.SIDE, names, key, array)
        for key, array in zip(wanted, arrays, strict=True)
        if array is not None
    }
