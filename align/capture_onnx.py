"""ONNX Runtime's part of align: it runs graphs on the CPU. `graph_side.py` makes records of what it gives."""

from __future__ import annotations

from collections.abc import Sequence
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

    Raises RuntimeError, NotImplementedError (an operator without a kernel for its dtype) and ValueError (inputs that
    do not fit), in ONNX Runtime's words.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[optimised]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    capi: Any = onnxruntime.capi.onnxruntime_pybind11_state
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [each.name for each in session.get_inputs()]
        values = session.run(None, dict(zip(names, inputs, strict=True)))
    except capi.NotImplemented as error:
        raise NotImplementedError(str(error)) from None
    except capi.InvalidArgument as error:
        raise ValueError(str(error)) from None
    except (capi.Fail, capi.InvalidGraph, capi.InvalidProtobuf, capi.RuntimeException, capi.EPFail) as error:
        raise RuntimeError(str(error)) from None
    return dict(zip((each.name for each in session.get_outputs()), values, strict=True))
