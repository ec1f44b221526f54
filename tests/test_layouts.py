"""Layouts: every table against the key lists of the code bases, both ways; values there and back; the commands."""

import json
import re
from collections import Counter
from importlib.resources import files
from itertools import product

import ml_dtypes
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stdc_parity.cli import convert
from stdc_parity.converters import stdc
from stdc_parity.converters.convert import weights_for
from stdc_parity.converters.errors import CheckpointError, UsageError
from stdc_parity.converters.layout import places, translate, why_absent, with_biases
from stdc_parity.converters.layouts import all_layouts, get_layout
from stdc_parity.converters.plan import (
    MAX_PROBLEMS_SHOWN,
    apply_plan,
    choose_architecture,
    make_plan,
    recognise_layout,
)
from stdc_parity.converters.statedict import find_state_dict
from stdc_parity.fixtures.weights import seeded_weights

COUNTER = "num_batches_tracked"
MODELS = {"STDC1": "stdcnet813", "STDC2": "stdcnet1446", "STDC1-Seg": "stdc1-seg", "STDC2-Seg": "stdc2-seg"}
SEGS = ("STDC1-Seg", "STDC2-Seg")


def read(name):
    lists = json.loads(files("stdc_parity.fixtures").joinpath(f"{name}_stdc.json").read_text())
    return {model: {key: tuple(shape) for key, shape in keys.items()} for model, keys in lists.items()}


def official_lists():
    """Upstream's lists without its aliases and without the ImageNet head, which not every layout has."""
    lists = {re.sub("STDCNet813", "STDC1", re.sub("STDCNet1446", "STDC2", n)): k for n, k in read("official").items()}
    return {model: without_imagenet_head(lists[model]) for model in MODELS}


def without_imagenet_head(keys):
    gone = re.compile(r"(cp\.backbone\.)?(x\d+\.0|conv_last|fc|bn|linear)\..*")
    return {key: shape for key, shape in keys.items() if not gone.fullmatch(key)}


def paddle_list(keys):
    named = {key: shape for key, shape in keys.items() if not key.endswith(COUNTER)}
    stats = (("running_mean", "_mean"), ("running_var", "_variance"))
    for torch_name, paddle in stats:
        named = {key.replace(torch_name, paddle): shape for key, shape in named.items()}
    return named


OFFICIAL, PADDLESEG, MMSEG = official_lists(), read("paddleseg"), read("mmseg")
for _model in SEGS:  # mmseg's backbone alone, as its stdc2mmseg.py writes it
    own = {key: shape for key, shape in MMSEG[_model].items() if key.startswith("backbone.backbone.")}
    MMSEG[_model.removesuffix("-Seg")] = {k.removeprefix("backbone.backbone."): s for k, s in own.items()}
# Its two networks have one backbone (model/model_stages_paddle.py and paddleseg/models/backbones/stdcnet.py).
STDCNET_PADDLE = {model: without_imagenet_head(keys) for model, keys in read("stdcnet_paddle").items()}
BISENET = {model: without_imagenet_head(keys) for model, keys in read("stdcnet_paddle_bisenet").items()}
LISTS = {
    "official": OFFICIAL,
    "paddle": {model: paddle_list(keys) for model, keys in OFFICIAL.items()},
    "paddleseg": PADDLESEG,
    "stdcnet-paddle": STDCNET_PADDLE,
    "stdcnet-paddle-bisenet": STDCNET_PADDLE | BISENET,
    "mmseg": MMSEG,
}
EVERY = [(layout, model) for layout, lists in LISTS.items() for model in lists]
PAIRS = [(a, b, model) for a, b in product(LISTS, LISTS) if a != b for model in MODELS]


def architecture_of(model, **numbers):
    return stdc.architecture(MODELS[model], imagenet_head=False, **numbers)


def zeros(keys):
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in keys.items()}


def plan_between(tensors, target, side, **options):
    state = find_state_dict(tensors)
    return make_plan(
        state, choose_architecture(state.tensors, side, None), side, target=get_layout(target), **options
    )


