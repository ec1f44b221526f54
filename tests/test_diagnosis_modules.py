"""Causes that are tested: what a module calls is traced on both sides, and differences are undone one by one."""

import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.align import capture_paddle, capture_torch, selftest
from stdc_parity.align.compare import Judging
from stdc_parity.align.diagnosis.averages import averages
from stdc_parity.align.diagnosis.meanings import differing, in_paddles_words, same, tidied
from stdc_parity.align.diagnosis.total import explain_total
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.run import run_rungs
from stdc_parity.align.sides import open_sides
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.tracing import WHOLE, Edit, Trace, Tracer
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES

X = np.random.default_rng(0).standard_normal((2, 4, 9, 7))


def traced(framework, module, *arrays, edits=()):
    """What a module gives, and the trace of its calls."""
    framework.set_dtype(module, "float64")
    module.eval()
    tracer = Tracer(framework, module, edits)
    with framework.traced(tracer), framework.no_grad():
        result = module(*[framework.to_tensor(array) for array in arrays])
    ends = (tuple(tracer.inputs), tuple(tracer.outputs))
    return framework.to_array(result), Trace(tracer.calls, tracer.values, tracer.parameters, *ends)


class TorchBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.cat([self.conv(x).relu(), torch.nn.functional.avg_pool2d(x, 3, 1, 1)], 1) * 0.5


class PaddleBlock(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(4, 4, 3, padding=1)

    def forward(self, x):
        pooled = paddle.nn.functional.avg_pool2d(x, 3, 1, 1)
        return paddle.concat([paddle.nn.functional.relu(self.conv(x)), pooled], 1) * 0.5


def test_both_sides_traces_have_the_same_calls_in_paddles_words():
    _, ours = traced(capture_torch, TorchBlock(), X)
    _, theirs = traced(capture_paddle, PaddleBlock(), X)
    names = [[call.name for call in trace.calls] for trace in (in_paddles_words(ours), tidied(theirs))]
    assert names[0] == names[1] or sorted(names[0]) == sorted(names[1])
    assert {"conv", "relu", "avg_pool2d", "concat", "multiply"} == set(names[0])
    pools = [next(c for c in t.calls if c.name == "avg_pool2d") for t in (in_paddles_words(ours), tidied(theirs))]
    assert differing(*pools) == {"exclusive": (False, True)}


def test_a_trace_changes_nothing_and_leaves_the_framework_as_it_was():
    block = PaddleBlock()
    functions = (paddle.concat, paddle.nn.functional.avg_pool2d, paddle.Tensor.__mul__, paddle.nn.Layer.__call__)
    given, _ = traced(capture_paddle, block, X)
    assert functions == (
        paddle.concat, paddle.nn.functional.avg_pool2d, paddle.Tensor.__mul__, paddle.nn.Layer.__call__
    )  # fmt: skip
    np.testing.assert_array_equal(given, block(paddle.to_tensor(X)).numpy())


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([], lambda x, conv: np.concatenate([np.maximum(conv, 0), pool(x, exclusive=True)], 1) / 2),
        ([("avg_pool2d", "set", {"exclusive": False})],
         lambda x, conv: np.concatenate([np.maximum(conv, 0), pool(x, exclusive=False)], 1) / 2),
        ([("relu", "skip", {})], lambda x, conv: np.concatenate([conv, pool(x, exclusive=True)], 1) / 2),
        ([("multiply", "set", {"y": 3.0})],
         lambda x, conv: np.concatenate([np.maximum(conv, 0), pool(x, exclusive=True)], 1) * 3),
        ([("relu", "replace", {}, "tanh")],
         lambda x, conv: np.concatenate([np.tanh(conv), pool(x, exclusive=True)], 1) / 2),
    ],
    ids=["unchanged", "setting", "skip", "number", "replace"],
)  # fmt: skip
def test_edits_change_one_call(edits, expected):
    block = PaddleBlock()
    _, trace = traced(capture_paddle, block, X)
    where = {call.name: i for i, call in enumerate(trace.calls)}
    made = [Edit(where[name], do, *more, settings=settings) for name, do, settings, *more in edits]
    given, _ = traced(capture_paddle, block, X, edits=made)
    conv = block.conv(paddle.to_tensor(X)).numpy()
    np.testing.assert_allclose(given, expected(X, conv), atol=1e-12)


def pool(x, *, exclusive):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    count = np.pad(np.ones(x.shape[2:]), 1)
    shifts = [(i, j) for i in range(3) for j in range(3)]
    height, width = x.shape[2:]
    total = sum(padded[:, :, i : i + height, j : j + width] for i, j in shifts)
    valid = sum(count[i : i + height, j : j + width] for i, j in shifts)
    return total / (valid if exclusive else 9)


def test_edits_of_the_whole_module():
    block = PaddleBlock()
    plain, _ = traced(capture_paddle, block, X)
    flipped, _ = traced(capture_paddle, block, X, edits=[Edit(WHOLE, "after", "flip", settings={"axis": 1})])
    np.testing.assert_array_equal(flipped, plain[:, ::-1])


