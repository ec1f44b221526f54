"""The forward stage on one side: what the network's modules give, and what each gives by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stdc_parity.align.framework import Framework, Network
from stdc_parity.align.inputs import arrange
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder, arguments_of, inputs_of
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec

STAGE = "forward"
CALLS = "forward-calls"
ISOLATED = "forward-isolated"


def call(network: Network, pair: Pair, inputs: Sequence[Any]) -> Any:
    """One forward pass as the pair defines it, of the inputs in the order in which it draws them."""
    positional, named = arrange(pair.places, inputs)
    method = network if pair.method == "forward" else getattr(network, pair.method)
    return method(*positional, **named)


def outputs_of(result: Any) -> list[Any]:
    """What a network returned, as a list."""
    return list(result) if isinstance(result, list | tuple) else [result]


def named_outputs(pair: Pair, result: Any) -> list[tuple[str, Any]]:
    """What a network returned by the pair's names for it; as "output" if the pair has none, whatever its nesting."""
    if not pair.outputs:
        return [("output", result)]
    known = [*pair.outputs, *(f"output{i}" for i in range(len(pair.outputs), len(outputs_of(result))))]
    return list(zip(known, outputs_of(result), strict=False))


def capture(session: Session, spec: RunSpec) -> Record:
    """Run one forward pass and record the taps that `spec.taps` asks for, and in train mode the statistics."""
    framework, network, pair = session.framework, session.network(spec), session.pair(spec)
    recorder = Recorder(framework)
    if spec.mode == "train":
        for name, array in framework.buffers(network).items():
            recorder.add_array(f"{name} before", "input", array, name.rpartition(".")[0])
    watched = tapped_modules(framework, network, pair, spec.taps)
    stops = [_watch(framework, module, path, recorder, inputs=False) for path, module in watched]
    with framework.no_grad():
        result = call(network, pair, [framework.to_tensor(array) for array in session.inputs(spec)])
    for stop in stops:
        stop()
    _add_outputs(recorder, network, pair, result)
    if spec.mode == "train":
        _add_statistics(recorder, framework, network)
    return recorder.record(STAGE)


def capture_calls(session: Session, spec: RunSpec) -> Record:
    """Run one forward pass and record every module's inputs and outputs, for the other side to replay."""
    framework, network, pair = session.framework, session.network(spec), session.pair(spec)
    recorder = Recorder(framework)
    watched = tapped_modules(framework, network, pair, "modules")
    stops = [_watch(framework, module, path, recorder, inputs=True) for path, module in watched]
    with framework.no_grad():
        inputs = [framework.to_tensor(array) for array in session.inputs(spec)]
        recorder.add(" input", "input", "", type(network).__name__, inputs)
        result = call(network, pair, inputs)
    for stop in stops:
        stop()
    _add_outputs(recorder, network, pair, result)
    if network.training:
        called = {tap.path for tap in recorder.taps}
        for path, module in watched:
            if path in called:
                _add_own_statistics(recorder, framework, module, path, path)
                _add_inner_statistics(recorder, framework, module, path, path)
                _add_dropout(recorder, framework, module, path, path)
    return recorder.record(CALLS)


def replay(session: Session, spec: RunSpec, reference: Record) -> Record:
    """Feed each module of this side the inputs that the reference side's module had, and record what it gives.

    What differs then is the module's own doing, not inherited. Modules that the reference does not have by
    that path are left out. Running statistics are put back after every module.
    """
    modules = dict(session.framework.modules(session.network(spec)))
    return replay_modules(session, spec, modules, reference)


