"""An optimizer of Paddle as a training script drives it, by the methods that stdc-align asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from groups import GroupOf, make_groups
from paddle.regularizer import L2Decay


class Steps:
    """`optimizer` with the scheduler that its script steps after each iteration. All figures are read off them."""

    def __init__(
        self,
        optimizer: paddle.optimizer.Momentum,
        scheduler: paddle.optimizer.lr.LRScheduler,
        named: Mapping[str, paddle.Tensor],
        group_of: GroupOf,
    ) -> None:
        """Leave out parameters that the optimizer has not, and those that do not learn."""
        self.optimizer, self.scheduler, self.it, self._stepped = optimizer, scheduler, 0, 0
        self._first = scheduler.last_lr
        groups = optimizer._param_groups
        dicts = groups if isinstance(groups[0], dict) else [{"params": groups}]
        self._group = {id(p): group for group in dicts for p in group["params"]}
        kept = {n: p for n, p in named.items() if id(p) in self._group and not p.stop_gradient}
        self.groups = make_groups(kept, group_of)

    def zero_grad(self) -> None:
        """Make all gradients absent."""
        self.optimizer.clear_grad(set_to_zero=False)

    def set_lr(self, lr: float) -> None:
        """Set the base rate."""
        self.scheduler.last_lr = lr

    def set_iteration(self, it: int) -> None:
        """Set the rates of an iteration, counted from 0: the scheduler was stepped once after each one before it."""
        for _ in range(self._stepped, it):
            self.scheduler.step()
        if it == 0:
            self.scheduler.last_lr = self._first
        self.it = self._stepped = it

    def update(self) -> None:
        """Update at the rates that are set."""
        self.optimizer.step()

    def step(self) -> None:
        """One iteration of the script."""
        self.set_iteration(self.it)
        self.update()
        self.it += 1

    def learning_rates(self) -> dict[str, float]:
        """The effective rate of each group."""
        return {g.name: self._rate(g.params[0]) for g in self.groups}

    def settings(self) -> dict[str, dict[str, float | str]]:
        """What applies to each parameter, by name."""
        return {
            name: {
                "group": group.name,
                "lr": self._rate(param),
                "weight_decay": self._decay(param),
                "momentum": float(self.optimizer._momentum),
            }
            for group in self.groups
            for name, param in zip(group.names, group.params, strict=True)
        }

    def momentum_buffers(self) -> dict[str, Any]:
        """The momentum buffers by the parameters' names."""
        known = self.optimizer._accumulators.get(self.optimizer._velocity_acc_str, {})
        pairs = [pair for g in self.groups for pair in zip(g.names, g.params, strict=True)]
        return {n: known[p.name] for n, p in pairs if p.name in known}

    def _rate(self, param: paddle.Tensor) -> float:
        return float(self.optimizer.get_lr()) * param.optimize_attr["learning_rate"]

    def _decay(self, param: paddle.Tensor) -> float:
        own = getattr(param, "regularizer", None)
        if own is not None:
            return float(own._coeff) if isinstance(own, L2Decay) else 0.0
        return float(self._group[id(param)].get("regularization_coeff", self.optimizer._regularization_coeff))
