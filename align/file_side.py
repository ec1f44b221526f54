"""A side that runs a file, an ONNX graph or what a framework deploys: what it gives, as records like the others'."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stdc_parity.align import capture_onnx
from stdc_parity.align.export.graph import open_graph
from stdc_parity.align.export.job import LABELS
from stdc_parity.align.framework import Array, load_framework
from stdc_parity.align.infer.predict_graph import graph_size, predict_graph, start_once
from stdc_parity.align.load import draw_inputs, in_dtype, resolve, side_weights
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record, Tap, hash_arrays, save_record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.sides import FILE_SIDES
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.align.stages import forward, weights
from stdc_parity.align.timing import time_calls
from stdc_parity.converters.errors import UsageError, shown

if TYPE_CHECKING:
    import onnx

DEPLOYED: Mapping[Side, Literal["torch", "paddle"]] = {
    "torchscript": "torch",
    "torch-export": "torch",
    "paddle-inference": "paddle",
}
"""The framework that runs a file that is no ONNX graph."""


@dataclass(frozen=True)
class FileSession:
    """Which side it is, the threads that it may use."""

    side: Side
    threads: int
    started: dict[str, Any] = field(default_factory=dict)
    """ONNX Runtime with a graph in it, by the file of that: what predictions run again and again."""


def open_session(side: str, threads: int) -> FileSession:
    """The session of the side called `side`. Raises ImportError if what it runs files with is not installed."""
    session = FileSession(next(each for each in FILE_SIDES if each == side), threads)
    if session.side in DEPLOYED:
        load_framework(DEPLOYED[session.side]).configure(threads)
    return session


def do(session: FileSession, job: Mapping[str, Any]) -> dict[str, Any]:
    """Do one job and write its record under the job's run folder; the job's `graph` is the file to run."""
    if job["do"] == "facts":
        return {"facts": _facts(session)}
    if job["do"] == "predict":
        return predict_graph(session, job)
    if job["do"] == "graph-size":
        return graph_size(session, job)
    spec, file = RunSpec.from_json(job["spec"]), Path(job["graph"])
    pair, _ = resolve(spec)
    inputs = draw_inputs(pair, spec)
    if job["do"] == "time":
        run = _loaded(session, file)
        return {"calls": time_calls(lambda: run(inputs), job["count"], job["warmup"])}
    start = time.perf_counter()
    if session.side in DEPLOYED:
        record = _deployed(session, spec, pair, file, inputs)
    else:
        capture = {forward.STAGE: _forward, weights.STAGE: _weights}[job["do"]]
        record = capture(session, spec, pair, open_graph(file), inputs)
    seconds = time.perf_counter() - start
    official = {} if pair.architecture is None else side_weights("torch", spec)[1]
    facts = {
        **_facts(session),
        "graph": spec.graph or f"exported from {job['exporter']}",
        "spec": spec.to_json(),
        "weights_sha256": hash_arrays(official) if official else f"seed {spec.seed}",
        "input_sha256": hash_arrays({f"input {i}": array for i, array in enumerate(inputs)}),
    }
    if spec.graph:
        facts["graph_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    save_record(Record(session.side, job["as"], record.taps, record.arrays, facts), Path(job["run"]))
    return {"seconds": seconds, "facts": facts}


def _facts(session: FileSession) -> dict[str, object]:
    if session.side in DEPLOYED:
        own = load_framework(DEPLOYED[session.side]).facts()
        return {**own, session.side: own[DEPLOYED[session.side]]}
    return {
        session.side: capture_onnx.facts()["onnxruntime"],
        "threads": session.threads,
        "deterministic": True,
        "optimised": session.side == "onnx",
    }


def _forward(
    session: FileSession, spec: RunSpec, pair: Pair, model: onnx.ModelProto, inputs: Sequence[Array]
) -> Record:
    """Run the graph, and record its outputs and what it calls by the name of one of the network's stages."""
    outputs = _outputs(model, pair)
    wanted = () if spec.taps == "outputs" else pair.stages
    made = {value: node.op_type for node in model.graph.node for value in node.output}
    given = [value.name for value in model.graph.output]
    inner = [value for value in made if value not in given and _stage_of(value, wanted)]
    for value in inner:
        model.graph.output.add().name = value
    _check_inputs(model, inputs, spec)
    model = model if spec.dtype == "float32" else _widened(session, model, inputs)
    found = _run(session, model, inputs)
    taps, arrays = [], {}
    for value in [*inner, *given]:
        name = outputs.get(value, value)
        stage = "" if value in outputs else _stage_of(value, pair.stages) or name
        taps.append(Tap(name, "output" if value in outputs else "module", stage, made.get(value, "")))
        arrays[name] = np.asarray(found[value])
        Recorder.seen(name)
    return Record(session.side, forward.STAGE, taps, arrays)


