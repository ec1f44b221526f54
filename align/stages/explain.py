"""One module on one side, run on what the reference's had: its calls traced, and with changes tried on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stdc_parity.align.framework import Array, Framework
from stdc_parity.align.record import Record, Tap
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages import backward, forward, loss, metric
from stdc_parity.align.tracing import MODE, Edit, Trace, Tracer, plain
from stdc_parity.converters.errors import UsageError

STATE = "state "
"""What the names of a module's own tensors start with in a record of `explain`."""

METRIC = "logits"
"""The tap of what a metric's function gives: pairs know what their logits may differ by."""

VALUE = "value "
"""What the names of a trace's values start with in a record."""

Replay = Callable[[Session, RunSpec, Mapping[str, Any], Record], Record]
Of = Callable[[Session, RunSpec], Mapping[str, Any]]


def _forward_modules(session: Session, spec: RunSpec) -> Mapping[str, Any]:
    return dict(session.framework.modules(session.network(spec)))


STAGES: Mapping[str, tuple[Of, Replay]] = {
    "forward": (_forward_modules, forward.replay_modules),
    "backward": (backward.modules_of, backward.replay_modules),
}


def explain(
    session: Session,
    spec: RunSpec,
    stage: str,
    calls: Record,
    call: str,
    edits: Sequence[Edit] = (),
    reference: Record | None = None,
) -> Record:
    """What the module gives that the reference's `calls` call `call`, with `edits` made to it, and its trace.

    `reference` is the record of the reference's trace, whose values edits may use.
    """
    framework = session.framework
    modules, replay = STAGES[stage]
    taps = [tap for tap in calls.taps if _of(tap.name, call)]
    path = taps[0].path
    module = modules(session, spec)[path]
    inner = [_change(framework, module, edit) for edit in edits if edit.do in ("attribute", "gradient")]
    tracer = Tracer(framework, module, edits, _values(reference) if reference is not None else None)
    before = framework.attributes(module)
    method = session.pair(spec).method
    if path in ("", "network") and method != "forward":
        inner.append(_through(tracer, module, method))
    try:
        with framework.traced(tracer):
            record = replay(session, spec, {path: module}, replace(calls, taps=taps))
    finally:
        for undo in inner:
            undo()
    if edits:
        return record  # of a trial only what it gives is asked
    frozen = [name for name, tensor in framework.tensors(module).items() if not framework.learns(tensor)]
    attributes = {name: plain(value) for name, value in before.items()} | {"frozen": sorted(frozen)}
    ends = (tracer.inputs, tracer.outputs)
    trace = Trace(tracer.calls, tracer.values, tracer.parameters, *ends, type(module).__name__, attributes)
    return _with_state(_with_trace(record, trace, path), framework.state(module), path)


def _with_state(record: Record, state: Mapping[str, Array], path: str) -> Record:
    named = {f"{STATE}{name}": array for name, array in state.items()}
    taps = [*record.taps, *(Tap(name, "input", path, "") for name in named)]
    return replace(record, taps=taps, arrays={**record.arrays, **named})


def explain_loss(
    session: Session, spec: RunSpec, edits: Sequence[Edit] = (), reference: Record | None = None
) -> Record:
    """The loss stage of a side, with `edits`, and the trace of all that it calls."""
    tracer = Tracer(session.framework, None, edits, _values(reference) if reference is not None else None)
    with session.framework.traced(tracer):
        record = loss.capture(session, spec)
    return record if edits else _with_trace(record, Trace(tracer.calls, tracer.values, {}), "loss")


def explain_metric(
    session: Session, spec: RunSpec, name: str, edits: Sequence[Edit] = (), reference: Record | None = None
) -> Record:
    """What a function of the metrics gives for the first scene, with `edits`, and the trace of all that it calls."""
    network, run = metric.run_one(session, spec, name)
    values = _values(reference) if reference is not None else None
    tracer = Tracer(session.framework, None, edits, values, network=network)
    network.seen = tracer.module
    network.fixed = next((str(edit.settings[MODE]) for edit in edits if MODE in edit.settings), "")
    recorder = Recorder(session.framework)
    with session.framework.traced(tracer):
        result = run()
    recorder.add_array(METRIC, "output", result, f"metrics.{name}")
    record = recorder.record("metric")
    attributes = {MODE: "train" if "train" in network.modes else "eval"}
    trace = Trace(tracer.calls, tracer.values, {}, attributes=attributes)
    return record if edits else _with_trace(record, trace, "metrics")


def _with_trace(record: Record, trace: Trace, path: str) -> Record:
    values = {f"{VALUE}{number}": array for number, array in trace.values.items()}
    return replace(
        record,
        taps=[*record.taps, *(Tap(name, "input", path, "") for name in values)],
        arrays={**record.arrays, **values},
        facts={"trace": trace.to_json()},
    )


def trace_of(record: Record) -> Trace:
    """The trace in a record of `explain`."""
    facts: Any = record.facts["trace"]
    return Trace.from_json(facts, _values(record))


def _values(record: Record) -> dict[int, Array]:
    named = record.arrays.items()
    return {int(name.removeprefix(VALUE)): array for name, array in named if name.startswith(VALUE)}


def _of(tap: str, call: str) -> bool:
    """Whether a tap of the calls' record is about the call: "conv input", "conv input[0]", "conv gradient[1]"."""
    name, found, _ = tap.rpartition(" input")
    if not found:
        name, found, _ = tap.rpartition(" gradient")
    return bool(found) and name == call


def _through(tracer: Tracer, module: Any, method: str) -> Callable[[], None]:
    """Let the tracer see calls of a method that is the module's forward; returns what undoes it."""
    kept = getattr(module, method)
    own = method in vars(module)
    setattr(module, method, lambda *args: tracer.whole(kept, args))
    return lambda: setattr(module, method, kept) if own else delattr(module, method)


def _change(framework: Framework, module: Any, edit: Edit) -> Callable[[], None]:
    """Change the module itself; returns what undoes it."""
    if edit.do == "gradient":
        framework.thaw(module, [edit.name])
        return lambda: None
    settings = edit.settings
    kept = {name: getattr(module, name) for name in settings}
    for name, value in settings.items():
        if not hasattr(module, name):
            raise UsageError(f"{type(module).__name__} has no {name}")
        setattr(module, name, value)

    def undo() -> None:
        for name, value in kept.items():
            setattr(module, name, value)

    return undo
