"""A pair: two implementations of one network, and what an align run needs to put them side by side.

Nothing here or in the stages knows a network. A pair says where its two networks are; its recipe says part by
part how they are trained and measured, and where each part is on either side. A part that is absent leaves out
the rungs that need it, and the run says so. What only one pair has (the targets that its loss builds of the
labels, edge cases worth a look) comes from its own file, as probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stdc_parity.align.derived import Derived
from stdc_parity.align.framework import Array, Framework
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import Architecture, Side

Place = Mapping[Side, str]
"""Where something is on each side: `package.module:name`, or `package.module` for a whole module; in a pair of one's
own `path/to/file.py:name` too. It is imported in that side's own process only. Port bugs and tests replace names in
it by the last part of the module's name."""

Follows = Sequence[tuple[str, str]]
"""Rows of (taps, what they follow from), as regular expressions for whole names."""

PartName = Literal["loss", "optimizer", "schedule", "metric", "data"]

Text = str | Sequence[str]
"""A line, or several, as `inputs.read_input` takes them."""

Case = Callable[[RunSpec, int], tuple[tuple[Array, ...], Any]]
"""`case(spec, first)` draws a batch from item number `first` on: what the network is called with, and the loss's
target (an array, or a tuple or dict of arrays). The same values for both sides, in float32."""


@dataclass(frozen=True)
class Floor:
    """A known difference of the frameworks: the taps that have it (a regular expression for the whole name),
    the largest fraction of a tap's scale that is not held against the pair, and the reason."""

    taps: str
    relative: float
    reason: str


@dataclass(frozen=True)
class Published:
    """A speed that a network's authors published: images per second at a size, on which machine, and where."""

    size: tuple[int, int]
    rate: float
    machine: str
    source: str


@dataclass(frozen=True)
class LossBench:
    """What a pair's probe of its loss is given: the loss on one side, in train mode and without gradients.

    `module` is where it is from (with the bugs that are planted there), `outputs` are the seeded outputs as
    arrays, `target` is the batch's; a probe adds its taps to `recorder`, by `recorder.add(name, kind, path,
    type, value)`. A path in the loss is `loss.…`, the name of a class in `module` any other.
    """

    framework: Framework
    recorder: Recorder
    module: Any
    loss: Any
    outputs: Sequence[Array]
    target: Array


LossProbe = Callable[[LossBench], None]


@dataclass(frozen=True)
class LossPart:
    """The training loss. What is at `place`, called with `arguments`, is the loss of a side:
    `loss(outputs, target)` with what the network returned, as `(total, terms)` with terms by name, as a dict of
    terms (their sum, or its "total" or "loss", is the total), or as the total alone.

    `outputs` are the (channels, stride) of the network's outputs in train mode, for drawing seeded ones; without
    them the shapes are those of a forward pass. `before` and `after` probe what only this loss has, before its
    terms are recorded (what they rest on: kernels, targets) and after them (edge cases, losses beside it).
    `follows` says which of its taps follow from which, as rows of regular expressions, `derived` what a tap is made
    of. A tap named as another one and " of given inputs" repeats that on inputs that both sides share.
    """

    place: Place
    arguments: Mapping[str, object] = field(default_factory=dict)
    outputs: Sequence[tuple[int, int]] | None = None
    before: LossProbe | None = None
    after: LossProbe | None = None
    follows: Follows = ()
    derived: Derived = ()


def _short(lr: float, warmup: int, iterations: int) -> Mapping[str, object]:
    return {"lr": lr, "max_iter": iterations}


@dataclass(frozen=True)
class OptimizerPart:
    """The optimizer and its schedule. What is at `place` is called as `build(network, loss, **settings)` (`loss`
    is None if the recipe has none), and gives an object with the methods of `models_torch.optim.Optimizer`:
    `groups` (each with `name`, `names`, `params`), `zero_grad()`, `set_lr(lr)`, `set_iteration(it)`, `update()`,
    `step()`, `learning_rates()`, `settings()`, `momentum_buffers()`.

    `lr` is the base learning rate of the optimizer rung. `iterations` are those of a whole run, which the schedule
    rung follows with the settings `whole`; None if there is no schedule, and then that rung is left out.
    `short(lr, warmup, iterations)` gives the settings of a run of so few iterations, with a warm-up of so many
    if the schedule has one (at a tenth of `lr` at its start).
    """

    place: Place
    lr: float = 1e-2
    iterations: int | None = None
    whole: Mapping[str, object] = field(default_factory=dict)
    short: Callable[[float, int, int], Mapping[str, object]] = _short


@dataclass(frozen=True)
class MetricBench:
    """What a pair's probe of its metric is given: the module of one side (with the bugs that are planted there),
    the seeded logits (batch, classes, height, width) and labels (batch, height, width) that both sides share, and
    the recorder for its taps: counts, that must be equal, and scores. A path is `metrics.…`."""

    framework: Framework
    recorder: Recorder
    module: Any
    logits: Array
    labels: Array


MetricProbe = Callable[[MetricBench], None]


