"""A pair: two implementations of one network, and what an align run needs to put them side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stdc_parity.align.framework import Array
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import Architecture, Side


@dataclass(frozen=True)
class Floor:
    """A known difference of the frameworks: the taps that have it (a regular expression for the whole name),
    the largest fraction of a tap's scale that is not held against the pair, and the reason."""

    taps: str
    relative: float
    reason: str


@dataclass(frozen=True)
class Recipe:
    """How a pair is trained and measured: the modules of each side that hold its parts.

    They have the same names on both sides: `losses.SegLoss()(outputs, labels) -> (total, terms)`,
    `optim.build_optimizer(network, loss, …)`, `metrics.confusion_matrix(…)`, `data.loader(…)`,
    `transforms.training_steps(…)`. `outputs` are the (channels, stride) of what the network returns.
    """

    modules: Mapping[Side, str]
    num_classes: int
    outputs: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Pair:
    """The twin implementations of one network.

    `builders` names each side's factory as `package.module:function`; it is imported in that side's own
    process only. `arguments` go to both factories. `method` is the method that a forward pass calls.
    `outputs` names what it returns, in order. `stages` are the dotted paths of the modules whose outputs
    mark the stages of the network, on both sides.

    `architecture` describes the official state dict that both sides load, None if their own modules tell (a
    layer's type says what its tensors are); `parts` maps architectures that are a part of it to their prefix
    in it. `size` is the default input size (height, width) in pixels, `inputs` draws what the network is
    called with, an image batch by default.

    `floors` are known differences of the two frameworks that remain in float64. `recipe` is how the pair is
    trained; without one there are only the weights, forward and backward stages.
    """

    name: str
    builders: Mapping[Side, str]
    architecture: Architecture | None
    outputs: tuple[str, ...]
    stages: tuple[str, ...]
    size: tuple[int, int] = (512, 1024)
    method: str = "forward"
    arguments: Mapping[str, object] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    inputs: Callable[[RunSpec], tuple[Array, ...]] | None = None
    floors: Sequence[Floor] = ()
    recipe: Recipe | None = None
