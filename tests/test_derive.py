"""Derived rules: networks that are written twice, with other names and in another order, compute the same with them.

The oracle is a forward pass of both in float64, with what `torch2paddle --rules` writes of the PyTorch state dict.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.align import capture_paddle, capture_table_paddle, capture_table_torch, capture_torch
from stdc_parity.align.derivation import command
from stdc_parity.align.derivation.command import SIDES, spec_of, write_derivation
from stdc_parity.align.derivation.mapping import derive_rules
from stdc_parity.align.derivation.prober import Prober
from stdc_parity.align.derivation.table import Table
from stdc_parity.align.derivation.values import telling_values
from stdc_parity.align.inputs import read_input
from stdc_parity.align.sides import open_sides
from stdc_parity.align.spec import Own
from stdc_parity.converters.errors import ParityError
from stdc_parity.converters.rules_file import load_rules
from stdc_parity.fixtures import random_ports

NETS = Path(__file__).parent / "derive_nets"
INPUTS = {
    "Convs": ["2x3x6x6"], "Norms": ["3x6x4x5"], "Words": ["3x7:int64:0..10"], "Projected": ["2x4x6"],
    "Attentions": ["2x5x8", "2x4x6", "2x4x4"], "Reparameterised": ["2x3x7x7"], "reparameterised_new": ["2x3x7x7"],
    "Parameters": ["2x7x6"], "Tied": ["2x5:int64:0..8"], "Containers": ["3x6"], "Swapped": ["1x3x8x8"],
    "Packed": ["2x4x6"], "Split": ["2x4x6"], "TrainHeads": ["3x6"], "Unsaved": ["2x6"], "Left": ["2x5"],
    "Inner": ["2x4"], "Cells": ["2x4x8"],
    "Added": ["3x5"], "Extra": ["2x4"], "Wrong": ["3x5"], "Idle": ["2x4"], "Turned": ["3x4"],
    "Dead": ["2x4"], "Narrow": ["2x4"],
}  # fmt: skip
WHOLE = list(INPUTS)[:18]


def module(side):
    spec = importlib.util.spec_from_file_location(f"{side}_nets", NETS / f"{side}_nets.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


TORCH, PADDLE = module("torch"), module("paddle")


def own(name):
    """A network of the two files, or a random one by its number."""
    if isinstance(name, int):
        module = random_ports.__name__
        return Own(torch=f"{module}_torch:build", paddle=f"{module}_paddle:build", inputs=("4x6",),
                   arguments=(json.dumps({"seed": name}), "", ""))  # fmt: skip
    return Own(torch=f"torch_nets:{name}", paddle=f"paddle_nets:{name}", inputs=tuple(INPUTS.get(name, ["2x4"])),
               torch_path=str(NETS), paddle_path=str(NETS))  # fmt: skip


@pytest.fixture(scope="module")
def derive(tmp_path_factory):
    """What derives a network's rules, in processes that are started once."""
    known = {}
    with open_sides(SIDES, 1) as workers:

        def of(name, *, run=True):
            if (name, run) not in known:
                folder = tmp_path_factory.mktemp("run")
                known[name, run] = Prober(workers, spec_of(None, own(name), 8, 0), folder, runs=run).derive()
            return known[name, run]

        yield of


def pairs(found):
    return {rule.torch: rule.paddle for rule in found.rules.tensors if rule.torch and rule.paddle}


def settled(found):
    return {rule.torch or rule.paddle: rule.settled for rule in found.rules.tensors}


def opened(found):
    return {(each.torch, each.paddle) for each in found.rules.open}


def flat(value):
    if isinstance(value, list | tuple):
        return [array for each in value for array in flat(each)]
    return [value.detach().numpy() if isinstance(value, torch.Tensor) else value.numpy()]


def compare(net, port, inputs):
    """Both networks' outputs in float64."""
    arrays = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in inputs]
    with torch.no_grad(), paddle.no_grad(), capture_table_paddle.default_dtype("float64"):
        ours, theirs = flat(net(*map(torch.from_numpy, arrays))), flat(port(*map(paddle.to_tensor, arrays)))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= 1e-10 * np.abs(a).max()


