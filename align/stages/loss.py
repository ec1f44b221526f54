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
        recorder.add(
            "detail targets", "target", "loss.detail", type(loss.detail).__name__, loss.detail.targets(target)
        )
        recorder.add(
            "detail pyramid", "target", "loss.detail", type(loss.detail).__name__, loss.detail.pyramid(target)
        )
        total, terms = loss(outputs, target)
        for name, term in terms.items():
            recorder.add(name, "loss", f"loss.{name}", type(loss).__name__, term)
        recorder.add("total", "loss", "loss", type(loss).__name__, total)
        _other_losses(recorder, losses, outputs[0], target, session.recipe(spec).num_classes)
    return recorder.record(STAGE)


def _other_losses(recorder: Recorder, losses: Any, logits: Tensor, labels: Tensor, classes: int) -> None:
    """The weighted OHEM and the focal loss that upstream carries beside its recipe."""
    weighted = losses.WeightedOhemCELoss(num_classes=classes)
    recorder.add(
        "weighted ohem", "loss", "WeightedOhemCELoss", "WeightedOhemCELoss", weighted(logits, labels)
    )
    focal = losses.SoftmaxFocalLoss()
    recorder.add("focal", "loss", "SoftmaxFocalLoss", "SoftmaxFocalLoss", focal(logits, labels))
