"""Interrupted trainings: two steps in one framework, one more in both, and they agree."""

import numpy as np
import paddle
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.fixtures.weights import seeded_weights
from stdc_parity.models_paddle import losses as paddle_losses
from stdc_parity.models_paddle import optim as paddle_optim
from stdc_parity.models_paddle import stdcseg as paddle_seg
from stdc_parity.models_torch import losses as torch_losses
from stdc_parity.models_torch import optim as torch_optim
from stdc_parity.models_torch import stdcseg as torch_seg

SEG = stdc.architecture("stdc1-seg", base=8)
RECIPE = {"lr0": 0.01, "warmup_steps": 2, "max_iter": 100}


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.convert, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def gradients(names_and_shapes, step):
    """The same made-up gradients for both sides, by name."""
    draw = np.random.default_rng(step)
    return {name: draw.standard_normal(shape) * 0.01 for name, shape in sorted(names_and_shapes.items())}


class Torch:
    """The torch side of a training with the recipe."""

    def __init__(self, dtype):
        self.net = torch_seg.stdc1_seg(base=8).to(getattr(torch, dtype))
        weights = {n: torch.from_numpy(a.copy()) for n, a in seeded_weights(SEG).items()}
        self.net.load_state_dict(weights)
        self.loss = torch_losses.DetailAggregateLoss().to(getattr(torch, dtype))
        self.optimizer = torch_optim.build_optimizer(self.net, self.loss, **RECIPE)

    def named(self):
        return {**dict(self.net.named_parameters()), "loss.fuse_kernel": self.loss.fuse_kernel}

    def step(self, number):
        found = gradients({n: tuple(p.shape) for n, p in self.named().items()}, number)
        for name, param in self.named().items():
            param.grad = torch.from_numpy(found[name]).to(param.dtype)
        self.optimizer.step()

    def values(self):
        return {name: param.detach().numpy() for name, param in self.named().items()}