@pytest.mark.parametrize("name", WHOLE)
def test_a_network_that_is_written_twice_computes_the_same_with_its_rules(derive, tmp_path, name):
    found = derive(name)
    assert found, (found.remarks, found.rules.open)
    write_derivation(found, ["a test"], tmp_path / "rules.toml", force=False)
    assert load_rules(tmp_path / "rules.toml").tensors == found.rules.tensors
    net, port = getattr(TORCH, name)().double(), getattr(PADDLE, name)()
    capture_paddle.set_dtype(port, "float64")
    capture_table_paddle.make_runnable(port)
    own = {rule.torch for rule in found.rules.tensors if rule.optional}
    state = telling_values(capture_table_torch.table(net), capture_torch.state(net), seed=5, kept=own)
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in state.items()}, tmp_path / "net.pth")
    done = CliRunner().invoke(cli.convert, ["torch2paddle", str(tmp_path / "net.pth"), "--rules",
                                            str(tmp_path / "rules.toml")])  # fmt: skip
    assert done.exit_code == 0, done.output
    net.load_state_dict(torch.load(tmp_path / "net.pth"))
    missing, unexpected = port.set_state_dict(paddle.load(str(tmp_path / "net.pdparams")))
    assert not unexpected and set(missing) <= {"kept"}, (missing, unexpected)
    for mode in ("eval", "train"):
        for framework, network in ((capture_torch, net), (capture_paddle, port)):
            framework.set_mode(network, mode)
        if mode == "eval" or "eparameterised" not in name:  # spectral norms go a step on, at different times
            compare(net, port, [read_input(text).draw(9, i) for i, text in enumerate(INPUTS[name])])
    back = CliRunner().invoke(cli.convert, ["paddle2torch", str(tmp_path / "net.pdparams"), str(tmp_path / "b.pth"),
                                            "--rules", str(tmp_path / "rules.toml")])  # fmt: skip
    assert back.exit_code == 0, back.output
    returned = torch.load(tmp_path / "b.pth")
    assert returned.keys() == state.keys() - {"made"}
    assert all(np.array_equal(returned[name].numpy(), state[name]) for name in returned)


def test_names_on_other_layers_are_told_by_what_they_are_given(derive):
    assert pairs(derive("Swapped")) | {"conv8.bias": 0, "conv16.bias": 0, "head8.bias": 0, "head16.bias": 0} == {
        "conv8.weight": "conv8.weight", "conv16.weight": "conv16.weight", "head8.weight": "head16.weight",
        "head16.weight": "head8.weight", "conv8.bias": 0, "conv16.bias": 0, "head8.bias": 0, "head16.bias": 0,
    }  # fmt: skip
    assert settled(derive("Swapped"))["head8.weight"] == "probe"


def test_swapped_names_of_layers_that_no_output_depends_on_are_told_too(derive):
    found = pairs(derive("Dead"))
    assert {name: found[name] for name in ("a.weight", "b.weight", "c.weight")} == {
        "a.weight": "a.weight", "b.weight": "c.weight", "c.weight": "b.weight"
    }  # fmt: skip


def test_a_wrapper_around_one_side_is_a_path(derive):
    assert set(settled(derive("Inner")).values()) == {"path"}
    assert pairs(derive("Inner"))["idle_a.weight"] == "body.idle_a.weight"


@pytest.mark.parametrize("seed", range(8))
def test_random_ports_are_mapped_right_or_marked(derive, seed):
    """`benchmarks/derive.py` has hundreds of them."""
    design = random_ports.draw_design(seed)
    port, reached = random_ports.draw_port(design, seed), design.reached()
    found = derive(seed)
    assert found.holds, found.remarks
    for rule in found.rules.tensors:
        part = (rule.torch or "").partition(".")[0]
        if part in reached and rule.paddle is not None and rule.settled != "order":
            assert rule.paddle.partition(".")[0] == port.names[part], rule
            if design.parts[part] == "matrix":
                assert rule.transform == ("transpose" if part in port.turned else "copy"), rule


def test_branches_that_are_added_are_marked_and_what_nobody_calls_is_open(derive):
    found = derive("Added")
    assert not found and found.holds
    assert settled(found) == dict.fromkeys(("left.weight", "left.bias", "right.weight", "right.bias"), "order")
    assert all(rule.evidence.startswith("indistinguishable: swapping it") for rule in found.rules.tensors)
    assert opened(found) == {
        ((f"unused_{a}.weight", f"unused_{a}.bias"), (f"idle_{b}.weight", f"idle_{b}.bias"))
        for a, b in (("a", "1"), ("b", "2"))
    }


def test_what_one_side_lacks_is_open_and_the_rest_is_told(derive):
    found = derive("Extra")
    assert pairs(found) == {"fc.weight": "fc.weight"} and found.holds and not found
    assert opened(found) == {(("fc.bias",), ()), (("left_out.weight", "left_out.bias"), ())}


