"""Losses of both twins: against float64 written out in NumPy, and against each other."""

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.models_paddle import losses as paddle_losses
from stdc_parity.models_torch import losses as torch_losses

SIDES = {"torch": torch_losses, "paddle": paddle_losses}
SIZES = [(32, 64), (33, 47), (97, 161)]


def build(side, name, *args, dtype="float64", **options):
    loss = getattr(SIDES[side], name)(*args, **options)
    if side == "torch":
        return loss.to(getattr(torch, dtype))
    loss.to(dtype=dtype)
    return loss


def tensor(side, array, grad=False):
    if side == "torch":
        return torch.tensor(array, requires_grad=grad)
    return paddle.to_tensor(array, stop_gradient=not grad)


def value(x):
    return x.detach().numpy()


def sample(size, classes=5, channels=None, seed=0):
    """Logits float64 (2, channels, h, w) and labels in squares, with an ignored region and single pixels."""
    rng = np.random.default_rng(seed)
    h, w = size
    logits = 3 * rng.standard_normal((2, channels or classes, h, w))
    labels = rng.integers(0, classes, (2, h // 6 + 1, w // 6 + 1)).repeat(6, 1).repeat(6, 2)[:, :h, :w]
    labels[:, h // 2 :, : w // 3] = 255
    labels[0, rng.integers(0, h, 40), rng.integers(0, w, 40)] = 255
    return logits, np.ascontiguousarray(labels)


def pixel_losses(logits, labels):
    """Cross entropy of each pixel by its definition, 0 where ignored."""
    shifted = logits - logits.max(1, keepdims=True)
    log_prob = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    safe = np.where(labels == 255, 0, labels)
    picked = np.take_along_axis(log_prob, safe[:, None], 1)[:, 0]
    return np.where(labels == 255, 0.0, -picked).ravel(), picked, safe


def ohem(loss, thresh, n_min):
    ranked = np.sort(loss)[::-1]
    return ranked[ranked > thresh] if ranked[n_min] > thresh else ranked[:n_min]


CASES = [
    ("hard", 0.7, None, 1.0),
    ("easy", 0.7, None, 0.0),
    ("n_min decides", 1e-6, 7, 1.0),
    ("one", 0.7, 1, 1.0),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "thresh", "n_min", "noise"), CASES, ids=[case[0] for case in CASES])
def test_ohem_is_its_definition(name, thresh, n_min, noise, size):
    logits, labels = sample(size)
    if not noise:  # all but a few pixels are right
        logits = logits / 10 + 9 * (np.arange(5)[:, None, None] == labels[:, None])
        logits[0, :, :2, :3] *= -1
    loss, _, _ = pixel_losses(logits, labels)
    wanted = ohem(loss, float(np.float32(-np.log(np.float32(thresh)))), n_min or loss.size // 16)
    assert 0 < wanted.size < loss.size
    grads = {}
    for side in SIDES:
        x = tensor(side, logits, grad=True)
        module = build(side, "OhemCELoss", thresh, n_min)
        y = tensor(side, labels)
        np.testing.assert_allclose(value(module.hard(x, y)), wanted, rtol=1e-12)
        out = module(x, y)
        np.testing.assert_allclose(value(out), wanted.mean(), rtol=1e-12)
        out.backward()
        grads[side] = value(x.grad)
        touched = np.abs(grads[side]).sum(1).ravel() > 0
        assert touched.sum() == (wanted > 0).sum()
    np.testing.assert_allclose(grads["paddle"], grads["torch"], atol=1e-12 * np.abs(grads["torch"]).max())


def test_ohem_threshold_is_upstreams_float32():
    """The recipe's 0.7 to the bit; others within the last bit, torch's own logarithm is not better."""
    for thresh, rtol in ((0.7, 0.0), (0.5, 0.0), (0.9, 1.2e-7)):
        upstream = -torch.log(torch.tensor(thresh, dtype=torch.float))
        for side in SIDES:
            np.testing.assert_allclose(build(side, "OhemCELoss", thresh).thresh, float(upstream), rtol=rtol)


def test_ohem_takes_the_first_of_equal_losses():
    """All pixels lose the same: the cut goes through a tie, and n_min pixels must be the first ones."""
    for side in SIDES:
        x = tensor(side, np.zeros((1, 4, 20, 30)), grad=True)
        build(side, "OhemCELoss", 1e-3, 50)(x, tensor(side, np.ones((1, 20, 30), dtype=np.int64))).backward()
        touched = np.flatnonzero(np.abs(value(x.grad)).sum(1).ravel())
        assert touched.tolist() == list(range(50)), side


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("n_min", "size", "words"),
    [
        (64, (8, 8), "n_min is 64, of 64 pixels"),
        (0, (8, 8), "n_min is 0"),
        (None, (3, 5), "n_min is 0, of 15"),
    ],
)
def test_ohem_refuses_counts_that_mean_nothing(side, n_min, size, words):
    logits, labels = np.zeros((1, 3, *size)), np.zeros((1, *size), dtype=np.int64)
    with pytest.raises(ValueError, match=words):
        build(side, "OhemCELoss", 0.7, n_min)(tensor(side, logits), tensor(side, labels))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["OhemCELoss", "SoftmaxFocalLoss"])
@pytest.mark.parametrize(
    ("wrong", "words"), [(5, "label 5 at 2 pixels"), (-1, "label -1"), (254, "label 254")]
)
def test_a_wrong_label_is_named(side, name, wrong, words):
    logits, labels = sample((16, 20))
    labels[0, 0, :2] = wrong
    with pytest.raises(ValueError, match=words):
        build(side, name)(tensor(side, logits), tensor(side, labels))
    with pytest.raises(ValueError, match=r"labels have shape \(2, 16, 19\)"):
        build(side, name)(tensor(side, logits), tensor(side, labels[:, :, 1:]))


def test_everything_ignored():
    """OHEM then means zeros, the focal loss has nothing to mean."""
    labels = np.full((2, 16, 20), 255, dtype=np.int64)
    for side in SIDES:
        logits = tensor(side, sample((16, 20))[0])
        assert float(build(side, "OhemCELoss")(logits, tensor(side, labels))) == 0.0
        assert np.isnan(float(build(side, "SoftmaxFocalLoss")(logits, tensor(side, labels))))


def test_weighted_ohem_is_its_definition():
    logits, labels = sample((33, 47))
    loss, _, safe = pixel_losses(logits, labels)
    share = np.bincount(labels.ravel(), minlength=256)[:5] / labels.size
    weights = (1 / np.log(1.02 + share)).astype(np.float32).astype(np.float64)
    wanted = ohem(loss * weights[safe.ravel()], 0.35667497, loss.size // 16).mean()
    grads = []
    for side in SIDES:
        x = tensor(side, logits, grad=True)
        out = build(side, "WeightedOhemCELoss", num_classes=5)(x, tensor(side, labels))
        np.testing.assert_allclose(value(out), wanted, rtol=1e-12)
        out.backward()
        grads.append(value(x.grad))
    np.testing.assert_allclose(grads[1], grads[0], atol=1e-12 * np.abs(grads[0]).max())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_its_definition(gamma):
    logits, labels = sample((33, 47))
    _, log_prob, _ = pixel_losses(logits, labels)
    kept = labels != 255
    wanted = -((1 - np.exp(log_prob)) ** gamma * log_prob)[kept].mean()
    grads = []
    for side in SIDES:
        x = tensor(side, logits, grad=True)
        out = build(side, "SoftmaxFocalLoss", gamma)(x, tensor(side, labels))
        np.testing.assert_allclose(value(out), wanted, rtol=1e-12)
        out.backward()
        grads.append(value(x.grad))
    np.testing.assert_allclose(grads[1], grads[0], atol=1e-12 * np.abs(grads[0]).max())


def detail_targets(labels, dtype="float64", kernel=(0.6, 0.3, 0.1)):
    """Upstream's targets in loops: a float32 kernel in a run of `dtype`, compared with 0.1 in that dtype."""
    n, h, w = labels.shape
    padded = np.zeros((n, h + 2, w + 2))
    padded[:, 1:-1, 1:-1] = labels
    around = sum(padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3))
    edges = 9 * labels - around > 0.1
    fused = np.zeros((n, h, w), dtype=dtype)
    for stride, weight in zip((1, 2, 4), kernel, strict=True):
        small = edges[:, ::stride, ::stride]
        rows, columns = small.shape[1:]
        up = [int(np.float32(i) * (np.float32(rows) / np.float32(h))) for i in range(h)]
        along = [int(np.float32(j) * (np.float32(columns) / np.float32(w))) for j in range(w)]
        fused += np.float32(weight).astype(dtype) * small[:, up][:, :, along].astype(dtype)
    return (fused > np.asarray(0.1, dtype)).astype(np.float64)[:, None]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_detail_targets_are_upstreams_in_either_dtype(size, dtype):
    _, labels = sample(size)
    wanted = detail_targets(labels, dtype)
    assert 0.05 < wanted.mean() < 0.95
    for side in SIDES:
        targets = build(side, "DetailAggregateLoss", dtype=dtype).targets(tensor(side, labels))
        np.testing.assert_array_equal(value(targets), wanted)


def test_what_only_stride_four_marks_is_detail_in_float64_alone():
    """Its sum is float32(0.1), which is not above 0.1 in float32 and is in float64, upstream and here."""
    labels = np.zeros((1, 40, 40), dtype=np.int64)
    labels[0, 16, 16] = 7  # a point on the grid of every stride
    for side in SIDES:
        for dtype, detail in (("float32", 0), ("float64", 12)):
            loss = build(side, "DetailAggregateLoss", dtype=dtype)
            pyramid, targets = (
                value(loss.pyramid(tensor(side, labels))),
                value(loss.targets(tensor(side, labels))),
            )
            only = (pyramid[:, 0] == 0) & (pyramid[:, 1] == 0) & (pyramid[:, 2] == 1)
            assert only.sum() == 12
            assert targets[:, 0][only].sum() == detail
            assert targets.sum() == 4 + detail


@pytest.mark.parametrize("size", SIZES)
def test_detail_loss_is_its_definition(size):
    logits, labels = sample(size, channels=1)
    targets = detail_targets(labels)
    bce = np.mean(np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits))))
    probs, flat = (1 / (1 + np.exp(-logits))).reshape(2, -1), targets.reshape(2, -1)
    dice = np.mean(1 - (2 * (probs * flat).sum(1) + 1) / (probs.sum(1) + flat.sum(1) + 1))
    grads = []
    for side in SIDES:
        x = tensor(side, logits, grad=True)
        found = build(side, "DetailAggregateLoss")(x, tensor(side, labels))
        np.testing.assert_allclose([float(value(f)) for f in found], [bce, dice], rtol=1e-12)
        (found[0] + found[1]).backward()
        grads.append(value(x.grad))
    np.testing.assert_allclose(grads[1], grads[0], atol=1e-12 * np.abs(grads[0]).max())


