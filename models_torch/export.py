"""Files to deploy a PyTorch network with. `models_paddle/export.py` is its twin.

Networks of any kind: what is folded and pooled is found by running them, not by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Array = npt.NDArray[Any]
Call = Callable[..., Any]
"""A network as a function of its inputs."""

Arrange = Callable[[Any], Any]
"""What becomes of what a network returns."""

Axes = Mapping[int, str]
"""The axes of an input that may change, each with a name."""


class Flat(nn.Module):
    """A network as exporters take it: what `arrange` makes of what `run` returns, a tensor or a tuple of tensors."""

    def __init__(self, network: nn.Module, run: Call, arrange: Arrange) -> None:
        """Keep them; the network, whose method `run` is, is a child so that exporters see its tensors."""
        super().__init__()
        self.network = network
        self.run = run
        self.arrange = arrange

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs, one alone as it is."""
        return self.arrange(self.run(*inputs))


def fold_batch_norms(network: nn.Module, call: Call, inputs: Sequence[Tensor]) -> list[tuple[str, str]]:
    """Fold batch norms into the convolutions before them, in place; return the names of both.

    A norm is folded if every call of it has a convolution's output for its input, and every output of that
    convolution goes to it. Whether something else uses such an output too is for the caller to see: it then
    computes otherwise. The weight becomes w * s and the bias b + (b0 - mean) * s with s = gamma / sqrt(var + eps).
    """
    folded = []
    for conv_name, norm_name in find_conv_norms(network, call, inputs):
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        with torch.no_grad():
            scale = (norm.running_var + norm.eps).rsqrt()
            scale = scale if norm.weight is None else norm.weight * scale
            shift = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
            beta = torch.zeros_like(shift) if norm.bias is None else norm.bias
            conv.weight.copy_(conv.weight * scale.reshape([-1] + [1] * (conv.weight.ndim - 1)))
            conv.bias = nn.Parameter(beta - shift * scale)
        parent, _, last = norm_name.rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Identity())
        folded.append((conv_name, norm_name))
    return folded


def find_conv_norms(network: nn.Module, call: Call, inputs: Sequence[Tensor]) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the norms that alone follow them, as one run shows it."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no identity is given twice
    followers: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = {}

    def seen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            kept.extend((given[0], output))
            if isinstance(module, CONVS):
                made[id(output)] = name
                followers.setdefault(name, set())
            else:
                source = made.get(id(given[0]), "")
                followers.setdefault(source, set()).add(name)
                sources.setdefault(name, set()).add(source)

        return hook

    watched = [(name, module) for name, module in network.named_modules() if isinstance(module, CONVS + NORMS)]
    stops = [module.register_forward_hook(seen(name)) for name, module in watched]
    with torch.no_grad():
        call(*inputs)
    for stop in stops:
        stop.remove()
    tracked = {name for name, module in watched if getattr(module, "running_mean", None) is not None}
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
    ONNX has no operator for them. Numbers that a trace computes are tensors; constants are not.
    """
    functions: Any = F
    average, adaptive = functions.avg_pool2d, functions.adaptive_avg_pool2d

    def avg_pool2d(x: Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Tensor:
        sizes = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size,)
        if any(isinstance(size, (Tensor, torch.SymInt)) for size in sizes):
            return x.mean((2, 3), keepdim=True)
        return average(x, kernel_size, *args, **kwargs)

    def adaptive_avg_pool2d(x: Tensor, output_size: Any) -> Tensor:
        bins = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        if tuple(bins) == (1, 1):
            return x.mean((2, 3), keepdim=True)
        sizes = [int(size) for size in x.shape[2:]]
        if None in bins or min(sizes) < 1 or all(size % count == 0 for size, count in zip(sizes, bins, strict=True)):
            return adaptive(x, output_size)
        rows, columns = (mean_matrix(size, count) for size, count in zip(sizes, bins, strict=True))
        return torch.tensor(rows, dtype=x.dtype) @ x @ torch.tensor(columns, dtype=x.dtype).T

    functions.avg_pool2d, functions.adaptive_avg_pool2d = avg_pool2d, adaptive_avg_pool2d
    try:
        yield
    finally:
        functions.avg_pool2d, functions.adaptive_avg_pool2d = average, adaptive


def save_onnx(
    flat: Flat, inputs: Sequence[Tensor], path: str, axes: Sequence[Axes], outputs: Sequence[str], opset: int
) -> dict[str, str]:
    """Write an ONNX graph; return the name of each of the network's tensors in it, and its own.

    Nothing is folded. The tracing exporter is taken, not that of torch.export: docs/onnx.md compares them.
    """
    names = [f"input{i}" if i else "image" for i in range(len(inputs))]
    dynamic = {name: dict(each) for name, each in zip(names, axes, strict=True) if each}
    with torch.no_grad(), pools_as_means():
        torch.onnx.export(
            flat, tuple(inputs), path, dynamo=False, opset_version=opset, input_names=names,
            output_names=list(outputs), dynamic_axes=dynamic, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
    return {f"network.{name}": name for name in flat.network.state_dict()}


def save_torchscript(
    flat: Flat, inputs: Sequence[Tensor], path: str, axes: Sequence[Axes], outputs: Sequence[str], opset: int
) -> dict[str, str]:
    """Write a TorchScript module, traced; return the name of each of the network's tensors in it, and its own.

    Sizes that are not in `axes` are not fixed by a trace either.
    """
    with torch.no_grad(), pools_as_means():
        torch.jit.save(torch.jit.trace(flat, tuple(inputs), check_trace=False), path)
    return {f"network.{name}": name for name in flat.network.state_dict()}


def save_torch_export(
    flat: Flat, inputs: Sequence[Tensor], path: str, axes: Sequence[Axes], outputs: Sequence[str], opset: int
) -> dict[str, str]:
    """Write a program of torch.export; return the name of each of the network's tensors in it, and its own."""
    shapes = tuple(dict.fromkeys(each, torch.export.Dim.AUTO) for each in axes)
    with torch.no_grad(), pools_as_means():
        program = torch.export.export(flat, tuple(inputs), dynamic_shapes=(shapes,), strict=False)
        torch.export.save(program, path)
    return {f"network.{name}": name for name in flat.network.state_dict()}


SAVERS = {"onnx": save_onnx, "torchscript": save_torchscript, "torch-export": save_torch_export}
"""What a network can be written as."""


def load_torchscript(path: str) -> Callable[[Sequence[Array]], list[Array]]:
    """Load a TorchScript module; return what computes its outputs from its inputs."""
    return _runs(torch.jit.load(path, map_location="cpu"))


def load_torch_export(path: str) -> Callable[[Sequence[Array]], list[Array]]:
    """Load a program of torch.export; return what computes its outputs from its inputs."""
    return _runs(torch.export.load(path).module())


def _runs(network: Callable[..., Any]) -> Callable[[Sequence[Array]], list[Array]]:
    def run(inputs: Sequence[Array]) -> list[Array]:
        with torch.no_grad():
            found = network(*(torch.from_numpy(array) for array in inputs))
        return [tensor.numpy() for tensor in (found if isinstance(found, (tuple, list)) else (found,))]

    return run


LOADERS = {"torchscript": load_torchscript, "torch-export": load_torch_export}
"""What loads a file that a network was written as."""
