"""Segmentation metrics and the evaluation loops of upstream (MichaelFan01/STDC-Seg, evaluation.py).

Confusion matrices are int64 with rows = label and columns = prediction. Upstream's `MscEvalV0` has the same
orientation, its `MscEval` the other; the IoU does not depend on it. Upstream counts in float32, which loses
pixels once a cell holds 2^24 (road does after some 25 images of Cityscapes); here none are lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

#: The scales of upstream's MscEval.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def as_int64(values: Tensor | np.ndarray) -> Tensor:
    """A tensor of whole numbers, from a tensor or an array."""
    values = values if isinstance(values, Tensor) else paddle.to_tensor(values)
    return values.astype(paddle.int64)


def confusion_matrix(
    pred: Tensor | np.ndarray, label: Tensor | np.ndarray, num_classes: int = 19, ignore_index: int = 255
) -> np.ndarray:
    """Count the pixels of each (label, prediction): int64 (num_classes, num_classes).

    `pred` and `label` are whole numbers of the same shape; pixels labelled `ignore_index` do not count,
    whatever is predicted there. Raises ValueError, naming the value, for any other label or prediction
    outside the classes (upstream would count it in a wrong cell or fail with an index error).
    """
    pred, label = as_int64(pred), as_int64(label)
    if tuple(pred.shape) != tuple(label.shape):
        raise ValueError(f"predictions have shape {tuple(pred.shape)}, labels {tuple(label.shape)}")
    kept = label != ignore_index
    pred, label = pred[kept], label[kept]  # (p,)
    for what, values in (("label", label), ("prediction", pred)):
        wrong = values[(values < 0) | (values >= num_classes)]
        if wrong.shape[0] > 0:
            raise ValueError(
                f"{what} {int(wrong[0])} at {wrong.shape[0]} pixels is neither a class, 0..{num_classes - 1},"
                f" nor the ignored label {ignore_index}"
            )
    if label.shape[0] == 0:
        return np.zeros((num_classes, num_classes), dtype=np.int64)
    counts = paddle.bincount(label * num_classes + pred, minlength=num_classes**2)
    return counts.numpy().reshape(num_classes, num_classes)


def per_class_iou(hist: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 (c,); NaN for a class neither labelled nor predicted."""
    hit = np.diag(hist).astype(np.float64)
    union = hist.sum(axis=0) + hist.sum(axis=1) - np.diag(hist)
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def mean_iou(hist: np.ndarray, absent: str = "skip") -> float:
    """Mean of `per_class_iou`.

    Classes neither labelled nor predicted are left out (`absent="skip"`, the default), make the mean NaN
    (`absent="nan"`, upstream's way: with all of Cityscapes' val it never happens) or count as 0 (`absent="zero"`,
    ICNet's way). A class that is predicted but not labelled has IoU 0 and counts. NaN if there is nothing at
    all, 0 with "zero".
    """
    if absent not in ("skip", "nan", "zero"):
        raise ValueError(f'absent is {absent!r}, it must be "skip", "nan" or "zero"')
    ious = per_class_iou(hist)
    if absent == "zero":
        ious = np.nan_to_num(ious, nan=0.0)
    if absent == "skip":
        ious = ious[~np.isnan(ious)]
    return float(ious.mean()) if len(ious) else math.nan


def pixel_accuracy(hist: np.ndarray) -> float:
    """The share of the pixels that count whose class was predicted; NaN if none count."""
    total = int(hist.sum())
    return int(np.diag(hist).sum()) / total if total else math.nan


@contextmanager
def evaluation_mode(net: nn.Layer) -> Iterator[None]:
    """Within it `net` is in evaluation mode and no gradients are kept; then its mode is what it was."""
    was_training = net.training
    net.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        if was_training:
            net.train()


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """`x` (n, c, h, w) resized to (n, c, height, width), bilinear between aligned corners, as upstream."""
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def single_scale_logits(net: nn.Layer, images: Tensor, height: int, width: int, scale: float) -> Tensor:
    """What `net` says at `scale` of `images` (n, 3, h, w), resized to the labels: (n, c, height, width).

    The scaled size is rounded down, as upstream.
    """
    h, w = images.shape[2:]
    logits = net(resize(images, int(h * scale), int(w * scale)))[0]
    return resize(logits, height, width)