@pytest.mark.parametrize(
    ("name", "one", "other", "alike"),
    [
        ("kernel_size", (3, 3), 3, True), ("padding", [1, 1], (1, 1), True), ("padding", (0, 1), (1, 0), False),
        ("epsilon", 1e-5, 9.999999747378752e-06, True), ("epsilon", 1e-5, 1.1e-5, False), ("p", "fro", 2, True),
        ("axis", 1, -1, False), ("momentum", 0.9, 0.91, False),
    ],
)  # fmt: skip
def test_settings_that_mean_the_same(name, one, other, alike):
    assert same(name, one, other) is alike


@pytest.mark.parametrize(
    ("total", "words"),
    [
        (lambda a, b, c: a + b, "c is left out"), (lambda a, b, c: a + 0.4 * b + c, "b has the weight .* 0.4"),
        (lambda a, b, c: a + b + c + c, "c is in the total once more"), (lambda a, b, c: a + b + b, "b .* twice, c"),
        (lambda a, b, c: a * b + c, None),
    ],
)  # fmt: skip
def test_totals(total, words):
    a, b, c = (np.array(x) for x in (1.2345678912, 0.7654321987, 2.1357913579))
    terms = {"a": a, "b": b, "c": c}
    found = explain_total("total", (np.asarray(a + b + c), np.asarray(total(a, b, c))), (terms, terms))
    assert (found is None) if words is None else re.search(words, found.cause)
    assert found is None or found.after < 1e-9 < found.before


CAUSES = ["pool-exclusive", "norm-eps-weak", "arm-norm-forgotten", "ffm-concat-swapped", "conv-zeros-for-mirror",
          "mask-inverted", "arm-gate-detached", "ohem-threshold-not-logged", "total-auxiliary-weight"]  # fmt: skip


def test_planted_bugs_get_their_cause():
    with open_sides(("torch", "paddle"), 1) as processes:
        for name in CAUSES:
            result = selftest.plant(processes, [ENTRIES[name]])
            failed = next(stage for stage in result.stages if not stage)
            found = failed.diagnoses[0]
            assert re.search(ENTRIES[name].diagnosis, f"{found.cause} {found.fix}", re.IGNORECASE), (name, found)
            assert found.after < 1e-6 < found.before or found.after < 1e-9 < found.before


@pytest.mark.parametrize(
    ("rung", "plant", "line"),
    [("forward", "pool-exclusive", r"0: .*= 0\.[12]"), ("backward", "arm-gate-detached", "0: .*= 0.9"),
     ("forward-train", "norm-momentum-copied", r"[12]: .*= [1-9]")],
)  # fmt: skip
def test_a_repro_runs_alone_and_shows_the_difference(tmp_path, rung, plant, line):
    spec = RunSpec("stdc1-seg", (64, 128), base=4, batch=2, plant=(plant,))
    result = run_rungs([rung], spec, Judging(Tolerance()), threads=1, repro=tmp_path)
    script = next(tmp_path.glob("*.py"))
    assert len(script.read_text().splitlines()) < 60
    assert any(str(script) in remark for stage in result.stages for remark in stage.remarks)
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(line, done.stdout), done.stdout


class TorchCascade(torch.nn.Module):
    """Two cross entropies that ignore -1, on labels shrunk bilinearly, as ICNet's loss has three."""

    def forward(self, labels, *outputs):
        cross_entropy, total = torch.nn.functional.cross_entropy, 0.0
        for logits in outputs:
            small = torch.nn.functional.interpolate(
                labels[:, None].float(), logits.shape[2:], mode="bilinear", align_corners=True
            )
            total = total + cross_entropy(logits, small.squeeze(1).long(), ignore_index=-1)
        return total


class PaddleCascade(paddle.nn.Layer):
    """Its port, which resizes in float64."""

    def forward(self, labels, *outputs):
        functional, total = paddle.nn.functional, 0.0
        for logits in outputs:
            small = functional.interpolate(
                labels.unsqueeze(1).astype("float64"), logits.shape[2:], mode="bilinear", align_corners=True
            )
            labels_here = small.squeeze(1).astype("int64")
            total = total + functional.cross_entropy(logits, labels_here, ignore_index=-1, axis=1)
        return total


def test_several_means_over_ignored_labels_and_labels_cut_off_are_undone_together():
    random = np.random.default_rng(3)
    labels = np.kron(random.integers(-1, 5, (2, 6, 8)), np.ones((8, 8), np.int64)).astype(np.int64)
    outputs = [random.standard_normal((2, 5, 48 // stride, 64 // stride)) for stride in (4, 8)]
    reference, one = traced(capture_torch, TorchCascade(), labels, *outputs)
    before, other = traced(capture_paddle, PaddleCascade(), labels, *outputs)
    _, edits, cause, _ = list(averages(in_paddles_words(one), tidied(other)))[-1]
    assert "all labels" in cause and "another class" in cause
    tracer = Tracer(capture_paddle, module := PaddleCascade(), edits, one.values)
    with capture_paddle.traced(tracer), capture_paddle.no_grad():
        after = module(*map(capture_paddle.to_tensor, (labels, *outputs)))
    assert abs(float(before) - float(reference)) > 1e-2
    assert abs(float(after) - float(reference)) < 1e-12
