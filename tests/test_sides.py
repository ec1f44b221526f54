"""Runs of other sides than the two frameworks: ONNX Runtime, majorities, graphs that users bring."""

import json
from itertools import combinations

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from stdc_parity import cli
from stdc_parity.align.capture_onnx import run_graph
from stdc_parity.align.export.widen import sized_values, widen
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


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A deployable graph of seeded weights: its stages are named in it, but no outputs."""
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    done = CliRunner().invoke(cli.convert, ["onnx", str(path), "--pair", "stdc1-seg", "--base", "8", "-q"])
    assert done.exit_code == 0, done.output
    return path


def changed(graph, name, change, target):
    model = onnx.load(graph)
    tensor = next(each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    onnx.save(model, target)
    return target


def test_a_graph_with_a_wrong_weight_is_the_odd_one(graph, tmp_path):
    """A weight that is off by 1e-6 of itself: only float64 can see it."""
    wrong = changed(graph, "cp.arm32.conv.conv.weight", lambda w: w * np.float32(1 + 1e-6), tmp_path / "x.onnx")
    options = (*SMALL, "--sides", "torch,paddle,onnx", "--onnx", wrong, "--arbiter", "always", "--report", tmp_path)
    done = align("forward", *options)
    assert done.exit_code == 1, done.output
    assert "onnx is the odd one out (torch and paddle agree) at" in done.output
    assert "first cp.arm32." in done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["majority"]["odd"] == ["onnx"]
    assert report["majority"]["source"] is None
    verdicts = {tuple(stage["sides"]): stage["verdict"] for stage in report["stages"]}
    assert verdicts == {
        ("torch", "paddle"): "PASS", ("torch", "onnx"): "DIVERGED", ("paddle", "onnx"): "DIVERGED",
    }  # fmt: skip
    for file in ("junit.xml", "summary.md", "report.html"):
        assert "onnx is the odd one out" in (tmp_path / file).read_text()


def test_a_planted_bug_is_named_by_the_others(tmp_path):
    done = align(
        "forward", *SMALL, "--sides", "paddle,onnx,torch", "--plant", "norm-eps-weak", "--arbiter", "always"
    )
    assert done.exit_code == 1, done.output
    assert "paddle is the odd one out (onnx and torch agree) at" in done.output
    assert "ffm.convblk.bn" in done.output  # the frameworks' modules were run one by one
    assert "two witnesses of the kernels, and one of the code" in " ".join(done.output.split())


def test_a_graph_that_was_brought_has_its_stages_named(graph, tmp_path):
    done = align(
        "forward", *SMALL, "--sides", "torch,onnx-plain", "--onnx", graph, "--json", tmp_path / "x.json", "--dtype",
        "float64",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (stage,) = json.loads((tmp_path / "x.json").read_text())["stages"]
    taps = {tap["tap"]: tap["relative"] for tap in stage["taps"]}
    assert {"cp.arm32", "ffm", "logits"} <= taps.keys()
    assert max(taps.values()) < 1e-12
    assert any("not named in the graph" in remark for remark in stage["remarks"])  # heads that no output needs


def test_weights_of_a_graph(graph, tmp_path):
    wrong = changed(graph, "ffm.conv1.weight", lambda w: np.nextafter(w, np.float32(9)), tmp_path / "x.onnx")
    done = align("weights", *SMALL, "--sides", "torch,onnx", "--onnx", wrong)
    assert done.exit_code == 1
    assert "weights: DIVERGED · 239 of 240 taps agree" in done.output
    assert "ffm.conv1.weight" in done.output


def test_sides_apart(graph, tmp_path):
    options = ("--stage", "forward", *SMALL, tmp_path / "run")
    for side, more in (("torch", ()), ("onnx", ("--onnx", graph)), ("onnx-plain", ("--onnx", graph))):
        done = align("record", "--side", side, *options, *more)
        assert done.exit_code == 0, done.output
    done = align("compare", tmp_path / "run", "--arbiter", "always")
    assert done.exit_code == 0, done.output
    assert "All 3 sides agree: torch, onnx, onnx-plain." in done.output


def two_outputs(model):
    del model.graph.output[2:]
    for value, name in zip(model.graph.output, ("first", "second"), strict=True):
        model.graph.node.add(op_type="Identity", input=[value.name], output=[name])
        value.name = name


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda model: model.graph.output.pop(), 1, "only the torch side has it"),
        (lambda model: setattr(model.graph.output[0], "name", "x"), 3, "no valid ONNX model"),
        (lambda model: model.graph.input.add().CopyFrom(model.graph.input[0]), 3, "no valid ONNX model"),
        (two_outputs, 2, "the graph gives first, second, stdc1-seg gives logits, logits16, logits32, detail8"),
    ],
)
def test_graphs_that_do_not_fit(graph, tmp_path, change, code, words):
    model, path = onnx.load(graph), tmp_path / "x.onnx"
    change(model)
    path.write_bytes(model.SerializeToString())
    done = align("forward", *SMALL, "--sides", "torch,onnx", "--onnx", path)
    assert done.exit_code == code, done.output
    assert words in " ".join(done.output.split())


def test_what_is_no_graph(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08nothing")
    for path in (tmp_path / "x.onnx", tmp_path / "absent.onnx"):
        assert align("forward", *SMALL, "--sides", "torch,onnx", "--onnx", path).exit_code == 3


F = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("operator", "attributes", "weight", "size"),
    [
        ("Conv", {"pads": [1, 1, 1, 1], "strides": [2, 2]}, (6, 4, 3, 3), (4, 9, 12)),
        ("Conv", {"pads": [0, 2, 1, 1], "dilations": [2, 1], "group": 2}, (6, 2, 3, 2), (4, 9, 12)),
        ("Conv", {"group": 4}, (4, 1, 3, 3), (4, 5, 7)),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, None, (4, 9, 12)),
        (
            "AveragePool",
            {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 1], "count_include_pad": 1},
            None,
            (4, 9, 12),
        ),
        ("GlobalAveragePool", {}, None, (4, 9, 12)),
        ("Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, (9, 31), (4, 5, 7)),
        ("Resize", {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, (9, 31), (4, 5, 7)),
        (
            "Resize",
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            (9, 31),
            (4, 5, 7),
        ),
    ],
)
def test_operators_in_float64_are_those_of_float32(operator, attributes, weight, size):
    """ONNX Runtime's own float32 kernel is the judge of what is written for float64."""
    random = np.random.default_rng(0)
    image = random.standard_normal((2, *size)).astype(np.float32)
    names, constants = ["x"], []
    if operator == "Resize":
        names = ["x", "", "", "sizes"]
        constants = [numpy_helper.from_array(np.array([2, size[0], *weight], np.int64), "sizes")]
    elif weight:
        names = ["x", "w", "b"]
        kernel = random.standard_normal(weight).astype(np.float32)
        bias = random.standard_normal(weight[0]).astype(np.float32)
        constants = [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(bias, "b")]
    nodes = [
        helper.make_node("Identity", ["given"], ["x"]),
        helper.make_node(operator, names, ["y"], **attributes),
    ]
    inputs, outputs = (helper.make_tensor_value_info(name, F, None) for name in ("given", "y"))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [inputs], [outputs], constants), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    narrow = run_graph(model, [image], optimised=False, threads=1)["y"]
    shapes = {"given": image.shape, "x": image.shape, "y": narrow.shape}
    assert set(sized_values(model)) <= shapes.keys()
    wide = run_graph(widen(model, shapes), [image.astype(np.float64)], optimised=True, threads=1)["y"]
    assert wide.dtype == np.float64
    assert np.abs(wide - narrow).max() <= 2e-6 * np.abs(wide).max()