def evaluate_single_scale(
    net: nn.Layer,
    loader: Iterable[Sequence[Tensor]],
    num_classes: int = 19,
    scale: float = 0.5,
    ignore_index: int = 255,
) -> np.ndarray:
    """The confusion matrix of `net` in evaluation mode over `loader`, as upstream's MscEvalV0: int64 (c, c).

    `scale` is 0.5 for the published "Seg50" figures and 0.75 for "Seg75". The loader gives images float
    (n, 3, h, w) and labels int64 (n, 1, h, w).
    """
    hist = np.zeros((num_classes, num_classes), dtype=np.int64)
    with evaluation_mode(net):
        for images, label in loader:
            label = label.squeeze(1)
            logits = single_scale_logits(net, images, label.shape[1], label.shape[2], scale)
            pred = paddle.argmax(F.softmax(logits, axis=1), axis=1)  # (n, h, w)
            hist += confusion_matrix(pred, label, num_classes, ignore_index)
    return hist


def pad(x: Tensor, height: int, width: int) -> tuple[Tensor, slice, slice]:
    """`x` (n, c, h, w) amid zeros (n, c, height, width), and where its rows and columns are now."""
    h, w = x.shape[2:]
    top, left = (height - h) // 2, (width - w) // 2
    out = paddle.zeros((x.shape[0], x.shape[1], height, width), dtype=x.dtype)
    out[:, :, top : top + h, left : left + w] = x
    return out, slice(top, top + h), slice(left, left + w)


def chip_scores(net: nn.Layer, chip: Tensor, flip: bool) -> Tensor:
    """exp of the class probabilities of `chip` (n, 3, h, w), `flip`: of their sum with the mirror image's."""
    probs = F.softmax(net(chip)[0], axis=1)
    if flip:
        mirrored = net(paddle.flip(chip, (3,)))[0]
        probs = probs + F.softmax(paddle.flip(mirrored, (3,)), axis=1)
    return paddle.exp(probs)


def crop_scores(net: nn.Layer, images: Tensor, num_classes: int, crop: int, flip: bool) -> Tensor:
    """The sum of `chip_scores` of square crops that cover `images` (n, 3, h, w): (n, num_classes, h, w).

    Crops advance by 5/6 of their side, rounded up; the last ones end at the border. Overlaps are not
    averaged. A side shorter than the crop is padded with zeros.
    """
    h, w = images.shape[2:]
    images, rows, columns = pad(images, max(h, crop), max(w, crop))
    n, _, height, width = images.shape
    stride = math.ceil(crop * (5 / 6))
    scores = paddle.zeros((n, num_classes, height, width), dtype=images.dtype)
    for y in range(math.ceil((height - crop) / stride) + 1):
        for x in range(math.ceil((width - crop) / stride) + 1):
            bottom, right = min(height, stride * y + crop), min(width, stride * x + crop)
            place = (slice(None), slice(None), slice(bottom - crop, bottom), slice(right - crop, right))
            scores[place] += chip_scores(net, images[place], flip)
    return scores[:, :, rows, columns]


def multi_scale_scores(
    net: nn.Layer, images: Tensor, num_classes: int, scales: Sequence[float], crop: int | None, flip: bool
) -> Tensor:
    """The sum over `scales` of the scores of `images` (n, 3, h, w), resized back: (n, num_classes, h, w).

    With `crop=None` no image is scaled or cut: every scale adds the scores of the whole image, as upstream
    runs.
    """
    n, _, height, width = images.shape
    total = paddle.zeros((n, num_classes, height, width), dtype=images.dtype)
    for scale in scales:
        if crop is None:
            scores = chip_scores(net, images, flip)
        else:
            scaled = resize(images, int(height * scale), int(width * scale))
            scores = resize(crop_scores(net, scaled, num_classes, crop, flip), height, width)
        total += scores
    return total


def evaluate_multi_scale(
    net: nn.Layer,
    loader: Iterable[Sequence[Tensor]],
    num_classes: int = 19,
    scales: Sequence[float] = SCALES,
    crop: int | None = 1024,
    flip: bool = True,
    ignore_index: int = 255,
) -> np.ndarray:
    """The confusion matrix of multi-scale, sliding-crop, flip evaluation: int64 (c, c); upstream's MscEval.

    This is what the class is written to do. As published its `evaluate` calls `eval_chip`, the line with
    `scale_crop_eval` being commented out, so that scales and crops have no effect: `crop=None` does that.
    """
    hist = np.zeros((num_classes, num_classes), dtype=np.int64)
    with evaluation_mode(net):
        for images, label in loader:
            scores = multi_scale_scores(net, images, num_classes, scales, crop, flip)
            pred = paddle.argmax(scores, axis=1)  # (n, h, w)
            hist += confusion_matrix(pred, label.squeeze(1), num_classes, ignore_index)
    return hist
