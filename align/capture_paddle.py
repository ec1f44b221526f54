"""Paddle's part of align: the verbs of `framework.Framework`. `capture_torch.py` is its twin."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn.layer.rnn import RNNBase

from stdc_parity.align.framework import Array, CallSeen, kind_of
from stdc_parity.converters.architecture import Kind, Side

SIDE: Side = "paddle"
STATISTICS = {"_mean": "running_mean", "_variance": "running_var"}
WEIGHTS = {
    "PReLU": "_weight",
    "InstanceNorm1D": "scale",
    "InstanceNorm2D": "scale",
    "InstanceNorm3D": "scale",
}
"""What layers call the tensor that PyTorch calls "weight"."""
DROPOUTS = (nn.Dropout, nn.Dropout2D, nn.Dropout3D)
SIMPLE = (bool, int, float, str, tuple, list, type(None))
_threads = 0


def configure(threads: int) -> None:
    """Fix the number of CPU threads and ask for deterministic kernels."""
    global _threads
    _threads = threads  # Paddle takes it from OMP_NUM_THREADS, which the caller set before the import.
    paddle.set_device("cpu")
    if paddle.is_compiled_with_cuda():  # a CPU build does not know the flags
        paddle.set_flags({"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1})


def facts() -> dict[str, str | int | bool]:
    """Versions, threads and the flags that can disturb parity."""
    return {
        "paddle": paddle.__version__,
        "threads": _threads,
        "deterministic": _flag("FLAGS_cudnn_deterministic", on_cpu=True),
        "tf32": paddle.is_compiled_with_cuda() and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0",
        "mkldnn": bool(paddle.get_flags("FLAGS_use_mkldnn")["FLAGS_use_mkldnn"]),
    }


def to_tensor(array: Array) -> paddle.Tensor:
    """Return a tensor with a copy of `array`'s values, same dtype and shape."""
    return paddle.to_tensor(np.array(array, order="C"))


def to_array(tensor: paddle.Tensor) -> Array:
    """Return a copy of the tensor's values, same dtype and shape."""
    return np.asarray(tensor.detach().numpy(), order="C")  # numpy() has copied already


def is_tensor(value: object) -> bool:
    """Whether `value` is one of this framework's tensors."""
    return isinstance(value, (paddle.Tensor, paddle.pir.Value))  # the latter while a program is traced


def is_network(value: object) -> bool:
    """Whether `value` is one of this framework's modules."""
    return isinstance(value, nn.Layer)


def seed(number: int) -> None:
    """Seed what the framework draws from: initial weights, dropouts."""
    paddle.seed(number)


def set_dtype(network: nn.Layer, dtype: str) -> None:
    """Turn the network's floating-point parameters and buffers into `dtype`."""
    network._to_impl(dtype=dtype, floating_only=True)  # `to` casts integer buffers, and fails on an LSTM's


def set_mode(network: nn.Layer, mode: str) -> None:
    """Switch the network to "train" or "eval"; its dropouts stay in eval mode, as nobody draws the same masks."""
    network.train() if mode == "train" else network.eval()
    for module in network.sublayers(include_self=True):
        if isinstance(module, DROPOUTS):
            module.eval()


def dropped(module: nn.Layer, array: Array) -> Array | None:
    """Return what a dropout layer makes of `array` in train mode, None for any other module."""
    if not isinstance(module, DROPOUTS):
        return None
    module.train()
    result = to_array(module(to_tensor(array)))
    module.eval()
    return result


