"""The loss stage on one side: every term of the total on given outputs, and what the pair's own probes record."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Framework, Tensor
from stdc_parity.align.pair import LossBench
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder, tensors_in
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call
from stdc_parity.converters.errors import UsageError

STAGE = "loss"


def seeded_result(session: Session, spec: RunSpec) -> Any:
    """Outputs as a loss is given them, drawn from the seed: both sides get the same.

    They have the shapes that the recipe says, or else those of a forward pass, nested as the network's own are; a
    pair of a user's, whose inputs have shapes of their own, always has the latter.
    """
    framework, part = session.framework, session.recipe(spec).loss
    if part is None or part.outputs is None or session.pair(spec).own:
        return for_loss(seeded_like(session, spec))
    random, (height, width) = np.random.default_rng([spec.seed, 1]), spec.size
    shapes = [(spec.batch, channels, -(-height // step), -(-width // step)) for channels, step in part.outputs]
    tensors = [framework.to_tensor(_drawn(random, spec, shape)) for shape in shapes]
    return tensors if len(tensors) > 1 else tensors[0]


def seeded_like(session: Session, spec: RunSpec) -> Any:
    """What the network returns for the first batch, with seeded values in floating-point tensors."""
    framework, pair = session.framework, session.pair(spec)
    network, (arrays, _) = session.network(spec), session.training_case(spec)
    with framework.no_grad():
        result = call(network, pair, [framework.to_tensor(array) for array in arrays])
    random = np.random.default_rng([spec.seed, 1])

    def seeded(value: Any) -> Any:
        if framework.is_tensor(value):
            array = framework.to_array(value)
            return framework.to_tensor(_drawn(random, spec, array.shape)) if array.dtype.kind == "f" else value
        if isinstance(value, dict):
            return {key: seeded(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [seeded(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{each.name: seeded(getattr(value, each.name)) for each in fields(value)})
        return value

    return seeded(result)


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


class PlainLoss:
    """A loss of a user's own: a module, or a function of the network's outputs and the target."""

    def __init__(self, framework: Framework, loss: Any) -> None:
        """Take what is called."""
        self.framework, self.loss = framework, loss

    def __call__(self, outputs: Any, target: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, 0-d, and its terms by name."""
        return split_loss(self.loss(outputs, target), self.framework)


def split_loss(result: Any, framework: Framework) -> tuple[Tensor, dict[str, Tensor]]:
    """What a loss returned, as the total and its terms: a tensor; (total, terms by name); a tuple of the total and
    further terms; a dict of terms, of which "total" or "loss" is the total, else their sum.

    Raises UsageError for anything else, and for a total that is no single number.
    """
    total, terms = result, {}
    if isinstance(result, tuple | list) and result:
        total, *others = result
        terms = {f"term{i}": term for i, term in enumerate(others, 1)}
        if len(others) == 1 and isinstance(others[0], Mapping):
            terms = dict(others[0])
    elif isinstance(result, Mapping):
        terms = {str(name): term for name, term in result.items() if framework.is_tensor(term)}
        named = next((name for name in ("total", "loss") if name in terms), None)
        total = terms.pop(named) if named is not None else sum(terms.values())
    if not framework.is_tensor(total) or framework.to_array(total).size != 1:
        what = f"a {type(total).__name__}" if not framework.is_tensor(total) else f"of shape {tuple(total.shape)}"
        raise UsageError(
            f"the loss on the {framework.SIDE} side is {what}, it must be one number",
            "It may return a tensor, (total, terms), or a dict of terms.",
        )
    return total.reshape(()) if hasattr(total, "reshape") else total, terms


