"""Confusion matrices, IoU and the evaluation loops of both twins."""

import math

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.models_paddle import metrics as paddle_metrics
from stdc_parity.models_torch import metrics as torch_metrics

METRICS = {"torch": torch_metrics, "paddle": paddle_metrics}
TENSOR = {"torch": torch.tensor, "paddle": paddle.to_tensor}
CLASSES = 4


@pytest.mark.parametrize("side", METRICS)
def test_counts_are_label_by_prediction(side):
    rng = np.random.default_rng(0)
    pred, label = rng.integers(0, CLASSES, (2, 33, 47)), rng.integers(0, CLASSES - 1, (2, 33, 47))
    label[:, :5] = 255
    pred[:, 0] = 99  # under ignored pixels anything goes
    wanted = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for p, t in zip(pred.ravel(), label.ravel(), strict=True):
        if t != 255:
            wanted[t, p] += 1
    for convert in (np.array, TENSOR[side]):
        hist = METRICS[side].confusion_matrix(convert(pred), convert(label), CLASSES)
        assert hist.dtype == np.int64
        np.testing.assert_array_equal(hist, wanted)
    assert not np.array_equal(wanted, wanted.T)
    nothing = METRICS[side].confusion_matrix(pred, np.full_like(label, 255), CLASSES)
    assert nothing.shape == (CLASSES, CLASSES)
    assert nothing.sum() == 0