@dataclass(frozen=True)
class PlainOptimizer:
    """An optimizer of the framework's own: what is at `place`, called with the network, returns a torch.optim or
    paddle.optimizer one, or a tuple of it and its learning rate scheduler (which steps once an iteration).

    `iterations` are those that the schedule rung follows; None if there is no schedule. `lr` is the base learning
    rate of the optimizer rung.
    """

    place: Place
    iterations: int | None = None
    lr: float = 1e-2


@dataclass(frozen=True)
class MetricPart:
    """The metric: at `place` is a module with the functions of `models_torch.metrics`: `confusion_matrix`,
    `per_class_iou`, `mean_iou`, `pixel_accuracy`, `single_scale_logits`, `evaluate_single_scale`; and if
    `several_scales` are given, `multi_scale_scores` and `evaluate_multi_scale`. It needs the recipe's
    `num_classes`.

    `scales` are those at which the network is measured, one by one; `several_scales` those of one evaluation at
    several scales, with sliding crops and flips. `after` probes what only this metric has.
    """

    place: Place
    scales: Sequence[float] = (1.0,)
    several_scales: Sequence[float] = ()
    after: MetricProbe | None = None


@dataclass(frozen=True)
class PlainMetric:
    """A metric that is a function: `metric(outputs, target)` with what the network returned and the batch's target
    gives a number, an array, a tensor, or a dict or tuple of them. It is asked about seeded outputs, where both sides
    must say the same, and about the network's own."""

    place: Place


@dataclass(frozen=True)
class PlainData:
    """A loader: what is at `place`, called without arguments, can be looped over for batches (tensors or arrays, in
    tuples, lists or dicts). The first `batches` of two epochs are compared."""

    place: Place
    batches: int = 4


@dataclass(frozen=True)
class DataPart:
    """The data code: at `place` is a module with `loader` and `choices`, at `transforms` one with `Sample`, as
    in `models_torch`.

    `prepare(folder, spec, count, split)` writes `count` seeded scenes of a split ("train", "val") into a folder as
    this pair's datasets find them; `open(data, transforms, folder, spec)` opens them by the two modules: a
    training set with transforms as "train", and sets for validation under any other names.
    """

    place: Place
    transforms: Place
    prepare: Callable[[str, RunSpec, int, str], None]
    open: Callable[[Any, Any, str, RunSpec], Mapping[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """How a pair is trained and measured, part by part. Rungs whose part is None are left out.

    `case` draws a training batch, by default street-like scenes with train ids 0 to 18, of which those from
    `num_classes` on and unlabelled pixels are `ignored`. In a pair of one's own, `target` says in lines as
    `inputs.py` reads them what the loss is given beside the outputs, and the batch's inputs are the pair's.
    """

    loss: LossPart | None = None
    optimizer: OptimizerPart | PlainOptimizer | None = None
    metric: MetricPart | PlainMetric | None = None
    data: DataPart | PlainData | None = None
    case: Case | None = None
    target: Text = ()
    num_classes: int | None = None
    ignored: int = 255

    def has(self, part: PartName) -> bool:
        """Whether the recipe has that part."""
        if part == "schedule":
            return self.optimizer is not None and self.optimizer.iterations is not None
        return getattr(self, part) is not None


@dataclass(frozen=True)
class Pair:
    """The twin implementations of one network.

    `builders` is where each side's factory is. `arguments` go to both factories. `method` is the method that a
    forward pass calls. `outputs` names what it returns, in order. `stages` are the dotted paths of the modules
    whose outputs mark the stages of the network, on both sides.

    `architecture` describes the official state dict that both sides load, None if their own modules tell (a
    layer's type says what its tensors are); `parts` maps architectures that are a part of it to their prefix
    in it. `size` is the default input size (height, width) in pixels, `inputs` draws what the network is
    called with, an image batch by default.

    `floors` are known differences of the two frameworks that remain in float64. `recipe` is how the pair is
    trained and measured; without one there are only the weights, forward and backward stages, the last from a
    seeded projection of the outputs. `published` are the speeds that the network's paper gives.

    The rest is for pairs of one's own (`--pair path/to/pair.py`, docs/bring-your-own.md), whose `inputs` are lines as
    `inputs.py` reads them: `paths` are folders that come first where a side imports from, relative to the pair's
    file; `names` maps paths of modules on torch's side to those on Paddle's; `rules` is a rules file for
    the weights. Their outputs may have no names, and their stages are the modules directly below the network.
    `places` are where the inputs go, as `inputs.arrange` takes them; () if all are positional. `own` tells such a
    pair from ours; whoever loads it fills both in.
    """

    name: str
    builders: Place
    architecture: Architecture | None = None
    outputs: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    size: tuple[int, int] = (512, 1024)
    method: str = "forward"
    arguments: Mapping[str, object] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    inputs: Callable[[RunSpec], tuple[Array, ...]] | Text | None = None
    floors: Sequence[Floor] = ()
    recipe: Recipe | None = None
    published: Sequence[Published] = ()
    paths: Mapping[Side, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    rules: str = ""
    places: tuple[str, ...] = ()
    own: bool = False

    def lacks(self, parts: Sequence[PartName]) -> list[PartName]:
        """Those of `parts` that the pair's recipe does not have."""
        return [part for part in parts if self.recipe is None or not self.recipe.has(part)]
