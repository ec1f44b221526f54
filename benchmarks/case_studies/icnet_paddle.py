"""The Paddle side of the ICNet case study: pooruss/ICNet-paddle as it is, from the checkout on sys.path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from icnet_names import group_of
from models import ICNet
from paddle import nn
from steps_paddle import Steps
from utils.loss import ICNetLoss
from utils.metric import SegmentationMetric, batch_pix_accuracy


def build(classes: int = 19) -> nn.Layer:
    """The network as train.py builds it (configs/icnet.yaml), but for its backbone's weights."""
    return ICNet(classes, "resnet50v1s", pretrained_base=False)


class Loss(ICNetLoss):
    """ICNetLoss as train.py builds it, ignoring the label -1."""

    def __init__(self) -> None:
        """Ignore -1."""
        super().__init__(ignore_index=-1)

    def forward(self, outputs: Any, labels: paddle.Tensor) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """The total."""
        return super().forward(outputs, labels), {}


def build_optimizer(network: nn.Layer, _loss: object, lr: float = 1e-2, iterations: int = 85_000) -> Steps:
    """The optimizer and the schedule of train.py with configs/icnet.yaml; 85000 as upstream."""
    schedule = paddle.optimizer.lr.PolynomialDecay(
        learning_rate=lr, decay_steps=iterations, end_lr=0.0, power=0.9, cycle=False
    )
    groups = [{"params": network.pretrained.parameters(), "learning_rate": 1.0}]
    groups += [{"params": getattr(network, name).parameters(), "learning_rate": 10.0} for name in network.exclusive]
    optimizer = paddle.optimizer.Momentum(
        parameters=groups, learning_rate=schedule, momentum=0.9, weight_decay=0.0001
    )
    return Steps(optimizer, schedule, dict(network.named_parameters()), group_of)


def metric(outputs: Any, labels: paddle.Tensor) -> Mapping[str, Any]:
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
