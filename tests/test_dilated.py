"""PSPNet, DeepLabv3, GloRe and GINet: the public networks' names, and the twins against each other in float64."""

import importlib
import json
from importlib.resources import files

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.converters import dilated, families
from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.layout import translate
from stdc_parity.converters.layouts import get_layout
from stdc_parity.converters.optimizer_files import convert_optimizer
from stdc_parity.converters.plan import apply_plan, choose_architecture, counters, make_plan
from stdc_parity.converters.statedict import find_state_dict
from stdc_parity.fixtures.weights import seeded_weights
from stdc_parity.models_torch import resnet as torch_resnet

PUBLIC = json.loads(files("stdc_parity.fixtures").joinpath("dilated_keys.json").read_text())
NETWORKS = ("pspnet", "deeplabv3", "glore", "ginet")
ALIGNED = ("pspnet", "ginet")  # those that resize with aligned corners
STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}
BILINEAR = 2e-6  # Paddle computes interpolation ratios in float32


def build(side, network, depth=50, **options):
    module = importlib.import_module(f"stdc_parity.models_{side}.{network}")
    return getattr(module, f"{network}_resnet{depth}")(**options)


def paddle_name(name):
    parent, _, leaf = name.rpartition(".")
    return f"{parent}.{STATISTICS.get(leaf, leaf)}"


def trained(name, tensor, rng):
    """Values like a training's: some gammas negative, nothing at its start value."""
    noise = rng.standard_normal(tensor.shape)
    if name.endswith("running_var"):
        return 0.5 + abs(noise)
    if name.endswith("weight") and tensor.ndim == 1:
        return np.where(noise < -1.2, -1, 1) * (1 + 0.2 * noise)
    return noise if tensor.ndim == 1 or name.endswith("inp") else tensor.numpy()


@pytest.fixture(scope="module")
def twins():
    """Both twins of each network in float64 with the same weights, and their outputs and gradients as needed."""
    built = {}
    for network in NETWORKS:
        rng = np.random.default_rng(3)
        torch.manual_seed(0)
        ours, theirs = (build(side, network, num_classes=5, base=4) for side in ("torch", "paddle"))
        ours.double()
        theirs.to(dtype="float64")
        state = {}
        linear = {f"{path}.weight" for path, m in ours.named_modules() if isinstance(m, torch.nn.Linear)}
        for name, tensor in ours.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            tensor.copy_(torch.from_numpy(trained(name, tensor, rng)))
            state[paddle_name(name)] = tensor.numpy().T if name in linear else tensor.numpy()
        assert theirs.set_state_dict(state) == ([], [])
        built[network] = ours, theirs
    return built


def set_mode(ours, theirs, train):
    """Dropouts stay in eval mode: no two frameworks draw the same masks."""
    ours.train(train)
    theirs.train() if train else theirs.eval()
    for module in (*ours.modules(), *theirs.sublayers()):
        if "Dropout" in type(module).__name__:
            module.eval()


def error(value, reference):
    value, reference = (np.asarray(each.detach().numpy()) for each in (value, reference))
    assert value.shape == reference.shape
    return abs(value - reference).max() / abs(reference).max()


@pytest.mark.parametrize(
    ("public", "network", "classes"),
    [("torchvision deeplabv3-resnet50", "deeplabv3", 21), ("semseg pspnet-resnet50", "pspnet", 19)],
)
def test_the_torch_twin_has_the_public_networks_state_dict(public, network, classes):
    with torch.device("meta"):
        ours = build("torch", network, num_classes=classes)
    assert {k: list(v.shape) for k, v in ours.state_dict().items()} == PUBLIC[public]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_outputs_statistics_and_gradients_agree(twins, network, train):
    ours, theirs = twins[network]
    set_mode(ours, theirs, train)
    size = (33, 65) if network in ALIGNED else (32, 64)  # where the interpolation's ratios are exact in float32
    image = np.random.default_rng(5).standard_normal((2, 3, *size))
    x, y = torch.from_numpy(image).requires_grad_(), paddle.to_tensor(image, stop_gradient=False)
    outs, others = ours(x), theirs(y)
    assert [tuple(out.shape) for out in outs] == [(2, 5, *size)] * 2 + [(2, 5)] * (network == "ginet")
    assert max(map(error, others, outs)) < 1e-11
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if name.endswith(tuple(STATISTICS)):
            assert error(state[paddle_name(name)], value) < 1e-11, name
    weights = [np.random.default_rng(i).standard_normal(out.shape) for i, out in enumerate(outs)]
    sum((out * torch.from_numpy(w)).mean() for out, w in zip(outs, weights, strict=True)).backward()
    sum((out * paddle.to_tensor(w)).mean() for out, w in zip(others, weights, strict=True)).backward()
    assert error(y.grad, x.grad) < 1e-6