def relayout(tensors, source, target, **options):
    """The tensors in another layout's names."""
    plan = plan_between(tensors, target, get_layout(source).side, **options)
    assert plan.source.name == source
    return apply_plan(plan, tensors, {})


def in_layout(layout, model, base=8, **numbers):
    """Seeded weights in a layout's names."""
    weights = seeded_weights(architecture_of(model, base=base, **numbers))
    return weights if layout == "official" else relayout(weights, "official", layout)


def test_every_layout_has_a_list():
    ours = {name for name, layout in all_layouts().items() if layout.family in ("", stdc.NAME)}
    assert ours == LISTS.keys()
    assert all(layout.name == name for name, layout in all_layouts().items())


@pytest.mark.parametrize(("layout", "model"), EVERY)
def test_the_table_reaches_every_key_of_the_list_once(layout, model):
    table, architecture = get_layout(layout), architecture_of(model)
    reached = [(place.name, place.shape) for name, place in places(table, architecture).items()
               if table.side == "torch" or not name.endswith(COUNTER)]  # fmt: skip
    reached += [(name, constant.array().shape) for name, constant in table.constants.items() if model in SEGS]
    assert Counter(reached) == Counter(list(LISTS[layout][model].items()))


@pytest.mark.parametrize(("layout", "model"), EVERY)
def test_exactly_one_line_speaks_of_every_official_module(layout, model):
    table, architecture = get_layout(layout), stdc.architecture(MODELS[model])
    patterns = [line.official for line in table.lines] + list(table.absent)
    for module in {name.rpartition(".")[0] for name in architecture.tensors}:
        speak = [p for p in patterns if translate(p, "", module, architecture.groups) is not None]
        assert len(speak) == 1, (module, speak)


@pytest.mark.parametrize("layout", LISTS)
def test_every_line_is_of_use_in_some_model(layout):
    table = get_layout(layout)
    for line in [*(line.official for line in table.lines), *table.absent]:
        used = (
            translate(line, "", name.rpartition(".")[0], architecture.groups) is not None
            for architecture in map(stdc.architecture, MODELS.values())
            for name in architecture.tensors
        )
        assert any(used), line


@pytest.mark.parametrize(("layout", "model"), EVERY)
def test_a_list_is_recognised(layout, model):
    tensors, table = zeros(LISTS[layout][model]), get_layout(layout)
    # For a backbone alone PaddleSeg's names are those of the Paddle twin, STDCNet-Paddle has one for two networks.
    alone = {"paddleseg": "paddle", "stdcnet-paddle-bisenet": "stdcnet-paddle"}
    same = layout if model in SEGS else alone.get(layout, layout)
    assert recognise_layout(tensors, table.side).name == same
    found = choose_architecture(tensors, table.side, None)
    assert (found.name, found.facts["imagenet_head"]) == (MODELS[model], False)
    assert not found.tensors.keys() ^ architecture_of(model).tensors.keys()


@pytest.mark.parametrize(("source", "target", "model"), PAIRS)
def test_every_key_of_both_lists_is_in_a_plan_once(source, target, model):
    keys = LISTS[source][model]
    plan = plan_between(zeros(keys), target, get_layout(source).side)
    assert Counter(entry.source for entry in plan.entries if entry.source) == Counter(list(keys))
    targets = Counter((entry.target, entry.target_shape) for entry in plan.entries if entry.target)
    assert targets == Counter(list(LISTS[target][model].items()))
    for entry in plan.entries:
        assert entry.source_shape == (keys[entry.source] if entry.source else None)
        assert entry.reason or entry.rule == "copy"
        assert not entry.loss or entry.source in get_layout(source).constants  # which are no zeros


