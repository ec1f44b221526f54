"""The corpus of port bugs in networks: its subjects are twins and clean, its entries complete and effective."""

import ast
import difflib
import re
from pathlib import Path

import numpy as np
import pytest

from stdc_parity.align import capture_paddle, capture_torch
from stdc_parity.align.compare import Judging
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.pairs import subjects
from stdc_parity.align.run import run_rungs
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages import backward, forward, weights
from stdc_parity.fixtures.portbugs.function_entries import FUNCTIONS
from stdc_parity.fixtures.portbugs.layer_entries import LAYERS
from stdc_parity.fixtures.portbugs.network_entries import NETWORK
from stdc_parity.fixtures.portbugs.paddle_network_bugs import NETWORK_BUGS

PORTBUGS = Path(__file__).parent.parent / "fixtures" / "portbugs"
SMALL = [entry for entry in NETWORK if entry.subject in subjects.NAMES]


@pytest.fixture(scope="module")
def sessions():
    sides = {"torch": Session(capture_torch), "paddle": Session(capture_paddle)}
    for session in sides.values():
        session.framework.configure(1)
    return sides


def spec_of(subject, **options):
    return RunSpec(subject, (64, 128), base=4, batch=2, dtype="float64", **options)


def test_twins_have_the_same_classes_and_attributes():
    def outline(name):
        tree = ast.parse((PORTBUGS / name).read_text())
        return {
            node.name: [
                target.attr
                for assign in ast.walk(node)
                if isinstance(assign, ast.Assign)
                for each in assign.targets
                for target in (each.elts if isinstance(each, ast.Tuple) else [each])
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)
            ]
            for node in tree.body
            if isinstance(node, ast.ClassDef)
        }

    torch_side, paddle_side = outline("torch_subjects.py"), outline("paddle_subjects.py")
    own = {"LeakyReLU", "MultiHeadAttention", "CumulativeNorm"}  # written out on one side only
    assert torch_side.keys() - paddle_side.keys() == set()
    assert paddle_side.keys() - torch_side.keys() == {"LeakyReLU"}
    assert {k: v for k, v in torch_side.items() if k not in own} == {
        k: v for k, v in paddle_side.items() if k not in own
    }
    lines = [(PORTBUGS / f"{side}_subjects.py").read_text().splitlines() for side in ("torch", "paddle")]
    assert difflib.SequenceMatcher(None, *lines, autojunk=False).ratio() > 0.75


@pytest.mark.parametrize("name", subjects.NAMES)
def test_both_sides_of_a_subject_have_the_same_weights(sessions, name):
    torch_side, paddle_side = (weights.capture(session, spec_of(name)) for session in sessions.values())
    assert list(torch_side.arrays) == list(paddle_side.arrays)
    for tap, array in torch_side.arrays.items():
        np.testing.assert_array_equal(array, paddle_side.arrays[tap], tap)


def test_subjects_are_clean_on_every_rung():
    for name in subjects.NAMES:
        assert len(subjects.pair(name).outputs) == len(set(subjects.pair(name).outputs)), name
    for name in ("subject-norms", "subject-rnn", "subject-blocks"):  # the self-test climbs the others
        spec = RunSpec(name, (64, 128), batch=2)
        judging = Judging(Tolerance(), "always", isolate=True)
        result = run_rungs(["weights", "forward", "forward-train", "backward"], spec, judging, 1)
        assert [bool(stage) for stage in result.stages] == [True] * 4, name
        assert not any(stage.blamed for stage in result.stages), name
        assert not any("failed" in remark for stage in result.stages for remark in stage.remarks), name


def test_every_entry_has_its_code_and_its_words():
    ids = [entry.id for entry in NETWORK]
    assert len(ids) == len(set(ids))
    assert set(ids) == NETWORK_BUGS.keys()
    for entry in NETWORK:
        assert entry.what and entry.seen and entry.cause, entry.id
        if entry.harmless:
            assert not entry.stage and not entry.where, entry.id
        else:
            assert entry.stage in ("weights", "forward", "forward-train", "backward"), entry.id
            assert entry.where and entry.fix, entry.id
        re.compile(entry.diagnosis)


def test_there_are_enough_of_them():
    assert sum(not entry.harmless for entry in NETWORK) >= 60
    assert sum(entry.harmless for entry in NETWORK) >= 30
    assert {entry.stage for entry in NETWORK} >= {"forward", "forward-train", "backward"}


def outputs(session, spec):
    if spec.mode == "train":
        record = backward.capture(session, spec)
        statistics = forward.capture(session, spec)
        return {**record.arrays, **statistics.arrays}
    return forward.capture(session, spec).arrays


def differ(a, b, relative):
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape or a[k].dtype != b[k].dtype for k in a):
        return True
    return any(np.abs(a[k] * 1.0 - b[k]).max(initial=0) > relative * max(1.0, np.abs(a[k]).max()) for k in a)


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.id)
def test_an_entry_changes_what_it_says(sessions, entry):
    """A bug changes its stage's values on the Paddle side, a harmless entry none beyond rounding."""
    if entry.where == "paddle failed":
        with pytest.raises(ValueError, match="do not fit"):
            outputs(sessions["paddle"], spec_of(entry.subject, plant=(entry.id,)))
        return
    modes = ["eval", "train"] if entry.harmless else ["eval" if entry.stage == "forward" else "train"]
    for mode in modes:
        clean = outputs(sessions["paddle"], spec_of(entry.subject, mode=mode))
        planted = outputs(sessions["paddle"], spec_of(entry.subject, mode=mode, plant=(entry.id,)))
        assert differ(clean, planted, 1e-6 if entry.harmless else 1e-9) != entry.harmless, mode


def test_each_layer_family_has_a_subject():
    assert {entry.subject for entry in (*LAYERS, *FUNCTIONS)} | {"subject-blocks"} == set(subjects.NAMES)


def test_frozen_layer_norm_has_a_wrong_input_gradient_in_paddle(sessions):
    """Why `capture_paddle.vjp` runs whole backward passes; if this fails, Paddle has mended its kernel."""
    import paddle

    norm = paddle.nn.LayerNorm(4)
    norm.weight.set_value(np.float32([0.5, 1.0, 1.5, 2.0]))
    x = paddle.to_tensor(np.float32([[1.0, 3.0, -2.0, 0.5]]), stop_gradient=False)
    seed = paddle.to_tensor(np.float32([[1.0, 0.0, -1.0, 2.0]]))
    whole = capture_paddle.vjp([norm(x)], [x], [seed])[0]
    (alone,) = paddle.grad([norm(x)], [x], [seed])
    assert np.abs(whole - alone.numpy()).max() > 1e-2
    import torch

    given = torch.tensor([[1.0, 3.0, -2.0, 0.5]], requires_grad=True)
    out = torch.nn.functional.layer_norm(given, [4], torch.tensor([0.5, 1.0, 1.5, 2.0]))
    expected = capture_torch.vjp([out], [given], [torch.tensor([[1.0, 0.0, -1.0, 2.0]])])[0]
    np.testing.assert_allclose(whole, expected, atol=1e-6)
