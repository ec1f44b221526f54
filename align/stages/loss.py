"""The loss stage on one side: every term of the total on given logits, and the targets that it builds."""

from __future__ import annotations

from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Framework, Tensor
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec

STAGE = "loss"


def seeded_outputs(session: Session, spec: RunSpec) -> list[Array]:
    """Logits of the shapes that the network returns, drawn from the seed: both sides get the same."""
    random = np.random.default_rng([spec.seed, 1])
    outputs = []
    for channels, stride in session.recipe(spec).outputs:
        height, width = (-(-side // stride) for side in spec.size)
        coarse = random.standard_normal((spec.batch, channels, -(-height // 8), -(-width // 8)))
        smooth = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
        outputs.append((2 * smooth + random.standard_normal(smooth.shape)).astype(spec.dtype))
    return outputs


class Projection:
    """The loss of a pair without a recipe: every output times fixed random weights, summed."""

    def __init__(self, session: Session, spec: RunSpec) -> None:
        """Take the seed and the dtype from `spec`."""
        self.framework, self.spec = session.framework, spec

    def __call__(self, outputs: list[Tensor], _target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, 0-d, and the part of each output; outputs that are no floating-point tensors are left out."""
        terms = {}
        for i, output in enumerate(outputs):
            array = self.framework.to_array(output)
            if array.dtype.kind == "f":
                weights = np.random.default_rng([self.spec.seed, 3, i]).standard_normal(array.shape)
                weights = (weights / max(1.0, array.size**0.5)).astype(array.dtype)
                terms[f"output{i}"] = (output * self.framework.to_tensor(weights)).sum()
        return sum(terms.values()), terms


def build_loss(session: Session, spec: RunSpec) -> Any:
    """This side's training loss, in the dtype of `spec`: `loss(outputs, target) -> (total, terms)`."""
    if session.pair(spec).recipe is None:
        return Projection(session, spec)
    loss = session.part(spec, "losses").SegLoss()
    session.framework.set_dtype(loss, spec.dtype)
    session.framework.set_mode(loss, "train")
    return loss


def loss_parameters(framework: Framework, loss: Any) -> dict[str, Tensor]:
    """The trainable parameters of a loss by name."""
    return {} if isinstance(loss, Projection) else framework.parameters(loss)


def capture(session: Session, spec: RunSpec) -> Record:
    """Record the total, its terms and parameters, the losses of the other recipes, and the detail targets."""
    framework, losses = session.framework, session.part(spec, "losses")
    recorder = Recorder(framework)
    _, labels = session.scenes(spec)
    outputs = [framework.to_tensor(array) for array in seeded_outputs(session, spec)]
    target = framework.to_tensor(labels)
    loss = build_loss(session, spec)
    with framework.no_grad():
        for name, parameter in framework.parameters(loss).items():
            recorder.add(name, "parameter", "loss", type(loss).__name__, parameter)
        kernel = loss.detail.laplacian_kernel
        recorder.add("detail.laplacian_kernel", "parameter", "loss", type(loss).__name__, kernel)
        for name in ("pyramid", "targets"):
            built = getattr(loss.detail, name)(target)
            recorder.add(f"detail {name}", "target", f"loss.detail.{name}", type(loss.detail).__name__, built)
        total, terms = loss(outputs, target)
        for name, term in terms.items():
            recorder.add(name, "loss", f"loss.{name}", type(loss).__name__, term)
        recorder.add("total", "loss", "loss", type(loss).__name__, total)
        _other_losses(recorder, losses, outputs[0], target, session.recipe(spec).num_classes)
        for name, logits, few in _edge_cases(seeded_outputs(session, spec)[0], labels):
            term = loss.ohem(framework.to_tensor(logits), framework.to_tensor(few))
            recorder.add(name, "loss", "loss.ohem", type(loss.ohem).__name__, term)
    return recorder.record(STAGE)


def _edge_cases(logits: Array, labels: Array) -> list[tuple[str, Array, Array]]:
    """Where hard example mining keeps its least number: nearly all pixels easy, and nearly all ignored."""
    every = np.arange(labels.size).reshape(labels.shape)
    truth = (labels[:, np.newaxis] == np.arange(logits.shape[1])[:, np.newaxis, np.newaxis]) & (
        every % 40 > 0
    )[:, np.newaxis]
    few = np.where(every % 40 > 0, 255, labels)
    easy = (logits + 20 * truth).astype(logits.dtype)
    return [("ohem of easy pixels", easy, labels), ("ohem of few labels", logits, few)]


def _other_losses(recorder: Recorder, losses: Any, logits: Tensor, labels: Tensor, classes: int) -> None:
    """The weighted OHEM and the focal loss that upstream carries beside its recipe."""
    weighted = losses.WeightedOhemCELoss(num_classes=classes)
    recorder.add(
        "weighted ohem", "loss", "WeightedOhemCELoss", "WeightedOhemCELoss", weighted(logits, labels)
    )
    focal = losses.SoftmaxFocalLoss()
    recorder.add("focal", "loss", "SoftmaxFocalLoss", "SoftmaxFocalLoss", focal(logits, labels))
