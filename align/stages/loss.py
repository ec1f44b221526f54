"""The loss stage on one side: every term of the total on given logits, and the targets that it builds."""

from __future__ import annotations

from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Tensor
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


def build_loss(session: Session, spec: RunSpec) -> Any:
    """This side's training loss, in the dtype of `spec`."""
    loss = session.part(spec, "losses").SegLoss()
    session.framework.set_dtype(loss, spec.dtype)
    session.framework.set_mode(loss, "train")
    return loss


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