def load(network: nn.Layer, tensors: Mapping[str, Array]) -> None:
    """Copy `tensors` into the network; every name must be in both, with one shape. Raises ValueError."""
    own = _tensors(network)
    names = own.keys() | tensors.keys()
    wrong = [
        n
        for n in sorted(names)
        if n not in own or n not in tensors or tuple(own[n].shape) != tensors[n].shape
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors do not fit the Paddle network: {', '.join(wrong[:8])}")
    with paddle.no_grad():
        for name, tensor in own.items():
            tensor.set_value(np.asarray(tensors[name], _numpy_dtype(tensor), order="C"))


def state(network: nn.Layer) -> dict[str, Array]:
    """Return a copy of the network's parameters and persistent buffers by this side's names."""
    return {name: to_array(tensor) for name, tensor in _tensors(network).items()}


def buffers(network: nn.Layer) -> dict[str, Array]:
    """Return a copy of the norms' running statistics, by PyTorch's names."""
    found = {}
    for name, tensor in network.state_dict().items():
        path, _, last = name.rpartition(".")
        if last in STATISTICS:
            found[f"{path}.{STATISTICS[last]}".removeprefix(".")] = to_array(tensor)
    return found


def official_names(network: nn.Layer) -> dict[str, tuple[str, Kind]]:
    """Return what each of the network's tensors is, by this side's names: its PyTorch name and its kind."""
    types = {
        path: "Linear" if isinstance(module, nn.Linear) else type(module).__name__  # whatever a subclass is called
        for path, module in network.named_sublayers(include_self=True)
    }
    found: dict[str, tuple[str, Kind]] = {}
    for name, tensor in _tensors(network).items():
        path, _, last = name.rpartition(".")
        kind = types.get(path, "")
        last = "weight" if last == WEIGHTS.get(kind) else STATISTICS.get(last, last)
        official = f"{path}.{last}".removeprefix(".")
        found[name] = (official, kind_of(kind, official, tensor.ndim))
    return found


def modules(network: nn.Layer) -> Iterator[tuple[str, nn.Layer]]:
    """Every module of the network with its dotted path; the network itself is ""."""
    return iter(network.named_sublayers(include_self=True))


def watch(module: nn.Layer, seen: CallSeen) -> Callable[[], None]:
    """Call `seen` after every call of `module`; the function returned stops it."""

    def hook(_module: nn.Layer, inputs: Any, named: Any, output: Any) -> None:
        seen({**{str(i): value for i, value in enumerate(inputs)}, **named} if named else inputs, output)

    return module.register_forward_post_hook(hook, with_kwargs=True).remove


def no_grad() -> AbstractContextManager[Any]:
    """Return a context without gradients."""
    return paddle.no_grad()


def variable(array: Array) -> paddle.Tensor:
    """Return a tensor like `to_tensor`'s that gets a gradient, if it is of a floating-point type."""
    tensor = to_tensor(array)
    tensor.stop_gradient = not tensor.is_floating_point()
    return tensor


def parameters(network: nn.Layer) -> dict[str, paddle.Tensor]:
    """Return the trainable parameters by name; Paddle lists a norm's statistics among the others."""
    return {name: parameter for name, parameter in network.named_parameters() if not parameter.stop_gradient}


def gradient(parameter: paddle.Tensor) -> Array | None:
    """Return a copy of the gradient that a parameter has, None if it has none."""
    return None if parameter.grad is None else to_array(parameter.grad)


def give_gradient(parameter: paddle.Tensor, gradient: Array) -> None:
    """Add `gradient` to the parameter's, through a backward pass as in training."""
    backward((parameter * to_tensor(gradient)).sum())


def on_gradient(tensor: paddle.Tensor, seen: Callable[[Array], None]) -> None:
    """Call `seen` with a copy of the tensor's gradient when a backward pass has it."""
    if not tensor.stop_gradient:
        tensor.register_hook(lambda gradient: seen(to_array(gradient)))


def backward(value: paddle.Tensor) -> None:
    """Run the backward pass of a 0-d tensor."""
    value.backward()


def vjp(
    outputs: Sequence[paddle.Tensor], inputs: Sequence[paddle.Tensor], gradients: Sequence[paddle.Tensor]
) -> list[Array | None]:
    """Return the gradients of `inputs` for given gradients of `outputs`; None where nothing depends on one.

    Runs a whole backward pass, as training does, and leaves gradients in parameters that were not asked for:
    with `paddle.grad` a LayerNorm whose weight is not among `inputs` gives its own input a wrong gradient (Paddle
    3.3 on a CPU), and an LSTM raises.
    """
    known = [
        (tensor, grad) for tensor, grad in zip(outputs, gradients, strict=True) if not tensor.stop_gradient
    ]
    for tensor in inputs:
        tensor.clear_gradient(False)
    if known:
        paddle.autograd.backward([tensor for tensor, _ in known], [grad for _, grad in known])
    return [gradient(tensor) for tensor in inputs]


def _flag(name: str, *, on_cpu: bool) -> bool:
    """A flag that only builds for GPUs know."""
    return bool(paddle.get_flags(name)[name]) if paddle.is_compiled_with_cuda() else on_cpu


def thaw(module: nn.Layer, names: Sequence[str]) -> bool:
    """Let the module's own tensors of those names have gradients; return whether it has any of them."""
    found = [tensor for name, tensor in module.state_dict().items() if name in names]
    for tensor in found:
        tensor.stop_gradient = False
    return bool(found)


def _tensors(network: nn.Layer) -> dict[str, paddle.Tensor]:
    """The network's parameters and persistent buffers; an LSTM or GRU lists its cells' a second time."""
    layers = network.named_sublayers(include_self=True)
    recurrent = [f"{path}." if path else "" for path, layer in layers if isinstance(layer, RNNBase)]
    found: dict[str, paddle.Tensor] = {}
    for name, tensor in network.state_dict().items():
        of_cell = any(name.startswith(path) and "." in name.removeprefix(path) for path in recurrent)
        if not (of_cell and any(tensor is other for other in found.values())):
            found[name] = tensor
    return found


def _numpy_dtype(tensor: paddle.Tensor) -> str:
    return str(tensor.dtype).removeprefix("paddle.")


def tensors(module: nn.Layer) -> dict[str, paddle.Tensor]:
    """Return the module's parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def learns(tensor: paddle.Tensor) -> bool:
    """Return whether a backward pass reaches the tensor."""
    return bool(not tensor.stop_gradient)


def attributes(module: nn.Layer) -> dict[str, Any]:
    """Return the settings that the module keeps: what it has under a name and is no tensor and no module."""
    return {name: value for name, value in vars(module).items() if isinstance(value, SIMPLE)}


def traced(tracer: Any) -> AbstractContextManager[None]:
    """Let `tracer`, a `tracing.Tracer`, see every call of Paddle's functions and of layers."""
    from stdc_parity.align import trace_paddle

    return trace_paddle.traced(tracer)


def shapes_alone() -> AbstractContextManager[Any]:
    """Return an ordinary context: Paddle has no tensors without values."""
    return nullcontext()


def shape_of(array: Array) -> paddle.Tensor:
    """Return a tensor of the array's shape and dtype."""
    return to_tensor(array)


def function(name: str) -> Callable[..., Any]:
    """Return Paddle's function of that name, for one tensor. Raises AttributeError."""
    from stdc_parity.align import trace_paddle

    return trace_paddle.function(name)