def to_tensors(framework: Framework, value: Any) -> Any:
    """A nested value with tensors in the place of arrays."""
    if isinstance(value, Mapping):
        return {key: to_tensors(framework, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_tensors(framework, item) for item in value)
    return framework.to_tensor(value) if isinstance(value, np.ndarray) else value


def for_loss(result: Any) -> Any:
    """What a loss is given of what a network returned: a list in the place of a tuple, else the same."""
    return list(result) if type(result) in (list, tuple) else result


class Projection:
    """The loss of a pair without one: every output times fixed random weights, summed."""

    def __init__(self, session: Session, spec: RunSpec) -> None:
        """Take the seed and the dtype from `spec`."""
        self.framework, self.spec = session.framework, spec

    def __call__(self, outputs: Any, _target: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, 0-d, and the part of each output; outputs that are no floating-point tensors are left out."""
        terms = {}
        for i, (_, output) in enumerate(tensors_in(outputs, self.framework)):
            array = self.framework.to_array(output)
            if array.dtype.kind == "f":
                weights = np.random.default_rng([self.spec.seed, 3, i]).standard_normal(array.shape)
                weights = (weights / max(1.0, array.size**0.5)).astype(array.dtype)
                terms[f"output{i}"] = (output * self.framework.to_tensor(weights)).sum()
        nothing = self.framework.to_tensor(np.zeros((), self.spec.dtype))
        return sum(terms.values()) if terms else nothing, terms


def build_loss(session: Session, spec: RunSpec) -> Any:
    """This side's training loss, in the dtype of `spec`: `loss(outputs, target) -> (total, terms)`."""
    recipe = session.pair(spec).recipe
    if recipe is None or recipe.loss is None:
        return Projection(session, spec)
    framework, found = session.framework, session.part(spec, recipe.loss.place)
    loss = found if _is_called_as_it_is(found, framework) else found(**recipe.loss.arguments)
    if framework.is_network(loss):
        framework.set_dtype(loss, spec.dtype)
        framework.set_mode(loss, "train")
    return loss if spec.own is None else PlainLoss(framework, loss)


def _is_called_as_it_is(found: Any, framework: Framework) -> bool:
    """Whether what a pair names is a loss itself: a module, or a function that cannot do without arguments."""
    if isinstance(found, type):
        return False
    if framework.is_network(found):
        return True
    needed = [p for p in inspect.signature(found).parameters.values() if p.kind in (p.POSITIONAL_ONLY,
              p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]  # fmt: skip
    return len(needed) >= 2


def trained(loss: Any) -> Any:
    """The loss if it is the recipe's, as its own code has it, so that an optimizer may train its parameters; None for
    a projection."""
    return None if isinstance(loss, Projection) else loss.loss if isinstance(loss, PlainLoss) else loss


def loss_parameters(framework: Framework, loss: Any) -> dict[str, Tensor]:
    """The trainable parameters of a loss by name."""
    module = loss.loss if isinstance(loss, PlainLoss) else loss
    return framework.parameters(module) if framework.is_network(module) else {}


def kind_of_loss(loss: Any) -> str:
    """The class or function of a loss, for people."""
    module = loss.loss if isinstance(loss, PlainLoss) else loss
    return str(getattr(module, "__name__", type(module).__name__))


def capture(session: Session, spec: RunSpec) -> Record:
    """Record the loss's parameters, the total and its terms, and before and after them what the pair's probes do."""
    framework, part = session.framework, session.recipe(spec).loss
    assert part is not None
    recorder, (_, labels) = Recorder(framework), session.training_case(spec)
    given = seeded_result(session, spec)
    arrays = [framework.to_array(tensor) for _, tensor in tensors_in(given, framework)]
    loss = build_loss(session, spec)
    bench = LossBench(framework, recorder, session.module(spec, part.place), loss, arrays, labels)
    with framework.no_grad():
        for name, parameter in loss_parameters(framework, loss).items():
            recorder.add(name, "parameter", "loss", kind_of_loss(loss), parameter)
        if part.before is not None:
            part.before(bench)
        total, terms = loss(given, to_tensors(framework, labels))
        for name, term in terms.items():
            recorder.add(name, "loss", f"loss.{name}", kind_of_loss(loss), term)
        recorder.add("total", "loss", "loss", kind_of_loss(loss), total)
        if part.after is not None:
            part.after(bench)
    return recorder.record(STAGE)
