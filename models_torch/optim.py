"""The training recipe: parameter groups, momentum SGD and the learning rate's schedule.

As upstream (MichaelFan01/STDC-Seg, optimizer_loss.py, its constants from train.py and the README's command).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: What upstream multiplies the learning rate of the decoder's and heads' groups by (optimizer_loss.py).
LR_MUL = 10.0


def learning_rate(
    it: int,
    lr0: float = 1e-2,
    warmup_start_lr: float = 1e-5,
    warmup_steps: int = 1000,
    max_iter: int = 60000,
    power: float = 0.9,
) -> float:
    """The base learning rate of iteration `it`, counted from 0, in float64.

    Exponential from `warmup_start_lr` at 0 to `lr0` at `warmup_steps`, then polynomial to 0 at `max_iter`
    (optimizer_loss.py; the values are train.py's, 60000 the README's). Raises ValueError outside 0..max_iter.
    """
    if not 0 <= it <= max(max_iter, warmup_steps):
        raise ValueError(f"iteration {it} lies outside the schedule 0..{max_iter}")
    if it <= warmup_steps:
        if warmup_steps == 0:
            return lr0
        factor = (lr0 / warmup_start_lr) ** (1.0 / warmup_steps)
        return warmup_start_lr * factor**it
    return lr0 * (1 - (it - warmup_steps) / (float(max_iter) - warmup_steps)) ** power


@dataclass(frozen=True)
class Group:
    """Parameters that share their settings: their names, and the tensors in the same order."""

    name: str
    lr_mul: float
    weight_decay: float
    names: tuple[str, ...]
    params: tuple[Tensor, ...]


def make_groups(
    model: nn.Module,
    loss: nn.Module | None = None,
    weight_decay: float = 5e-4,
    backbone_norms: bool = True,
    decay_loss: bool = True,
) -> tuple[Group, ...]:
    """Upstream's groups wd, nowd, lr_mul_wd, lr_mul_nowd and, with `loss`, loss (its names start "loss.").

    `model.get_params(backbone_norms=...)` gives the four lists, `loss.get_params()` the fifth. Raises
    ValueError if a parameter is in two groups, or in one but not in the module.
    """
    names = {id(param): name for name, param in model.named_parameters()}
    lists = list(model.get_params(backbone_norms=backbone_norms))
    if loss is not None:
        names.update({id(param): f"loss.{name}" for name, param in loss.named_parameters()})
        lists.append(loss.get_params())
    loss_decay = weight_decay if decay_loss else 0.0
    settings = (
        ("wd", 1.0, weight_decay),
        ("nowd", 1.0, 0.0),
        ("lr_mul_wd", LR_MUL, weight_decay),
        ("lr_mul_nowd", LR_MUL, 0.0),
        ("loss", 1.0, loss_decay),
    )
    return name_groups(names, settings, lists)


def name_groups(
    names: dict[int, str],
    settings: Sequence[tuple[str, float, float]],
    lists: Sequence[Sequence[Tensor]],
) -> tuple[Group, ...]:
    """Groups of the name, multiplier and weight decay in `settings` that hold the parameters in `lists`.

    `names` are the parameters' by id. Raises ValueError if one is unknown, or in two groups.
    """
    left, groups = dict(names), []
    for (name, lr_mul, decay), params in zip(settings, lists, strict=False):
        unknown = [tuple(p.shape) for p in params if id(p) not in left]
        if unknown:
            raise ValueError(
                f"group {name} holds parameters unknown or in an earlier group, of shapes {unknown}"
            )
        groups.append(Group(name, lr_mul, decay, tuple(left.pop(id(p)) for p in params), tuple(params)))
    return tuple(groups)


class Optimizer:
    """SGD with momentum over named groups, its learning rate set from the schedule before each step.

    `schedule` gives the base learning rate of each iteration, counted from 0.
    `it` is the next iteration, `lr` the base learning rate that was set last (`lr0` before the first step).
    A parameter whose gradient is absent is not touched; one whose gradient is zero decays.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        schedule: Callable[[int], float],
        lr0: float = 1e-2,
        momentum: float = 0.9,
    ) -> None:
        self.groups = tuple(groups)
        self.schedule = schedule
        self.momentum = momentum
        self.it = 0
        self.lr = lr0
        self.optim = torch.optim.SGD(
            [
                {"params": list(g.params), "weight_decay": g.weight_decay, "lr": lr0 * g.lr_mul}
                for g in self.groups
            ],
            lr=lr0,
            momentum=momentum,
        )

    def set_lr(self, lr: float) -> None:
        """Give every group its multiple of the base learning rate `lr`."""
        self.lr = lr
        for group, settings in zip(self.groups, self.optim.param_groups, strict=True):
            settings["lr"] = self.lr * group.lr_mul

    def set_iteration(self, it: int) -> None:
        """Give every group the learning rate of iteration `it`, which the next step will be."""
        self.it = it
        self.set_lr(self.schedule(it))

    def update(self) -> None:
        """Update every parameter that has a gradient, at the learning rates that were set last."""
        self.optim.step()

    def step(self) -> None:
        """Set the learning rate of this iteration, update every parameter that has a gradient, count on."""
        self.set_iteration(self.it)
        self.update()
        self.it += 1

    def zero_grad(self) -> None:
        """Make all gradients absent (not zero: a parameter that the next loss leaves out must not decay)."""
        self.optim.zero_grad(set_to_none=True)

    def learning_rates(self) -> dict[str, float]:
        """The effective learning rate of each group by name, its multiplier included, as set last."""
        return {g.name: float(s["lr"]) for g, s in zip(self.groups, self.optim.param_groups, strict=True)}

    def settings(self) -> dict[str, dict[str, float | str]]:
        """What applies to each parameter, by name: its group, and effective lr, weight_decay, momentum.

        Read from the framework's own optimizer, not from our recipe.
        """
        return {
            name: {
                "group": group.name,
                "lr": float(settings["lr"]),
                "weight_decay": float(settings["weight_decay"]),
                "momentum": float(settings["momentum"]),
            }
            for group, settings in zip(self.groups, self.optim.param_groups, strict=True)
            for name in group.names
        }

    def state_dict(self) -> dict[str, Any]:
        """What a training needs to go on: the framework's own state, and the next iteration as `it`."""
        return {**self.optim.state_dict(), "it": self.it}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`, or from what `stdc-convert optimizer` made of the twin's."""
        self.optim.load_state_dict({"state": state["state"], "param_groups": state["param_groups"]})
        self.set_iteration(int(state.get("it", self.it)))

    def momentum_buffers(self) -> dict[str, Tensor]:
        """The momentum buffer of each parameter that was updated at least once, by the parameter's name."""
        buffers = {}
        for group in self.groups:
            for name, param in zip(group.names, group.params, strict=True):
                if param in self.optim.state:
                    buffers[name] = self.optim.state[param]["momentum_buffer"]
        return buffers


def build_optimizer(
    model: nn.Module,
    loss: nn.Module | None = None,
    lr0: float = 1e-2,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    warmup_start_lr: float = 1e-5,
    warmup_steps: int = 1000,
    max_iter: int = 60000,
    power: float = 0.9,
    backbone_norms: bool = True,
    decay_loss: bool = True,
) -> Optimizer:
    """The optimizer of train.py, whose values are the defaults.

    Two habits of upstream are options. `backbone_norms`: with InPlaceABNSync upstream's isinstance test
    leaves the backbone's batch norms in no group, so they are never trained (False); its forks with
    BatchNorm2d, and any port, train them: the default. `decay_loss`: the fuse kernel's gradient is zero, so
    weight decay is all that moves it. Upstream decays it (in a list it calls nowd), and so does the default,
    for it is not idle: in the 60000 iterations it shrinks to a fifth. What only stride 2 marks leaves the
    detail targets after 28839 steps, what strides 2 and 4 mark after 41352.
    """
    groups = make_groups(model, loss, weight_decay, backbone_norms, decay_loss)

    def schedule(it: int) -> float:
        return learning_rate(it, lr0, warmup_start_lr, warmup_steps, max_iter, power)

    return Optimizer(groups, schedule, lr0, momentum)
