"""PyTorch's part of `plain_optimizer.py`: what is read from and done to a torch.optim optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def is_optimizer(value: object) -> bool:
    """Whether `value` is one of this framework's optimizers."""
    return isinstance(value, torch.optim.Optimizer)


def groups(optimizer: Any) -> list[Sequence[Any]]:
    """The parameters of each group."""
    return [group["params"] for group in optimizer.param_groups]


def rates(optimizer: Any) -> list[float]:
    """The effective learning rate of each group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def scheduler_in(optimizer: Any) -> Any:
    """The scheduler that the optimizer itself holds: none does."""
    return None


def zero_grad(optimizer: Any) -> None:
    """Make all gradients absent."""
    optimizer.zero_grad(set_to_none=True)


def moment(optimizer: Any, parameter: Any) -> Any:
    """The momentum or first moment that the optimizer keeps of a parameter, None if it has none yet."""
    state = optimizer.state.get(parameter, {})
    return state.get("momentum_buffer", state.get("exp_avg"))
