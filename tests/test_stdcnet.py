"""The STDC backbones: official keys, the twins against each other in float64, and the layers below them."""

import inspect
import json
import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.models_paddle import layers as paddle_layers
from stdc_parity.models_paddle import stdcnet as paddle_nets
from stdc_parity.models_torch import layers as torch_layers
from stdc_parity.models_torch import stdcnet as torch_nets

ROOT = Path(__file__).parents[1]
OFFICIAL = json.loads(files("stdc_parity.fixtures").joinpath("official_stdc.json").read_text())
DILATED = [f"{name}.py" for name in ("heads", "heads_loss", "pspnet", "deeplabv3", "glore", "ginet")]
ALIASES = ("x2.", "x4.", "x8.", "x16.", "x32.")
# All that may differ between twin files, torch idiom first.
IDIOMS = {
    "in PyTorch. `models_paddle": "in Paddle. `models_torch",
    "stdc_parity.models_torch.": "stdc_parity.models_paddle.",
    "import torch\n": "import paddle\n",
    "from torch": "from paddle",
    "nn.ModuleList": "nn.LayerList",
    "nn.Module": "nn.Layer",
    ".modules()": ".sublayers(include_self=True)",
    "nn.Conv2d": "nn.Conv2D",
    "nn.BatchNorm1d": "nn.BatchNorm1D",
    "nn.MaxPool2d": "nn.MaxPool2D",
    "nn.Dropout2d": "nn.Dropout2D",
    "nn.AdaptiveAvgPool2d": "nn.AdaptiveAvgPool2D",
    "nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)": (
        "nn.AvgPool2D(stride, stride, ceil_mode=True)"
    ),
    "nn.AvgPool2d(kernel_size=3, stride=2, padding=1)": (
        "nn.AvgPool2D(kernel_size=3, stride=2, padding=1, exclusive=False)"
    ),
    "bias=False": "bias_attr=False",
    'reduction="none")': 'reduction="none", axis=1)',
    "if param.requires_grad": "if not param.stop_gradient",
    ".to(": ".astype(",
    "torch.arange(": "paddle.arange(",
    "torch.zeros(": "paddle.zeros(",
    "torch.cat(": "paddle.concat(",
    "Tensor, cat, nn": "Tensor, concat, nn",
    "(cat(": "(concat(",
}


def paddle_name(name):
    return name.replace("running_mean", "_mean").replace("running_var", "_variance")


def randomised(net):
    """Double a torch net and give its one-dimensional tensors trained-like values, some gammas negative."""
    rng = np.random.default_rng(3)
    for name, tensor in net.double().state_dict().items():
        if tensor.dim() == 1:
            noise = rng.standard_normal(tensor.shape)
            if name.endswith("running_var"):
                noise = 0.5 + abs(noise)
            elif name.endswith("weight"):
                noise = np.where(noise < -1.2, -1, 1) * (1 + 0.2 * noise)
            tensor.copy_(torch.from_numpy(noise))
        elif tensor.dim() == 2:
            tensor.mul_(100)  # std 0.001 would leave the classification logits without scale
    return net


def pair(name, **options):
    """Build both twins in float64 with the same randomised weights."""
    ours = randomised(getattr(torch_nets, name)(**options))
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


def image(*shape):
    return np.random.default_rng(5).standard_normal(shape)


@pytest.mark.parametrize("name", ["STDCNet813", "STDCNet1446"])
def test_state_dicts_hold_the_official_keys_without_aliases(name):
    official = {k: v for k, v in OFFICIAL[name].items() if not k.startswith(ALIASES)}
    with torch.device("meta"):
        ours = getattr(torch_nets, name.lower())()
    shapes = {k: list(v.shape) for k, v in ours.state_dict().items()}
    assert list(shapes.items()) == list(official.items())

    theirs = getattr(paddle_nets, name.lower())()
    expected = {
        paddle_name(k): v[::-1] if len(v) == 2 else v
        for k, v in official.items()
        if not k.endswith("num_batches_tracked")
    }
    assert {k: list(v.shape) for k, v in theirs.state_dict().items()} == expected


@pytest.mark.parametrize("file", ["stdcnet.py", "stdcseg.py", "resnet.py", *DILATED])
def test_twin_files_differ_in_framework_idioms_only(file):
    source = (ROOT / "models_torch" / file).read_text(encoding="utf-8")
    for idiom, other in IDIOMS.items():
        source = source.replace(idiom, other)
    assert source == (ROOT / "models_paddle" / file).read_text(encoding="utf-8")


def test_layers_export_the_same_names_and_signatures():
    assert torch_layers.__all__ == paddle_layers.__all__
    for name in ("make_conv", "make_linear"):
        ours, theirs = (
            list(inspect.signature(getattr(m, name)).parameters) for m in (torch_layers, paddle_layers)
        )
        assert ours == theirs


