"""ICNet's training recipe: two learning rates, momentum SGD and a polynomial without a warm-up.

As upstream (liminn/ICNet-pytorch, train.py, utils/lr_scheduler.py, its numbers from configs/icnet.yaml).
"""

from __future__ import annotations

from paddle import Tensor, nn

from stdc_parity.models_paddle.optim import Group, Optimizer, name_groups

#: What upstream multiplies the learning rate of each child by: what is new learns faster than the backbone.
LR_MULS = {"pretrained": 1.0, "conv_sub1": 10.0, "head": 10.0}
#: 200 epochs of Cityscapes' 2975 training images in batches of 7, the last one smaller.
MAX_ITER = 200 * 425


def poly_rate(it: int, lr0: float = 1e-2, max_iter: int = MAX_ITER, power: float = 0.9) -> float:
    """The base learning rate of iteration `it`, counted from 0, in float64.

    Upstream steps its schedule before the optimizer: iteration 0 already has the rate of step 1, and the last
    one has 0, so it trains nothing. Raises ValueError outside 0..max_iter - 1.
    """
    if not 0 <= it < max_iter:
        raise ValueError(f"iteration {it} lies outside the schedule 0..{max_iter - 1}")
    return float(lr0 * (1 - (it + 1) / max_iter) ** power)


def make_groups(model: nn.Layer, weight_decay: float = 1e-4) -> tuple[Group, ...]:
    """Upstream's groups pretrained, conv_sub1 and head. All decay, norms and biases too."""
    names = {id(param): name for name, param in model.named_parameters()}
    settings = [(name, lr_mul, weight_decay) for name, lr_mul in LR_MULS.items()]
    return name_groups(names, settings, [trained(getattr(model, name)) for name in LR_MULS])


def trained(module: nn.Layer) -> list[Tensor]:
    """The parameters of a module that are trained; to Paddle a norm's statistics are parameters too."""
    return [param for param in module.parameters() if param.trainable]


def build_optimizer(
    model: nn.Layer,
    loss: nn.Layer | None = None,
    lr0: float = 1e-2,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    max_iter: int = MAX_ITER,
    power: float = 0.9,
) -> Optimizer:
    """The optimizer of train.py; the values are its configuration's.

    The loss has no parameters: it is an argument because those of other networks have.
    """

    def schedule(it: int) -> float:
        return poly_rate(it, lr0, max_iter, power)

    return Optimizer(make_groups(model, weight_decay), schedule, lr0, momentum)
