"""The losses of STDC-Seg's training, as upstream computes them (MichaelFan01/STDC-Seg, loss/ and train.py).

One knife edge of the detail targets depends on the dtype, upstream's too: see `EDGE`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

#: Above this a Laplacian or a fused target counts as detail (loss/detail_loss.py). A pixel that only the
#: stride-4 level marks is fused to float32(0.1): in a float32 run that is not above 0.1, in a float64 run
#: (whose kernel keeps its float32 values) it is, by 1.5e-9. Upstream's code has the same two answers.
EDGE = 0.1
#: 8 at the centre, -1 around it (loss/detail_loss.py).
LAPLACIAN = ((-1.0, -1.0, -1.0), (-1.0, 8.0, -1.0), (-1.0, -1.0, -1.0))
#: Start values of the trained 1x1 convolution over the levels of stride 1, 2 and 4 (loss/detail_loss.py).
FUSE = (6 / 10, 3 / 10, 1 / 10)


def check_labels(logits: Tensor, labels: Tensor, ignore_index: int) -> None:
    """Raise ValueError unless `labels` (n, h, w) hold classes of `logits` (n, c, h, w) or `ignore_index`."""
    n, c, h, w = logits.shape
    if tuple(labels.shape) != (n, h, w):
        raise ValueError(f"labels have shape {tuple(labels.shape)}, logits {(n, c, h, w)} need {(n, h, w)}")
    wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= c))]
    if wrong.shape[0] > 0:
        raise ValueError(
            f"label {int(wrong[0])} at {wrong.shape[0]} pixels is neither a class, 0..{c - 1}, "
            f"nor the ignored {ignore_index}"
        )


def cross_entropies(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Cross entropy of every pixel of logits (n, c, h, w) and labels int64 (n, h, w), 0 where ignored: (n, h, w).

    Written out because Paddle's own ends at 64: its softmax takes no logit to be further below the largest.
    """
    kept = labels != ignore_index
    classes = paddle.where(kept, labels, paddle.zeros_like(labels)).unsqueeze(1)
    below = logits - logits.max(axis=1, keepdim=True).detach()  # (n, c, h, w)
    loss = paddle.log(paddle.exp(below).sum(axis=1)) - paddle.take_along_axis(below, classes, 1).squeeze(1)
    return paddle.where(kept, loss, paddle.zeros_like(loss))


def hard_examples(loss: Tensor, thresh: float, n_min: int) -> Tensor:
    """The losses that online hard example mining keeps of `loss` (p,), in descending order: (kept,).

    All above `thresh` if the one at index `n_min` is, else the first `n_min` (loss/loss.py). Of equal losses
    at the cut the first pixels are kept: upstream's sort is unstable there, ours is the same on both sides.
    Raises ValueError where upstream has an IndexError (`n_min` >= p) or the mean of nothing (`n_min` < 1).
    """
    if not 1 <= n_min < loss.shape[0]:
        raise ValueError(
            f"n_min is {n_min}, of {loss.shape[0]} pixels it must be at least 1 and less than all"
        )
    loss = paddle.sort(loss, descending=True, stable=True)
    if loss[n_min] > thresh:
        return loss[loss > thresh]
    return loss[:n_min]