class Paddle:
    """The Paddle side."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.net = paddle_seg.stdc1_seg(base=8)
        self.loss = paddle_losses.DetailAggregateLoss()
        for layer in (self.net, self.loss):
            layer.to(dtype=dtype)
        self.optimizer = paddle_optim.build_optimizer(self.net, self.loss, **RECIPE)

    def named(self):
        trained = {name: param for name, param in self.net.named_parameters() if not param.stop_gradient}
        return {**trained, "loss.fuse_kernel": self.loss.fuse_kernel}

    def linear(self, name):
        return name.endswith(("fc.weight", "linear.weight"))

    def step(self, number):
        shapes = {n: tuple(p.shape)[:: -1 if self.linear(n) else 1] for n, p in self.named().items()}
        found = gradients(shapes, number)
        for name, param in self.named().items():
            gradient = found[name].T if self.linear(name) else found[name]
            (param * paddle.to_tensor(gradient.astype(self.dtype))).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def values(self):
        return {n: p.numpy().T if self.linear(n) else p.numpy() for n, p in self.named().items()}


def assert_agree(ours, theirs, before, dtype):
    """The step is the same to rounding, relative to its own size; and there was one."""
    bound = 1e-12 if dtype == "float64" else 2e-6
    assert ours.keys() == theirs.keys()
    for name in ours:
        scale = np.abs(theirs[name]).max()
        assert np.abs(ours[name] - theirs[name]).max() <= bound * scale, name
    moved = [name for name in ours if not np.array_equal(before[name], theirs[name])]
    assert len(moved) > 100


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_torch_training_goes_on_in_paddle(dtype, tmp_path):
    one = Torch(dtype)
    for number in range(2):
        one.step(number)
    torch.save({"state_dict": one.net.state_dict(), "optimizer": one.optimizer.state_dict(),
                "loss": one.loss.fuse_kernel.detach()}, tmp_path / "x.pth")  # fmt: skip
    run("torch2paddle", tmp_path / "x.pth", "--key", "state_dict")
    output = run("optimizer", tmp_path / "x.pth", tmp_path / "x.pdopt")
    assert "weight_decay 0.0005" in output
    other = Paddle(dtype)
    missing, unexpected = other.net.set_state_dict(paddle.load(str(tmp_path / "x.pdparams")))
    assert (missing, unexpected) == ([], [])
    other.loss.fuse_kernel.set_value(one.loss.fuse_kernel.detach().numpy())
    other.optimizer.set_state_dict(paddle.load(str(tmp_path / "x.pdopt")))
    assert other.optimizer.it == 2
    before = one.values()
    before = {name: value.copy() for name, value in before.items()}
    one.step(2)
    other.step(2)
    assert_agree(one.values(), other.values(), before, dtype)
    ours = {n: b.numpy() for n, b in one.optimizer.momentum_buffers().items()}
    theirs = {
        n: b.numpy().T if other.linear(n) else b.numpy()
        for n, b in other.optimizer.momentum_buffers().items()
    }
    assert_agree(ours, theirs, {n: np.zeros(1) for n in ours}, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_paddle_training_goes_on_in_torch(dtype, tmp_path):
    start = Torch(dtype)
    torch.save(start.net.state_dict(), tmp_path / "start.pth")
    torch.save({"optimizer": start.optimizer.state_dict()}, tmp_path / "start_optimizer.pth")
    run("torch2paddle", tmp_path / "start.pth")
    run(
        "optimizer",
        tmp_path / "start_optimizer.pth",
        tmp_path / "start.pdopt",
        "--net",
        tmp_path / "start.pth",
    )
    one = Paddle(dtype)
    one.net.set_state_dict(paddle.load(str(tmp_path / "start.pdparams")))
    one.optimizer.set_state_dict(paddle.load(str(tmp_path / "start.pdopt")))
    for number in range(2):
        one.step(number)
    state = (
        paddle.load(str(tmp_path / "start.pdopt")) | one.optimizer.state_dict()
    )  # torch's groups stay with it
    paddle.save(one.net.state_dict(), str(tmp_path / "x.pdparams"))
    paddle.save(state, str(tmp_path / "x.pdopt"))
    run("paddle2torch", tmp_path / "x.pdparams")
    run("optimizer", tmp_path / "x.pdopt", tmp_path / "opt.pth", "--net", tmp_path / "x.pdparams")
    other = Torch(dtype)
    other.net.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True))
    other.loss.fuse_kernel.data = torch.from_numpy(one.loss.fuse_kernel.numpy())
    other.optimizer.set_state_dict(torch.load(tmp_path / "opt.pth", weights_only=True))
    assert other.optimizer.it == 2
    before = {name: value.copy() for name, value in one.values().items()}
    one.step(2)
    other.step(2)
    assert_agree(other.values(), one.values(), before, dtype)


NESTEROV = [False, True]


@pytest.mark.parametrize("nesterov", NESTEROV)
def test_frameworks_own_optimizers_both_ways(nesterov, tmp_path):
    """Any network, one group, torch.optim.SGD and paddle.optimizer.Momentum themselves."""
    paddle.utils.unique_name.switch()
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    twin = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.Conv2D(4, 2, 1)
    )
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": nesterov}
    sgd = torch.optim.SGD(net.parameters(), **options)

    def step(number):
        for name, param in net.named_parameters():
            param.grad = torch.from_numpy(gradients({name: tuple(param.shape)}, number)[name]).float()
        sgd.step()

    def paddle_step(optimizer, number):
        for name, param in twin.named_parameters():
            gradient = gradients({name: tuple(param.shape)}, number)[name].astype("float32")
            (param * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()

    def load_twin():
        values = {n.replace("running_mean", "_mean").replace("running_var", "_variance"): t.numpy().copy()
                  for n, t in net.state_dict().items() if not n.endswith("tracked")}  # fmt: skip
        twin.set_state_dict({name: paddle.to_tensor(value) for name, value in values.items()})

    step(0)
    step(1)
    torch.save({"model": net.state_dict(), "optimizer": sgd.state_dict(),
                "lr_scheduler": {"last_epoch": 7, "_last_lr": [0.1]}}, tmp_path / "x.pth")  # fmt: skip
    paddle.save(twin.state_dict(), str(tmp_path / "twin.pdparams"))
    names = ("--names", tmp_path / "twin.pdparams")
    run("optimizer", tmp_path / "x.pth", tmp_path / "x.pdopt", *names)
    load_twin()
    schedule = paddle.optimizer.lr.StepDecay(0.1, 1000)
    momentum = paddle.optimizer.Momentum(
        schedule, 0.9, twin.parameters(), use_nesterov=nesterov, weight_decay=1e-3
    )
    momentum.set_state_dict(paddle.load(str(tmp_path / "x.pdopt")))
    assert schedule.last_epoch == 7
    step(2)
    paddle_step(momentum, 2)
    for name, param in net.named_parameters():
        other = dict(twin.named_parameters())[name].numpy()
        np.testing.assert_allclose(other, param.detach().numpy(), rtol=1e-6, atol=1e-7)
    state = {key: value for key, value in momentum.state_dict().items() if "torch" not in key}
    paddle.save(state, str(tmp_path / "y.pdopt"))
    flags = ("--lr", "0.1", "--weight-decay", "1e-3", *(["--nesterov"] if nesterov else []))
    run("optimizer", tmp_path / "y.pdopt", tmp_path / "y.pth", "--net", tmp_path / "x.pth", *names, *flags)
    found = torch.load(tmp_path / "y.pth", weights_only=True)
    theirs = sgd.state_dict()
    for number, entry in theirs["state"].items():
        np.testing.assert_allclose(
            found["state"][number]["momentum_buffer"], entry["momentum_buffer"], rtol=1e-6
        )
    again = torch.optim.SGD(net.parameters(), 1.0)
    again.load_state_dict(found)
    assert {k: v for k, v in again.param_groups[0].items() if k in options} == options


def small(tmp_path, change=lambda state: None, order=None):
    """A torch checkpoint of a small net with the optimizer's state changed."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    sgd = torch.optim.SGD(order(net) if order else net.parameters(), 0.1, momentum=0.9)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    sgd.step()
    state = sgd.state_dict()
    change(state)
    torch.save({"model": net.state_dict(), "optimizer": state}, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def test_an_order_can_be_given(tmp_path):
    source = small(
        tmp_path, order=lambda net: [{"params": [net[1].bias, net[0].weight]}, {"params": [net[1].weight]}]
    )
    output = run("optimizer", source, tmp_path / "x.pdopt", code=3)
    assert "groups have [2, 1] parameters, and no known order fits" in output
    (tmp_path / "order.txt").write_text("1.bias\n0.weight\n\n1.weight\n")
    run("optimizer", source, tmp_path / "x.pdopt", "--order", tmp_path / "order.txt")
    found = paddle.load(str(tmp_path / "x.pdopt"))
    assert list(found["0.weight_velocity_0"].shape) == [4, 3, 3, 3]
    (tmp_path / "order.txt").write_text("0.weight\n1.bias\n\n1.weight\n")
    output = run("optimizer", source, tmp_path / "y.pdopt", "--order", tmp_path / "order.txt", code=3)
    assert "0.weight (4, 3, 3, 3) has a buffer (4,)" in output
    assert not (tmp_path / "y.pdopt").exists()


def test_parameters_that_were_never_updated(tmp_path):
    source = small(tmp_path, lambda state: state["state"].pop(0))
    assert "1 parameters were never updated: zeros" in run("optimizer", source, tmp_path / "x.pdopt")
    assert float(paddle.load(str(tmp_path / "x.pdopt"))["0.weight_velocity_0"].abs().sum()) == 0


def test_adam_and_others_are_refused(tmp_path):
    net = torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(2)).sum().backward()
    adam.step()
    torch.save({"model": net.state_dict(), "optimizer": adam.state_dict()}, tmp_path / "x.pth")
    output = run("optimizer", tmp_path / "x.pth", tmp_path / "x.pdopt", code=3)
    assert "not SGD with momentum: its state has exp_avg, exp_avg_sq, step" in output


