"""The backward stage on one side: the gradients of the training loss, from the loss back to the input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder, tensors_in
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call
from stdc_parity.align.stages.loss import build_loss

STAGE = "backward"
CALLS = "backward-calls"
ISOLATED = "backward-isolated"


def capture(session: Session, spec: RunSpec) -> Record:
    """Run forward, loss and backward; record gradients in backward order.

    First the loss and its terms, then the gradients of the network's outputs, then for each stage from the
    last back to the first the gradient of its output and those of its parameters, the image's last.
    """
    framework, pair = session.framework, session.pair(spec)
    network, loss = session.network(spec, fresh=True), build_loss(session, spec)
    recorder = Recorder(framework)
    gradients: dict[str, Array] = {}
    stops = []
    for path, module in framework.modules(network):
        if path in pair.stages:
            stops.append(framework.watch(module, _keeper(session, path, gradients)))
    images, labels = session.scenes(spec)
    image = framework.variable(images)
    framework.on_gradient(image, partial(gradients.__setitem__, "image"))
    outputs = call(network, pair, [image])
    for name, output in zip(pair.outputs, outputs, strict=False):
        _keeper(session, name, gradients)((), output)
    total, terms = loss(outputs, framework.to_tensor(labels))
    for stop in stops:
        stop()
    for name, term in {"total": total, **terms}.items():
        recorder.add(f"loss {name}", "loss", "loss", type(loss).__name__, term)
    framework.backward(total)
    parameters = {**framework.parameters(network), **framework.parameters(loss)}
    found = {name: framework.gradient(parameter) for name, parameter in parameters.items()}
    _add_in_order(
        recorder, pair, gradients, {name: array for name, array in found.items() if array is not None}
    )
    return recorder.record(STAGE)


def _keeper(session: Session, name: str, gradients: dict[str, Array]) -> Any:
    """A hook that keeps the gradient of a module's output under `name`."""

    def seen(_inputs: Sequence[Any], result: Any) -> None:
        for suffix, tensor in tensors_in(result, session.framework):
            session.framework.on_gradient(tensor, partial(gradients.__setitem__, name + suffix))

    return seen


def _add_in_order(
    recorder: Recorder, pair: Any, gradients: dict[str, Array], parameters: dict[str, Array]
) -> None:
    for name in reversed(pair.outputs):
        if name in gradients:
            recorder.add_array(f"grad {name}", "gradient", gradients.pop(name))
    for stage in reversed(pair.stages):
        for name in [key for key in gradients if key == stage or key.startswith(f"{stage}[")]:
            recorder.add_array(f"grad {name}", "gradient", gradients.pop(name), stage)
        for name in [key for key in reversed(parameters) if key.startswith(f"{stage}.")]:
            recorder.add_array(f"grad {name}", "gradient", _official(parameters.pop(name), name, recorder, pair),
                               name.rpartition(".")[0])  # fmt: skip
    for name in reversed(list(parameters)):
        recorder.add_array(
            f"grad {name}", "gradient", _official(parameters[name], name, recorder, pair), name
        )
    for name, array in gradients.items():
        recorder.add_array(f"grad {name}", "gradient", array)


def _official(array: Array, name: str, recorder: Recorder, pair: Any) -> Array:
    """The gradient in the official shape: Paddle's Linear weights are transposed."""
    spec = pair.architecture.tensors.get(name)
    linear = spec is not None and spec.kind == "linear" and recorder.framework.SIDE == "paddle"
    return array.T if linear else array


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
    images, labels = session.scenes(spec)
    image, target = framework.variable(images), framework.to_tensor(labels)
    outputs = call(network, pair, [image])
    recorder.add("network input", "input", "network", type(network).__name__, (image,))
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
    framework, pair = session.framework, session.pair(spec)
    network, loss = session.network(spec, fresh=True), build_loss(session, spec)
    modules = dict(framework.modules(network)) | {"network": network, "loss": loss}
    recorder = Recorder(framework)
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
            _replay_one(session, recorder, pair, name, path, modules[path], inputs, gradients)
    return recorder.record(ISOLATED)


def _replay_one(
    session: Session,
    recorder: Recorder,
    pair: Any,
    name: str,
    path: str,
    module: Any,
    inputs: list[Array],
    gradients: dict[str, Array],
) -> None:
    framework = session.framework
    tensors = [framework.variable(array) for array in inputs]
    before = framework.state(module)
    if path == "loss":
        result: Any = module(tensors[:-1], tensors[-1])[0]
    else:
        result = call(module, pair, tensors) if path == "network" else module(*tensors)
    given = [
        (tensor, gradients[suffix]) for suffix, tensor in tensors_in(result, framework) if suffix in gradients
    ]
    if path == "loss":
        given = [(result, np.ones((), inputs[0].dtype))]
    wanted = {f"input[{i}]": tensor for i, tensor in enumerate(tensors) if inputs[i].dtype.kind == "f"}
    wanted |= {key: value for key, value in framework.parameters(module).items() if "." not in key}
    outputs, seeds = [tensor for tensor, _ in given], [framework.to_tensor(array) for _, array in given]
    found = framework.vjp(outputs, list(wanted.values()), seeds)
    for key, array in zip(wanted, found, strict=True):
        if array is not None:
            official = _official(array, f"{path}.{key}", recorder, pair)
            kind = type(module).__name__
            recorder.add_array(f"own grad {name} {key}", "gradient", official, path, kind)
    framework.load(module, before)