def test_detail_logits_are_resized_by_width_only():
    logits, labels = sample((97, 161), channels=1)
    found = []
    for side in SIDES:
        loss = build(side, "DetailAggregateLoss")
        small = tensor(side, logits[:, :, ::8, ::8].copy())
        # 13 x 21 to 97 x 161 is a whole ratio, which Paddle has exactly in float32
        found.append([float(value(part)) for part in loss(small, tensor(side, labels))])
        with pytest.raises(ValueError, match=r"\(2, 1, 96, 161\), targets \(2, 1, 97, 161\)"):
            loss(tensor(side, logits[:, :, 1:].copy()), tensor(side, labels))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("part", [0, 1])
def test_the_fuse_kernels_gradient_is_zero_not_absent(side, part):
    logits, labels = sample((32, 64), channels=1)
    loss = build(side, "DetailAggregateLoss")
    assert loss.fuse_kernel.grad is None
    loss(tensor(side, logits, grad=True), tensor(side, labels))[part].backward()
    assert value(loss.fuse_kernel.grad).tolist() == [[[[0.0]], [[0.0]], [[0.0]]]]


@pytest.mark.parametrize("side", SIDES)
def test_the_fuse_kernel_is_the_only_state(side):
    loss = build(side, "DetailAggregateLoss", dtype="float32")
    assert list(loss.state_dict()) == ["fuse_kernel"]
    assert value(loss.fuse_kernel).ravel().tolist() == np.float32([0.6, 0.3, 0.1]).tolist()
    assert tuple(loss.fuse_kernel.shape) == (1, 3, 1, 1)
    assert loss.get_params() == [loss.fuse_kernel] or loss.get_params()[0] is loss.fuse_kernel


