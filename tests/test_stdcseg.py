"""STDC-Seg: official keys, the twins against each other in float64, and the parameter groups."""

import json
import math
from importlib.resources import files
from itertools import product

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.models_paddle import stdcseg as paddle_nets
from stdc_parity.models_torch import stdcseg as torch_nets

OFFICIAL = json.loads(files("stdc_parity.fixtures").joinpath("official_stdc.json").read_text())
ALIASES = tuple(f"cp.backbone.x{stride}." for stride in (2, 4, 8, 16, 32))
HEADS = [f"conv_out{suffix}" for suffix in ("", "16", "32", "_sp2", "_sp4", "_sp8", "_sp16")]
MODULES = {"torch": torch_nets, "paddle": paddle_nets}


def paddle_name(name):
    return name.replace("running_mean", "_mean").replace("running_var", "_variance")


def pair(name, **options):
    """Build both twins in float64 with the same weights: norms as after training, some gammas negative."""
    torch.manual_seed(2)
    rng = np.random.default_rng(3)
    ours = getattr(torch_nets, name)(**options).double()
    for key, tensor in ours.state_dict().items():
        if tensor.dim() == 1:
            noise = rng.standard_normal(tensor.shape)
            if key.endswith("running_var"):
                noise = 0.5 + abs(noise)
            elif key.endswith("weight"):
                noise = np.where(noise < -1.2, -1, 1) * (1 + 0.2 * noise)
            tensor.copy_(torch.from_numpy(noise))
    theirs = getattr(paddle_nets, name)(**options)
    theirs.to(dtype="float64")
    state = {
        paddle_name(k): v.numpy().T if v.dim() == 2 else v.numpy()
        for k, v in ours.state_dict().items()
        if v.dim()
    }
    assert theirs.set_state_dict(state) == ([], [])
    return ours, theirs


def error(value, reference):
    value, reference = (np.asarray(each.detach().numpy()) for each in (value, reference))
    assert value.shape == reference.shape
    return abs(value - reference).max() / abs(reference).max()


def heads_of(net, x):
    """Run a net; return its heads' outputs before the final upsampling, by name, and what it returns."""
    seen = {}
    for name in HEADS:
        head = getattr(net, name)
        hook = "register_forward_hook" if isinstance(net, torch.nn.Module) else "register_forward_post_hook"
        getattr(head, hook)(lambda _module, _inputs, out, name=name: seen.update({name: out}))
    return seen, net(x)


@pytest.mark.parametrize("name", ["STDC1-Seg", "STDC2-Seg"])
def test_state_dicts_hold_the_official_keys_without_aliases(name):
    official = {k: v for k, v in OFFICIAL[name].items() if not k.startswith(ALIASES)}
    factory = name.lower().replace("-", "_")
    with torch.device("meta"):
        ours = getattr(torch_nets, factory)()
    shapes = {k: list(v.shape) for k, v in ours.state_dict().items()}
    assert list(shapes.items()) == list(official.items())

    theirs = getattr(paddle_nets, factory)()
    expected = {
        paddle_name(k): v[::-1] if len(v) == 2 else v
        for k, v in official.items()
        if not k.endswith("num_batches_tracked")
    }
    assert {k: list(v.shape) for k, v in theirs.state_dict().items()} == expected


CASES = [
    ("stdc1_seg", {}, (3, 3, 64, 96)),
    ("stdc2_seg", {"use_boundary_2": True, "use_boundary_4": True}, (3, 3, 97, 161)),
    ("stdc1_seg", {"use_conv_last": True, "use_boundary_8": False}, (2, 3, 90, 121)),
]


@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=str)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_outputs_gradients_and_statistics_agree(name, options, shape, train):
    ours, theirs = pair(name, num_classes=5, base=8, **options)
    ours.train(train)
    theirs.train() if train else theirs.eval()
    x = np.random.default_rng(5).standard_normal(shape)
    heads, outs = heads_of(ours, torch.from_numpy(x))
    other_heads, other_outs = heads_of(theirs, paddle.to_tensor(x))

    assert list(heads) == list(other_heads)  # the same order of execution
    assert max(error(other_heads[k], v) for k, v in heads.items()) < (1e-10 if train else 1e-13)
    assert len(outs) == len(other_outs)
    assert max(map(error, other_outs, outs)) < 3e-6  # Paddle's bilinear ratios are float32

    weights = {k: np.random.default_rng(7).standard_normal(tuple(v.shape)) for k, v in heads.items()}
    sum((out * torch.from_numpy(weights[k])).sum() for k, out in heads.items()).backward()
    sum((out * paddle.to_tensor(weights[k])).sum() for k, out in other_heads.items()).backward()
    grads = {k: p.grad for k, p in ours.named_parameters() if p.grad is not None}
    others = {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}
    assert grads.keys() == others.keys()
    # Paddle's average pooling multiplies its gradient by 1/9 as a float32.
    assert max(error(others[k], v) for k, v in grads.items()) < 1e-7

    state = theirs.state_dict()
    for key, value in ours.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            assert error(state[paddle_name(key)], value) < 1e-11, key


