"""The loss stage on one side: every term of the total on given outputs, and what the pair's own probes record."""

from __future__ import annotations

from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Framework, Tensor
from stdc_parity.align.pair import LossBench
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call, outputs_of

STAGE = "loss"


def seeded_outputs(session: Session, spec: RunSpec) -> list[Array]:
    """Outputs of the shapes that the network returns, drawn from the seed: both sides get the same."""
    random = np.random.default_rng([spec.seed, 1])
    return [_drawn(random, spec, shape) for shape in _shapes(session, spec)]


def _shapes(session: Session, spec: RunSpec) -> list[tuple[int, ...]]:
    """The shapes of the outputs, as the recipe has them; if it does not say, those of a forward pass."""
    part, framework = session.recipe(spec).loss, session.framework
    assert part is not None
    if part.outputs is not None:
        height, width = spec.size
        return [(spec.batch, channels, -(-height // step), -(-width // step)) for channels, step in part.outputs]
    with framework.no_grad():
        inputs = [framework.to_tensor(array) for array in session.training_case(spec)[0]]
        outputs = call(session.network(spec), session.pair(spec), inputs)
    return [framework.to_array(output).shape for output in outputs_of(outputs)]


def seeded_logits(spec: RunSpec, classes: int, size: tuple[int, int]) -> Array:
    """Logits (batch, classes, height, width) as a network might give, drawn from the seed."""
    return _drawn(np.random.default_rng([spec.seed, 1]), spec, (spec.batch, classes, *size))


def _drawn(random: np.random.Generator, spec: RunSpec, shape: tuple[int, ...]) -> Array:
    """Values in the dtype of `spec`: noise, and for maps (batch, channels, height, width) patches of 8 pixels too."""
    if len(shape) != 4:
        return random.standard_normal(shape).astype(spec.dtype)
    height, width = shape[2:]
    coarse = random.standard_normal((*shape[:2], -(-height // 8), -(-width // 8)))
    smooth = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
    drawn: Array = (2 * smooth + random.standard_normal(smooth.shape)).astype(spec.dtype)
    return drawn


class Projection:
    """The loss of a pair without one: every output times fixed random weights, summed."""

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
    recipe = session.pair(spec).recipe
    if recipe is None or recipe.loss is None:
        return Projection(session, spec)
    loss = session.part(spec, recipe.loss.place)(**recipe.loss.arguments)
    session.framework.set_dtype(loss, spec.dtype)
    session.framework.set_mode(loss, "train")
    return loss


def trained(loss: Any) -> Any:
    """The loss if it is the recipe's, so that an optimizer may train its parameters; None for a projection."""
    return None if isinstance(loss, Projection) else loss


def loss_parameters(framework: Framework, loss: Any) -> dict[str, Tensor]:
    """The trainable parameters of a loss by name."""
    return {} if isinstance(loss, Projection) else framework.parameters(loss)


def capture(session: Session, spec: RunSpec) -> Record:
    """Record the loss's parameters, the total and its terms, and before and after them what the pair's probes do."""
    framework, part = session.framework, session.recipe(spec).loss
    assert part is not None
    recorder, (_, labels) = Recorder(framework), session.training_case(spec)
    arrays = seeded_outputs(session, spec)
    loss = build_loss(session, spec)
    bench = LossBench(framework, recorder, session.module(spec, part.place), loss, arrays, labels)
    with framework.no_grad():
        for name, parameter in framework.parameters(loss).items():
            recorder.add(name, "parameter", "loss", type(loss).__name__, parameter)
        if part.before is not None:
            part.before(bench)
        total, terms = loss([framework.to_tensor(array) for array in arrays], framework.to_tensor(labels))
        for name, term in terms.items():
            recorder.add(name, "loss", f"loss.{name}", type(loss).__name__, term)
        recorder.add("total", "loss", "loss", type(loss).__name__, total)
        if part.after is not None:
            part.after(bench)
    return recorder.record(STAGE)