class OhemCELoss(nn.Layer):
    """Cross entropy over the hard pixels; logits (n, c, h, w), labels int64 (n, h, w), result 0-d.

    `thresh` is a probability (0.7 in train.py): pixels whose true class gets less are hard. `n_min` pixels
    are kept in any case; None takes n*h*w // 16 of each batch, which is train.py's figure for a full batch.
    Ignored pixels have loss 0 and stay in the ranking, as upstream.
    """

    def __init__(self, thresh: float = 0.7, n_min: int | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        # float32, as upstream holds it, in a float64 run too
        self.thresh = float(np.float32(-np.log(np.float64(np.float32(thresh)))))
        self.n_min = n_min
        self.ignore_index = ignore_index

    def pixel_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of every pixel, 0 where ignored: (n*h*w,)."""
        check_labels(logits, labels, self.ignore_index)
        loss = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none", axis=1)
        return loss.reshape([-1])

    def hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The losses of the pixels that are kept, in descending order: (kept,)."""
        loss = self.pixel_losses(logits, labels)
        n_min = loss.shape[0] // 16 if self.n_min is None else self.n_min
        return hard_examples(loss, self.thresh, n_min)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the hard pixels."""
        return self.hard(logits, labels).mean()


def enet_weights(labels: Tensor, num_classes: int, c: float = 1.02) -> Tensor:
    """Class weights of ENet, 1 / ln(c + share of all pixels): float32 (num_classes,).

    As loss/util.py, `c` too. Ignored pixels count in the total. (Upstream gets a 256th weight from label 255
    and then fails.)
    """
    labels = labels.reshape([-1])
    counts = paddle.bincount(labels, minlength=num_classes)[:num_classes]
    share = counts.astype(paddle.float64) / labels.shape[0]
    return (1 / paddle.log(c + share)).astype(paddle.float32)


class WeightedOhemCELoss(OhemCELoss):
    """`OhemCELoss` with each pixel's loss times the ENet weight of its class in this batch (loss/loss.py)."""

    def __init__(
        self, thresh: float = 0.7, n_min: int | None = None, num_classes: int = 19, ignore_index: int = 255
    ) -> None:
        super().__init__(thresh, n_min, ignore_index)
        self.num_classes = num_classes

    def pixel_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted cross entropy of every pixel, 0 where ignored: (n*h*w,)."""
        loss = super().pixel_losses(logits, labels)
        weights = enet_weights(labels, self.num_classes).astype(loss.dtype)
        classes = labels.reshape([-1])
        classes = paddle.where(classes == self.ignore_index, paddle.zeros_like(classes), classes)
        return loss * weights[classes]


class SoftmaxFocalLoss(nn.Layer):
    """-(1 - p)^gamma log p of the true class, mean over the pixels that are not ignored (NaN if all are).

    logits (n, c, h, w), labels int64 (n, h, w), result 0-d. Upstream's class (loss/loss.py) cannot be built,
    its constructor names a class that does not exist; this is what its forward says.
    """

    def __init__(self, gamma: float = 2.0, ignore_index: int = 255) -> None:
        super().__init__()
        self.gamma = gamma
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        check_labels(logits, labels, self.ignore_index)
        kept = labels != self.ignore_index
        factor = paddle.pow(1.0 - F.softmax(logits, axis=1), self.gamma)
        focal = factor * F.log_softmax(logits, axis=1)  # (n, c, h, w)
        classes = paddle.where(kept, labels, paddle.zeros_like(labels)).unsqueeze(1)
        picked = paddle.take_along_axis(focal, classes, 1).squeeze(1)  # (n, h, w)
        kept = kept.astype(focal.dtype)
        return -(picked * kept).sum() / kept.sum()


def nearest_index(size: int, to: int) -> np.ndarray:
    """Which of `size` source lines each of `to` lines takes, as torch's float32 nearest mode: int64 (to,)."""
    scale = np.float32(size) / np.float32(to)
    index = np.floor(np.arange(to, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(index, size - 1)


def resize_nearest(x: Tensor, height: int, width: int) -> Tensor:
    """`x` (n, c, h, w) resized to (n, c, height, width), the same lines in float32 and float64.

    The frameworks differ in float64 at ratios that are not whole (torch computes the ratio in float64, Paddle
    in float32), and torch's two dtypes differ from each other.
    """
    rows = paddle.to_tensor(nearest_index(x.shape[2], height), place=x.place)
    columns = paddle.to_tensor(nearest_index(x.shape[3], width), place=x.place)
    return paddle.index_select(paddle.index_select(x, rows, 2), columns, 3)


def dice_loss(probs: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - dice coefficient of two (n, 1, h, w) tensors, mean over the images (loss/detail_loss.py)."""
    n = probs.shape[0]
    probs, targets = probs.reshape([n, -1]), targets.reshape([n, -1])
    overlap = (probs * targets).sum(1)
    return (1 - (2.0 * overlap + smooth) / (probs.sum(1) + targets.sum(1) + smooth)).mean()


class DetailAggregateLoss(nn.Layer):
    """Detail guidance: detail logits against the Laplacian pyramid of the labels, as (bce, dice).

    `fuse_kernel` (1, 3, 1, 1) is a parameter that upstream hands to the optimizer although its targets are
    cut at 0.1: its gradient is zero, not absent, so nothing but weight decay moves it. That holds for either
    part alone. The Laplacian is no part of the state dict, as upstream.
    """

    def __init__(self) -> None:
        super().__init__()
        kernel = paddle.to_tensor(LAPLACIAN, dtype=paddle.float32).reshape([1, 1, 3, 3])
        self.register_buffer("laplacian_kernel", kernel, persistable=False)
        fuse = nn.initializer.Assign(np.array(FUSE, dtype=np.float32).reshape(1, 3, 1, 1))
        self.fuse_kernel = self.create_parameter((1, 3, 1, 1), dtype="float32", default_initializer=fuse)

    def pyramid(self, labels: Tensor) -> Tensor:
        """Where the Laplacian of `labels` (n, h, w) at strides 1, 2, 4 is above 0.1, as 0 or 1: (n, 3, h, w).

        The ignored 255 enters as the number 255: the border of an ignored region is detail.
        """
        height, width = labels.shape[1:]
        x = labels.unsqueeze(1).astype(self.fuse_kernel.dtype)  # (n, 1, h, w)
        levels = []
        for stride in (1, 2, 4):
            edges = F.conv2d(x, self.laplacian_kernel, stride=stride, padding=1)  # (n, 1, h/stride, w/stride)
            levels.append(resize_nearest((edges > EDGE).astype(x.dtype), height, width))
        return paddle.concat(levels, axis=1)

    def targets(self, labels: Tensor) -> Tensor:
        """The fused detail map of `labels` (n, h, w), 0 or 1: (n, 1, h, w)."""
        fused = F.conv2d(self.pyramid(labels), self.fuse_kernel)
        detail = fused > EDGE
        return fused.masked_fill(detail, 1.0).masked_fill(~detail, 0.0)  # in the graph, with gradient zero

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(bce, dice), both 0-d, of `logits` (n, 1, any size) and `labels` int64 (n, h, w).

        Logits of another width are resized to the labels' size. Raises ValueError if only the height differs.
        """
        targets = self.targets(labels)
        if logits.shape[-1] != targets.shape[-1]:
            logits = F.interpolate(logits, tuple(targets.shape[2:]), mode="bilinear", align_corners=True)
        if tuple(logits.shape) != tuple(targets.shape):
            raise ValueError(
                f"detail logits have shape {tuple(logits.shape)}, targets {tuple(targets.shape)}"
            )
        # written out because Paddle's own function hands no gradient to the targets, torch's does
        bce = ((1 - targets) * logits - F.log_sigmoid(logits)).mean()
        return bce, dice_loss(F.sigmoid(logits), targets)

    def get_params(self) -> list[Tensor]:
        """What the optimizer's "loss" group trains: the fuse kernel."""
        return [self.fuse_kernel]


class SegLoss(nn.Layer):
    """The total of train.py: OHEM of the output and the auxiliary heads, plus detail losses at `boundaries`.

    `boundaries` are the detail outputs the network was built with, of (2, 4, 8) in this order; train.py can
    take (), (8,), (4, 8) and (2, 4, 8). The published models use (8,). `heads` counts the outputs that are
    logits: three, or two of a network that has no stage at stride 32.
    """

    def __init__(
        self,
        boundaries: Sequence[int] = (8,),
        thresh: float = 0.7,
        n_min: int | None = None,
        ignore_index: int = 255,
        heads: int = 3,
    ) -> None:
        super().__init__()
        if list(boundaries) != [b for b in (2, 4, 8) if b in boundaries]:
            raise ValueError(f"boundaries are {tuple(boundaries)}, they must be of (2, 4, 8) in this order")
        self.boundaries = tuple(boundaries)
        self.heads = heads
        self.ohem = OhemCELoss(thresh, n_min, ignore_index)
        self.detail = DetailAggregateLoss()

    def forward(self, outputs: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(total, terms), all 0-d; terms: ohem, ohem16, ohem32, then bce and dice of each boundary.

        `outputs` are the network's: (out, out16, out32, detail of each boundary), the first `heads` (n, c, h,
        w); `labels` int64 (n, h, w) or (n, 1, h, w). Raises ValueError for another number of outputs.
        """
        names = ("ohem", "ohem16", "ohem32")[: self.heads]
        if len(outputs) != self.heads + len(self.boundaries):
            raise ValueError(
                f"{len(outputs)} outputs, boundaries {self.boundaries} need {self.heads + len(self.boundaries)}"
            )
        if labels.ndim == 4:
            labels = labels.squeeze(1)
        terms = {name: self.ohem(logits, labels) for name, logits in zip(names, outputs, strict=False)}
        total = terms["ohem"]
        for name in names[1:]:
            total = total + terms[name]
        if self.boundaries:
            for boundary, logits in zip(self.boundaries, outputs[self.heads :], strict=True):
                terms[f"bce{boundary}"], terms[f"dice{boundary}"] = self.detail(logits, labels)
            total = total + sum(terms[f"bce{b}"] for b in self.boundaries)
            total = total + sum(terms[f"dice{b}"] for b in self.boundaries)
        return total, terms

    def get_params(self) -> list[Tensor]:
        """What the optimizer's "loss" group trains."""
        return self.detail.get_params()