# One tensor by the names of upstream, PaddleSeg and mmsegmentation, as their forward passes use them: the first
# pair has the shapes of the second, and so have the heads.
SAME = [
    ("cp.conv_head32.conv.weight", "cp.conv_head32._conv.weight", "backbone.convs.0.conv.weight"),
    ("cp.conv_head16.conv.weight", "cp.conv_head16._conv.weight", "backbone.convs.1.conv.weight"),
    ("cp.arm32.bn_atten.running_var", "cp.arm32.bn_atten._variance",
     "backbone.arms.0.atten_conv_layer.1.bn.running_var"),
    ("cp.arm16.bn_atten.running_var", "cp.arm16.bn_atten._variance",
     "backbone.arms.1.atten_conv_layer.1.bn.running_var"),
    ("cp.arm16.conv.bn.weight", "cp.arm16.conv._batch_norm.weight", "backbone.arms.1.conv_layer.bn.weight"),
    ("ffm.convblk.conv.weight", "ffm.convblk._conv.weight", "backbone.ffm.conv0.conv.weight"),
    ("conv_out.conv_out.weight", "conv_out.conv_out.weight", "decode_head.conv_seg.weight"),
    ("conv_out16.conv_out.weight", "conv_out8.conv_out.weight", "auxiliary_head.0.conv_seg.weight"),
    ("conv_out16.conv.bn.running_mean", "conv_out8.conv._batch_norm._mean",
     "auxiliary_head.0.convs.0.bn.running_mean"),
    ("conv_out32.conv_out.weight", "conv_out16.conv_out.weight", "auxiliary_head.1.conv_seg.weight"),
    ("conv_out32.conv.conv.weight", "conv_out16.conv._conv.weight", "auxiliary_head.1.convs.0.conv.weight"),
]  # fmt: skip


@pytest.mark.parametrize(("official", "paddleseg", "mmseg"), SAME)
def test_names_that_equal_shapes_do_not_tell(official, paddleseg, mmseg):
    architecture = architecture_of("STDC2-Seg")
    assert places(get_layout("paddleseg"), architecture)[official].name == paddleseg
    assert places(get_layout("mmseg"), architecture)[official].name == mmseg


# Upstream's features.N in mmsegmentation's stages: `stage_lst` of its tools/model_converters/stdc2mmseg.py.
STAGES = {
    "STDC1": "0 1 2.0 2.1 3.0 3.1 4.0 4.1",
    "STDC2": "0 1 2.0 2.1 2.2 2.3 3.0 3.1 3.2 3.3 3.4 4.0 4.1 4.2",
}


@pytest.mark.parametrize("model", STAGES)
def test_mmseg_counts_blocks_by_stage(model):
    found = places(get_layout("mmseg"), architecture_of(model))
    for number, stage in enumerate(STAGES[model].split()):
        first = "conv.weight" if number < 2 else "conv_list.0.conv.weight"
        theirs = first.replace("conv_list", "layers")
        assert found[f"features.{number}.{first}"].name == f"stages.{stage}.{theirs}"


@pytest.mark.parametrize("layout", [name for name in LISTS if name != "official"])
@pytest.mark.parametrize("model", MODELS)
def test_there_and_back_bit_for_bit(layout, model):
    weights = in_layout("official", model)
    there = relayout(weights, "official", layout)
    source = recognise_layout(there, get_layout(layout).side).name
    back = relayout(there, source, "official")
    architecture = architecture_of(model, base=8)
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        if why_absent(get_layout(layout), name, architecture):
            neutral = 1 if name.endswith((".bn.weight", "running_var")) else 0
            assert np.all(back[name] == neutral)
        elif not name.endswith(COUNTER) or get_layout(layout).side == "torch":
            np.testing.assert_array_equal(back[name], tensor, strict=True)


def test_biases_are_zeros_on_the_way_there():
    for layout, count in (("paddleseg", 24), ("stdcnet-paddle", 53), ("stdcnet-paddle-bisenet", 53), ("mmseg", 4)):
        there = in_layout(layout, "STDC1-Seg")
        known = places(get_layout(layout), architecture_of("STDC1-Seg", base=8))
        biases = [known[name].name for name, spec in with_biases(architecture_of("STDC1-Seg").tensors)
                  if spec.kind == "bias" and name in known]  # fmt: skip
        assert len(biases) == count
        assert all(there[name].dtype == np.float32 and not there[name].any() for name in biases)


