"""Variants of STDC-Seg: the fork's keys, the twins against each other, what inference leaves out, the ladder."""

import json
from contextlib import contextmanager
from importlib.resources import files

import numpy as np
import paddle
import pytest
import torch
from click.testing import CliRunner

from stdc_parity.align import run as running
from stdc_parity.align.compare import Judging
from stdc_parity.align.cost import measure
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.pairs import find_pair
from stdc_parity.align.run import climb
from stdc_parity.align.spec import RunSpec
from stdc_parity.cli import convert
from stdc_parity.converters import stdc
from stdc_parity.converters.architecture import paddle_name, paddle_shape
from stdc_parity.converters.convert import open_state_dict
from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.layouts import get_layout, twin_layout
from stdc_parity.converters.plan import apply_plan, make_plan, recognise
from stdc_parity.converters.statedict import find_state_dict
from stdc_parity.fixtures.samples import write_sample
from stdc_parity.fixtures.weights import seeded_weights
from stdc_parity.models_paddle import stdcseg_variants as paddle_nets
from stdc_parity.models_torch import stdcseg_variants as torch_nets

FORK = {
    name: {key: tuple(shape) for key, shape in keys.items()}
    for name, keys in json.loads(files("stdc_parity.fixtures").joinpath("fork_variants.json").read_text()).items()
}
KNOWN_AS = {"STDC1-Cut": ("stdc1-seg-cut", 4), "STDC1-Del": ("stdc1-seg-del", 2), "STDC1-DW": ("stdc1-seg", 4)}
WHOLE = [name for name, form in stdc.FORMS.items() if not form.infer]


def build(nets, name, num_classes=19, base=64):
    form = stdc.FORMS[name]
    return nets.stdc_seg(form.depth, form.variant, form.infer, num_classes, base=base)


def torch_shapes(name, **numbers):
    with torch.device("meta"):
        return {key: tuple(t.shape) for key, t in build(torch_nets, name, **numbers).state_dict().items()}


def paddle_shapes(tensors):
    """The shapes of official tensors in Paddle, where norms have no counters."""
    kept = {key: spec for key, spec in tensors.items() if spec.kind != "norm.batches"}
    return {paddle_name(key, spec.kind): paddle_shape(spec) for key, spec in kept.items()}


@pytest.mark.parametrize("fork", FORK)
def test_the_forks_keys_are_the_twins_and_the_converters(fork):
    name, classes = KNOWN_AS[fork]
    architecture = stdc.architecture(name, num_classes=classes)
    own = [(key, shape) for key, shape in FORK[fork].items() if key not in architecture.aliases]
    assert len(FORK[fork]) == len(own) + len(architecture.aliases)
    assert own == [(key, spec.shape) for key, spec in architecture.tensors.items()]
    assert own == list(torch_shapes(name, num_classes=classes).items())
    theirs = {key: tuple(t.shape) for key, t in build(paddle_nets, name, classes).state_dict().items()}
    assert theirs == paddle_shapes(architecture.tensors)
    assert stdc.recognise(FORK[fork], "torch") == architecture
    assert stdc.recognise(dict(own), "torch") == architecture


@pytest.mark.parametrize("name", stdc.FORMS)
def test_every_form_is_built_and_recognised_on_both_sides(name):
    architecture = stdc.architecture(name, num_classes=3, base=4)
    shapes = {key: spec.shape for key, spec in architecture.tensors.items()}
    assert list(shapes.items()) == list(torch_shapes(name, num_classes=3, base=4).items())
    theirs = {key: tuple(t.shape) for key, t in build(paddle_nets, name, 3, 4).state_dict().items()}
    assert theirs == paddle_shapes(architecture.tensors)
    assert stdc.recognise(shapes, "torch") == architecture
    zeros = {key: np.zeros(shape, np.float32) for key, shape in theirs.items()}
    assert recognise(zeros, "paddle") == architecture


def test_del_has_no_conv_last_and_an_unknown_variant_is_refused():
    for nets in (torch_nets, paddle_nets):
        with pytest.raises(ValueError, match="no stage at stride 32"):
            nets.stdc_seg("stdcnet813", "del", use_conv_last=True, base=4)
        with pytest.raises(ValueError, match="plain, cut, del, dw"):
            nets.stdc_seg("stdcnet813", "small", base=4)


