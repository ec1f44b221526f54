"""The loss of auxiliary heads: against float64 written out in NumPy, and the twins against each other."""

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.models_paddle import heads_loss as paddle_loss
from stdc_parity.models_torch import heads_loss as torch_loss


def sample(classes=5, presence=True):
    """Logits of two heads and of presence, and labels with ignored ones and a class that is nowhere."""
    rng = np.random.default_rng(0)
    outputs = [3 * rng.standard_normal((2, classes, 6, 7)) for _ in range(2)]
    labels = rng.integers(0, classes - 1, (2, 6, 7))
    labels[0, :3] = 255
    return [*outputs, *([rng.standard_normal((2, classes))] if presence else [])], labels


def cross_entropy(logits, labels):
    log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    kept = labels != 255
    picked = np.take_along_axis(log_prob, np.where(kept, labels, 0)[:, None], 1)[:, 0]
    return -(picked * kept).sum() / kept.sum()


def context(logits, labels):
    there = np.array([[(image == c).any() for c in range(logits.shape[1])] for image in labels])
    prob = 1 / (1 + np.exp(-logits))
    return -np.where(there, np.log(prob), np.log(1 - prob)).mean()


def run(side, outputs, labels, **options):
    """(total, terms, gradients of the outputs) as NumPy."""
    if side == "torch":
        tensors = [torch.tensor(array, requires_grad=True) for array in outputs]
        total, terms = torch_loss.HeadsLoss(**options)(tensors, torch.tensor(labels))
    else:
        tensors = [paddle.to_tensor(array, stop_gradient=False) for array in outputs]
        total, terms = paddle_loss.HeadsLoss(**options)(tensors, paddle.to_tensor(labels))
    total.backward()
    gradients = [tensor.grad.numpy() for tensor in tensors]
    return total.item(), {name: term.item() for name, term in terms.items()}, gradients


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_the_terms_and_their_weights(side):
    outputs, labels = sample()
    total, terms, _ = run(side, outputs, labels, weights=(1.0, 0.4), presence=0.2)
    expected = {
        "main": cross_entropy(outputs[0], labels),
        "aux": cross_entropy(outputs[1], labels),
        "presence": context(outputs[2], labels),
    }
    assert terms == pytest.approx(expected, rel=1e-12)
    assert total == pytest.approx(expected["main"] + 0.4 * expected["aux"] + 0.2 * expected["presence"], rel=1e-12)


def test_both_sides_have_the_same_gradients():
    outputs, labels = sample()
    ours, theirs = (run(side, outputs, labels, weights=(1.0, 0.5), presence=0.2)[2] for side in ("torch", "paddle"))
    for one, other in zip(ours, theirs, strict=True):
        assert abs(one - other).max() <= 1e-12 * abs(one).max()
    assert not ours[0][0, :, :3].any()  # ignored pixels pull at nothing


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_what_does_not_fit_is_refused(side):
    outputs, labels = sample()
    with pytest.raises(ValueError, match="3 outputs, the loss has weights for 2"):
        run(side, outputs, labels)
    with pytest.raises(ValueError, match=r"label 9 at 1 pixels is neither a class, 0\.\.4, nor the ignored 255"):
        run(side, outputs[:2], np.where(np.arange(84).reshape(2, 6, 7) == 80, 9, labels))


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_labels_as_the_loader_gives_them_and_none_at_all(side):
    outputs, labels = sample(presence=False)
    assert run(side, outputs, labels[:, np.newaxis])[0] == run(side, outputs, labels)[0]
    assert np.isnan(run(side, outputs, np.full_like(labels, 255))[0])
