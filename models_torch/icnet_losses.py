"""The loss of ICNet's training, as upstream computes it (liminn/ICNet-pytorch, utils/loss.py and train.py).

Upstream resizes the labels as if they were numbers: float32, bilinear between aligned corners, cut to whole
numbers. What lies between two classes so becomes a class between them, what lies between the ignored -1 and
class 0 becomes class 0, and where rounding leaves 12.999999 of 13 it becomes class 12: up to 5 % of the pixels
amid class 13. `resized_labels` has torch's roundings on both sides, so that both train on the same targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stdc_parity.models_torch.losses import check_labels, cross_entropies

#: The strides of the outputs that are trained on; the first output, which the network says, is not.
STRIDES = (4, 8, 16)
#: torch's kernel for height + width up to this sums the four products, the one for more resizes side by side
#: (aten/src/ATen/native/cpu/UpSampleKernel.cpp, _use_vectorized_kernel_cond_2d).
SMALL = 128


def places(size: int, to: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The two of `size` lines that each of `to` lines lies between, int64 (to,), and their float32 weights."""
    scale = np.float32(size - 1) / np.float32(to - 1) if to > 1 else np.float32(0)
    place = np.arange(to, dtype=np.float32) * scale
    low = np.minimum(np.floor(place).astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = place - low.astype(np.float32)
    return low, high, np.float32(1) - weight, weight


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of float32 arrays, rounded once to float32: a processor's fused multiply-add."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def resized_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Labels (n, h, w) as upstream resizes them: int64 (n, height, width).

    The same bits as `interpolate(labels.float(), (height, width), "bilinear", align_corners=True).long()` of
    torch on a processor with fused multiply-add.
    """
    x = labels.astype(np.float32)
    top, bottom, upper, lower = places(x.shape[1], height)
    left, right, near, far = places(x.shape[2], width)
    upper, lower = upper[:, np.newaxis], lower[:, np.newaxis]
    above, below = x[:, top], x[:, bottom]  # (n, height, w)
    if height + width <= SMALL:
        total = fused(upper * near, above[:, :, left], upper * far * above[:, :, right])
        total = fused(lower * near, below[:, :, left], total)
        total = fused(lower * far, below[:, :, right], total)
    else:
        above, below = (fused(each[:, :, left], near, each[:, :, right] * far) for each in (above, below))
        total = fused(above, upper, below * lower)
    return np.trunc(total).astype(np.int64)


class ICNetLoss(nn.Module):
    """Cross entropy of the three trained outputs against resized labels, the coarser two times `aux_weight`.

    Both defaults are upstream's. Its labels ignore -1.
    """

    def __init__(self, aux_weight: float = 0.4, ignore_index: int = -1) -> None:
        """Take the settings."""
        super().__init__()
        self.aux_weight = aux_weight
        self.ignore_index = ignore_index

    def targets(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`labels` (n, h, w) at the size of `logits` (n, c, height, width): int64 (n, height, width)."""
        found = resized_labels(labels.cpu().numpy(), logits.shape[2], logits.shape[3])
        return torch.from_numpy(found).to(labels.device)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the pixels that are not ignored, 0-d; NaN if all are."""
        check_labels(logits, targets, self.ignore_index)
        loss = cross_entropies(logits, targets, self.ignore_index)
        return loss.sum() / (targets != self.ignore_index).to(loss.dtype).sum()

    def forward(self, outputs: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(total, terms), all 0-d; terms: sub4, sub8, sub16.

        `outputs` are the network's four logits (n, c, …), `labels` int64 (n, h, w) or (n, 1, h, w). Raises
        ValueError for another number of outputs, and for labels that are no class.
        """
        if len(outputs) != 1 + len(STRIDES):
            raise ValueError(f"{len(outputs)} outputs, the cascade has {1 + len(STRIDES)}")
        if labels.ndim == 4:
            labels = labels.squeeze(1)
        terms = {
            f"sub{stride}": self.cross_entropy(logits, self.targets(logits, labels))
            for stride, logits in zip(STRIDES, outputs[1:], strict=True)
        }
        total = terms["sub4"] + terms["sub8"] * self.aux_weight + terms["sub16"] * self.aux_weight
        return total, terms
