"""ICNet and the ResNets in the converter: upstream's key lists, recognition by names, and the way there and back."""

import json
from importlib.resources import files

import numpy as np
import paddle
import pytest
import torch
from click.testing import CliRunner

from stdc_parity.align.pairs import find_pair
from stdc_parity.cli import convert
from stdc_parity.converters import families
from stdc_parity.converters.errors import UsageError
from stdc_parity.converters.optimizer_state import Parameters, orders_of
from stdc_parity.fixtures.samples import write_sample
from stdc_parity.fixtures.weights import seeded_weights
from stdc_parity.models_paddle import icnet as paddle_icnet
from stdc_parity.models_paddle import resnet as paddle_resnet
from stdc_parity.models_torch import icnet as torch_icnet
from stdc_parity.models_torch import resnet as torch_resnet
from stdc_parity.models_torch.icnet_optim import make_groups

LISTS = json.loads(files("stdc_parity.fixtures").joinpath("official_icnet.json").read_text())
OFFICIAL = {
    "icnet-resnet50-v1b": LISTS["ICNet-ResNet50-v1b"],
    "icnet-resnet50-v1s": LISTS["ICNet-ResNet50-v1s"],
    "resnet101-v1b": LISTS["ResNet101-v1b"],
    "resnet101-v1s": LISTS["ResNet101-v1s"],
}
for _form in ("v1b", "v1s"):
    _keys = OFFICIAL[f"icnet-resnet50-{_form}"]
    OFFICIAL[f"resnet50-{_form}"] = {
        key.removeprefix("pretrained."): shape for key, shape in _keys.items() if key.startswith("pretrained.")
    }
SIDES = {"torch": (torch_icnet, torch_resnet), "paddle": (paddle_icnet, paddle_resnet)}
SMALL = ("icnet-resnet50-v1b", "icnet-resnet50-v1s", "resnet50-v1s", "resnet101-v1d")


def shapes_of(keys):
    return {key: tuple(shape) for key, shape in keys.items()}


def build(side, model, **numbers):
    module = SIDES[side][0 if model.startswith("icnet") else 1]
    return getattr(module, model.replace("-", "_"))(**numbers)


@pytest.mark.parametrize("model", OFFICIAL)
def test_tensors_are_the_official_ones_and_recognised(model):
    shapes = shapes_of(OFFICIAL[model])
    architecture = families.architecture(model)
    assert [(name, spec.shape) for name, spec in architecture.tensors.items()] == list(shapes.items())
    assert families.recognise(shapes, "torch") == architecture
    backwards = dict(reversed(shapes.items()))
    assert families.recognise(backwards, "torch") == architecture
    headless = {key: shape for key, shape in shapes.items() if ".fc." not in f".{key}"}
    found = families.recognise(headless, "torch")
    assert (found.name, found.facts["imagenet_head"], list(found.tensors)) == (model, False, list(headless))


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("side", SIDES)
def test_variants_of_the_twins_are_recognised(model, side):
    net = build(side, model, base=4, num_classes=7)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    shapes = {key.replace("._mean", ".running_mean").replace("._variance", ".running_var"): shape
              for key, shape in shapes.items()}  # fmt: skip
    found = families.recognise(shapes, side)
    assert (found.name, found.facts["base"], found.facts["num_classes"]) == (model, 4, 7)
    expected = {key for key, spec in found.tensors.items() if side == "torch" or spec.kind != "norm.batches"}
    assert shapes.keys() == expected


WITHOUT = [
    ("a tensor of the stem", "pretrained.conv1.3.weight"),
    ("a norm of a block", "pretrained.layer3.4.bn2.running_var"),
    ("the classifier", "head.conv_cls.weight"),
    ("half of the ImageNet head", "pretrained.fc.bias"),
]


@pytest.mark.parametrize(("what", "gone"), WITHOUT, ids=[what for what, _ in WITHOUT])
def test_a_damaged_list_is_recognised_still(what, gone):
    shapes = shapes_of(OFFICIAL["icnet-resnet50-v1s"])
    del shapes[gone]
    found = families.recognise(shapes, "torch")
    assert found.name == "icnet-resnet50-v1s"
    assert found.tensors.keys() - shapes.keys() == {gone}


