"""ICNet's metric, as upstream computes it (liminn/ICNet-pytorch, utils/metric.py and evaluate.py).

Two habits of upstream are followed. The pixel accuracy cuts the logits to whole numbers before it takes the
best class: of those that share the best whole number the first wins. The mean IoU counts a class that is neither
labelled nor predicted as 0. Upstream sums its pixels in float32, which loses some past 2^24; here none are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import paddle
from paddle import Tensor, nn

from stdc_parity.models_paddle import metrics
from stdc_parity.models_paddle.metrics import (
    evaluation_mode,
    per_class_iou,
    pixel_accuracy,
    single_scale_logits,
)

__all__ = [
    "SegmentationMetric",
    "confusion_matrix",
    "evaluate",
    "evaluate_single_scale",
    "mean_iou",
    "per_class_iou",
    "pixel_accuracy",
    "single_scale_logits",
]

IGNORED = -1

confusion_matrix = partial(metrics.confusion_matrix, ignore_index=IGNORED)
mean_iou = partial(metrics.mean_iou, absent="zero")
evaluate_single_scale = partial(metrics.evaluate_single_scale, scale=1.0, ignore_index=IGNORED)


class SegmentationMetric:
    """Pixel accuracy and mean IoU over all batches since the last reset.

    `hist` counts the pixels of each (label, class of the best logit), `truncated` those of each (label, class of
    the best truncated logit): int64 (num_classes, num_classes).
    """

    def __init__(self, num_classes: int = 19, ignore_index: int = IGNORED) -> None:
        """Start with nothing counted."""
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget all pixels."""
        self.hist = np.zeros((self.num_classes, self.num_classes), np.int64)
        self.truncated = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count the pixels of logits (n, num_classes, h, w) and labels int64 (n, h, w).

        Raises ValueError if the sizes differ, and for a label that is neither a class nor ignored.
        """
        best = paddle.argmax(logits, 1)
        cut = paddle.argmax(logits.astype(paddle.int64), 1)
        self.hist += self.counts(best, labels)
        self.truncated += self.counts(cut, labels)

    def counts(self, pred: Tensor, labels: Tensor) -> np.ndarray:
        """The pixels of each (label, prediction)."""
        return metrics.confusion_matrix(pred, labels, self.num_classes, self.ignore_index)

    def get(self) -> tuple[float, float]:
        """Pixel accuracy, 0 if nothing is labelled, and mean IoU."""
        accuracy = pixel_accuracy(self.truncated) if self.truncated.any() else 0.0
        return accuracy, mean_iou(self.hist)


def evaluate(
    net: nn.Layer, loader: Iterable[Sequence[Tensor]], num_classes: int = 19, ignore_index: int = IGNORED
) -> dict[str, float]:
    """The metric of `net` in evaluation mode over `loader`: "pixel accuracy" and "mean IoU", and their averages.

    The loader gives images float (n, 3, h, w) and labels int64 (n, h, w) or (n, 1, h, w). The averages are what
    upstream reports and chooses its best weights by: the mean over the batches of the figures up to each.
    """
    metric, figures = SegmentationMetric(num_classes, ignore_index), []
    with evaluation_mode(net):
        for images, labels in loader:
            metric.update(net(images)[0], labels.squeeze(1) if labels.ndim == 4 else labels)
            figures.append(metric.get())
    (accuracy, iou), (mean_accuracy, mean) = metric.get(), np.mean(figures, axis=0)
    return {
        "pixel accuracy": accuracy,
        "mean IoU": iou,
        "average pixel accuracy": float(mean_accuracy),
        "average mean IoU": float(mean),
    }
