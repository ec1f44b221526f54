"""Paddle's part of `plain_optimizer.py`: what is read from and done to a paddle.optimizer optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

MOMENTS = ("velocity", "moment1")


def is_optimizer(value: object) -> bool:
    """Whether `value` is one of this framework's optimizers."""
    return isinstance(value, paddle.optimizer.Optimizer)


def groups(optimizer: Any) -> list[Sequence[Any]]:
    """The parameters of each group."""
    listed = optimizer._parameter_list
    if isinstance(listed[0], dict):
        return [group["params"] for group in optimizer._param_groups]
    return [listed]


def rates(optimizer: Any) -> list[float]:
    """The effective learning rate of each group: the optimizer's times the group's factor."""
    base = float(optimizer.get_lr())
    return [base * float(of[0].optimize_attr["learning_rate"]) if of else base for of in groups(optimizer)]


def scheduler_in(optimizer: Any) -> Any:
    """The scheduler that the optimizer itself holds, None if its rate is a number."""
    rate = optimizer._learning_rate
    return rate if isinstance(rate, paddle.optimizer.lr.LRScheduler) else None


def zero_grad(optimizer: Any) -> None:
    """Make all gradients absent."""
    optimizer.clear_grad(set_to_zero=False)


def moment(optimizer: Any, parameter: Any) -> Any:
    """The momentum or first moment that the optimizer keeps of a parameter, None if it has none yet."""
    kept = (optimizer._accumulators.get(name, {}).get(parameter.name) for name in MOMENTS)
    return next((tensor for tensor in kept if tensor is not None), None)