def blocks(count, prefix=""):
    """A v1b stem and so many blocks of the third stage."""
    names = ["conv1.weight", *(f"layer3.{i}.conv1.weight" for i in range(count)), "layer1.0.conv1.weight"]
    return {prefix + name: (64, 3, 7, 7) for name in names}


FOREIGN = [
    ("a stem alone", {"conv1.weight": (64, 3, 7, 7)}),
    ("another depth", blocks(2)),
    ("two stems", {**blocks(6), "conv1.0.weight": (64, 3, 3, 3)}),
    ("a backbone under ICNet's name", blocks(6, "pretrained.")),
]


@pytest.mark.parametrize(("what", "shapes"), FOREIGN, ids=[what for what, _ in FOREIGN])
def test_foreign_lists_are_not_recognised(what, shapes):
    assert families.recognise(shapes, "torch") is None


@pytest.mark.parametrize("model", ["resnet50", "icnet-resnet101-v1s", "resnet50-v2"])
def test_an_unknown_name_is_refused(model):
    with pytest.raises(KeyError):
        families.architecture(model)


def run(*arguments, code=0):
    done = CliRunner().invoke(convert, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("model", ["icnet-resnet50-v1s", "resnet101-v1b"])
def test_there_and_back_through_the_commands(model, tmp_path):
    source, there, back = tmp_path / "net.pth", tmp_path / "net.pdparams", tmp_path / "back.pth"
    write_sample(source, families.architecture(model, base=4, num_classes=7))
    origin = "liminn/ICNet-pytorch" if model.startswith("icnet") else "torchvision and liminn/ICNet-pytorch"
    assert f"layout        official ({origin})\narchitecture  {model} (7 classes, base 4" in run("inspect", source)
    assert "1 transposed" in run("torch2paddle", source, there)
    assert "bit for bit" in run("verify", source, there)
    net = build("paddle", model, base=4, num_classes=7)
    assert net.set_state_dict(paddle.load(str(there))) == ([], [])
    run("paddle2torch", there, back)
    build("torch", model, base=4, num_classes=7).load_state_dict(torch.load(back, weights_only=True))
    assert "They agree." in run("diff", source, back)
    assert f"--aliases: {model} has no second names" in run(
        "paddle2torch", there, tmp_path / "aliases.pth", "--aliases", code=2
    )
    assert "PaddleSeg 2.8 has no such network" in run(
        "torch2paddle", source, tmp_path / "seg.pdparams", "--to-layout", "paddleseg", code=3
    )


def test_the_bias_of_the_imagenet_head_is_held_against_the_other_files(tmp_path):
    """An official bias is a tensor like any other: it is not left out for being zero."""
    files = [tmp_path / name for name in ("a.pth", "b.pth")]
    for path in files:
        write_sample(path, families.architecture("resnet50-v1b", base=4, num_classes=7))
    state = torch.load(files[1], weights_only=True)["state_dict"]
    del state["fc.bias"]
    torch.save(state, files[1])
    assert "fc.bias" in run("diff", *files, code=1)
    assert "fc.bias: missing" in run("torch2paddle", files[1], tmp_path / "c.pdparams", code=3)


def test_the_groups_of_the_recipe_are_an_order_of_its_optimizer():
    architecture = families.architecture("icnet-resnet50-v1s", base=4)
    net = build("torch", "icnet-resnet50-v1s", base=4)
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    parameters = Parameters(shapes, np.dtype(np.float32), frozenset(), architecture)
    assert tuple(group.names for group in make_groups(net)) in list(orders_of(parameters))


def test_seeded_weights_have_every_tensor():
    architecture = families.architecture("icnet-resnet50-v1b", base=4)
    weights = seeded_weights(architecture)
    assert {name: array.shape for name, array in weights.items()} == {
        name: spec.shape for name, spec in architecture.tensors.items()
    }
    assert np.any(weights["pretrained.fc.bias"] != 0)


def test_a_pair_takes_the_numbers_of_a_checkpoint():
    architecture = families.architecture("icnet-resnet50-v1s", base=8, num_classes=11)
    pair = find_pair("icnet-resnet50-v1s", architecture)
    assert pair.arguments == {"num_classes": 11, "base": 8}
    assert pair.recipe.num_classes == 11
    with pytest.raises(UsageError, match="there is no such pair"):
        find_pair("icnet")