@pytest.mark.parametrize("layout", ["stdcnet-paddle", "stdcnet-paddle-bisenet"])
def test_an_imagenet_head_with_biases_is_kept(layout):
    """STDCNet-Paddle's Linears have biases, upstream's have none; its key list holds the whole backbone."""
    full = seeded_weights(stdc.architecture("stdcnet813"))
    there = relayout(full, "official", layout)
    assert {name: tensor.shape for name, tensor in there.items()} == read("stdcnet_paddle")["STDC1"]
    assert not there["fc.bias"].any()
    back = relayout(there, "stdcnet-paddle", "official")
    for name, tensor in full.items():
        if not name.endswith(COUNTER):
            np.testing.assert_array_equal(back[name], tensor)


# fmt: off
BIASED = [
    ("paddleseg", ["ffm.conv1.bias", "conv_out8.conv_out.bias", "cp.arm16.conv._conv.bias"]),
    ("mmseg", ["decode_head.conv_seg.bias", "auxiliary_head.2.conv_seg.bias"]),
    ("paddleseg", [k for k in PADDLESEG["STDC2-Seg"] if re.search(r"(_conv|ffm.conv\d|_out|_atten)\.bias", k)
                   and "bn_atten" not in k]),
]
# fmt: on


@pytest.mark.parametrize(("layout", "biases"), BIASED)
def test_a_bias_that_is_not_zero_is_an_error_until_let_go(layout, biases):
    tensors = in_layout(layout, "STDC2-Seg")
    for name in biases:
        tensors[name] = np.full_like(tensors[name], -0.5)
    with pytest.raises(CheckpointError) as caught:
        relayout(tensors, layout, "official")
    head, *lines = caught.value.message.split("\n")
    assert head.startswith(f"{len(biases)} problems")
    assert head.endswith(f"in the layout {layout}:")
    assert {line.split(":")[0].strip() for line in lines} == set(biases)
    assert all("not zero (up to 0.5)" in line for line in lines)
    assert "--drop-nonzero-bias" in caught.value.note
    back = relayout(tensors, layout, "official", drop_nonzero_bias=True)
    assert back.keys() == in_layout("official", "STDC2-Seg").keys()


def test_all_biases_are_named():
    assert len(BIASED[-1][1]) == 24 > MAX_PROBLEMS_SHOWN


def test_a_bias_that_both_layouts_have_is_kept():
    tensors = in_layout("mmseg", "STDC1-Seg")
    tensors["decode_head.conv_seg.bias"] = np.arange(19, dtype=np.float32)
    tensors["auxiliary_head.1.conv_seg.bias"] = np.arange(19, dtype=np.float32) + 7
    tensors["auxiliary_head.2.conv_seg.bias"] = np.array([-3, 3], np.float32)
    there = relayout(tensors, "mmseg", "paddleseg")
    assert there["conv_out.conv_out.bias"].tolist() == list(range(19))
    assert there["conv_out16.conv_out.bias"].tolist() == list(range(7, 26))
    assert there["conv_out_sp8.conv_out.bias"].tolist() == [3]
    back = relayout(there, "paddleseg", "mmseg")
    for name, tensor in tensors.items():
        if not name.endswith(COUNTER):
            np.testing.assert_array_equal(back[name], tensor)


