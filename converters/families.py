"""The networks that the converter knows by their official tensors: a module a family, listed in FAMILIES.

A family has `NAME` and `MODELS`, the names of its networks, and four functions: `architecture(model, …)` for one of
them with upstream's numbers; `every_tensor(model)` with all tensors that a variant of it may have;
`recognise(shapes, side)` for the network whose official PyTorch names these are, or None; and
`training_orders(architecture, names)` for the parameter groups that its training recipe makes of the parameters
called `names`. `LOSS_SHAPES` are parameters that its loss brings to the optimizer, by name. A family with forms for
inference also has `reduced(whole, model)`, and WHOLE, the networks that have the names of all others' tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from stdc_parity.converters import dilated, icnet, imagenet, stdc
from stdc_parity.converters.architecture import Architecture, Side

FAMILIES: tuple[ModuleType, ...] = (stdc, icnet, imagenet, dilated)

MODELS: tuple[str, ...] = tuple(model for family in FAMILIES for model in family.MODELS)
"""The names of all networks."""

WHOLE: tuple[str, ...] = tuple(model for family in FAMILIES for model in getattr(family, "WHOLE", family.MODELS))
"""Networks that together have the name of every tensor."""


def family_of(model: str) -> ModuleType:
    """The family that has a network called `model`. Raises KeyError if none has."""
    for family in FAMILIES:
        if model in family.MODELS:
            return family
    raise KeyError(model)


def architecture(model: str, **numbers: int) -> Architecture:
    """The network called `model` with upstream's numbers, or those that are given. Raises KeyError."""
    found: Architecture = family_of(model).architecture(model, **numbers)
    return found


def every_tensor(model: str) -> Architecture:
    """The network with all tensors that a variant of it may have. Raises KeyError."""
    found: Architecture = family_of(model).every_tensor(model)
    return found


def recognise(shapes: Mapping[str, tuple[int, ...]], side: Side) -> Architecture | None:
    """The network whose official PyTorch names these are, with shapes as `side` has them, or None."""
    found = (family.recognise(shapes, side) for family in FAMILIES)
    return next((architecture for architecture in found if architecture is not None), None)


def part_of(whole: Architecture, model: str) -> Architecture | None:
    """What inference needs of `whole`, if the network of that is called `model`; None if it is another one."""
    known = [family for family in FAMILIES if whole.family == family.NAME and hasattr(family, "reduced")]
    found: Architecture | None = known[0].reduced(whole, model) if known else None
    return found


def training_orders(
    architecture: Architecture, names: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], ...]]:
    """The parameter groups that the network's training recipe makes of the parameters called `names`."""
    for family in FAMILIES:
        if architecture.family == family.NAME:
            yield from family.training_orders(architecture, names)


def loss_shapes(architecture: Architecture | None) -> Mapping[str, tuple[int, ...]]:
    """The shapes of parameters that the loss of the network's recipe brings to the optimizer, by name."""
    known = [family for family in FAMILIES if architecture is not None and architecture.family == family.NAME]
    return dict(known[0].LOSS_SHAPES) if known else {}
