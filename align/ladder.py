"""The ladder: every stage, what its run needs, what it is judged by, and which stages must hold before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from stdc_parity.align.derived import GIVEN, METRIC, Derived, sum_of_terms
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.pair import Follows, Pair, PartName
from stdc_parity.align.record import PLAIN, Record, Tap
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages import (
    backward,
    data,
    forward,
    loss,
    metric,
    optimizer,
    schedule,
    train,
    weights,
)

Capture = Callable[[Session, RunSpec], Record]
Replay = Callable[[Session, RunSpec, Record], Record]

CONTROL = "train-control"
"""The name of the record of a training's control."""

CAPTURES: Mapping[str, Capture] = {
    weights.STAGE: weights.capture,
    data.STAGE: data.capture,
    data.CALLS: data.capture_calls,
    forward.STAGE: forward.capture,
    forward.CALLS: forward.capture_calls,
    loss.STAGE: loss.capture,
    backward.STAGE: backward.capture,
    backward.CALLS: backward.capture_calls,
    optimizer.STAGE: optimizer.capture,
    schedule.STAGE: schedule.capture,
    metric.STAGE: metric.capture,
    metric.CALLS: metric.capture_calls,
    train.STAGE: train.capture,
    CONTROL: train.capture_control,
}
"""What a side can be asked to record of a run."""

REPLAYS: Mapping[str, Replay] = {
    "data-replay": data.replay,
    "forward-replay": forward.replay,
    "backward-replay": backward.replay,
    "metric-replay": metric.replay,
}
"""What a side can be asked to run again on the calls that the reference recorded."""

EXACT = Tolerance(0.0)


@dataclass(frozen=True)
class Rung:
    """One stage of the ladder.

    `needs` are the rungs that must hold before it means anything as a whole. `arbitrated` rungs ask float64
    about what exceeds the tolerance. `parts` are those that the pair's recipe must have, `draws` says that it takes
    batches as the recipe draws them. `isolated` ones can run their parts
    by themselves, on what the reference's had; those with `modules` have a network's for parts. `rule` gives
    the tolerance of each tap where the user's does not apply. `by_place` says that what a tap is named by is
    the place where it was taken, `follows` which taps of one side follow from which, and `derived` what figures
    are made of others, so that one that follows from a wrong one can be wrong by itself too.
    """

    name: str
    stage: str
    about: str
    needs: tuple[str, ...] = ()
    parts: tuple[PartName, ...] = ()
    draws: bool = True
    arbitrated: bool = False
    isolated: bool = False
    modules: bool = False
    trains: bool = False
    rule: Callable[[Tap], Tolerance] | None = None
    by_place: bool = False
    follows: Follows = ()
    derived: Derived = ()

    def table(self, pair: Pair) -> Follows:
        """What follows from what, the pair's own rows for its loss first."""
        part = pair.recipe.loss if pair.recipe is not None and self.stage == loss.STAGE else None
        return (*(part.follows if part is not None else ()), *self.follows)

    def rules(self, pair: Pair) -> Derived:
        """What its figures are made of, the pair's own rows for its loss first."""
        part = pair.recipe.loss if pair.recipe is not None and self.stage == loss.STAGE else None
        return (*(part.derived if part is not None else ()), *self.derived)

    def spec(self, spec: RunSpec) -> RunSpec:
        """The run's options as this rung takes them: its mode, and at least two images where it trains.

        A short training takes float64, in which a missing weight decay is larger than rounding, and four images,
        with which it stays predictable for some steps.
        """
        if not self.trains:
            return replace(spec, mode="eval")
        batch = spec.batch if spec.exact_batch else max(self.batch, spec.batch)
        dtype = "float64" if self.name == train.STAGE else spec.dtype
        return replace(spec, mode="train", dtype=dtype, batch=batch)

    @property
    def batch(self) -> int:
        """How many images it takes if nobody says."""
        return 4 if self.name == train.STAGE else 2 if self.trains else 1


def _optimizer_rule(tap: Tap) -> Tolerance:
    return Tolerance(atol=0.0, rtol=1e-12) if tap.kind == "setting" else Tolerance(1e-6)


RUNGS: Mapping[str, Rung] = {
    rung.name: rung
    for rung in (
        Rung(
            "weights",
            weights.STAGE,
            "the loaded networks, tensor by tensor",
            draws=False,
            rule=lambda tap: EXACT,
        ),
        Rung(
            "data",
            data.STAGE,
            "samples after each transform, then batches",
            parts=("data",),
            isolated=True,
            trains=True,
            rule=lambda tap: Tolerance(1e-6) if tap.type == PLAIN else EXACT,
            by_place=True,
            follows=(
                (r"val.* open.*", r".* open.*"),
                (r"val.* final.image", r"train.* final.image"),
                (r"val\[.* final.label", r"train.* final.label"),  # a list's labels are train ids already
            ),
        ),
        Rung(
            "forward",
            forward.STAGE,
            "taps in eval mode",
            ("weights",),
            draws=False,
            arbitrated=True,
            isolated=True,
            modules=True,
        ),
        Rung(
            "forward-train",
            forward.STAGE,
            "taps in train mode, and the running statistics after the pass",
            ("weights",),
            draws=False,
            arbitrated=True,
            isolated=True,
            modules=True,
            trains=True,
        ),
        Rung(
            "loss",
            loss.STAGE,
            "the loss's terms and targets on given logits",
            arbitrated=True,
            trains=True,
            parts=("loss",),
            follows=((r"total", r".*"), (rf".*{GIVEN}", r".*")),
            derived=((r"total", sum_of_terms),),
        ),
        Rung(
            "backward",
            backward.STAGE,
            "gradients from the loss back",
            ("weights", "forward-train", "loss"),
            arbitrated=True,
            isolated=True,
            modules=True,
            trains=True,
        ),
        Rung(
            "optimizer",
            optimizer.STAGE,
            "parameters, momentum and settings after one step and more",
            ("weights",),
            parts=("optimizer",),
            trains=True,
            rule=_optimizer_rule,
            by_place=True,
        ),
        Rung(
            "schedule",
            schedule.STAGE,
            "every group's learning rate over a whole run",
            parts=("schedule",),
            trains=True,
            rule=lambda tap: Tolerance(atol=0.0, rtol=1e-12),
        ),
        Rung(
            "metric",
            metric.STAGE,
            "confusion matrices, IoU and accuracy over scenes",
            ("weights", "forward"),
            parts=("metric",),
            isolated=True,
            by_place=True,
            follows=(
                (r"(given logits|network, [^:]*): (IoU|mean|pixel).*", r".*confusion matrix"),
                (r".*mean.*", r".*(IoU by class|per_class_iou)"),
                (r"network, evaluate_single.*", r".*confusion matrix|scene \d+ scale.*"),
                (r"network, evaluate_multi.*", r".*confusion matrix|scene \d+ several.*"),
                (r"network, .*", r"given logits.*|a million.*|billions.*|scene.*"),
            ),
            derived=METRIC,
        ),
        Rung(
            "train",
            train.STAGE,
            "a short training against its control",
            ("weights", "backward", "optimizer"),
            parts=("loss", "optimizer"),
            trains=True,
            by_place=True,
            follows=((r".*", r".*"),),
        ),
    )
}
"""The rungs in the order in which `all` climbs them."""