def _run(session: FileSession, model: onnx.ModelProto, inputs: Sequence[Array]) -> dict[str, Array]:
    """What the graph gives. Raises UsageError for inputs that it does not take, and for what has no kernel."""
    try:
        return capture_onnx.run_graph(model, inputs, optimised=session.side == "onnx", threads=session.threads)
    except ValueError as error:
        raise UsageError(f"the {session.side} side refuses the input: {shown(error, 500)}") from None
    except NotImplementedError as error:
        raise UsageError(f"ONNX Runtime cannot run the graph: {shown(error, 500)}") from None


def _widened(session: FileSession, model: onnx.ModelProto, inputs: Sequence[Array]) -> onnx.ModelProto:
    """The graph in float64, for inputs of these sizes. Raises UsageError for what cannot be run in it."""
    import onnx

    from stdc_parity.align.export.widen import sized_values, widen

    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    given = {value.name for value in sized.graph.output}
    for name in sized_values(model):
        if name not in given:
            sized.graph.output.add().name = name
    found = _run(session, sized, [in_dtype(array, "float32") for array in inputs])
    names = [value.name for value in model.graph.input]
    shapes = {name: array.shape for name, array in found.items()}
    return widen(model, {**shapes, **{name: array.shape for name, array in zip(names, inputs, strict=False)}})


def _loaded(session: FileSession, file: Path) -> Callable[[Sequence[Array]], Any]:
    """What computes a file's outputs from its inputs, ready to be called again and again."""
    if session.side in DEPLOYED:
        exporter = importlib.import_module(f"stdc_parity.models_{DEPLOYED[session.side]}.export")
        loaded: Callable[[Sequence[Array]], Any] = exporter.LOADERS[session.side](str(file))
        return loaded
    started = start_once(session, str(file))
    return lambda inputs: capture_onnx.run_started(started, inputs)


def _deployed(
    session: FileSession, spec: RunSpec, pair: Pair, file: Path, inputs: Sequence[Array]
) -> Record:
    """Run what a framework deploys, and record its outputs."""
    if spec.dtype == "float64":
        raise UsageError(f"{session.side} holds float32 weights")
    found = _loaded(session, file)(inputs)
    names = [forward.output_name(pair, i) for i in range(len(found))]
    if len(found) == 1 and found[0].dtype.kind == "i":
        names = [LABELS]
    taps = [Tap(name, "output", "", "") for name in names]
    return Record(session.side, forward.STAGE, taps, dict(zip(names, found, strict=True)))


def _weights(
    session: FileSession, spec: RunSpec, pair: Pair, model: onnx.ModelProto, inputs: Sequence[Array]
) -> Record:
    """Record the initialisers that the graph holds, but the counters of batches, by their names."""
    from onnx import numpy_helper

    taps, arrays = [], {}
    for tensor in model.graph.initializer:
        if "." in tensor.name and "/" not in tensor.name and not tensor.name.endswith("num_batches_tracked"):
            taps.append(Tap(tensor.name, "tensor", tensor.name.rpartition(".")[0], ""))
            arrays[tensor.name] = numpy_helper.to_array(tensor)
    return Record(session.side, weights.STAGE, taps, arrays)


def _outputs(model: onnx.ModelProto, pair: Pair) -> dict[str, str]:
    """What the graph's outputs are called by the pair: by their names, or by their places if no name is known.

    Those that are called as a stage are none. Raises UsageError if they are not the network's.
    """
    names = [value.name for value in model.graph.output if not _stage_of(value.name, pair.stages)]
    if names == [LABELS]:
        return {LABELS: LABELS}
    if any(name.partition("[")[0] in pair.outputs for name in names):
        return {name: name for name in names}
    if len(names) == len(pair.outputs):
        return dict(zip(names, pair.outputs, strict=True))
    raise UsageError(
        f"the graph gives {', '.join(shown(name) for name in names[:8]) or 'nothing'}, "
        f"{pair.name} gives {', '.join(pair.outputs)}",
        "Name its outputs as the pair's, or say --pair.",
    )


def _stage_of(value: str, stages: Sequence[str]) -> str:
    """The stage that a value is a tap of: `cp.arm32`, `cp.arm32#2`, `cp.arm32[0]`; "" for none."""
    plain = value.partition("[")[0].partition("#")[0]
    return plain if plain in stages else ""


def _check_inputs(model: onnx.ModelProto, inputs: Sequence[Array], spec: RunSpec) -> None:
    """Raise UsageError if the graph cannot take the run's inputs."""
    initialisers = {tensor.name for tensor in model.graph.initializer}
    taken = [value for value in model.graph.input if value.name not in initialisers]
    if len(taken) != len(inputs):
        raise UsageError(f"the graph has {len(taken)} inputs, {spec.pair} has {len(inputs)}")
    for value, array in zip(taken, inputs, strict=True):
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        if len(dims) != array.ndim or any(d not in (None, n) for d, n in zip(dims, array.shape, strict=True)):
            shape = "x".join("?" if dim is None else str(dim) for dim in dims)
            note = "Run it at the graph's own size (--size, --batch), or export one with dynamic sizes."
            raise UsageError(
                f"the graph takes {shown(value.name)} of {shape}, the run has {'x'.join(map(str, array.shape))}", note
            )
