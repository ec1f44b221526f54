"""The dilated networks' pairs on the ladder: clean twins pass, planted faults are found at their place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.align import capture_paddle, capture_torch, run, worker
from stdc_parity.align.compare import Judging
from stdc_parity.align.diagnose import Bench
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.result import Failure, StageResult, Verdict
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.models_paddle import data, ginet, heads, heads_loss, pspnet

torch.set_num_threads(1)
NETWORKS = ("pspnet", "deeplabv3", "glore", "ginet")
Mutation = Callable[[Any], object]
"""Changes the Paddle network after its weights are loaded."""


class Here:
    """What a side's process does, in this one."""

    def __init__(self, session: Session) -> None:
        self.session, self.side = session, session.framework.SIDE
        self.reply: dict[str, Any] = {}

    def ask(self, job: Mapping[str, Any]) -> None:
        self.reply = worker.answer(self.session, job)

    def answer(self) -> dict[str, Any] | Failure:
        return self.reply if self.reply["ok"] else Failure(self.side, self.reply["message"])


class Planted(Session):
    """The Paddle side, with a change to its networks."""

    def __init__(self, mutation: Mutation | None) -> None:
        super().__init__(capture_paddle)
        self.mutation = mutation

    def _built(self, spec: RunSpec) -> Any:
        network, tensors = super()._built(spec)
        if self.mutation is not None:
            self.mutation(network)
        return network, tensors


def climb(network: str, rungs: Sequence[str], mutation: Mutation | None = None, **options: Any) -> list[StageResult]:
    @contextmanager
    def open_here(*_: object) -> Iterator[dict[str, Here]]:
        yield {"torch": Here(Session(capture_torch)), "paddle": Here(Planted(mutation))}

    spec = RunSpec(**{"pair": f"{network}-resnet50", "size": (32, 64), "base": 4, "scenes": 2, "steps": 2} | options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "open_sides", open_here)
        patch.setattr(Bench, "explain_loss", lambda _, result: result)  # the cause is looked for elsewhere
        return list(run.run_rungs(rungs, spec, Judging(Tolerance()), 1).stages)


def blamed(stage: StageResult) -> list[str]:
    assert not stage.failures, stage.failures
    return [next(iter(comparison.paths.values())) for comparison in stage.blamed]


MODEL = ("weights", "forward", "forward-train", "loss", "backward")
CLEAN = [
    ("pspnet", (*MODEL, "optimizer", "metric")),
    ("deeplabv3", MODEL),
    ("glore", MODEL),
    ("ginet", (*MODEL, "data")),
]


@pytest.mark.parametrize(("network", "rungs"), CLEAN, ids=[row[0] for row in CLEAN])
def test_clean_twins_hold(network: str, rungs: Sequence[str]) -> None:
    stages = climb(network, rungs)
    assert [(stage.stage, stage.verdict, blamed(stage)) for stage in stages if not stage] == []
    assert sorted(stage.stage for stage in stages) == sorted(rungs)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_every_rung(network: str) -> None:
    assert all(climb(network, tuple(RUNGS), size=(64, 128)))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1, "size": (45, 83)},
        {"seed": 2, "size": (97, 161), "batch": 3},
        {"seed": 3, "dtype": "float64"},
        {"seed": 4, "size": (64, 72), "base": 8},
    ],
    ids=["odd", "batch of three", "float64", "wider"],
)
def test_no_false_alarm(network: str, options: dict[str, Any]) -> None:
    stages = climb(network, ("forward", "forward-train", "loss", "backward", "train"), None, **options)
    assert [(stage.stage, blamed(stage)) for stage in stages if not stage] == []


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_resnet101(network: str) -> None:
    spec = {"pair": f"{network}-resnet101"}
    assert all(climb(network, ("weights", "forward", "forward-train", "loss", "backward"), None, **spec))


# --- faults -----------------------------------------------------------------------------------------------


def pool_four(network: Any) -> None:
    network.ppm.features[2][0] = paddle.nn.AdaptiveAvgPool2D(4)


def rate_eighteen(network: Any) -> None:
    conv = network.classifier[0].convs[2][0]
    conv._dilation, conv._updated_padding = [18, 18], [18, 18]


def softmax_over_nodes(network: Any) -> None:
    network.head.gloru.graph.transfer.softmax_word = paddle.nn.Softmax(-1)


def epsilon_of_the_unit(network: Any) -> None:
    network.classifier[3].blocker._epsilon = 1e-5


FORWARD = [
    ("pspnet", pool_four, "ppm.features.2.0"),
    ("deeplabv3", rate_eighteen, "classifier.0.convs.2.0"),
    ("glore", epsilon_of_the_unit, "classifier.3.blocker"),
    ("ginet", softmax_over_nodes, "head.gloru.graph.transfer.softmax_word"),
]


@pytest.mark.parametrize(("network", "mutation", "place"), FORWARD, ids=[row[2] for row in FORWARD])
def test_a_fault_in_a_module_is_found_there(network: str, mutation: Mutation, place: str) -> None:
    (stage,) = climb(network, ["forward"], mutation, size=(32, 320))  # wider at stride 8 than the rates
    assert stage.verdict is Verdict.DIVERGED
    assert blamed(stage) == [place]


def test_unaligned_corners_are_found_at_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pspnet, "resize", lambda x, size, _: heads.resize(x, size, False))
    (stage,) = climb("pspnet", ["forward"])
    assert [comparison.tap for comparison in stage.blamed] == ["logits"]  # the network's own doing, named once
    assert [comparison.tap for comparison in stage.comparisons if not comparison] == ["logits", "aux_logits"]


def test_unaligned_corners_in_pyramid_pooling_are_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    right = heads.resize
    monkeypatch.setattr(heads, "resize", lambda x, size, _: right(x, size, False))
    (stage,) = climb("pspnet", ["forward"])
    assert blamed(stage) == ["ppm"]


def test_a_wrong_auxiliary_weight_is_found_in_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    right = heads_loss.HeadsLoss.__init__

    def lighter(self: Any, weights: Sequence[float], **options: Any) -> None:
        right(self, (weights[0], 0.3), **options)

    monkeypatch.setattr(heads_loss.HeadsLoss, "__init__", lighter)
    (stage,) = climb("deeplabv3", ["loss"])
    assert [comparison.tap for comparison in stage.blamed] == ["total"]


def test_presence_of_the_wrong_classes_is_found_in_its_term(monkeypatch: pytest.MonkeyPatch) -> None:
    right = heads_loss.HeadsLoss.targets
    monkeypatch.setattr(heads_loss.HeadsLoss, "targets", lambda self, y, n: right(self, y - 1, n))
    (stage,) = climb("ginet", ["loss"])
    assert [comparison.tap for comparison in stage.blamed] == ["presence"]


def test_a_label_that_is_not_shifted_is_found_in_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "context_ids", lambda labels, _: labels.astype(np.int64))
    (stage,) = climb("ginet", ["data"])
    assert {comparison.tap.rpartition(" ")[2] for comparison in stage.blamed} == {"final.label"}


def test_a_backbone_that_learns_as_fast_as_the_heads_is_found_in_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ginet.GINet.get_params
    monkeypatch.setattr(
        ginet.GINet, "get_params", lambda self, **options: ([], [], [p for g in groups(self) for p in g], [])
    )
    (stage,) = climb("ginet", ["optimizer"])
    assert stage.verdict is Verdict.DIVERGED
    assert all("backbone." in place for place in blamed(stage)[:1])