def test_the_detail_head_of_two_channels():
    weights = in_layout("official", "STDC1-Seg")
    one = weights["conv_out_sp8.conv_out.weight"]
    there = relayout(weights, "official", "mmseg")
    two = there["auxiliary_head.2.conv_seg.weight"]
    feature = np.random.default_rng(0).standard_normal(one.shape[1])
    detail = 1 / (1 + np.exp(-(one[0, :, 0, 0] @ feature)))
    not_detail, again = 1 / (1 + np.exp(-(two[:, :, 0, 0] @ feature)))
    np.testing.assert_allclose([not_detail, again], [1 - detail, detail])

    there["auxiliary_head.2.conv_seg.weight"] = np.stack([one[0] * 3, one[0]])  # a network trained in mmseg
    plan = plan_between(there, "official", "torch")
    lost = [(entry.source, entry.loss) for entry in plan.entries if entry.loss]
    assert lost == [("auxiliary_head.2.conv_seg.weight",
                     "the first of its two channels, which is not the second's negative")]  # fmt: skip
    back = apply_plan(plan, there, {})
    np.testing.assert_array_equal(back["conv_out_sp8.conv_out.weight"], one)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_dtype_goes_through_the_detail_head(dtype):
    weights = in_layout("official", "STDC1-Seg")
    weights = {name: t if name.endswith(COUNTER) else t.astype(dtype) for name, t in weights.items()}
    there = relayout(weights, "official", "mmseg")
    back = relayout(there, "mmseg", "official")
    name = "conv_out_sp8.conv_out.weight"
    np.testing.assert_array_equal(back[name].astype(float), weights[name].astype(float))
    assert back[name].dtype == dtype


def test_other_constants_are_said_to_be_lost():
    tensors = in_layout("mmseg", "STDC1-Seg")
    assert tensors["auxiliary_head.2.laplacian_kernel"].reshape(-1).tolist() == [-1] * 4 + [8] + [-1] * 4
    tensors["auxiliary_head.2.fusion_kernel"] = np.full((1, 3, 1, 1), 1 / 3, np.float32)
    lost = [entry.source for entry in plan_between(tensors, "official", "torch").entries if entry.loss]
    assert lost == ["auxiliary_head.2.fusion_kernel"]


@pytest.mark.parametrize("layout", ["paddleseg", "stdcnet-paddle", "stdcnet-paddle-bisenet", "mmseg", "paddle"])
def test_inplace_abn_through_a_layout(layout):
    weights = in_layout("official", "STDC1-Seg")
    heads = [name for name in weights if name.endswith(COUNTER) and not name.startswith("cp.backbone.")]
    assert len(heads) == 15
    abn = {name: tensor.copy() for name, tensor in weights.items() if name not in heads}
    gammas = [name.replace(COUNTER, "weight") for name in heads]
    for name in gammas:
        abn[name][::2] *= -1
    plan = plan_between(abn, layout, "torch")
    there = apply_plan(plan, abn, {})
    known = places(get_layout(layout), architecture_of("STDC1-Seg", base=8))
    trained = stdc.architecture("stdc1-seg", base=8).abn_norms
    for name in gammas:
        if name in known:
            expected = np.abs(weights[name]) + np.float32(1e-5) if name.rpartition(".")[0] in trained else abn[name]
            np.testing.assert_array_equal(there[known[name].name], expected)
    assert plan.abn
    assert plan.count("abs") == sum(name in known for name in gammas if name.rpartition(".")[0] in trained)
    if layout == "mmseg":  # whose norms count
        assert there["decode_head.convs.0.bn.num_batches_tracked"] == 0


@pytest.mark.parametrize("layout", ["mmseg", "paddleseg", "paddle"])
def test_abn_yes_is_for_official_names(layout):
    with pytest.raises(UsageError, match="no InPlaceABN weights"):
        plan_between(in_layout(layout, "STDC1-Seg"), "official", get_layout(layout).side, abn="yes")


def aliased(tensors, first):
    """The Paddle twin's tensors with second names x2 … x32 that count blocks from `first(stage's first block)`."""
    starts = {"x2": 0, "x4": 1, "x8": 2, "x16": 6, "x32": 11}  # STDC2: 4, 5 and 3 blocks
    ends = {"x2": 1, "x4": 2, "x8": 6, "x16": 11, "x32": 14}
    result = dict(tensors)
    for stage, start in starts.items():
        for block in range(start, ends[stage]):
            stem = f"features.{block}."
            result |= {
                f"{stage}.0.{block - start + first(start)}.{name.removeprefix(stem)}": tensor
                for name, tensor in tensors.items()
                if name.startswith(stem)
            }
    return result


