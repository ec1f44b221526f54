"""An optimizer of a framework's own, and its learning rate scheduler, as the optimizer stage takes them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stdc_parity.align.framework import Framework, Network
from stdc_parity.converters.errors import UsageError


@dataclass(frozen=True)
class Group:
    """The parameters of one group, with their names in the network."""

    name: str
    names: tuple[str, ...]
    params: tuple[Any, ...]


class PlainOptimizer:
    """The verbs of the recipe's optimizers, on one of torch.optim or paddle.optimizer: at its own learning rates."""

    def __init__(self, framework: Framework, built: Any, network: Network) -> None:
        """Take an optimizer, or a tuple of it and its scheduler. Raises UsageError for anything else."""
        self._of: Any = importlib.import_module(f"stdc_parity.align.capture_optimizer_{framework.SIDE}")
        pair: Any = built if isinstance(built, tuple | list) and len(built) == 2 else (built, None)
        self.optim, self.scheduler = pair
        if not self._of.is_optimizer(self.optim):
            raise UsageError(
                f"the optimizer on the {framework.SIDE} side is a {type(self.optim).__name__}",
                "It must be one of the framework's own, or a tuple of it and its scheduler.",
            )
        self.scheduler = self.scheduler or self._of.scheduler_in(self.optim)
        names = {id(parameter): name for name, parameter in framework.parameters(network).items()}
        self.groups = tuple(
            self._group(f"group {number}", params, names) for number, params in enumerate(self._of.groups(self.optim))
        )
        self.it = 0

    def _group(self, name: str, params: Sequence[Any], names: Mapping[int, str]) -> Group:
        """The group's parameters that the network has and trains."""
        known = [parameter for parameter in params if id(parameter) in names]
        return Group(name, tuple(names[id(parameter)] for parameter in known), tuple(known))

    def zero_grad(self) -> None:
        """Make all gradients absent."""
        self._of.zero_grad(self.optim)

    def set_lr(self, lr: float) -> None:
        """Nothing: what is tried is the optimizer as its builder gives it."""

    def set_iteration(self, it: int) -> None:
        """Step the scheduler up to an iteration, which is not before the last one."""
        for _ in range(self.it, it):
            self._schedule()

    def _schedule(self) -> None:
        if self.scheduler is not None:
            self.scheduler.step()
        self.it += 1

    def update(self) -> None:
        """Update every parameter that has a gradient."""
        self.optim.step()

    def step(self) -> None:
        """Update, and step the scheduler."""
        self.update()
        self._schedule()

    def learning_rates(self) -> dict[str, float]:
        """The effective learning rate of each group by name."""
        return dict(zip((group.name for group in self.groups), self._of.rates(self.optim), strict=True))

    def settings(self) -> dict[str, dict[str, float | str]]:
        """What is known of each parameter by name: its group and its effective learning rate."""
        rates = self.learning_rates()
        return {name: {"group": group.name, "lr": rates[group.name]} for group in self.groups for name in group.names}

    def momentum_buffers(self) -> dict[str, Any]:
        """The momentum, or first moment, of each parameter that was updated at least once, by its name."""
        kept = {
            name: self._of.moment(self.optim, parameter)
            for group in self.groups
            for name, parameter in zip(group.names, group.params, strict=True)
        }
        return {name: tensor for name, tensor in kept.items() if tensor is not None}
