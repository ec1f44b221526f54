"""ONNX Runtime's part of align: it runs graphs on the CPU. `graph_side.py` makes records of what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnxruntime

from stdc_parity.align.framework import Array

if TYPE_CHECKING:
    import onnx

LEVELS = {
    True: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    False: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""Whether ONNX Runtime changes a graph before it runs it (fused, folded, other layouts) -> its setting."""


def facts() -> dict[str, str | int | bool]:
    """Versions and flags that can disturb parity."""
    return {"onnxruntime": onnxruntime.__version__}


def run_graph(model: onnx.ModelProto, inputs: Sequence[Array], *, optimised: bool, threads: int) -> dict[str, Array]:
    """What a graph gives for `inputs`, in the order of its own inputs, by the names of its outputs.

    Raises what `start_graph` and `run_started` do.
    """
    return run_started(start_graph(model, optimised=optimised, threads=threads), inputs)


def start_graph(model: onnx.ModelProto, *, optimised: bool, threads: int) -> Any:
    """ONNX Runtime with the graph in it, to run it more than once.

    Raises RuntimeError and NotImplementedError (an operator without a kernel for its dtype), in ONNX Runtime's words.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[optimised]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    with _plain_errors():
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_started(session: Any, inputs: Sequence[Array]) -> dict[str, Array]:
    """What a graph that was started gives for `inputs`, in the order of its own inputs, by its outputs' names.

    Raises RuntimeError, NotImplementedError and ValueError (inputs that do not fit), in ONNX Runtime's words.
    """
    names = [each.name for each in session.get_inputs()]
    with _plain_errors():
        values = session.run(None, dict(zip(names, inputs, strict=True)))
    return dict(zip((each.name for each in session.get_outputs()), values, strict=True))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise Python's own exceptions for ONNX Runtime's."""
    capi: Any = onnxruntime.capi.onnxruntime_pybind11_state
    try:
        yield
    except capi.NotImplemented as error:
        raise NotImplementedError(str(error)) from None
    except capi.InvalidArgument as error:
        raise ValueError(str(error)) from None
    except (capi.Fail, capi.InvalidGraph, capi.InvalidProtobuf, capi.RuntimeException, capi.EPFail) as error:
        raise RuntimeError(str(error)) from None