@pytest.mark.parametrize("side", METRICS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_wrong_values_are_named(side, dtype):
    right = np.zeros((2, 5), dtype=dtype)
    wrong = right.copy()
    wrong[0, :3] = 4
    confusion_matrix = METRICS[side].confusion_matrix
    with pytest.raises(
        ValueError, match=r"label 4 at 3 pixels is neither a class, 0\.\.3, nor the ignored label 255"
    ):
        confusion_matrix(right, wrong, CLASSES)
    with pytest.raises(ValueError, match="prediction 4 at 3 pixels"):
        confusion_matrix(wrong, right, CLASSES)
    with pytest.raises(ValueError, match="label -1 at 10 pixels"):
        confusion_matrix(right, np.full((2, 5), -1), CLASSES)
    with pytest.raises(ValueError, match=r"predictions have shape \(2, 5\), labels \(5, 2\)"):
        confusion_matrix(right, right.T, CLASSES)
    assert confusion_matrix(right, np.full((2, 5), -1), CLASSES, ignore_index=-1).sum() == 0


@pytest.mark.parametrize("side", METRICS)
def test_iou_and_absent_classes(side):
    """Class 2 is predicted and never labelled (IoU 0), class 3 neither (left out, or NaN as upstream)."""
    metrics = METRICS[side]
    hist = np.array([[6, 2, 0, 0], [1, 8, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(metrics.per_class_iou(hist), [6 / 9, 8 / 14, 0, np.nan], rtol=1e-15)
    assert metrics.mean_iou(hist) == pytest.approx((6 / 9 + 8 / 14 + 0) / 3, rel=1e-15)
    assert math.isnan(metrics.mean_iou(hist, absent="nan"))
    assert metrics.mean_iou(hist[:3, :3], absent="nan") == metrics.mean_iou(hist)
    assert metrics.pixel_accuracy(hist) == 14 / 20
    assert math.isnan(metrics.mean_iou(np.zeros((3, 3), np.int64)))
    assert math.isnan(metrics.pixel_accuracy(np.zeros((3, 3), np.int64)))
    assert metrics.mean_iou(hist, absent="zero") == pytest.approx((6 / 9 + 8 / 14) / 4, rel=1e-15)
    assert metrics.mean_iou(np.zeros((3, 3), np.int64), absent="zero") == 0
    with pytest.raises(ValueError, match="absent is 'one'"):
        metrics.mean_iou(hist, absent="one")
    # beyond what float32 counts (2^24) and what int32 holds
    assert metrics.pixel_accuracy(np.array([[2**40 + 1, 0], [0, 1]])) == 1.0


class Small:
    """A stand-in for a network in both frameworks: a 3x3 convolution, and a record of what it saw."""

    def __init__(self, side, dtype="float64"):
        rng = np.random.default_rng(5)
        self.weight = TENSOR[side](rng.standard_normal((CLASSES, 3, 3, 3)).astype(dtype))
        self.conv = {"torch": torch.nn.functional.conv2d, "paddle": paddle.nn.functional.conv2d}[side]
        self.training = True
        self.seen = []

    def __call__(self, x):
        assert not self.training
        self.seen.append(tuple(x.shape))
        return self.conv(x, self.weight, padding=1), None

    def eval(self):
        self.training = False

    def train(self, mode=True):
        self.training = mode


def batches(side, size, count=2, dtype="float64"):
    rng = np.random.default_rng(7)
    made = []
    for _ in range(count):
        label = rng.integers(0, CLASSES, (2, 1, *size))
        label[:, :, :3] = 255
        made.append((TENSOR[side](rng.standard_normal((2, 3, *size)).astype(dtype)), TENSOR[side](label)))
    return made


def resized(x, height, width):
    return torch.nn.functional.interpolate(x, (height, width), mode="bilinear", align_corners=True)


@pytest.mark.parametrize("scale", [0.5, 0.75])
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_single_scale(size, scale):
    """Both sides count the same, and as upstream's loop does."""
    wanted = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    net = Small("torch")
    net.eval()
    for images, label in batches("torch", size):
        logits = resized(net(resized(images, int(size[0] * scale), int(size[1] * scale)))[0], *size)
        pred, kept = logits.argmax(1), label[:, 0] != 255
        np.add.at(wanted, (label[:, 0][kept].numpy(), pred[kept].numpy()), 1)
    for side, metrics in METRICS.items():
        net = Small(side)
        hist = metrics.evaluate_single_scale(net, batches(side, size), CLASSES, scale)
        np.testing.assert_array_equal(hist, wanted)
        assert net.training
        assert net.seen == [(2, 3, int(size[0] * scale), int(size[1] * scale))] * 2


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("size", "crop"), [((32, 48), 20), ((33, 47), 40), ((33, 47), 64), ((20, 64), 30)])
def test_multi_scale(size, crop, flip):
    """Crops that divide, overlap, are padded on one side and on both; the sides agree and cover everything."""
    hists, scores, seen = {}, {}, {}
    for side, metrics in METRICS.items():
        net = Small(side)
        hists[side] = metrics.evaluate_multi_scale(net, batches(side, size), CLASSES, (0.75, 1.0), crop, flip)
        seen[side] = net.seen
        images = batches(side, size)[0][0]
        scores[side] = metrics.multi_scale_scores(
            net_in_eval(side), images, CLASSES, (0.75, 1.0), crop, flip
        ).numpy()
    np.testing.assert_array_equal(hists["paddle"], hists["torch"])
    assert seen["paddle"] == seen["torch"]
    assert set(seen["torch"]) == {(2, 3, crop, crop)}
    np.testing.assert_allclose(scores["paddle"], scores["torch"], rtol=1e-5)
    # every pixel of every scale is in a crop: exp(p) is at least 1, summed over two scales
    assert scores["torch"].min() >= 2 * (1 - 1e-12)


def net_in_eval(side):
    net = Small(side)
    net.eval()
    return net


@pytest.mark.parametrize("side", METRICS)
def test_padding_leaves_the_odd_line_after(side):
    """As upstream: the margin before is rounded down."""
    padded, rows, columns = METRICS[side].pad(TENSOR[side](np.ones((1, 2, 3, 4))), 6, 8)
    wanted = np.zeros((1, 2, 6, 8))
    wanted[:, :, 1:4, 2:6] = 1
    np.testing.assert_array_equal(padded.numpy(), wanted)
    assert (rows, columns) == (slice(1, 4), slice(2, 6))


def test_one_crop_at_scale_one_is_the_chip():
    for side, metrics in METRICS.items():
        images = batches(side, (24, 24))[0][0]
        net = net_in_eval(side)
        whole = metrics.multi_scale_scores(net, images, CLASSES, (1.0,), 24, True).numpy()
        as_published = metrics.multi_scale_scores(net, images, CLASSES, (1.0,), None, True).numpy()
        np.testing.assert_allclose(whole, as_published, rtol=1e-12)
        logits = torch.tensor(net(images)[0].numpy())
        flipped = {"torch": torch.flip, "paddle": paddle.flip}[side](images, (3,))
        mirrored = torch.flip(torch.tensor(net(flipped)[0].numpy()), (3,))
        wanted = torch.exp(torch.softmax(logits, 1) + torch.softmax(mirrored, 1)).numpy()
        np.testing.assert_allclose(whole, wanted, rtol=1e-12)


@pytest.mark.parametrize("side", METRICS)
def test_as_published_scales_and_crops_do_nothing(side):
    net = Small(side)
    first = METRICS[side].evaluate_multi_scale(net, batches(side, (20, 30)), CLASSES, (0.5, 1.5), None, False)
    assert set(net.seen) == {(2, 3, 20, 30)}
    second = METRICS[side].evaluate_multi_scale(
        Small(side), batches(side, (20, 30)), CLASSES, (1.0,), None, False
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("side", METRICS)
def test_the_mode_is_restored_after_an_error(side):
    net = Small(side)
    images, label = batches(side, (20, 30))[0]
    with pytest.raises(ValueError, match="label"):
        METRICS[side].evaluate_single_scale(net, [(images, label * 0 + 77)], CLASSES)
    assert net.training


@pytest.mark.parametrize("side", METRICS)
def test_ties_go_to_the_first_class(side):
    """Both argmaxes take the first of equal scores, so a tie is no difference between the sides."""
    net = Small(side, "float32")
    net.weight = net.weight * 0
    hist = METRICS[side].evaluate_single_scale(net, batches(side, (40, 60), 1, "float32"), CLASSES)
    assert hist[:, 0].sum() == hist.sum() > 0
