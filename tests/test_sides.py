"""Runs of other sides than the two frameworks: ONNX Runtime, majorities, graphs that users bring."""

import json
from itertools import combinations

import pytest
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.align.majority import decide, describe_majority
from stdc_parity.align.result import Comparison, Failure, RunResult, StageResult, Verdict
from stdc_parity.align.spec import RunSpec

SMALL = ("--pair", "stdc1-seg", "--base", "8", "--size", "64x96", "-q")


def align(*arguments):
    done = CliRunner().invoke(cli.align, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def voted(agreeing, sides, taps=("x",)):
    """The majority of sides of which the pairs in `agreeing` agree at every tap."""
    results = []
    for two in combinations(sides, 2):
        verdict = Verdict.PASS if frozenset(two) in agreeing else Verdict.DIVERGED
        comparisons = [Comparison(tap, "module", dict.fromkeys(two, tap), {}, verdict) for tap in taps]
        results.append(StageResult("forward", comparisons, "", sides=two))
    return decide(sides, results, "torch"), results


def two(*names):
    return {frozenset(pair) for pair in names}


@pytest.mark.parametrize(
    ("sides", "agreeing", "odd"),
    [
        (("torch", "paddle", "onnx"), two(("torch", "onnx")), ("paddle",)),
        (("torch", "paddle", "onnx"), two(("torch", "paddle")), ("onnx",)),
        (("torch", "paddle", "onnx"), two(("paddle", "onnx")), ("torch",)),
        (("torch", "paddle", "onnx"), two(), ()),
        (("torch", "paddle", "onnx"), two(("torch", "paddle"), ("torch", "onnx")), ()),
        (("torch", "paddle", "onnx", "onnx-plain"), two(("torch", "paddle"), ("onnx", "onnx-plain")), ()),
        (
            ("torch", "paddle", "onnx", "onnx-plain"),
            two(("torch", "paddle"), ("torch", "onnx-plain"), ("paddle", "onnx-plain")),
            ("onnx",),
        ),
    ],
)
def test_who_is_odd(sides, agreeing, odd):
    majority, _ = voted(agreeing, sides)
    assert majority.odd == odd
    assert [vote.tap for vote in majority.votes] == ["x"]


def test_sides_that_all_agree_have_no_votes():
    sides = ("torch", "paddle", "onnx")
    majority, results = voted({frozenset(pair) for pair in combinations(sides, 2)}, sides)
    assert not majority.votes
    run = RunResult(RunSpec("p", (1, 1)), "", (), results, majority=majority)
    assert list(describe_majority(run)) == ["All 3 sides agree: torch, paddle, onnx."]


def test_a_side_that_failed_leaves_no_majority():
    sides = ("torch", "paddle", "onnx")
    results = [StageResult("forward", [], "", failures=[Failure("onnx", "x")], sides=("torch", "onnx"))]
    run = RunResult(RunSpec("p", (1, 1)), "", (), results, majority=decide(sides, results, None))
    assert list(describe_majority(run)) == ["The onnx side failed, so there is no majority."]


def test_three_sides_agree(tmp_path):
    done = align("forward", *SMALL, "--sides", "torch,paddle,onnx", "--json", tmp_path / "x.json")
    assert done.exit_code == 0, done.output
    assert "All 3 sides agree" in done.output
    report = json.loads((tmp_path / "x.json").read_text())
    assert [stage["sides"] for stage in report["stages"]] == [
        ["torch", "paddle"], ["torch", "onnx"], ["paddle", "onnx"],
    ]  # fmt: skip
    for stage in report["stages"]:
        taps = [tap["tap"] for tap in stage["taps"]]
        assert {"cp.backbone.features.0", "cp.arm32", "ffm", "logits", "detail8"} <= set(taps)
        assert all(tap["relative"] < 1e-5 and tap["verdict"] == "PASS" for tap in stage["taps"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("loss", "--sides", "torch,onnx"), "loss --sides torch,onnx: onnx can have weights and forward alone"),
        (("all", "--sides", "torch,paddle,onnx"), "onnx can have weights and forward alone"),
        (("forward", "--mode", "train", "--sides", "torch,onnx"), "a graph is the network in eval mode"),
        (("backward", "--sides", "paddle,torch"), "backward has torch for its reference"),
        (("forward", "--sides", "torch"), "two or more different sides"),
        (("forward", "--sides", "torch,torch"), "two or more different sides"),
        (("forward", "--sides", "torch,tensorrt"), "there is no side 'tensorrt'"),
        (("forward", "--onnx", "x.onnx"), "--onnx is for sides that run a graph"),
        (("forward", "--sides", "torch,onnx", "--onnx", "x.onnx", "--onnx-from", "torch"), "say one of them"),
    ],
)
def test_what_cannot_be_asked(options, words):
    done = align(*options)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