@pytest.mark.parametrize("layout", ["paddle", "stdcnet-paddle"])
@pytest.mark.parametrize(("whose", "first"), [("torch", lambda start: start), ("Paddle", lambda start: 0)])
def test_second_names_in_a_paddle_file(whose, first, layout):
    tensors = in_layout(layout, "STDC2")
    both = aliased(tensors, first)
    assert len(both) > 1.9 * len(tensors)
    back = relayout(both, layout, "official")
    for name, tensor in in_layout("official", "STDC2").items():
        if not name.endswith(COUNTER):
            np.testing.assert_array_equal(back[name], tensor)
    number = 1 + first(6)
    name = f"x16.0.{number}.conv_list.0.conv.weight"
    both[name] = both[name] + 1
    with pytest.raises(CheckpointError, match=re.escape(f"{name} is another name of features.7.")):
        relayout(both, layout, "official")


@pytest.mark.parametrize("layout", ["paddleseg", "paddle"])
def test_a_file_of_an_older_paddleseg(layout):
    """Its paddleseg/models/backbones/stdcnet.py: `self.x8 = nn.Sequential(self.features[2:6])`, and conv_last."""
    tensors = in_layout(layout, "STDC2" if layout == "paddle" else "STDC2-Seg")
    prefix = "" if layout == "paddle" else "cp.backbone."
    backbone = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    older = tensors | {prefix + name: tensor for name, tensor in aliased(backbone, lambda start: 0).items()}
    older |= {f"{prefix}conv_last.conv.weight": np.ones((1024, 128, 1, 1), np.float32),
              f"{prefix}conv_last.bn._mean": np.ones(1024, np.float32)}  # fmt: skip
    plan = plan_between(older, "official", "paddle")
    assert plan.source.name == layout
    assert Counter(entry.source for entry in plan.entries if entry.source) == Counter(list(older))
    back, expected = apply_plan(plan, older, {}), relayout(tensors, layout, "official")
    assert back.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize(("layout", "numbers"), [
    ("mmseg", {"block": "add"}), ("mmseg", {"use_conv_last": True}), ("paddleseg", {"use_conv_last": True})
])  # fmt: skip
def test_networks_that_a_layout_cannot_hold_are_refused(layout, numbers):
    weights = seeded_weights(stdc.architecture("stdc1-seg", base=8, **numbers))
    with pytest.raises(CheckpointError, match=f"{layout} cannot hold stdc1-seg"):
        relayout(weights, "official", layout)


