"""The loss of networks with auxiliary heads, in Paddle. `models_torch/heads_loss.py` is its twin, line by line.

One cross entropy a head with a weight each, as all their sources have it, and the semantic context loss of GINet
(Wu et al., ECCV 2020, section 3.3) beside it if asked for. The weights are data: see the pairs.
"""

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from stdc_parity.models_paddle.losses import check_labels


class HeadsLoss(nn.Layer):
    """Weighted sum of the heads' cross entropies and of what a last output says of the classes' presence.

    `weights` are those of the outputs in their order, the main one first. With `presence`, its weight, the last
    output is logits (n, c) of each class being in the image. Labels that are `ignore_index` count nowhere.
    """

    def __init__(
        self, weights: Sequence[float] = (1.0, 0.4), presence: float | None = None, ignore_index: int = 255
    ) -> None:
        """Keep the weights."""
        super().__init__()
        self.weights = tuple(weights)
        self.presence = presence
        self.ignore_index = ignore_index

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy, 0-d, over the labelled pixels; NaN if there are none.

        `logits` (n, c, h, w), `labels` int64 (n, h, w). Raises ValueError for a label that is no class.
        """
        check_labels(logits, labels, self.ignore_index)
        loss = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none", axis=1)
        return loss.sum() / (labels != self.ignore_index).sum().astype(loss.dtype)

    def context(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Semantic context loss, 0-d: mean binary cross entropy of `logits` (n, c) and which classes are there."""
        return F.binary_cross_entropy_with_logits(logits, self.targets(labels, logits.shape[1]).astype(logits.dtype))

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Which of the classes are in each image of `labels` (n, h, w): bool (n, num_classes)."""
        classes = paddle.arange(num_classes).reshape([1, -1, 1])
        return (labels.flatten(1).unsqueeze(1) == classes).any(2)

    def forward(self, outputs: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(total, terms), all 0-d; terms are not weighted yet: main, aux, aux2, …, then presence.

        `outputs` are the network's, `labels` int64 (n, h, w) or (n, 1, h, w). Raises ValueError for another number
        of outputs than there are weights.
        """
        weights = self.weights if self.presence is None else (*self.weights, self.presence)
        if len(outputs) != len(weights):
            raise ValueError(f"{len(outputs)} outputs, the loss has weights for {len(weights)}")
        if labels.ndim == 4:
            labels = labels.squeeze(1)
        names = ["main", "aux", *[f"aux{i}" for i in range(2, len(self.weights))]][: len(self.weights)]
        terms = {name: self.cross_entropy(logits, labels) for name, logits in zip(names, outputs, strict=False)}
        if self.presence is not None:
            terms["presence"] = self.context(outputs[-1], labels)
        return sum(weight * term for weight, term in zip(weights, terms.values(), strict=True)), terms

    def get_params(self) -> list[Tensor]:
        """What the optimizer's "loss" group trains: nothing."""
        return []
