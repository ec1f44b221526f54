"""Files to deploy a Paddle network with. `models_torch/export.py` is its twin.

Networks of any kind: what is folded and pooled is found by running them, not by their names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

CONVS = (nn.Conv1D, nn.Conv2D, nn.Conv3D)
NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D)

Array = npt.NDArray[Any]
Call = Callable[..., Any]
"""A network as a function of its inputs."""

Arrange = Callable[[Any], Any]
"""What becomes of what a network returns."""

Axes = Mapping[int, str]
"""The axes of an input that may change, each with a name."""


class Flat(nn.Layer):
    """A network as exporters take it: what `arrange` makes of what `run` returns, a tensor or a tuple of tensors."""

    def __init__(self, network: nn.Layer, run: Call, arrange: Arrange) -> None:
        """Keep them; the network, whose method `run` is, is a child so that exporters see its tensors."""
        super().__init__()
        self.network = network
        self.run = run
        self.arrange = paddle.jit.not_to_static(arrange)

    def forward(self, inputs: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs, one alone as it is. A list, for Paddle's tracing takes no *inputs."""
        return self.arrange(self.run(*inputs))


def get_submodule(network: nn.Layer, name: str) -> nn.Layer:
    """Return the layer with that dotted path; the network itself is ""."""
    return dict(network.named_sublayers(include_self=True))[name]


def fold_batch_norms(network: nn.Layer, call: Call, inputs: Sequence[Tensor]) -> list[tuple[str, str]]:
    """Fold batch norms into the convolutions before them, in place; return the names of both.

    A norm is folded if every call of it has a convolution's output for its input, and every output of that
    convolution goes to it. Whether something else uses such an output too is for the caller to see: it then
    computes otherwise. The weight becomes w * s and the bias b + (b0 - mean) * s with s = gamma / sqrt(var + eps).
    """
    folded = []
    for conv_name, norm_name in find_conv_norms(network, call, inputs):
        conv, norm = get_submodule(network, conv_name), get_submodule(network, norm_name)
        with paddle.no_grad():
            scale = (norm._variance + norm._epsilon).rsqrt()
            scale = scale if norm.weight is None else norm.weight * scale
            shift = norm._mean if conv.bias is None else norm._mean - conv.bias
            beta = paddle.zeros_like(shift) if norm.bias is None else norm.bias
            conv.weight.set_value(conv.weight * scale.reshape([-1] + [1] * (conv.weight.ndim - 1)))
            conv.bias = conv.create_parameter(shift.shape, is_bias=True, dtype=shift.dtype)
            conv.bias.set_value(beta - shift * scale)
        parent, _, last = norm_name.rpartition(".")
        setattr(get_submodule(network, parent), last, nn.Identity())
        folded.append((conv_name, norm_name))
    return folded


def find_conv_norms(network: nn.Layer, call: Call, inputs: Sequence[Tensor]) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the norms that alone follow them, as one run shows it."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no identity is given twice
    followers: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = {}

    def seen(name: str) -> Callable[[nn.Layer, Any, Any], None]:
        def hook(module: nn.Layer, given: Any, output: Any) -> None:
            kept.extend((given[0], output))
            if isinstance(module, CONVS):
                made[id(output)] = name
                followers.setdefault(name, set())
            else:
                source = made.get(id(given[0]), "")
                followers.setdefault(source, set()).add(name)
                sources.setdefault(name, set()).add(source)

        return hook

    watched = [(name, module) for name, module in network.named_sublayers() if isinstance(module, CONVS + NORMS)]
    stops = [module.register_forward_post_hook(seen(name)) for name, module in watched]
    with paddle.no_grad():
        call(*inputs)
    for stop in stops:
        stop.remove()
    tracked = {name for name, module in watched if getattr(module, "_mean", None) is not None}
    return [
        (conv, norm)
        for conv, norms in followers.items()
        for norm in norms
        if conv and len(norms) == 1 and sources[norm] == {conv} and norm in tracked
    ]


