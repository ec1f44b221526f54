"""Recognising STDC networks by their keys: held against the official key lists and the twins' own."""

import json
import re
from importlib.resources import files

import numpy as np
import pytest
import torch

from stdc_parity.converters import stdc
from stdc_parity.converters.architecture import paddle_name, paddle_shape
from stdc_parity.models_torch import stdcnet, stdcseg

OFFICIAL = {
    name: {key: tuple(shape) for key, shape in keys.items()}
    for name, keys in json.loads(
        files("stdc_parity.fixtures").joinpath("official_stdc.json").read_text()
    ).items()
}
NAMES = {
    "STDCNet813": "stdcnet813",
    "STDCNet1446": "stdcnet1446",
    "STDC1-Seg": "stdc1-seg",
    "STDC2-Seg": "stdc2-seg",
    "STDC1-Seg-InPlaceABN": "stdc1-seg",
    "STDC2-Seg-InPlaceABN": "stdc2-seg",
}
ALIAS = re.compile(r"((?:cp\.backbone\.)?)x(?:2|4|8|16|32)\.0\.(.+)")
HEAD = re.compile(r"(?:cp\.backbone\.)?(?:conv_last|fc|bn|linear)\.")
FACTORIES = {
    "stdcnet813": stdcnet.stdcnet813,
    "stdcnet1446": stdcnet.stdcnet1446,
    "stdc1-seg": stdcseg.stdc1_seg,
    "stdc2-seg": stdcseg.stdc2_seg,
}


def canonical(key):
    """What an official name is an alias of: upstream registers self.x8 = nn.Sequential(self.features[2:6])."""
    match = ALIAS.fullmatch(key)
    return f"{match[1]}features.{match[2]}" if match else key


def twin(name, **arguments):
    """The names and shapes of our torch twin, which other tests hold against upstream."""
    with torch.device("meta"):
        net = FACTORIES[name](**arguments)
    return {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}


def facts(architecture):
    return {"name": architecture.name, **architecture.facts}


@pytest.mark.parametrize("official", OFFICIAL)
def test_tensors_and_aliases_are_the_official_ones(official):
    keys = OFFICIAL[official]
    architecture = stdc.architecture(NAMES[official])
    tensors = {key: spec.shape for key, spec in architecture.tensors.items()}
    if official.endswith("-InPlaceABN"):
        uncounted = {f"{norm}.num_batches_tracked" for norm in architecture.abn_norms}
        assert uncounted == tensors.keys() - keys.keys()
        tensors = {key: shape for key, shape in tensors.items() if key not in uncounted}
    assert list(tensors.items()) == [(key, shape) for key, shape in keys.items() if canonical(key) == key]
    aliases = {key: canonical(key) for key in keys if canonical(key) != key}
    assert len(aliases) > 100
    assert architecture.aliases == aliases


@pytest.mark.parametrize("official", ["STDC1-Seg", "STDC2-Seg"])
def test_abn_norms_are_those_upstream_trains_with_inplace_abn(official):
    uncounted = OFFICIAL[official].keys() - OFFICIAL[f"{official}-InPlaceABN"].keys()
    architecture = stdc.architecture(NAMES[official])
    assert architecture.abn_norms == {key.removesuffix(".num_batches_tracked") for key in uncounted}
    assert all(norm.startswith("cp.backbone.") for norm in architecture.other_norms)
    assert not architecture.abn_norms & architecture.other_norms