def change_group(key, value):
    return lambda state: state["param_groups"][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (change_group("dampening", 0.1), 3, "uses dampening"),
        (change_group("maximize", True), 3, "uses maximize"),
        (change_group("params", [0, 1]), 3, "groups have [2] parameters"),
        (change_group("params", [0, 0, 1, 2]), 3, "one parameter in two groups"),
        (change_group("params", None), 3, "param_groups are damaged"),
        (lambda state: state.update(state=[1]), 3, "no optimizer's state|state is damaged"),
        (lambda state: state["state"].update({9: {"momentum_buffer": torch.ones(2)}}), 3, "in no group"),
        (lambda state: state["state"][0].update(momentum_buffer=3), 3, "no tensor"),
        (lambda state: state["state"][1].update(momentum_buffer=torch.ones(5)), 3, "has a buffer (5,)"),
        (lambda state: state.pop("param_groups"), 3, "no optimizer's state"),
    ],
)
def test_damaged_states(change, code, said, tmp_path):
    output = run("optimizer", small(tmp_path, change), tmp_path / "x.pdopt", code=code)
    assert any(words in output for words in said.split("|"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("x.pdopt y.pth", 2, "--net is missing"),
        ("x.pdopt y.pth --net none.pth", 3, "none.pth: the file does not exist"),
        ("x.pdopt x.pdopt --net x.pth --force", 2, "is the source itself"),
        ("x.pth x.pdopt", 2, "exists already"),
        ("x.pth y.pdopt --names x.pth", 2, "no file of paddle.save"),
        ("x.pth y.pdopt --names x.pdopt", 2, "has no StructuredToParameterName@@"),
        ("x.pth y.pdopt --order none.txt", 2, "none.txt cannot be read"),
        ("foreign.pdopt y.pth --net x.pth", 3, "1 of 1 accumulators do not fit the network"),
        ("bare.pdopt y.pth --net x.pth", 2, "does not say the learning rate"),
    ],
)
def test_mistakes(arguments, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small(tmp_path)
    run("optimizer", "x.pth", "x.pdopt")
    paddle.save({"conv2d_0.w_0_velocity_0": paddle.ones([1])}, "foreign.pdopt")
    paddle.save({"1.bias_velocity_0": paddle.ones([4])}, "bare.pdopt")
    before = sorted(tmp_path.iterdir())
    assert said in run("optimizer", *arguments.split(), code=code)
    assert sorted(tmp_path.iterdir()) == before