@pytest.mark.parametrize("size", [(64, 96), (97, 161)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block": "add"},
        {"block": "add", "block_num": 2},
        {"block_num": 3, "use_conv_last": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_features_and_statistics_agree(options, size, train):
    ours, theirs = pair("stdcnet813", base=8, num_classes=5, **options)
    ours.train(train)
    theirs.train() if train else theirs.eval()
    x = image(2, 3, *size)
    feats, others = ours(torch.from_numpy(x)), theirs(paddle.to_tensor(x))
    assert [tuple(f.shape) for f in feats] == [
        (2, width, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for width, stride in zip(ours.widths, (2, 4, 8, 16, 32), strict=True)
    ]
    assert max(map(error, others, feats)) < 1e-12
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            assert error(state[paddle_name(name)], value) < 1e-12, name


def test_stdc2_features_sit_at_the_ends_of_its_stages():
    net = randomised(torch_nets.stdcnet1446(base=8, num_classes=5)).eval()
    x = torch.from_numpy(image(1, 3, 64, 64))
    feats = net(x)
    for feat, end in zip(feats, (1, 2, 6, 11, 14), strict=True):  # upstream's slices of `features`
        assert torch.equal(feat, net.features[:end](x))
    assert len(net.features) == 14


@pytest.mark.parametrize("name", ["stdcnet813", "stdcnet1446"])
def test_classification_agrees_and_is_what_upstream_describes(name):
    ours, theirs = pair(name, base=8, num_classes=5, dropout=0.0)
    x = image(2, 3, 65, 70)
    logits = ours.forward_impl(torch.from_numpy(x))
    other = theirs.forward_impl(paddle.to_tensor(x))
    assert error(other, logits) < 1e-11
    (logits**2).sum().backward()
    (other**2).sum().backward()
    for net_name in ("fc", "linear"):
        grad = getattr(theirs, net_name).weight.grad.T
        assert error(grad, getattr(ours, net_name).weight.grad) < 1e-11

    ours.eval()
    pooled = torch.nn.functional.adaptive_avg_pool2d(ours.conv_last(ours(torch.from_numpy(x))[4]).pow(2), 1)
    expected = ours.linear(torch.relu(ours.fc(pooled.flatten(1))))
    torch.testing.assert_close(ours.forward_impl(torch.from_numpy(x)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lib", ["torch", "paddle"])
def test_initialisation_has_upstreams_spread(lib):
    module = torch_nets if lib == "torch" else paddle_nets
    net = module.stdcnet813(base=32, block="add")
    checked = 0
    for name, param in net.named_parameters():
        value = param.detach().numpy()
        if value.ndim == 4 and value.size > 4000:
            std = math.sqrt(2 / (value.shape[0] * value.shape[2] * value.shape[3]))  # Kaiming, by fan-out
        elif value.ndim == 2:
            std = 0.001
        else:
            if value.ndim == 1:
                expected = 1 if name.endswith(("weight", "_variance")) else 0
                assert np.all(value == expected), name
            continue
        assert value.std() == pytest.approx(std, rel=0.06), name
        checked += 1
    assert checked > 10


def test_a_module_needs_two_blocks():
    for module in (torch_nets, paddle_nets):
        with pytest.raises(ValueError, match="block_num is 1"):
            module.stdcnet813(base=8, block_num=1)


def norm_pair(gamma, beta, mean, variance):
    ours, theirs = torch_layers.BatchNorm2d(len(gamma)).double(), paddle_layers.BatchNorm2d(len(gamma))
    theirs.to(dtype="float64")
    names = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": variance}
    ours.load_state_dict({k: torch.from_numpy(v) for k, v in names.items()}, strict=False)
    theirs.set_state_dict({paddle_name(k): v for k, v in names.items()})
    return ours, theirs


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (3, 4, 5, 7)], ids=str)
@pytest.mark.parametrize("spread", [1.0, 1e-3], ids=["wide", "narrow"])  # narrow: epsilon's own digits count
def test_batch_norm_is_torchs(shape, train, spread):
    rng = np.random.default_rng(0)
    gamma, beta, mean = rng.standard_normal((3, 4))
    ours, theirs = norm_pair(gamma, beta, mean, spread**2 * (0.1 + rng.random(4)))
    ours.train(train)
    theirs.train() if train else theirs.eval()
    value, weight = spread * rng.standard_normal(shape), rng.standard_normal(shape)
    x, y = torch.from_numpy(value).requires_grad_(), paddle.to_tensor(value, stop_gradient=False)
    out, other = ours(x), theirs(y)
    (out * torch.from_numpy(weight)).sum().backward()
    (other * paddle.to_tensor(weight)).sum().backward()
    assert error(other, out) < 1e-13
    assert error(y.grad, x.grad) < 1e-10
    assert error(theirs.weight.grad, ours.weight.grad) < 1e-12
    assert error(theirs.bias.grad, ours.bias.grad) < 1e-12
    if train:
        assert error(theirs._variance, ours.running_var) < 1e-14
        assert error(theirs._mean, ours.running_mean) < 1e-14


def test_running_variance_is_unbiased():
    value = np.array([1.0, 4.0]).reshape(2, 1, 1, 1)
    ours, theirs = norm_pair(np.ones(1), np.zeros(1), np.zeros(1), np.ones(1))
    ours(torch.from_numpy(value))
    theirs(paddle.to_tensor(value))
    expected = 0.9 * 1 + 0.1 * value.var(ddof=1)
    assert theirs._variance.item() == pytest.approx(expected, rel=1e-15)
    assert ours.running_var.item() == pytest.approx(expected, rel=1e-15)
    assert theirs._mean.item() == pytest.approx(0.1 * 2.5, rel=1e-15)


def test_one_value_a_channel_cannot_be_trained_on():
    ours, theirs = norm_pair(*np.ones((4, 3)))
    value = np.ones((1, 3, 1, 1))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ours(torch.from_numpy(value))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        theirs(paddle.to_tensor(value))
    theirs.eval()
    assert theirs(paddle.to_tensor(value)).shape == [1, 3, 1, 1]


def test_float32_batch_norm_stays_float32():
    norm = paddle_layers.BatchNorm2d(3)
    x = paddle.randn([2, 3, 4, 5])
    assert norm(x).dtype == paddle.float32
    assert norm._mean.dtype == norm._variance.dtype == paddle.float32
    norm.eval()
    assert norm(x).dtype == paddle.float32