def test_created_tensors_have_the_dtype_of_the_weights():
    weights = in_layout("official", "STDC1-Seg")
    weights = {name: t if name.endswith(COUNTER) else t.astype(np.float16) for name, t in weights.items()}
    there = relayout(weights, "official", "paddleseg")
    assert {tensor.dtype for tensor in there.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize("layout", LISTS)
def test_every_layout_gives_both_twins_the_same_weights(layout):
    tensors, official = in_layout(layout, "STDC1-Seg"), in_layout("official", "STDC1-Seg")
    absent = [name for name in official if why_absent(get_layout(layout), name, architecture_of("STDC1-Seg"))]
    for side in ("torch", "paddle"):
        given = weights_for(side, find_state_dict(tensors), get_layout(layout).side).tensors
        for name, tensor in (official if side == "torch" else in_layout("paddle", "STDC1-Seg")).items():
            stem = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
            if not name.endswith(COUNTER) and stem not in absent:
                np.testing.assert_array_equal(given[name], tensor)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = in_layout("official", "STDC1-Seg", base=4)
    torch.save({name: torch.from_numpy(tensor) for name, tensor in weights.items()}, "seg.pth")
    return tmp_path


def run(command, code=0):
    result = CliRunner().invoke(convert, command.split())
    assert result.exit_code == code, result.output
    assert not isinstance(result.exception, Exception), result.exception
    return result.output


def test_from_file_to_file_through_every_layout(folder):
    output = run("torch2paddle seg.pth ps.pdparams --to-layout paddleseg --certificate ps.json")
    assert output.count("exclusive") == 2  # the fact and the fix, once
    assert "24 biases of zeros made up: official's convolutions there have no bias." in output
    account = json.loads((folder / "ps.json").read_text())
    assert (account["source_layout"], account["target_layout"]) == ("official", "paddleseg")
    assert "layout        paddleseg (PaddleSeg 2.8)" in run("inspect ps.pdparams")

    run("relayout ps.pdparams --to-layout mmseg")
    assert "layout        mmseg (mmsegmentation 1.2)" in run("inspect ps.mmseg.pth")
    run("torch2paddle ps.mmseg.pth twin.pdparams")
    run("relayout twin.pdparams sp.pdparams --to-layout stdcnet-paddle")
    run("paddle2torch sp.pdparams back.pth --aliases --wrap state_dict")
    back = torch.load("back.pth", weights_only=True)["state_dict"]
    assert "cp.backbone.x8.0.2.conv_list.0.conv.weight" in back
    for name, tensor in torch.load("seg.pth", weights_only=True).items():
        if not name.startswith(("conv_out_sp16", "conv_out_sp4", "conv_out_sp2")):
            assert torch.equal(back[name], tensor), name


def test_dropped_biases_are_said(folder):
    weights = in_layout("mmseg", "STDC1-Seg", base=4)
    weights["decode_head.conv_seg.bias"] = np.ones(19, np.float32)
    torch.save({name: torch.from_numpy(tensor.copy()) for name, tensor in weights.items()}, "mm.pth")
    refused = run("relayout mm.pth --to-layout official", 3)
    assert "decode_head.conv_seg.bias: a bias that is not zero (up to 1)" in refused
    assert not (folder / "mm.official.pth").exists()
    output = run("relayout mm.pth --to-layout official --drop-nonzero-bias --certificate c.json")
    assert "official has no place for 1 bias that is not zero, which --drop-nonzero-bias drops" in output
    assert "bias that is not zero" in run("inspect mm.pth")
    account = json.loads((folder / "c.json").read_text())
    assert any("decode_head.conv_seg.bias" in line for line in account["remarks"])
    entry = next(entry for entry in account["entries"] if entry["source"] == "decode_head.conv_seg.bias")
    assert (entry["rule"], entry["target"], entry["loss"]) == ("drop", None, "a bias that is not zero (up to 1)")


MISTAKES = [
    ("torch2paddle seg.pth --to-layout mmseg", "relayout SRC --to-layout mmseg"),
    ("paddle2torch seg.pth x.pth --to-layout mmseg", "relayout SRC --to-layout mmseg"),
    ("torch2paddle seg.pth --to-layout detectron", "There are: mmseg (mmsegmentation 1.2), official"),
    ("relayout seg.pth", "relayout needs --to-layout NAME for other names, or DST for another container"),
    ("relayout seg.pth x.pdparams", "x.pdparams would hold PyTorch's names, and .pdparams is Paddle's suffix"),
    ("torch2paddle seg.pth x.pth", "For PyTorch's names: --to-layout official of `stdc-convert relayout`"),
    ("relayout seg.pth --to-layout official", "seg.pth has the layout official (MichaelFan01/STDC-Seg) already"),
    ("relayout seg.pth --to-layout mmseg --aliases", "mmseg has no second names"),
    ("relayout seg.pth --to-layout paddleseg --wrap state_dict", "--wrap: paddleseg is a layout of Paddle"),
]


@pytest.mark.parametrize(("command", "said"), MISTAKES)
def test_mistakes(folder, command, said):
    assert said in run(command, 2)
    assert [path.name for path in folder.iterdir()] == ["seg.pth"]



def test_an_unknown_layout_is_shown_without_its_control_characters():
    with pytest.raises(UsageError) as caught:
        get_layout("\x1b[31m")
    assert "\x1b" not in caught.value.message