@pytest.mark.parametrize("network", NETWORKS)
def test_any_size_comes_out_as_it_went_in(twins, network):
    ours, theirs = twins[network]
    set_mode(ours, theirs, train=False)
    image = np.random.default_rng(6).standard_normal((1, 3, 45, 83))
    with torch.no_grad(), paddle.no_grad():
        outs, others = ours(torch.from_numpy(image)), theirs(paddle.to_tensor(image))
    assert all(tuple(out.shape[2:]) in ((45, 83), ()) for out in outs)
    assert max(map(error, others, outs)) < BILINEAR


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_is_in_one_group_and_the_heads_have_their_own(twins, network):
    for net in twins[network]:
        wd, nowd, heads, heads_nowd = net.get_params()
        statistics = ("_mean", "_variance")  # Paddle's are parameters that training leaves alone
        names = {id(param): name for name, param in net.named_parameters() if not name.endswith(statistics)}
        grouped = [names.pop(id(param)) for group in (wd, nowd, heads, heads_nowd) for param in group]
        assert not names
        backbone = [name for name in grouped if name.startswith(("layer", "backbone."))]
        assert len(backbone) == len(wd) and not nowd and not heads_nowd
        without_norms = net.get_params(backbone_norms=False)[0]
        assert all(param.ndim > 1 for param in without_norms) and len(without_norms) == 53 + 2 * (
            network != "deeplabv3"
        )


def test_v1d_pools_before_a_strided_shortcut_alone():
    stages = torch_resnet.ResNet((1, 1, 1, 1), 4, 0, avg_down=True, deep_stem=True)
    firsts = [stage[0].downsample for stage in (stages.layer1, stages.layer2, stages.layer3, stages.layer4)]
    assert [first[0].kernel_size for first in firsts] == [1, 2, 1, 1]
    assert [first[1].stride for first in firsts] == [(1, 1)] * 4
    assert not hasattr(stages, "fc")


@pytest.mark.parametrize(("dilate_first", "expected"), [(False, [1, 2, 2, 4]), (True, [2, 2, 4, 4])])
def test_the_dilation_of_a_stages_first_block(dilate_first, expected):
    net = torch_resnet.ResNet((1, 1, 2, 2), 4, 0, dilate_first=dilate_first)
    assert [block.conv2.dilation[0] for stage in (net.layer3, net.layer4) for block in stage] == expected


# --- conversion -------------------------------------------------------------------------------------------


def converted(tensors, side, target=None):
    """The plan and the tensors that the converter makes of `tensors`, in memory."""
    state = find_state_dict(tensors)
    plan = make_plan(state, choose_architecture(state.tensors, side, None), side, target=target)
    return plan, apply_plan(plan, tensors, counters(plan, tensors))


@pytest.mark.parametrize("model", dilated.MODELS)
def test_the_architecture_is_the_torch_twins_state_dict(model):
    network, _, depth = model.partition("-resnet")
    with torch.device("meta"):
        ours = build("torch", network, int(depth))
    expected = [(name, tuple(tensor.shape)) for name, tensor in ours.state_dict().items()]
    assert [(name, spec.shape) for name, spec in families.architecture(model).tensors.items()] == expected


@pytest.mark.parametrize("model", dilated.MODELS)
def test_a_checkpoint_is_recognised_by_its_names_and_comes_back_as_it_was(model):
    numbers = {"num_classes": 7, "base": 4} | ({"presence": False} if model == "ginet-resnet101" else {})
    architecture = families.architecture(model, **numbers)
    tensors = seeded_weights(architecture)
    plan, theirs = converted(tensors, "torch")
    assert (plan.architecture.name, plan.architecture.facts) == (model, architecture.facts)
    assert plan.count("transpose") == 2 * model.startswith("ginet")
    _, back = converted(theirs, "paddle")
    counted = {name for name in tensors if name.endswith("num_batches_tracked")}
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors.keys() - counted)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_paddle_twin_loads_what_the_converter_makes(network):
    tensors = seeded_weights(families.architecture(f"{network}-resnet50", num_classes=5, base=4))
    theirs = build("paddle", network, num_classes=5, base=4)
    assert theirs.set_state_dict(converted(tensors, "torch")[1]) == ([], [])