@pytest.mark.parametrize("official", OFFICIAL)
@pytest.mark.parametrize("aliases", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_official_lists_are_recognised(official, aliases, head):
    keys = {
        key: shape
        for key, shape in OFFICIAL[official].items()
        if (aliases or canonical(key) == key) and (head or not HEAD.match(key))
    }
    seg = "Seg" in official
    assert facts(stdc.recognise(keys, "torch")) == {
        "name": NAMES[official],
        "num_classes": 19 if seg else 1000 if head else 0,
        "base": 64,
        "block": "cat",
        "imagenet_head": head,
        "use_conv_last": False,
        "variant": "plain",
    }


@pytest.mark.parametrize("official", OFFICIAL)
def test_the_order_of_keys_does_not_matter(official):
    keys = OFFICIAL[official]
    shuffled = [list(keys)[i] for i in np.random.default_rng(0).permutation(len(keys))]
    assert facts(stdc.recognise({key: keys[key] for key in shuffled}, "torch")) == facts(
        stdc.recognise(keys, "torch")
    )


VARIANTS = [
    ("stdcnet813", {"base": 16}),
    ("stdcnet1446", {"base": 8, "num_classes": 10}),
    ("stdcnet813", {"base": 16, "block": "add"}),
    ("stdcnet1446", {"base": 64, "block": "add", "num_classes": 1}),
    ("stdcnet813", {"base": 128, "num_classes": 2048}),
    ("stdc1-seg", {"base": 16, "num_classes": 2}),
    ("stdc2-seg", {"base": 8, "num_classes": 150}),
    ("stdc2-seg", {"base": 64, "num_classes": 1}),
    ("stdc1-seg", {"base": 16, "use_conv_last": True}),
    ("stdc2-seg", {"base": 8, "num_classes": 11, "use_conv_last": True}),
    ("stdc1-seg", {"use_boundary_2": True, "use_boundary_4": True, "use_boundary_8": False}),
]


@pytest.mark.parametrize("side", ["torch", "paddle"])
@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_variants_of_the_twins_are_recognised(name, arguments, side):
    shapes = twin(name, **arguments)
    numbers = {k: v for k, v in arguments.items() if not k.startswith("use_boundary")}
    expected = stdc.architecture(name, **numbers)
    assert {key: spec.shape for key, spec in expected.tensors.items()} == shapes
    if side == "paddle":
        linear = ("fc.weight", "linear.weight")
        shapes = {key: shape[::-1] if key.endswith(linear) else shape for key, shape in shapes.items()}
    found = stdc.recognise(shapes, side)
    assert facts(found) == {
        "name": name,
        "num_classes": arguments.get("num_classes", 19 if "seg" in name else 1000),
        "base": arguments.get("base", 64),
        "block": arguments.get("block", "cat"),
        "imagenet_head": True,
        "use_conv_last": arguments.get("use_conv_last", False),
        "variant": "plain",
    }
    assert found.tensors == expected.tensors


def test_the_imagenet_classes_of_a_segmentation_backbone_are_read():
    keys = {**OFFICIAL["STDC1-Seg"], "cp.backbone.linear.weight": (21841, 1024)}
    tensors = stdc.recognise(keys, "torch").tensors
    assert tensors["cp.backbone.linear.weight"].shape == (21841, 1024)
    assert tensors["conv_out.conv_out.weight"].shape[0] == 19


WITHOUT = [
    ("a tensor of the stem", lambda key: key == "features.1.conv.weight"),
    ("a norm of a block", lambda key: ".3.conv_list.1.bn." in key),
    ("half of the ImageNet head", lambda key: key.startswith(("bn.", "fc."))),
]


@pytest.mark.parametrize(("what", "gone"), WITHOUT, ids=[what for what, _ in WITHOUT])
def test_a_damaged_list_is_recognised_still(what, gone):
    keys = {key: shape for key, shape in OFFICIAL["STDCNet813"].items() if not gone(key)}
    found = stdc.recognise(keys, "torch")
    assert found.name == "stdcnet813"
    assert found.tensors.keys() - keys.keys() == {key for key in found.tensors if gone(key)}


FOREIGN = [
    ("nothing", {}),
    ("one tensor", {"weight": (3,)}),
    ("a stem alone", {"features.0.conv.weight": (32, 3, 3, 3)}),
    ("another depth", {f"features.{i}.conv.weight": (32, 3, 3, 3) for i in range(9)}),
    ("a gap in the depth", {f"features.{i}.conv.weight": (32, 3, 3, 3) for i in (0, 1, 2, 3, 4, 5, 6, 8)}),
    ("a stem of other rank", {f"features.{i}.conv.weight": (32,) for i in range(8)}),
    ("mobilenet", {f"features.{i}.0.weight": (32, 3, 3, 3) for i in range(8)}),
    ("an index too long for int()", {f"features.{'9' * 9999}.conv.weight": (32, 3, 3, 3)}),
]


@pytest.mark.parametrize(("what", "shapes"), FOREIGN, ids=[what for what, _ in FOREIGN])
def test_foreign_lists_are_not_recognised(what, shapes):
    assert stdc.recognise(shapes, "torch") is None


def test_digits_that_int_refuses_are_no_index():
    # "²".isdigit() is true, but int("²") raises.
    shapes = {f"features.{i}.conv.weight": (32, 3, 3, 3) for i in "01234567²"}
    assert stdc.recognise(shapes, "torch").name == "stdcnet813"


PADDLE_NAMES = [
    ("features.0.bn.running_mean", "features.0.bn._mean"),
    ("features.0.bn.running_var", "features.0.bn._variance"),
    ("features.0.bn.weight", "features.0.bn.weight"),
    ("features.0.bn.bias", "features.0.bn.bias"),
    ("fc.weight", "fc.weight"),
    ("conv_last.conv.weight", "conv_last.conv.weight"),
]


@pytest.mark.parametrize(("torch_name", "expected"), PADDLE_NAMES)
def test_paddle_names(torch_name, expected):
    tensors = stdc.architecture("stdcnet813").tensors
    assert paddle_name(torch_name, tensors[torch_name].kind) == expected


@pytest.mark.parametrize("name", FACTORIES)
def test_only_linear_weights_are_turned(name):
    tensors = stdc.architecture(name, base=16, imagenet_classes=10).tensors
    linear = {key for key, spec in tensors.items() if spec.kind == "linear"}
    prefix = "cp.backbone." if "seg" in name else ""
    assert linear == {f"{prefix}fc.weight", f"{prefix}linear.weight"}
    for key, spec in tensors.items():
        assert paddle_shape(spec) == (spec.shape[::-1] if key in linear else spec.shape)


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError):
        stdc.architecture("stdc3-seg")