def test_final_upsampling_gradients_agree():
    ours, theirs = pair("stdc1_seg", num_classes=3, base=8)
    x = np.random.default_rng(5).standard_normal((2, 3, 65, 97))
    outs, others = ours(torch.from_numpy(x)), theirs(paddle.to_tensor(x))
    sum((out**2).mean() for out in outs).backward()
    sum((out**2).mean() for out in others).backward()
    params = dict(theirs.named_parameters())
    for name, param in ours.named_parameters():
        if param.grad is not None:
            assert error(params[name].grad, param.grad) < 1e-4, name


@pytest.mark.parametrize("lib", MODULES)
@pytest.mark.parametrize("boundaries", list(product([False, True], repeat=4)), ids=str)
def test_outputs_are_three_logits_and_the_enabled_details(lib, boundaries):
    options = dict(zip([f"use_boundary_{s}" for s in (2, 4, 8, 16)], boundaries, strict=True))
    net = MODULES[lib].stdc1_seg(num_classes=4, base=8, **options)
    net.eval()
    height, width = 45, 60
    x = np.zeros((1, 3, height, width), np.float32)
    outs = net(torch.from_numpy(x) if lib == "torch" else paddle.to_tensor(x))
    details = [s for s, enabled in zip((2, 4, 8), boundaries[:3], strict=True) if enabled]
    assert [tuple(out.shape) for out in outs] == [
        *[(1, 4, height, width)] * 3,
        *[(1, 1, math.ceil(height / s), math.ceil(width / s)) for s in details],
    ]


@pytest.mark.parametrize("lib", MODULES)
def test_all_detail_heads_move_their_statistics(lib):
    net = MODULES[lib].stdc1_seg(num_classes=3, base=8, use_boundary_8=False)
    x = np.random.default_rng(5).standard_normal((2, 3, 64, 64)).astype(np.float32)
    net(torch.from_numpy(x) if lib == "torch" else paddle.to_tensor(x))
    for name in HEADS:
        norm = getattr(net, name).conv.bn
        mean = norm.running_mean if lib == "torch" else norm._mean
        assert np.all(mean.numpy() != 0), name


@pytest.mark.parametrize("lib", MODULES)
@pytest.mark.parametrize("backbone_norms", [True, False])
@pytest.mark.parametrize("factory", ["stdc1_seg", "stdc2_seg"])
def test_parameter_groups_are_upstreams(lib, backbone_norms, factory):
    net = getattr(MODULES[lib], factory)(num_classes=3, base=8)
    names = {id(param): name for name, param in net.named_parameters()}
    groups = [[names[id(param)] for param in group] for group in net.get_params(backbone_norms)]

    expected = [[], [], [], []]  # by shape and name: what upstream's walk over the module types comes to
    with torch.device("meta"):
        reference = getattr(torch_nets, factory)(num_classes=3, base=8)
    for name, param in reference.named_parameters():
        in_backbone = name.startswith("cp.backbone.")
        if name.startswith("cp.backbone.bn.") or (in_backbone and param.dim() == 1 and not backbone_norms):
            continue
        expected[(0 if name.startswith("cp.") else 2) + (param.dim() == 1)].append(name)
    assert groups == expected


def test_the_decoder_starts_with_upstreams_spread():
    nets = {lib: module.stdc1_seg(base=32) for lib, module in MODULES.items()}
    for lib, net in nets.items():
        checked = 0
        for name, param in net.named_parameters():
            if param.ndim == 4 and math.prod(param.shape) > 4000 and not name.startswith("cp.backbone."):
                std = 1 / math.sqrt(math.prod(param.shape[1:]))  # Kaiming, by fan-in, gain 1
                assert param.detach().numpy().std() == pytest.approx(std, rel=0.06), (lib, name)
                checked += 1
        assert checked > 10


def test_one_image_cannot_be_trained_on():
    for lib, module in MODULES.items():
        net = module.stdc1_seg(num_classes=3, base=8)
        x = np.zeros((1, 3, 64, 64), np.float32)
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            net(torch.from_numpy(x) if lib == "torch" else paddle.to_tensor(x))
