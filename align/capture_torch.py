"""PyTorch's part of align: the verbs of `framework.Framework`. `capture_paddle.py` is its twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stdc_parity.align.framework import Array, CallSeen, kind_of
from stdc_parity.converters.architecture import Kind, Side

SIDE: Side = "torch"
STATISTICS = {"running_mean": "running_mean", "running_var": "running_var"}
DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
SIMPLE = (bool, int, float, str, tuple, list, type(None))


def configure(threads: int) -> None:
    """Fix the number of CPU threads and ask for deterministic kernels."""
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import the whole compiler
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def facts() -> dict[str, str | int | bool]:
    """Versions, threads and the flags that can disturb parity."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
    }


def to_tensor(array: Array) -> torch.Tensor:
    """Return a tensor with a copy of `array`'s values, same dtype and shape."""
    return torch.from_numpy(np.array(array, order="C"))


def to_array(tensor: torch.Tensor) -> Array:
    """Return a copy of the tensor's values, same dtype and shape."""
    return np.array(tensor.detach().cpu().numpy(), order="C")


def is_tensor(value: object) -> bool:
    """Whether `value` is one of this framework's tensors."""
    return isinstance(value, torch.Tensor)


def is_network(value: object) -> bool:
    """Whether `value` is one of this framework's modules."""
    return isinstance(value, nn.Module)


def seed(number: int) -> None:
    """Seed what the framework draws from: initial weights, dropouts."""
    torch.manual_seed(number)


def set_dtype(network: nn.Module, dtype: str) -> None:
    """Turn the network's floating-point parameters and buffers into `dtype`."""
    network.to(dtype=getattr(torch, dtype))


def set_mode(network: nn.Module, mode: str) -> None:
    """Switch the network to "train" or "eval"; its dropouts stay in eval mode, as nobody draws the same masks."""
    network.train(mode == "train")
    for module in network.modules():
        if isinstance(module, DROPOUTS):
            module.eval()


def dropped(module: nn.Module, array: Array) -> Array | None:
    """Return what a dropout layer makes of `array` in train mode, None for any other module."""
    if not isinstance(module, DROPOUTS):
        return None
    module.train()
    result = to_array(module(to_tensor(array)))
    module.eval()
    return result


def load(network: nn.Module, tensors: Mapping[str, Array]) -> None:
    """Copy `tensors` into the network; every name must be in both, with one shape. Raises ValueError."""
    own = network.state_dict()
    names = own.keys() | tensors.keys()
    wrong = [
        n
        for n in sorted(names)
        if n not in own or n not in tensors or tuple(own[n].shape) != tensors[n].shape
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors do not fit the PyTorch network: {', '.join(wrong[:8])}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(to_tensor(tensors[name]))


def state(network: nn.Module) -> dict[str, Array]:
    """Return a copy of the network's parameters and persistent buffers by this side's names."""
    return {name: to_array(tensor) for name, tensor in network.state_dict().items()}


def buffers(network: nn.Module) -> dict[str, Array]:
    """Return a copy of the norms' running statistics, by PyTorch's names."""
    found = {}
    for name, tensor in network.state_dict().items():
        path, _, last = name.rpartition(".")
        if last in STATISTICS:
            found[f"{path}.{STATISTICS[last]}".removeprefix(".")] = to_array(tensor)
    return found


def official_names(network: nn.Module) -> dict[str, tuple[str, Kind]]:
    """Return what each of the network's tensors is, by this side's names: its PyTorch name and its kind."""
    types = {
        path: "Linear" if isinstance(module, nn.Linear) else type(module).__name__  # whatever a subclass is called
        for path, module in network.named_modules()
    }
    return {name: (name, kind_of(types.get(name.rpartition(".")[0], ""), name, tensor.ndim))
            for name, tensor in network.state_dict().items()}  # fmt: skip


def modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module of the network with its dotted path; the network itself is ""."""
    return iter(network.named_modules())


def watch(module: nn.Module, seen: CallSeen) -> Callable[[], None]:
    """Call `seen` after every call of `module`; the function returned stops it."""

    def hook(_module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        seen({**{str(i): value for i, value in enumerate(inputs)}, **named} if named else inputs, output)

    return module.register_forward_hook(hook, with_kwargs=True).remove


def no_grad() -> AbstractContextManager[Any]:
    """Return a context without gradients."""
    return torch.no_grad()


def variable(array: Array) -> torch.Tensor:
    """Return a tensor like `to_tensor`'s that gets a gradient, if it is of a floating-point type."""
    tensor = to_tensor(array)
    return tensor.requires_grad_(tensor.is_floating_point())


def parameters(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def gradient(parameter: torch.Tensor) -> Array | None:
    """Return a copy of the gradient that a parameter has, None if it has none."""
    return None if parameter.grad is None else to_array(parameter.grad)


def give_gradient(parameter: torch.Tensor, gradient: Array) -> None:
    """Add `gradient` to the parameter's, through a backward pass as in training."""
    backward((parameter * to_tensor(gradient)).sum())


def on_gradient(tensor: torch.Tensor, seen: Callable[[Array], None]) -> None:
    """Call `seen` with a copy of the tensor's gradient when a backward pass has it."""
    if tensor.requires_grad:
        tensor.register_hook(lambda gradient: seen(to_array(gradient)))


def backward(value: torch.Tensor) -> None:
    """Run the backward pass of a 0-d tensor."""
    value.backward()


def vjp(
    outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]
) -> list[Array | None]:
    """Return the gradients of `inputs` for given gradients of `outputs`; None where nothing depends on one."""
    known = [(tensor, grad) for tensor, grad in zip(outputs, gradients, strict=True) if tensor.requires_grad]
    if not known:
        return [None] * len(inputs)
    outputs, gradients = zip(*known, strict=True)
    found = torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)
    return [None if each is None else to_array(each) for each in found]


def thaw(module: nn.Module, names: Sequence[str]) -> bool:
    """Let the module's own tensors of those names have gradients; return whether it has any of them."""
    found = [tensor for name, tensor in module.named_parameters() if name in names]
    for tensor in found:
        tensor.requires_grad_(True)
    return bool(found)


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the module's parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def learns(tensor: torch.Tensor) -> bool:
    """Return whether a backward pass reaches the tensor."""
    return bool(tensor.requires_grad)


def attributes(module: nn.Module) -> dict[str, Any]:
    """Return the settings that the module keeps: what it has under a name and is no tensor and no module."""
    return {name: value for name, value in vars(module).items() if isinstance(value, SIMPLE)}


def traced(tracer: Any) -> AbstractContextManager[None]:
    """Let `tracer`, a `tracing.Tracer`, see every call of PyTorch's functions and of modules."""
    from stdc_parity.align import trace_torch

    return trace_torch.traced(tracer)


def shapes_alone() -> AbstractContextManager[Any]:
    """Return a context in which networks are built without values."""
    context: AbstractContextManager[Any] = torch.device("meta")
    return context


def shape_of(array: Array) -> torch.Tensor:
    """Return a tensor of the array's shape and dtype, without values."""
    return torch.from_numpy(array).to("meta")


@contextmanager
def noticed(seen: Callable[[str], None]) -> Iterator[None]:
    """Call `seen` with the name of every function of PyTorch's that is called."""

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Mode():
        yield


def function(name: str) -> Callable[..., Any]:
    """Return PyTorch's function of that name, for one tensor. Raises AttributeError."""
    from stdc_parity.align import trace_torch

    return trace_torch.function(name)