def loaded(nets, name, tensors, side):
    """The network in float64 with official `tensors`, which may hold more than it needs."""
    state = find_state_dict(tensors)
    architecture = stdc.architecture(name, base=8)
    plan = make_plan(state, architecture, "torch", target=twin_layout(side))
    given = apply_plan(plan, state.tensors, {})
    net = build(nets, name, base=8)
    if side == "torch":
        net.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in given.items()})
        return net.double().eval()
    assert net.set_state_dict({key: paddle.to_tensor(np.array(array)) for key, array in given.items()}) == ([], [])
    net.to(dtype="float64")
    net.eval()
    return net


@pytest.mark.parametrize("name", [*WHOLE[::2], "stdc2-seg-del"])
def test_inference_gives_the_main_logits_and_the_twins_agree(name):
    """Bit for bit the whole network's on either side; between the sides up to Paddle's float32 ratios."""
    tensors = seeded_weights(stdc.architecture(name, base=8))
    x = np.random.default_rng(1).standard_normal((2, 3, 65, 97))
    results = {}
    sides = (("torch", torch_nets, torch.from_numpy(x)), ("paddle", paddle_nets, paddle.to_tensor(x)))
    for side, nets, inputs in sides:
        whole = loaded(nets, name, tensors, side)(inputs)
        assert len(whole) == (3 if "del" in name else 4)
        alone = loaded(nets, f"{name}-infer", tensors, side)(inputs)
        results[side] = whole[0].detach().numpy()
        assert results[side].shape == (2, 19, 65, 97)
        assert np.array_equal(alone.detach().numpy(), results[side])
    assert abs(results["torch"] - results["paddle"]).max() < 3e-6 * abs(results["torch"]).max()


def test_what_inference_leaves_out_is_accounted_for():
    whole = stdc.architecture("stdc2-seg-del", base=4)
    part = stdc.reduced(whole, "stdc2-seg-del-infer")
    tensors = seeded_weights(whole)
    plan = make_plan(find_state_dict(tensors), part, "torch", target=twin_layout("torch"))
    left = {entry.source: entry.reason for entry in plan.entries if entry.target is None}
    assert left.keys() == tensors.keys() - part.tensors.keys()
    assert left["conv_out16.conv.conv.weight"] == "only training needs the auxiliary heads"
    assert left["cp.backbone.fc.weight"] == "segmentation needs no ImageNet head"
    assert left["cp.backbone.features.11.conv_list.0.conv.weight"] == "stdc2-seg-del computes nothing at stride 32"
    assert len(set(left.values())) == 3
    assert stdc.reduced(whole, "stdc2-seg-infer") is None
    assert stdc.reduced(part, "stdc2-seg-del-infer") is None


def test_a_conv_last_that_is_used_stays():
    whole = stdc.architecture("stdc1-seg", base=16, use_conv_last=True)
    part = stdc.reduced(whole, "stdc1-seg-infer")
    assert "cp.backbone.conv_last.conv.weight" in part.tensors
    assert "cp.backbone.fc.weight" in part.unused
    shapes = {key: spec.shape for key, spec in part.tensors.items()}
    assert stdc.recognise(shapes, "torch") == part
    net = torch_nets.stdc_seg("stdcnet813", infer=True, use_conv_last=True, base=16)
    assert {key: tuple(t.shape) for key, t in net.state_dict().items()} == shapes


@pytest.mark.parametrize("layout", ["paddleseg", "mmseg"])
def test_whole_checkpoints_of_other_layouts_are_reduced_too(layout):
    whole = stdc.architecture("stdc1-seg", base=4, imagenet_head=False)
    tensors = seeded_weights(whole)
    there = make_plan(find_state_dict(tensors), whole, "torch", target=get_layout(layout))
    theirs = find_state_dict(apply_plan(there, tensors, {}))
    part = stdc.reduced(whole, "stdc1-seg-infer")
    back = make_plan(theirs, part, there.target.side, target=get_layout("official"))
    given = apply_plan(back, theirs.tensors, {})
    assert given.keys() == part.tensors.keys()
    kept = [key for key in given if not key.endswith("num_batches_tracked")]
    assert all(np.array_equal(given[key], tensors[key]) for key in kept)
    assert {entry.source for entry in back.entries if entry.source} == theirs.tensors.keys()


@pytest.mark.parametrize(("name", "layout"), [("stdc1-seg-del", "mmseg"), ("stdc1-seg-cut", "paddleseg")])
def test_layouts_that_cannot_build_a_variant_refuse_it(name, layout):
    whole = stdc.architecture(name, base=4)
    with pytest.raises(CheckpointError, match=r"cannot hold .* its variant is"):
        make_plan(find_state_dict(seeded_weights(whole)), whole, "torch", target=get_layout(layout))