def test_nearest_is_both_frameworks_float32():
    for size in (1, 2, 3, 7, 13, 21, 25, 35, 49, 50, 69, 128):
        for to in (size, 2 * size - 1, 4 * size - 3, 97, 161, 513, 1025):
            x = np.arange(size, dtype=np.float32).reshape(1, 1, 1, size)
            ours = torch_losses.nearest_index(size, to)
            assert (ours == paddle_losses.nearest_index(size, to)).all()
            theirs = torch.nn.functional.interpolate(torch.tensor(x), (1, to), mode="nearest")
            assert (theirs.numpy().ravel() == ours).all(), (size, to)
            theirs = paddle.nn.functional.interpolate(paddle.to_tensor(x), (1, to), mode="nearest")
            assert (theirs.numpy().ravel() == ours).all(), (size, to)


@pytest.mark.parametrize("boundaries", [(), (8,), (4, 8), (2, 4, 8)])
def test_the_total_is_the_sum_of_its_terms(boundaries):
    outputs = [sample((33, 47), seed=seed)[0] for seed in range(3)]
    outputs += [sample((33, 47), channels=1, seed=b)[0] for b in boundaries]
    labels = sample((33, 47))[1]
    totals = []
    for side in SIDES:
        loss = build(side, "SegLoss", boundaries)
        total, terms = loss([tensor(side, x) for x in outputs], tensor(side, labels[:, None]))
        names = ["ohem", "ohem16", "ohem32", *(f"{part}{b}" for b in boundaries for part in ("bce", "dice"))]
        assert sorted(terms) == sorted(names)
        assert len({float(value(term)) for term in terms.values()}) == len(names)
        alone = build(side, "OhemCELoss")(tensor(side, outputs[1]), tensor(side, labels))
        assert float(value(terms["ohem16"])) == float(value(alone))
        np.testing.assert_allclose(
            float(value(total)), sum(float(value(t)) for t in terms.values()), rtol=1e-14
        )
        totals.append(float(value(total)))
        with pytest.raises(ValueError, match=f"2 outputs, boundaries .* need {3 + len(boundaries)}"):
            loss([tensor(side, x) for x in outputs[:2]], tensor(side, labels))
        with pytest.raises(ValueError, match="must be of"):
            build(side, "SegLoss", (8, 4))
    np.testing.assert_allclose(totals[1], totals[0], rtol=1e-13)
