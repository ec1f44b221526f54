"""The verbs that align needs of a framework; `capture_torch` and `capture_paddle` each have them all.

Whatever captures, replays or trains is written once, against these verbs, and never imports a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy.typing as npt

from stdc_parity.converters.architecture import Kind, Side

Array = npt.NDArray[Any]
Network = Any
"""A torch.nn.Module or a paddle.nn.Layer."""
Tensor = Any
"""A torch.Tensor or a paddle.Tensor."""

Names = Mapping[str, tuple[str, Kind]]
"""What a network's tensors are, by one side's names: the PyTorch name and the kind of each."""

CallSeen = Callable[[Any, Any], None]
"""Called with a module's inputs, a tuple or (with keyword arguments among them) a dict whose positional ones go by
their number, and with its output."""


class Framework(Protocol):
    """One side's framework, as the module `stdc_parity.align.capture_<side>`."""

    SIDE: Side
    SUFFIXES: Mapping[str, str]

    def configure(self, threads: int) -> None:
        """Fix the number of CPU threads and ask for deterministic kernels."""

    def facts(self) -> dict[str, str | int | bool]:
        """Versions, threads and the flags that can disturb parity."""

    def to_tensor(self, array: Array) -> Tensor:
        """A tensor with a copy of `array`'s values, same dtype and shape."""

    def to_array(self, tensor: Tensor) -> Array:
        """A copy of the tensor's values, same dtype and shape."""

    def is_tensor(self, value: object) -> bool:
        """Whether `value` is one of this framework's tensors."""

    def is_network(self, value: object) -> bool:
        """Whether `value` is one of this framework's modules."""

    def seed(self, number: int) -> None:
        """Seed what the framework draws from: initial weights, dropouts."""

    def set_dtype(self, network: Network, dtype: str) -> None:
        """Turn the network's floating-point parameters and buffers into `dtype`."""

    def set_mode(self, network: Network, mode: str) -> None:
        """Switch the network to "train" or "eval"; its dropouts stay in eval mode, as nobody draws the same masks."""

    def dropped(self, module: Any, array: Array) -> Array | None:
        """What a dropout layer makes of `array` in train mode, None for any other module."""

    def load(self, network: Network, tensors: Mapping[str, Array]) -> None:
        """Copy `tensors` into the network; every name must be in both, with one shape. Raises ValueError."""

    def state(self, network: Network) -> dict[str, Array]:
        """A copy of the network's parameters and persistent buffers by this side's names."""

    def buffers(self, network: Network) -> dict[str, Array]:
        """A copy of the norms' running statistics, by PyTorch's names."""

    def official_names(self, network: Network) -> dict[str, tuple[str, Kind]]:
        """What each of the network's tensors is, by this side's names: its name in PyTorch, and its kind."""

    def modules(self, network: Network) -> Iterator[tuple[str, Any]]:
        """Every module of the network with its dotted path; the network itself is ""."""

    def watch(self, module: Any, seen: CallSeen) -> Callable[[], None]:
        """Call `seen` after every call of `module`; the function returned stops it."""

    def no_grad(self) -> AbstractContextManager[Any]:
        """A context without gradients."""

    def variable(self, array: Array) -> Tensor:
        """A tensor like `to_tensor`'s that gets a gradient, if it is of a floating-point type."""

    def parameters(self, network: Network) -> dict[str, Tensor]:
        """The trainable parameters by name."""

    def gradient(self, parameter: Tensor) -> Array | None:
        """A copy of the gradient that a parameter has, None if it has none."""

    def give_gradient(self, parameter: Tensor, gradient: Array) -> None:
        """Add `gradient` to the parameter's, through a backward pass as in training."""

    def on_gradient(self, tensor: Tensor, seen: Callable[[Array], None]) -> None:
        """Call `seen` with a copy of the tensor's gradient when a backward pass has it."""

    def backward(self, value: Tensor) -> None:
        """Run the backward pass of a 0-d tensor."""

    def vjp(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> list[Array | None]:
        """The gradients of `inputs` for given gradients of `outputs`; None where nothing depends on one."""

    def thaw(self, module: Any, names: Sequence[str]) -> bool:
        """Let the module's own tensors of those names have gradients; whether it has any of them."""

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """The module's parameters and buffers by name."""

    def learns(self, tensor: Tensor) -> bool:
        """Whether a backward pass reaches the tensor."""

    def attributes(self, module: Any) -> dict[str, Any]:
        """The settings that the module keeps: what it has under a name and is no tensor and no module."""

    def shapes_alone(self) -> AbstractContextManager[Any]:
        """A context in which networks are built without values, if the framework can."""

    def shape_of(self, array: Array) -> Tensor:
        """A tensor of the array's shape and dtype, without values if the framework can."""

    def traced(self, tracer: Any) -> AbstractContextManager[None]:
        """Let `tracer`, a `tracing.Tracer`, see every call of the framework's functions and of modules."""

    def function(self, name: str) -> Callable[..., Any]:
        """The framework's function of that name, for one tensor. Raises AttributeError."""


def kind_of(module_type: str, name: str, dimensions: int) -> Kind:
    """What the tensor of a module of that type is, by its PyTorch name."""
    last = name.rpartition(".")[2]
    special: dict[str, Kind] = {
        "num_batches_tracked": "norm.batches",
        "running_mean": "norm.running_mean",
        "running_var": "norm.running_var",
    }
    if last in special:
        return special[last]
    if module_type.endswith("Linear") and last == "weight":
        return "linear"
    if dimensions < 2:
        return "norm.weight" if last == "weight" else "norm.bias"
    return "conv"


def load_framework(side: Side) -> Framework:
    """Import `side`'s framework. Raises ImportError if it is not installed."""
    if side == "torch":
        from stdc_parity.align import capture_torch

        torch_side: Framework = capture_torch  # type: ignore[assignment]
        return torch_side
    from stdc_parity.align import capture_paddle

    paddle_side: Framework = capture_paddle  # type: ignore[assignment]
    return paddle_side
