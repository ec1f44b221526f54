"""What the two Paddle ports of STDC-Seg have in common, and the remedies that their case studies try.

CASE_FIXES (comma-separated) applies remedies to what the ports build, in this process: `pool`, `kernel`, `kept`,
`groups`. Their files stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle2 import speak_paddle_2

speak_paddle_2()

FIXES = frozenset(os.environ.get("CASE_FIXES", "").split(",")) - {""}
TERMS = ("ohem", "ohem16", "ohem32")


def all_heads(network: type[nn.Layer]) -> type[nn.Layer]:
    """A network of that class that returns all its logits in eval mode too, as upstream does."""

    class AllHeads(network):  # type: ignore[misc, valid-type]
        def forward(self, x: paddle.Tensor) -> Any:
            was, self.training = self.training, True
            outputs = super().forward(x)
            self.training = was
            return outputs

    return AllHeads


def with_remedies(network: nn.Layer) -> nn.Layer:
    """The network, its average pools counting the padding if that is asked for."""
    for layer in network.sublayers():
        if isinstance(layer, nn.AvgPool2D) and "pool" in FIXES:
            layer.exclusive = False
    return network


class Loss(nn.Layer):
    """OHEM on three outputs and the detail loss on the fourth, each with the coefficient 1."""

    def __init__(self, ohem: Callable[..., nn.Layer], detail: nn.Layer) -> None:
        """Take the two losses, the first as its class; their defaults are what both ports train with."""
        super().__init__()
        self.detail, self.ohem = detail, ohem
        if "kernel" in FIXES:
            detail.fuse_kernel.set_value(np.array([[[[0.6]], [[0.3]], [[0.1]]]], "float32"))

    def forward(self, outputs: Any, labels: paddle.Tensor) -> tuple[paddle.Tensor, Mapping[str, paddle.Tensor]]:
        """The total and its terms."""
        terms = {name: self.hard(logits, labels) for name, logits in zip(TERMS, outputs, strict=False)}
        terms["detail8"] = self.detail(outputs[3], labels)
        return sum(terms.values()), terms

    def hard(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """The loss of hard pixels."""
        ohem = self.ohem(min_kept=int(labels.size) // 16) if "kept" in FIXES else self.ohem()
        return ohem(logits, labels)


def mean_iou(metrics: Any, logits: paddle.Tensor, labels: paddle.Tensor) -> dict[str, Any]:
    """The mean IoU of given logits (n, c, h, w), as either port's core/val.py computes it."""
    prediction = paddle.argmax(logits, axis=1, keepdim=True, dtype="int32").astype("int64")
    areas = metrics.calculate_area(prediction, labels, logits.shape[1], ignore_index=255)
    return {"mean IoU": float(metrics.mean_iou(*areas)[1])}


class Watcher:
    """A network that returns what it is given, and keeps it."""

    def __call__(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """The images."""
        self.seen = images.numpy()
        return [images]
