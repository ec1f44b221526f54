"""The tables of a torch.nn.Module. `capture_table_paddle.py` is its twin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from stdc_parity.align.derivation.table import ModuleRow, Reparameterised, Table, TensorRow

SIMPLE = (bool, int, float, str)


def table(network: nn.Module) -> Table:
    """The modules of the network and the tensors of its state dict, in their order."""
    modules = dict(network.named_modules(remove_duplicate=False))
    state = {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if torch.is_tensor(tensor)}
    first: dict[int, str] = {}
    rows = []
    for name, tensor in state.items():
        alias = first.setdefault(id(tensor), name)
        rows.append(
            TensorRow(
                name, name.rpartition(".")[0], tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."),
                not isinstance(tensor, nn.Parameter), "" if alias == name else alias,
            )
        )  # fmt: skip
    return Table(
        "torch",
        [_module(path, module) for path, module in modules.items()],
        rows,
        [each for path, module in modules.items() for each in _reparameterised(path, module)],
        tuple(name for name, _ in network.named_buffers() if name not in state),
    )


def make_runnable(network: nn.Module) -> None:
    """Nothing: every layer of PyTorch runs on a CPU and alone."""


@contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """Let what networks make in a forward pass be of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _module(path: str, module: nn.Module) -> ModuleRow:
    bases = tuple(c.__name__ for c in type(module).__mro__
                  if c.__module__.startswith("torch.") and c is not nn.Module)  # fmt: skip
    settings = {name: value for name, value in vars(module).items() if isinstance(value, SIMPLE)}
    return ModuleRow(path, type(module).__name__, bases, settings)


def _reparameterised(path: str, module: nn.Module) -> Iterator[Reparameterised]:
    """What weight norm and spectral norm make of the module's own tensors, as hooks or as parametrizations."""
    start = f"{path}." if path else ""

    def of(hook: Any, what: str, *places: str) -> Reparameterised:
        tensors = {place.rpartition("_")[2]: start + place for place in places}
        return Reparameterised(path, hook.name, what, hook.dim, tensors)

    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield of(hook, "weight_norm", f"{hook.name}_g", f"{hook.name}_v")
        elif isinstance(hook, SpectralNorm):
            yield of(hook, "spectral_norm", f"{hook.name}_orig", f"{hook.name}_u", f"{hook.name}_v")
    if not is_parametrized(module):
        return
    for name, chain in module.parametrizations.items():
        inside = f"{start}parametrizations.{name}"
        only = chain[0] if len(chain) == 1 else None
        if isinstance(only, _WeightNorm):
            tensors = {"g": f"{inside}.original0", "v": f"{inside}.original1"}
            yield Reparameterised(path, name, "weight_norm", only.dim, tensors)
        elif isinstance(only, _SpectralNorm):
            tensors = {"orig": f"{inside}.original", "u": f"{inside}.0._u", "v": f"{inside}.0._v"}
            yield Reparameterised(path, name, "spectral_norm", only.dim, tensors)