def replay_modules(session: Session, spec: RunSpec, modules: Mapping[str, Any], reference: Record) -> Record:
    """`replay` with given modules by their paths, the network itself being ""."""
    framework, pair = session.framework, session.pair(spec)
    recorder = Recorder(framework)
    for name, (path, arrays) in inputs_of(reference).items():
        module = modules.get(path)
        if module is None:
            continue
        inputs = {suffix: framework.to_tensor(array) for suffix, array in arrays.items()}
        before = framework.state(module) if module.training else {}
        if before:
            _add_statistics_before(recorder, framework, module, path, name)
        try:
            with framework.no_grad():
                if path:
                    positional, named = arguments_of(reference, name, inputs)
                    result = module(*positional, **named)
                else:
                    result = call(module, pair, list(inputs.values()))
        except Exception:
            if spec.own is None:
                raise
            continue  # a module that takes other arguments than the reference's is not looked at alone
        if path:
            recorder.add(name, "module", path, type(module).__name__, result)
        else:
            _add_outputs(recorder, module, pair, result)
        if before:
            _add_own_statistics(recorder, framework, module, path, name)
            _add_inner_statistics(recorder, framework, module, path, name)
            framework.load(module, before)
        if spec.mode == "train":
            _add_dropout(recorder, framework, module, path, name)
    return recorder.record(ISOLATED)


def output_name(pair: Pair, number: int) -> str:
    """The name of what the network returns at a place."""
    return pair.outputs[number] if number < len(pair.outputs) else f"output{number}"


def tapped_modules(framework: Framework, network: Network, pair: Pair, level: str) -> list[tuple[str, Any]]:
    """The modules to tap: none, the pair's stages, or all below the network itself."""
    wanted = {"outputs": (), "stages": pair.stages}.get(level)
    modules = [(path, module) for path, module in framework.modules(network) if path]
    if wanted is None:
        return modules
    return [(path, module) for path, module in modules if path in wanted]


def _watch(framework: Framework, module: Any, path: str, recorder: Recorder, *, inputs: bool) -> Any:
    kind = type(module).__name__

    def seen(given: Any, result: Any) -> None:
        name = recorder.call_name(path)
        if inputs:
            recorder.add_inputs(name, path, kind, given)
        recorder.add(name, "module", path, kind, result, share=inputs)

    return framework.watch(module, seen)


def _add_outputs(recorder: Recorder, network: Network, pair: Pair, result: Any) -> None:
    for name, value in named_outputs(pair, result):
        recorder.add(name, "output", "", type(network).__name__, value)


def _add_statistics(recorder: Recorder, framework: Framework, network: Network) -> None:
    """Record every norm's running statistics, as the pass left them, and what each dropout does."""
    for path, module in framework.modules(network):
        _add_own_statistics(recorder, framework, module, path, path)
        _add_dropout(recorder, framework, module, path, path)


def _add_own_statistics(
    recorder: Recorder, framework: Framework, module: Any, path: str, call_name: str
) -> None:
    """Record the running statistics that belong to `module` itself, not to its children."""
    for name, array in framework.buffers(module).items():
        if "." not in name:
            recorder.add_array(f"{call_name}.{name}", "buffer", array, path, type(module).__name__)


def _add_statistics_before(
    recorder: Recorder, framework: Framework, module: Any, path: str, call_name: str
) -> None:
    """Record what the module's own running statistics are before a call."""
    for name, array in framework.buffers(module).items():
        if "." not in name:
            recorder.add_array(f"{call_name}.{name} before", "input", array, path)


def _add_inner_statistics(
    recorder: Recorder, framework: Framework, module: Any, path: str, call_name: str
) -> None:
    """Record the running statistics within `module`: one that runs a norm twice is to blame, not the norm."""
    for name, array in framework.buffers(module).items():
        if "." in name:
            recorder.add_array(f"{call_name} leaves {name}", "buffer", array, path, type(module).__name__)


def _add_dropout(recorder: Recorder, framework: Framework, module: Any, path: str, call_name: str) -> None:
    """Record what a dropout does whatever it draws: the scale of what it keeps, and whether channels go as one."""
    result = framework.dropped(module, np.ones((1, 64, 8, 8), np.float32))
    if result is not None:
        whole = (result.min((2, 3)) == result.max((2, 3))).all()
        kind = type(module).__name__
        recorder.add_array(f"{call_name}.kept scale", "buffer", result.max().round(5), path, kind)
        recorder.add_array(f"{call_name}.whole channels", "buffer", np.array(whole, np.float32), path, kind)