@pytest.mark.parametrize("network", ["glore", "ginet"])
def test_paddlesegs_names_are_recognised_and_written(network):
    public = PUBLIC[f"paddleseg {network}-resnet50"]
    architecture = families.architecture(f"{network}-resnet50", presence=False)
    rng = np.random.default_rng(0)
    tensors = {name: rng.random(shape, np.float32) for name, shape in public.items()}
    plan, official = converted(tensors, "paddle")
    assert plan.source is get_layout("paddleseg-dilated")
    assert (plan.architecture.name, plan.architecture.facts) == (architecture.name, architecture.facts)
    assert official.keys() == architecture.tensors.keys()
    _, back = converted(official, "torch", get_layout("paddleseg-dilated"))
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)


def test_paddleseg_has_no_place_for_the_presence_of_classes():
    tensors = seeded_weights(families.architecture("ginet-resnet50", base=4))
    plan, theirs = converted(tensors, "torch", get_layout("paddleseg-dilated"))
    dropped = {entry.source: entry.reason for entry in plan.entries if "presence" in entry.official}
    assert dropped.keys() == {"head.presence.weight", "head.presence.bias"}
    assert all("semantic context loss" in reason for reason in dropped.values())
    assert converted(theirs, "paddle")[0].architecture.facts["presence"] is False


@pytest.mark.parametrize("network", NETWORKS)
def test_every_line_of_paddlesegs_layout_speaks_of_a_module_and_no_two_of_one(network):
    table, architecture = get_layout("paddleseg-dilated"), families.architecture(f"{network}-resnet50")
    patterns = [line.official for line in table.lines] + list(table.absent)
    for module in {name.rpartition(".")[0] for name in architecture.tensors}:
        speak = [p for p in patterns if translate(p, "", module, {}) is not None]
        assert len(speak) == 1 or network in ("pspnet", "deeplabv3"), (module, speak)


@pytest.mark.parametrize("network", ["pspnet", "deeplabv3"])
def test_paddlesegs_layout_is_not_for_other_networks(network):
    tensors = seeded_weights(families.architecture(f"{network}-resnet50", base=4))
    with pytest.raises(CheckpointError, match=r"its backbone is v1[sb], PaddleSeg 2\.8's GloRe and GINet needs v1d"):
        converted(tensors, "torch", get_layout("paddleseg-dilated"))


def test_what_is_missing_is_named():
    tensors = seeded_weights(families.architecture("deeplabv3-resnet50", base=4))
    left = {name: array for name, array in tensors.items() if not name.startswith("aux_classifier.")}
    with pytest.raises(CheckpointError, match=r"aux_classifier\.4\.bias: missing, deeplabv3-resnet50 needs \(19,\)"):
        converted(left, "torch")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_converter_knows_the_recipes_groups(twins, network):
    ours, _ = twins[network]
    names = {id(param): name for name, param in ours.named_parameters()}
    architecture = families.architecture(f"{network}-resnet50", num_classes=5, base=4)
    groups = tuple(tuple(names[id(param)] for param in group) for group in ours.get_params())
    trained = [name for name in architecture.tensors if name in names.values()]
    assert next(families.training_orders(architecture, trained)) == groups


def test_momentum_of_a_ginet_moves_over(tmp_path):
    """All of its parameters in one group, as torch's own default is; the words' embeddings are none."""
    ours = build("torch", "ginet", num_classes=5, base=4)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.01, momentum=0.9)
    for number, param in enumerate(ours.parameters()):
        param.grad = torch.full_like(param, number)
    optimizer.step()
    torch.save({"model": ours.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "all.pth")
    momentum = convert_optimizer(tmp_path / "all.pth", None, settings={}).momentum
    names = [name for name, _ in ours.named_parameters()]
    assert momentum.order == (tuple(names),)
    assert all((momentum.buffers[name] == number).all() for number, name in enumerate(names))
