"""The tables of a paddle.nn.Layer. `capture_table_torch.py` is its twin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn
from paddle.nn.utils.spectral_norm_hook import SpectralNorm
from paddle.nn.utils.weight_norm_hook import WeightNorm

from stdc_parity.align.derivation.table import ModuleRow, Reparameterised, Table, TensorRow

SIMPLE = (bool, int, float, str)


def table(network: nn.Layer) -> Table:
    """The layers of the network and the tensors of its state dict, in their order."""
    modules = dict(_layers(network, ""))
    state = network.state_dict()
    first: dict[int, str] = {}
    rows = []
    for name, tensor in state.items():
        alias = first.setdefault(id(tensor), name)
        rows.append(
            TensorRow(
                name, name.rpartition(".")[0], tuple(tensor.shape), str(tensor.dtype).removeprefix("paddle."),
                not isinstance(tensor, paddle.base.framework.EagerParamBase), "" if alias == name else alias,
            )
        )  # fmt: skip
    return Table(
        "paddle",
        [_module(path, module) for path, module in modules.items()],
        rows,
        [each for path, module in modules.items() for each in _reparameterised(path, module)],
        tuple(name for name, _ in network.named_buffers() if name not in state),
    )


@contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """Let what layers make in a forward pass, such as a cell's first state, be of `dtype`."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        yield
    finally:
        paddle.set_default_dtype(before)


class _BatchNorm(nn.BatchNorm2D):
    """A batch norm for any number of axes."""

    def _check_input_dim(self, input: Any) -> None:
        """Take what comes."""


def make_runnable(network: nn.Layer) -> None:
    """Let synchronised batch norms, which Paddle has for several GPUs alone, compute as the others do."""
    for layer in network.sublayers(include_self=True):
        if isinstance(layer, nn.SyncBatchNorm):
            layer.__class__ = _BatchNorm


def _layers(layer: nn.Layer, path: str) -> Iterator[tuple[str, nn.Layer]]:
    """Every layer by its paths: `named_sublayers` names one that is in two places once."""
    yield path, layer
    for name, child in layer._sub_layers.items():
        if child is not None:
            yield from _layers(child, f"{path}.{name}" if path else name)


def _module(path: str, module: nn.Layer) -> ModuleRow:
    bases = tuple(c.__name__ for c in type(module).__mro__
                  if c.__module__.startswith("paddle.") and c is not nn.Layer)  # fmt: skip
    settings = {name: value for name, value in vars(module).items() if isinstance(value, SIMPLE)}
    return ModuleRow(path, type(module).__name__, bases, settings)


def _reparameterised(path: str, module: nn.Layer) -> Iterator[Reparameterised]:
    """What weight norm and spectral norm make of the layer's own tensors, by hooks."""
    start = f"{path}." if path else ""

    def of(hook: Any, what: str, *places: str) -> Reparameterised:
        tensors = {place.rpartition("_")[2]: start + place for place in places}
        return Reparameterised(path, hook.name, what, hook.dim, tensors)

    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield of(hook, "weight_norm", f"{hook.name}_g", f"{hook.name}_v")
        elif isinstance(hook, SpectralNorm):
            yield of(hook, "spectral_norm", f"{hook.name}_orig", f"{hook.name}_u", f"{hook.name}_v")
