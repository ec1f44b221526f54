"""The PyTorch side of the ICNet case study: liminn/ICNet-pytorch as it is, from the checkout on sys.path.

Its import of torchsummary, which nothing uses, is stubbed; torchvision's transforms are not needed here.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

for _name in ("torchsummary",):
    _stub = types.ModuleType(_name)
    vars(_stub)["summary"] = None
    sys.modules[_name] = _stub

from icnet_names import group_of  # noqa: E402
from models import ICNet  # noqa: E402
from steps_torch import Steps  # noqa: E402
from utils.loss import ICNetLoss  # noqa: E402
from utils.lr_scheduler import IterationPolyLR  # noqa: E402
from utils.metric import SegmentationMetric, batch_pix_accuracy  # noqa: E402


def build(classes: int = 19) -> nn.Module:
    """The network as train.py builds it, but for the download of its backbone's weights."""
    return ICNet(classes, "resnet50", pretrained_base=False)


class Loss(ICNetLoss):
    """ICNetLoss as train.py builds it, ignoring the label -1."""

    def __init__(self) -> None:
        """Ignore -1."""
        super().__init__(ignore_index=-1)

    def forward(self, outputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The total."""
        return super().forward(outputs, labels), {}


def build_optimizer(network: nn.Module, _loss: object, lr: float = 1e-2, iterations: int = 85_000) -> Steps:
    """The optimizer of train.py with configs/icnet.yaml; 200 epochs of 425 batches are 85000 iterations."""
    groups = [{"params": network.pretrained.parameters(), "lr": lr}]
    groups += [{"params": getattr(network, name).parameters(), "lr": lr * 10} for name in network.exclusive]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=0.0001)
    schedule = IterationPolyLR(optimizer, max_iters=iterations, power=0.9)
    position = [0]

    def at(it: int) -> None:
        """train.py steps the scheduler at the top of each iteration, before the optimizer's step."""
        for _ in range(position[0], it + 1):
            schedule.step()
        position[0] = it + 1

    def rescale(base: float) -> None:
        for group, initial in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = base * initial / lr

    return Steps(optimizer, dict(network.named_parameters()), group_of, at, rescale)


def metric(outputs: Any, labels: torch.Tensor) -> Mapping[str, Any]:
    """SegmentationMetric after two updates with the same batch, and what it accumulates."""
    logits, counted = outputs[0], SegmentationMetric(outputs[0].shape[1])
    for _ in range(2):
        counted.update(logits, labels)
    accuracy, score = counted.get()
    return {
        "pixel accuracy": float(accuracy),
        "mean IoU": float(score),
        "intersections": counted.total_inter.numpy(),
        "unions": counted.total_union.numpy(),
        "correct pixels": int(batch_pix_accuracy(logits, labels)[0]),
    }
