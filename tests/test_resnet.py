"""The dilated ResNets: the twins against each other in float64, and what upstream's description says of them."""

import math

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.models_paddle import layers as paddle_layers
from stdc_parity.models_paddle import resnet as paddle_nets
from stdc_parity.models_torch import layers as torch_layers
from stdc_parity.models_torch import resnet as torch_nets

STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}


def paddle_name(name):
    parent, _, leaf = name.rpartition(".")
    return f"{parent}.{STATISTICS.get(leaf, leaf)}"


def randomised(net):
    """Double a torch net and give its norms trained-like values, some gammas negative."""
    rng = np.random.default_rng(3)
    for name, tensor in net.double().state_dict().items():
        if tensor.dim() == 1:
            noise = rng.standard_normal(tensor.shape)
            if name.endswith("running_var"):
                noise = 0.5 + abs(noise)
            elif name.endswith("weight"):
                noise = np.where(noise < -1.2, -1, 1) * (1 + 0.2 * noise)
            tensor.copy_(torch.from_numpy(noise))
    return net


def pair(layers=(1, 2, 2, 2), base=8, **options):
    """Build both twins in float64 with the same randomised weights."""
    ours = randomised(torch_nets.ResNet(layers, base, num_classes=5, **options))
    theirs = paddle_nets.ResNet(layers, base, num_classes=5, **options)
    theirs.to(dtype="float64")
    state = {
        paddle_name(k): v.numpy().T if v.dim() == 2 else v.numpy()
        for k, v in ours.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    assert theirs.set_state_dict(state) == ([], [])
    return ours, theirs


def error(value, reference):
    value, reference = (np.asarray(each.detach().numpy()) for each in (value, reference))
    assert value.shape == reference.shape
    return abs(value - reference).max() / abs(reference).max()


def image(*shape):
    return np.random.default_rng(5).standard_normal(shape)


@pytest.mark.parametrize("size", [(64, 96), (65, 89)])
@pytest.mark.parametrize("deep_stem", [False, True], ids=["v1b", "v1s"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_features_and_statistics_agree(size, deep_stem, output_stride, train):
    ours, theirs = pair(deep_stem=deep_stem, output_stride=output_stride)
    ours.train(train)
    theirs.train() if train else theirs.eval()
    x = image(2, 3, *size)
    feats, others = ours(torch.from_numpy(x)), theirs(paddle.to_tensor(x))
    strides = {8: (4, 8, 8, 8), 16: (4, 8, 16, 16), 32: (4, 8, 16, 32)}[output_stride]
    assert [tuple(f.shape) for f in feats] == [
        (2, width, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for width, stride in zip(ours.widths, strides, strict=True)
    ]
    assert max(map(error, others, feats)) < 1e-11
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if name.endswith(tuple(STATISTICS)):
            assert error(state[paddle_name(name)], value) < 1e-11, name


def test_classification_and_its_gradients_agree():
    ours, theirs = pair()
    x = image(2, 3, 65, 70)
    logits, other = ours.forward_impl(torch.from_numpy(x)), theirs.forward_impl(paddle.to_tensor(x))
    assert error(other, logits) < 1e-11
    (logits**2).sum().backward()
    (other**2).sum().backward()
    grads = dict(theirs.named_parameters())
    for name, param in ours.named_parameters():
        grad = grads[name].grad
        assert error(grad.T if param.dim() == 2 else grad, param.grad) < 1e-9, name


def dilations(net):
    return [
        [block.conv2.dilation[0] for block in stage]
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4)
    ]


def test_the_first_block_of_a_dilated_stage_has_the_dilation_of_the_stage_before():
    with torch.device("meta"):
        assert dilations(torch_nets.resnet50_v1b()) == [[1] * 3, [1] * 4, [1] + [2] * 5, [2, 4, 4]]
        assert dilations(torch_nets.resnet50_v1s(output_stride=16))[2:] == [[1] * 6, [1, 2, 2]]
        deep = torch_nets.resnet101_v1s(output_stride=32)
    assert dilations(deep) == [[1] * 3, [1] * 4, [1] * 23, [1] * 3]
    assert [stage[0].conv2.stride[0] for stage in (deep.layer2, deep.layer3, deep.layer4)] == [2, 2, 2]
    assert all(stage[0].conv1.stride == (1, 1) for stage in (deep.layer2, deep.layer3, deep.layer4))
    for module in (torch_nets, paddle_nets):
        with pytest.raises(ValueError, match="output_stride is 4"):
            module.resnet50_v1b(base=4, output_stride=4)


@pytest.mark.parametrize("lib", ["torch", "paddle"])
def test_initialisation_has_upstreams_spread(lib):
    module = torch_nets if lib == "torch" else paddle_nets
    checked = 0
    for name, param in module.ResNet((1, 1, 1, 1), 32).named_parameters():
        value = param.detach().numpy()
        if value.ndim == 4 and value.size > 4000:
            std = math.sqrt(2 / (value.shape[0] * value.shape[2] * value.shape[3]))  # Kaiming, by fan-out
        elif name.startswith("fc."):
            std = 1 / math.sqrt(3 * 1024)  # uniform up to 1 / sqrt(fan_in)
            assert abs(value).max() <= 1 / 32
        else:
            if value.ndim == 1:
                assert np.all(value == (1 if name.endswith(("weight", "_variance")) else 0)), name
            continue
        assert value.std() == pytest.approx(std, rel=0.06), name
        checked += 1
    assert checked > 10


@pytest.mark.parametrize("kernel, dilation", [(3, 1), (3, 2), (3, 4), (7, 1), (1, 1)])
def test_convolutions_with_a_bias_and_a_dilation_agree_and_keep_the_size(kernel, dilation):
    ours = torch_layers.make_conv(4, 6, kernel, groups=2, dilation=dilation, bias=True).double()
    theirs = paddle_layers.make_conv(4, 6, kernel, groups=2, dilation=dilation, bias=True)
    theirs.to(dtype="float64")
    theirs.set_state_dict({k: v.numpy() for k, v in ours.state_dict().items()})
    x = image(1, 4, 9, 11)
    out = ours(torch.from_numpy(x))
    assert out.shape == (1, 6, 9, 11)
    assert error(theirs(paddle.to_tensor(x)), out) < 1e-14


@pytest.mark.parametrize("layers", [torch_layers, paddle_layers], ids=["torch", "paddle"])
def test_fresh_layers_are_spread_as_pytorchs(layers):
    conv = layers.make_conv(64, 512, 3, groups=2, bias=True)
    for layer, fan_in in ((conv, 32 * 9), (layers.make_linear(100, 500), 100)):
        for value in (layer.weight.detach().numpy(), layer.bias.detach().numpy()):
            assert abs(value).max() <= 1 / math.sqrt(fan_in)
            assert value.std() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.1)