def mean_matrix(size: int, bins: int) -> Array:
    """Return (bins, size): what each cell counts for in the means of an adaptive pool along one axis."""
    cells, starts = np.arange(size), np.arange(bins) * size // bins
    stops = -(-(np.arange(bins) + 1) * size // bins)
    inside = (cells >= starts[:, None]) & (cells < stops[:, None])
    return inside / inside.sum(1, keepdims=True)


@contextmanager
def pools_as_means() -> Iterator[None]:
    """Let pools over the whole of a feature map be means while a network is traced, whatever its size is then.

    Those are average pools whose kernel is computed from the input, as upstream's avg_pool2d(x, x.size()[2:]),
    and adaptive ones to one cell. Adaptive ones to bins that do not divide a map of known size are products, as
    ONNX has no operator for them. Sizes that a trace does not know are -1, or variables; constants are not.
    """
    functions: Any = F
    average, adaptive = functions.avg_pool2d, functions.adaptive_avg_pool2d

    def avg_pool2d(x: Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Tensor:
        sizes = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size,)
        if any(not isinstance(size, int) or size < 0 for size in sizes):
            return x.mean((2, 3), keepdim=True)
        return average(x, kernel_size, *args, **kwargs)

    def adaptive_avg_pool2d(x: Tensor, output_size: Any, *args: Any, **kwargs: Any) -> Tensor:
        bins = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        if tuple(bins) == (1, 1):
            return x.mean((2, 3), keepdim=True)
        sizes = [int(size) for size in x.shape[2:]]
        if None in bins or min(sizes) < 1 or all(size % count == 0 for size, count in zip(sizes, bins, strict=True)):
            return adaptive(x, output_size, *args, **kwargs)
        rows, columns = (mean_matrix(size, count) for size, count in zip(sizes, bins, strict=True))
        return paddle.to_tensor(rows, dtype=x.dtype) @ x @ paddle.to_tensor(columns, dtype=x.dtype).T

    functions.avg_pool2d, functions.adaptive_avg_pool2d = avg_pool2d, adaptive_avg_pool2d
    try:
        yield
    finally:
        functions.avg_pool2d, functions.adaptive_avg_pool2d = average, adaptive


def save_inference(
    flat: Flat, inputs: Sequence[Tensor], path: str, axes: Sequence[Axes], outputs: Sequence[str], opset: int
) -> dict[str, str]:
    """Write Paddle's inference program and its parameters, `path`.json and `path`.pdiparams.

    Return the name of each of the network's tensors in them, and its own.
    """
    names = [f"input{i}" if i else "image" for i in range(len(inputs))]
    wanted = [
        paddle.static.InputSpec(
            [None if axis in each else size for axis, size in enumerate(tensor.shape)], tensor.dtype, name
        )
        for name, tensor, each in zip(names, inputs, axes, strict=True)
    ]
    with pools_as_means():
        paddle.jit.save(paddle.jit.to_static(flat, input_spec=[wanted], full_graph=True), path)
    return {tensor.name: name for name, tensor in flat.network.state_dict().items()}


def save_onnx(
    flat: Flat, inputs: Sequence[Tensor], path: str, axes: Sequence[Axes], outputs: Sequence[str], opset: int
) -> dict[str, str]:
    """Write an ONNX graph; return the name of each of the network's tensors in it, and its own.

    Nothing is folded. Raises ImportError without paddle2onnx, which names the outputs itself: they have the order
    of `outputs`.
    """
    import paddle2onnx

    stem = str(Path(path).with_suffix(""))
    names = save_inference(flat, inputs, stem, axes, outputs, opset)
    paddle2onnx.export(f"{stem}.json", f"{stem}.pdiparams", path, opset_version=opset, verbose=False)
    return names


SAVERS = {"onnx": save_onnx, "paddle-inference": save_inference}
"""What a network can be written as."""


def load_inference(path: str) -> Callable[[Sequence[Array]], list[Array]]:
    """Load an inference program by its .json; return what computes its outputs from its inputs."""
    from paddle import inference

    config = inference.Config(path, str(Path(path).with_suffix(".pdiparams")))
    config.disable_glog_info()
    config.disable_onednn()  # on by default; it cannot run programs of Paddle 3.3 with interpolation
    config.set_cpu_math_library_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    engine = inference.create_predictor(config)

    def run(inputs: Sequence[Array]) -> list[Array]:
        for name, array in zip(engine.get_input_names(), inputs, strict=True):
            engine.get_input_handle(name).copy_from_cpu(array)
        engine.run()
        return [engine.get_output_handle(name).copy_to_cpu() for name in engine.get_output_names()]

    return run


LOADERS = {"paddle-inference": load_inference}
"""What loads a file that a network was written as."""