def invoke(*arguments):
    done = CliRunner().invoke(convert, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_command_reduces_proves_and_verifies(tmp_path, monkeypatch, workers):
    @contextmanager
    def here(sides, threads, seen):
        yield workers

    monkeypatch.setattr(running, "open_sides", here)
    source, target, certificate = tmp_path / "net.tar", tmp_path / "net.pdparams", tmp_path / "net.json"
    write_sample(source, stdc.architecture("stdc1-seg-dw", base=4))
    name = "stdc1-seg-dw-infer"
    code, output = invoke("torch2paddle", source, target, "--model", name, "--prove", "--certificate", certificate)
    assert code == 0, output
    assert "11 tensors left out: segmentation needs no ImageNet head." in output
    assert "forward: PASS" in output
    _, state, side = open_state_dict(target)
    assert recognise(state.tensors, side).name == name
    assert invoke("verify", source, target, "--certificate", certificate)[0] == 0
    assert invoke("verify", source, target, "--model", name)[0] == 0
    code, output = invoke("verify", source, target)
    assert code == 1
    assert f"Was it converted with --model {name}?" in output
    code, output = invoke("torch2paddle", source, tmp_path / "x.pdparams", "--model", "stdc1-seg-infer")
    assert code == 2
    assert "say --model stdc1-seg-dw or stdc1-seg-dw-infer" in output


@pytest.mark.parametrize(
    ("name", "rungs"),
    [
        ("stdc1-seg-del", ("weights", "forward", "forward-train", "loss", "backward", "optimizer", "train")),
        ("stdc1-seg-dw", ("forward", "backward")),
        ("stdc1-seg-cut-infer", ("weights", "forward", "backward")),
    ],
)
def test_pairs_climb_the_ladder(name, rungs, workers):
    pair = find_pair(name, base=4)
    spec = RunSpec(name, (64, 96), base=4, batch=2, steps=2)
    result = climb(workers, rungs, spec, Judging(Tolerance(1e-5, None, None), "auto", False, None))
    assert result, [c for stage in result.stages for c in stage.comparisons if not c][:3]
    assert [stage.stage for stage in result.stages] == list(rungs)
    taps = {c.tap for stage in result.stages if stage.stage == "forward" for c in stage.comparisons}
    assert {*pair.outputs, *pair.stages} <= taps


def test_a_whole_checkpoint_runs_as_an_inference_pair(tmp_path, workers):
    write_sample(tmp_path / "net.tar", stdc.architecture("stdc1-seg-cut", base=8, num_classes=5))
    spec = RunSpec("stdc1-seg-cut-infer", (32, 64), weights=str(tmp_path / "net.tar"))
    result = climb(workers, ("forward",), spec, Judging(Tolerance(1e-5, None, None), "never", False, None))
    assert result
    assert "seeded" not in result.weights
    logits = next(c for c in result.stages[0].comparisons if c.tap == "logits")
    assert tuple(logits.shape) == (1, 5, 32, 64)


def test_what_the_variants_save(workers):
    """By hand, at base 16 and stride 8 of 64x64: the variants' costs against the plain network's."""
    session = workers["torch"].session
    cost = {name: measure(session, RunSpec(name, (64, 64), base=16)) for name in stdc.FORMS if "stdc1" in name}
    pixels, fused = 8 * 8, 64
    plain, dw, cut = (cost[f"stdc1-seg{variant}"] for variant in ("", "-dw", "-cut"))
    assert plain.under("conv_out.conv").macs == pixels * fused * fused * 9
    assert dw.under("conv_out.conv").macs == pixels * fused * (9 + fused)
    assert cut.under("conv_out.conv").macs * 4 == plain.under("conv_out.conv").macs
    for name in WHOLE[::2]:
        whole, alone = cost[name], cost[f"{name}-infer"]
        for path in ("cp", "ffm", "conv_out"):
            assert whole.under(path).macs == alone.under(path).macs
        assert alone.macs == sum(alone.under(path).macs for path in ("cp", "ffm", "conv_out")) < whole.macs
        assert all(module.calls == 1 for module in alone.modules)
    assert [m.calls for m in cost["stdc1-seg-del"].modules if ".features.6." in m.path] == [0] * 10
