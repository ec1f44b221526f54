"""Parameter groups, momentum SGD and the schedule of both twins."""

import math

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.models_paddle import losses as paddle_losses
from stdc_parity.models_paddle import optim as paddle_optim
from stdc_parity.models_paddle import stdcseg as paddle_nets
from stdc_parity.models_torch import losses as torch_losses
from stdc_parity.models_torch import optim as torch_optim
from stdc_parity.models_torch import stdcseg as torch_nets

OPTIM = {"torch": torch_optim, "paddle": paddle_optim}
SEED = np.random.default_rng(0).standard_normal((5, 3, 4))


class TorchNet(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        values = torch.tensor(SEED, dtype=getattr(torch, dtype))
        self.a, self.b, self.c, self.d, self.e = (torch.nn.Parameter(v.clone()) for v in values)

    def get_params(self, backbone_norms=True):
        return [self.a, self.e], [self.b] if backbone_norms else [], [self.c], [self.d]


class PaddleNet(paddle.nn.Layer):
    def __init__(self, dtype):
        super().__init__()
        for name, value in zip("abcde", SEED, strict=True):
            start = paddle.nn.initializer.Assign(value)
            setattr(self, name, self.create_parameter((3, 4), dtype=dtype, default_initializer=start))

    def get_params(self, backbone_norms=True):
        return [self.a, self.e], [self.b] if backbone_norms else [], [self.c], [self.d]


def build(side, dtype="float64", **options):
    """A small net with every group, the detail loss, and their optimizer."""
    if side == "torch":
        net, loss = TorchNet(dtype), torch_losses.DetailAggregateLoss().to(getattr(torch, dtype))
    else:
        net, loss = PaddleNet(dtype), paddle_losses.DetailAggregateLoss()
        loss.to(dtype=dtype)
    return net, loss, OPTIM[side].build_optimizer(net, loss, **options)


def give_gradients(side, optimizer, gradients):
    """Set gradients by parameter name, through a backward pass as in training."""
    for group in optimizer.groups:
        for name, param in zip(group.names, group.params, strict=True):
            if name in gradients:
                tensor = torch.tensor if side == "torch" else paddle.to_tensor
                (param * tensor(gradients[name]).reshape(param.shape)).sum().backward()


def parameters(optimizer):
    return {
        n: p.detach().numpy().copy() for g in optimizer.groups for n, p in zip(g.names, g.params, strict=True)
    }


def sgd(start, gradients, rates, decays, momentum):
    """torch.optim.SGD's documented update, in float64 NumPy; absent gradients leave everything alone."""
    values, buffers = dict(start), {}
    for rate, gradient in zip(rates, gradients, strict=True):
        for name, grad in gradient.items():
            grad = grad + decays[name] * values[name]
            buffers[name] = momentum * buffers[name] + grad if name in buffers else grad
            mul = 10 if name in "cd" else 1
            values[name] = values[name] - mul * rate * buffers[name]
    return values, buffers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("side", OPTIM)
def test_steps_are_sgd_with_momentum(side, dtype):
    """Five steps with: a zero gradient, one that is absent for a while, one never there, both multipliers."""
    rng = np.random.default_rng(1)
    _, _, optimizer = build(side, dtype, warmup_steps=2, max_iter=8)
    start = parameters(optimizer)
    gradients = []
    for it in range(5):
        names = [name for name in "abcd" if not (name == "a" and it in (1, 2))]
        step = {name: rng.standard_normal((3, 4)).astype(dtype) for name in names}
        gradients.append(step | {"loss.fuse_kernel": np.zeros((1, 3, 1, 1), dtype)})
        optimizer.zero_grad()
        give_gradients(side, optimizer, gradients[-1])
        optimizer.step()
    rates = [1e-5, 1e-5 * math.sqrt(1000), 1e-2, 1e-2 * (5 / 6) ** 0.9, 1e-2 * (4 / 6) ** 0.9]
    decays = dict.fromkeys(("a", "c", "loss.fuse_kernel"), 5e-4) | dict.fromkeys("bd", 0.0)
    values, buffers = sgd(start, gradients, rates, decays, 0.9)
    tolerance = 1e-14 if dtype == "float64" else 1e-6
    found = parameters(optimizer)
    for name, value in values.items():
        np.testing.assert_allclose(
            found[name], value, rtol=0, atol=tolerance * np.abs(value).max(), err_msg=name
        )
    assert (found["e"] == start["e"]).all()
    assert (found["loss.fuse_kernel"] < start["loss.fuse_kernel"]).all()
    found = {name: buffer.numpy() for name, buffer in optimizer.momentum_buffers().items()}
    assert found.keys() == buffers.keys()
    for name, value in buffers.items():
        np.testing.assert_allclose(
            found[name], value, rtol=0, atol=tolerance * np.abs(value).max(), err_msg=name
        )


@pytest.mark.parametrize("side", OPTIM)
def test_cleared_gradients_are_absent(side):
    """Paddle's clear_grad leaves zeros by default, with which weight decay and momentum would go on."""
    _, _, optimizer = build(side)
    give_gradients(side, optimizer, {"a": np.ones((3, 4))})
    optimizer.zero_grad()
    before = parameters(optimizer)
    optimizer.step()
    after = parameters(optimizer)
    assert all((before[name] == after[name]).all() for name in before)
    assert optimizer.momentum_buffers() == {}


@pytest.mark.parametrize("side", OPTIM)
def test_both_habits_of_upstream(side):
    _, _, optimizer = build(side, backbone_norms=False, decay_loss=False)
    assert [(g.name, g.names, g.lr_mul, g.weight_decay) for g in optimizer.groups] == [
        ("wd", ("a", "e"), 1.0, 5e-4),
        ("nowd", (), 1.0, 0.0),
        ("lr_mul_wd", ("c",), 10.0, 5e-4),
        ("lr_mul_nowd", ("d",), 10.0, 0.0),
        ("loss", ("loss.fuse_kernel",), 1.0, 0.0),
    ]
    before = parameters(optimizer)
    give_gradients(side, optimizer, {"loss.fuse_kernel": np.zeros((1, 3, 1, 1)), "a": np.ones((3, 4))})
    optimizer.it = 900
    optimizer.step()
    after = parameters(optimizer)
    assert (after["loss.fuse_kernel"] == before["loss.fuse_kernel"]).all()
    assert (after["a"] < before["a"]).all()


@pytest.mark.parametrize("side", OPTIM)
def test_settings_are_effective_ones(side):
    _, _, optimizer = build(side)
    assert optimizer.learning_rates() == dict.fromkeys(("wd", "nowd", "loss"), 1e-2) | dict.fromkeys(
        ("lr_mul_wd", "lr_mul_nowd"), 0.1
    )
    optimizer.set_iteration(500)
    rate = 1e-5 * (1000 ** (1 / 1000)) ** 500
    settings = optimizer.settings()
    assert settings["d"] == {
        "group": "lr_mul_nowd",
        "lr": settings["c"]["lr"],
        "weight_decay": 0.0,
        "momentum": 0.9,
    }
    np.testing.assert_allclose([settings["a"]["lr"], settings["c"]["lr"]], [rate, 10 * rate], rtol=1e-15)
    assert [settings[n]["weight_decay"] for n in ("a", "b", "c", "loss.fuse_kernel")] == [
        5e-4,
        0.0,
        5e-4,
        5e-4,
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_paddles_own_parameter_options_show(dtype):
    """A multiplier or regularizer on a Paddle parameter beats its group: settings and steps must both say so."""
    net, _, _ = build("paddle", dtype)
    net.a.optimize_attr = {"learning_rate": 3.0}
    net.a.regularizer = paddle.regularizer.L2Decay(0.25)
    optimizer = paddle_optim.build_optimizer(net, warmup_steps=0)
    before = parameters(optimizer)["a"]
    settings = optimizer.settings()
    assert settings["a"]["weight_decay"] == 0.25
    np.testing.assert_allclose(settings["a"]["lr"], 3e-2, rtol=1e-15)
    give_gradients("paddle", optimizer, {"a": np.ones((3, 4), dtype)})
    optimizer.step()
    wanted = before - 3e-2 * (1 + 0.25 * before)
    np.testing.assert_allclose(parameters(optimizer)["a"], wanted, rtol=1e-5 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("side", OPTIM)
def test_a_parameter_in_two_groups_or_foreign_is_refused(side):
    net, _, _ = build(side)
    other, _, _ = build(side)
    for extra in (net.a, other.a):
        net.get_params = lambda backbone_norms=True, extra=extra: ([net.a], [net.b], [net.c], [extra])
        with pytest.raises(ValueError, match=r"lr_mul_nowd holds parameters .*\(3, 4\)"):
            OPTIM[side].build_optimizer(net)


def test_the_networks_groups_agree():
    """The real network: the same names in the same groups, the heads' and the fusion's at ten times the rate."""
    torch_net, paddle_net = torch_nets.stdc1_seg(base=8), paddle_nets.stdc1_seg(base=8)
    for norms in (True, False):
        ours = torch_optim.make_groups(torch_net, torch_losses.SegLoss(), backbone_norms=norms)
        theirs = paddle_optim.make_groups(paddle_net, paddle_losses.SegLoss(), backbone_norms=norms)
        for a, b in zip(ours, theirs, strict=True):
            assert (a.name, a.names, a.lr_mul, a.weight_decay) == (b.name, b.names, b.lr_mul, b.weight_decay)
        groups = {group.name: group.names for group in ours}
        assert all(name.startswith("cp.") for name in groups["wd"] + groups["nowd"])
        assert any(name.startswith("cp.backbone") for name in groups["nowd"]) == norms
        assert not any(name.startswith("cp.") for name in groups["lr_mul_wd"] + groups["lr_mul_nowd"])
        assert groups["loss"] == ("loss.detail.fuse_kernel",)


def test_the_schedule():
    """Against its formula in another form, the ends, and both sides for every iteration to the bit."""
    ours = np.array([torch_optim.learning_rate(it) for it in range(60001)])
    theirs = np.array([paddle_optim.learning_rate(it) for it in range(60001)])
    assert (ours == theirs).all()
    it = np.arange(60001)
    warm = np.exp(np.log(1e-5) + it / 1000 * np.log(1000.0))
    poly = 1e-2 * np.exp(0.9 * np.log(np.maximum(60000 - it, 1e-300) / 59000))
    wanted = np.where(it <= 1000, warm, poly)
    np.testing.assert_allclose(ours[:-1], wanted[:-1], rtol=1e-12)
    assert ours[-1] == 0.0
    assert ours[0] == 1e-5
    assert ours[1000] == ours.max()


@pytest.mark.parametrize("side", OPTIM)
def test_the_schedule_has_an_end(side):
    assert OPTIM[side].learning_rate(0, warmup_steps=0) == 1e-2
    for it in (-1, 60001):
        with pytest.raises(ValueError, match=f"iteration {it} lies outside the schedule 0..60000"):
            OPTIM[side].learning_rate(it)


def test_the_fuse_kernel_decays_until_its_targets_change():
    """The docstring's figures: weight decay alone takes stride 2's weight under 0.1 at iteration 28839."""
    kernel, buffer = np.array([0.6, 0.3, 0.1], np.float32).astype(np.float64), np.zeros(3)
    under = {}
    for it in range(60000):
        buffer = 0.9 * buffer + 5e-4 * kernel
        kernel = kernel - torch_optim.learning_rate(it) * buffer
        for name, weight in (("2", kernel[1]), ("2 and 4", kernel[1] + kernel[2]), ("1", kernel[0])):
            if weight <= 0.1:
                under.setdefault(name, it)
    assert under == {"2": 28838, "2 and 4": 41351}
    np.testing.assert_allclose(kernel / [0.6, 0.3, 0.1], 0.21, rtol=1e-2)
