"""An optimizer of PyTorch as a training script drives it, by the methods that stdc-align asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from groups import GroupOf, make_groups


class Steps:
    """`optimizer` as its script drives it. `at(iteration)` sets the rates of an iteration, counted from 0, as the
    script does; `rescale(lr)` those of a base rate. All figures are read off the framework's optimizer."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        named: Mapping[str, torch.nn.Parameter],
        group_of: GroupOf,
        at: Callable[[int], None],
        rescale: Callable[[float], None],
    ) -> None:
        """Leave out parameters that the optimizer has not."""
        self.optimizer, self.at, self.rescale, self.it = optimizer, at, rescale, 0
        self._group = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self.groups = make_groups({n: p for n, p in named.items() if id(p) in self._group}, group_of)

    def zero_grad(self) -> None:
        """Make all gradients absent."""
        self.optimizer.zero_grad(set_to_none=True)

    def set_lr(self, lr: float) -> None:
        """Set the base rate."""
        self.rescale(lr)

    def set_iteration(self, it: int) -> None:
        """Set the rates of an iteration."""
        self.it = it
        self.at(it)

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
        return {g.name: float(self._group[id(g.params[0])]["lr"]) for g in self.groups}

    def settings(self) -> dict[str, dict[str, float | str]]:
        """What applies to each parameter, by name."""
        found = {}
        for group in self.groups:
            for name, param in zip(group.names, group.params, strict=True):
                own = self._group[id(param)]
                figures = {key: float(own[key]) for key in ("lr", "weight_decay", "momentum")}
                found[name] = {"group": group.name, **figures}
        return found

    def momentum_buffers(self) -> dict[str, Any]:
        """The momentum buffers by the parameters' names."""
        state = self.optimizer.state
        pairs: Sequence[tuple[str, Any]] = [
            pair for g in self.groups for pair in zip(g.names, g.params, strict=True)
        ]
        return {n: state[p]["momentum_buffer"] for n, p in pairs if p in state}