def test_a_port_with_a_bug_leaves_open_what_the_bug_hides(derive):
    found = derive("Wrong")
    assert not found.holds and found.gap > 1e-3
    assert pairs(found) == {f"{a}.{last}": f"{z}.{last}" for a, z in ("az", "by") for last in ("weight", "bias")}
    assert opened(found) == {(("c.weight", "c.bias"), ("x.weight", "x.bias"))}
    assert "first of all x is given something else" in found.remarks[0]


def test_a_square_tensor_that_no_output_depends_on_is_open(derive):
    found = derive("Idle")
    assert opened(found) == {(("idle",), ("idle",)), (("also",), ("other",))}
    assert pairs(found) == {"fc.weight": "fc.weight", "fc.bias": "fc.bias"}


def test_a_linear_layer_is_transposed_for_its_type_whatever_its_port_does(derive):
    """The port multiplies a square weight the wrong way round: no rule makes up for that, and the run says so."""
    found = derive("Turned")
    assert not found.holds and [rule.transform for rule in found.rules.tensors] == ["transpose", "copy"]


@pytest.mark.parametrize("name", ["Containers", "Packed", "Parameters", "Added"])
def test_without_a_run_nothing_is_settled_by_order(derive, name):
    found = derive(name, run=False)
    assert found.gap is None and found.rules.open
    assert not {"order", "probe"} & set(settled(found).values())
    if name == "Parameters":  # square ones, though both sides call them the same
        assert {(("square",), ("square",)), (("turned",), ("turned",))} <= opened(found)
    names = {n for each in found.rules.open for n in each.torch} | set(settled(found))
    assert set(getattr(TORCH, name)().state_dict()) <= names  # each is mapped or open


def test_tables_alone_give_rules_where_names_and_types_tell():
    for name in ("Convs", "Attentions", "Swapped", "Reparameterised"):
        ours, theirs = getattr(TORCH, name)(), getattr(PADDLE, name)()
        tables = capture_table_torch.table(ours), capture_table_paddle.table(theirs)
        again = [Table.from_json(table.to_json()) for table in tables]
        assert again == list(tables)
        rules = derive_rules(*tables)
        ruled = {n for each in rules.open for n in each.torch} | {rule.torch for rule in rules.tensors}
        assert {row.name for row in tables[0].tensors} <= ruled


@pytest.mark.parametrize("name", ["NoSuchNetwork", "Broken"])
def test_a_network_that_cannot_be_built_is_an_error_of_its_side(derive, name):
    with pytest.raises(ParityError) as caught:
        derive(name, run=False)
    assert name in str(caught.value) and "torch" in str(caught.value)


def test_what_cannot_be_run_in_float64_is_run_in_float32(tmp_path):
    found = command.derive(spec_of(None, own("Narrow"), 8, 0), runs=True, tol=2e-5, threads=1)
    assert found and found.dtype == "float32" and found.gap < 1e-5
    assert pairs(found)["a.weight"] == "first.weight" and set(settled(found).values()) == {"probe"}


def run(*arguments):
    return CliRunner().invoke(cli.convert, [str(each) for each in arguments])


def test_the_command_writes_reviewable_rules(tmp_path):
    path = ("--torch-path", NETS, "--paddle-path", NETS)
    sides = ("--torch", "torch_nets:Swapped", "--paddle", "paddle_nets:Swapped")
    done = run("derive", *sides, *path, "--input", "1x3x8x8", "-o", tmp_path / "rules.toml", "--threads", 1)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "rules.toml").read_text()
    assert "# Proven: the outputs of both sides agree to " in text and "open = [\n]" in text
    done = run("derive", *sides, *path, "-o", tmp_path / "rules.toml")
    assert done.exit_code == 2 and "exists" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Say --pair NAME, or both"),
        (("--torch", "a:b"), "Say --pair NAME, or both"),
        (("--pair", "stdc1-seg", "--torch", "a:b"), "is a pair of ours"),
        (("--pair", "stdc1-seg", "--input", "1x2"), "is a pair of ours"),
        (("--pair", "no-such-pair"), "there is no such pair"),
    ],
)
def test_bad_options_end_in_one_message(tmp_path, arguments, said):
    done = run("derive", *arguments, "-o", tmp_path / "rules.toml")
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    assert not (tmp_path / "rules.toml").exists()
