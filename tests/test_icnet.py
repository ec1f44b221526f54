"""ICNet: official keys, the twins against each other in float64, and what upstream's description says of them."""

import json
from importlib.resources import files
from pathlib import Path
from random import Random

import numpy as np
import paddle
import pytest
import torch
from PIL import Image

from stdc_parity.fixtures.scenes import write_scenes
from stdc_parity.models_paddle import icnet as paddle_icnet
from stdc_parity.models_paddle import icnet_data as paddle_data
from stdc_parity.models_paddle import icnet_losses as paddle_losses
from stdc_parity.models_paddle import icnet_metrics as paddle_metrics
from stdc_parity.models_paddle import icnet_optim as paddle_optim
from stdc_parity.models_paddle import icnet_transforms as paddle_transforms
from stdc_parity.models_paddle import layers as paddle_layers
from stdc_parity.models_paddle import losses as paddle_plain
from stdc_parity.models_paddle.resnet import ResNet as PaddleResNet
from stdc_parity.models_torch import icnet as torch_icnet
from stdc_parity.models_torch import icnet_data as torch_data
from stdc_parity.models_torch import icnet_losses as torch_losses
from stdc_parity.models_torch import icnet_metrics as torch_metrics
from stdc_parity.models_torch import icnet_optim as torch_optim
from stdc_parity.models_torch import icnet_transforms as torch_transforms
from stdc_parity.models_torch import layers as torch_layers
from stdc_parity.models_torch import losses as torch_plain
from stdc_parity.models_torch.resnet import ResNet as TorchResNet

ROOT = Path(__file__).parents[1]
OFFICIAL = json.loads(files("stdc_parity.fixtures").joinpath("official_icnet.json").read_text())
STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}
TENSOR = {"torch": torch.from_numpy, "paddle": paddle.to_tensor}
LOSSES = {"torch": torch_losses, "paddle": paddle_losses}
METRICS = {"torch": torch_metrics, "paddle": paddle_metrics}
OPTIM = {"torch": torch_optim, "paddle": paddle_optim}
DATA = {"torch": (torch_data, torch_transforms), "paddle": (paddle_data, paddle_transforms)}
SIDES = ("torch", "paddle")
# All that may differ between twin files, torch idiom first.
IDIOMS = {
    "in PyTorch. `models_paddle": "in Paddle. `models_torch",
    "stdc_parity.models_torch": "stdc_parity.models_paddle",
    "import torch\n": "import paddle\n",
    "from torch": "from paddle",
    "nn.Module": "nn.Layer",
    "labels.cpu().numpy()": "labels.numpy()",
    "torch.from_numpy(found).to(labels.device)": "paddle.to_tensor(found, place=labels.place)",
    ".to(loss.dtype)": ".astype(loss.dtype)",
    "logits.to(torch.int64)": "logits.astype(paddle.int64)",
    "torch.argmax": "paddle.argmax",
    ".requires_grad": ".trainable",
}


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


def pair(deep_stem=True, layers=(1, 2, 2, 2), base=8):
    """Build both twins in float64 with the same randomised weights, on a short backbone."""
    ours = torch_icnet.ICNet(TorchResNet(layers, base, 5, deep_stem=deep_stem), 19, base)
    theirs = paddle_icnet.ICNet(PaddleResNet(layers, base, 5, deep_stem=deep_stem), 19, base)
    theirs.to(dtype="float64")
    state = {
        paddle_name(k): v.numpy().T if k.endswith("fc.weight") else v.numpy()
        for k, v in randomised(ours).state_dict().items()
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


def blocks(height, width, seed=0, classes=19):
    """Labels of -1 to 18 in blocks of 7 pixels, int64 (2, height, width)."""
    coarse = np.random.default_rng(seed).integers(-1, classes, (2, height // 7 + 1, width // 7 + 1))
    return coarse.repeat(7, axis=1).repeat(7, axis=2)[:, :height, :width]


@pytest.mark.parametrize("form", ["v1b", "v1s"])
def test_state_dicts_hold_the_official_keys(form):
    official = OFFICIAL[f"ICNet-ResNet50-{form}"]
    with torch.device("meta"):
        ours = getattr(torch_icnet, f"icnet_resnet50_{form}")()
    assert [(k, list(v.shape)) for k, v in ours.state_dict().items()] == list(official.items())
    theirs = getattr(paddle_icnet, f"icnet_resnet50_{form}")(base=4)
    assert theirs.state_dict().keys() == {
        paddle_name(k) for k in official if not k.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("form", ["v1b", "v1s"])
def test_resnet_101_has_the_official_keys(form):
    from stdc_parity.models_torch import resnet

    with torch.device("meta"):
        ours = getattr(resnet, f"resnet101_{form}")()
    official = OFFICIAL[f"ResNet101-{form}"]
    assert [(k, list(v.shape)) for k, v in ours.state_dict().items()] == list(official.items())


@pytest.mark.parametrize("part", ["", "_losses", "_metrics", "_optim", "_data", "_transforms"])
def test_twin_files_differ_in_framework_idioms_only(part):
    source = (ROOT / "models_torch" / f"icnet{part}.py").read_text(encoding="utf-8")
    for idiom, other in IDIOMS.items():
        source = source.replace(idiom, other)
    assert source == (ROOT / "models_paddle" / f"icnet{part}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [(64, 96), (65, 89)])
@pytest.mark.parametrize("deep_stem", [False, True], ids=["v1b", "v1s"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_logits_gradients_and_statistics_agree(size, deep_stem, train):
    ours, theirs = pair(deep_stem)
    ours.train(train)
    theirs.train() if train else theirs.eval()
    x = image(2, 3, *size)
    outs, others = ours(torch.from_numpy(x)), theirs(paddle.to_tensor(x))
    eighth, sixteenth = [-(-s // 8) for s in size], [-(-(s // 2) // 8) for s in size]
    sizes = [[8 * s for s in eighth], [2 * s for s in eighth], eighth, sixteenth]
    assert [list(out.shape) for out in outs] == [[2, 19, *s] for s in sizes]
    assert max(map(error, others, outs)) < 1e-11
    labels = blocks(*size)
    total, _ = torch_losses.ICNetLoss()(outs, torch.from_numpy(labels))
    other, _ = paddle_losses.ICNetLoss()(others, paddle.to_tensor(labels))
    assert error(other, total) < 1e-12
    total.backward()
    other.backward()
    grads = dict(theirs.named_parameters())
    for name, param in ours.named_parameters():
        if param.grad is None:
            assert name.startswith("pretrained.fc.") and grads[name].grad is None
        else:
            assert error(grads[name].grad, param.grad) < 1e-10, name
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if name.endswith(tuple(STATISTICS)):
            assert error(state[paddle_name(name)], value) < 1e-11, name
        elif train and name.startswith("pretrained.") and name.endswith("num_batches_tracked"):
            assert value == 2, name  # the half and the quarter, through all stages


def resized(module, x, to):
    return module.resize(x, *to)


def pooled(module, x, to):
    return module.adaptive_pool(x, to[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size, to", [((4, 5), (8, 10)), ((9, 12), (4, 7)), ((1, 3), (6, 6)), ((5, 5), (1, 2))])
@pytest.mark.parametrize("call", [resized, pooled])
def test_resizing_and_pooling_are_torchs(call, size, to, dtype):
    value = image(2, 3, *size).astype(dtype)
    x, y = torch.from_numpy(value).requires_grad_(), paddle.to_tensor(value, stop_gradient=False)
    out, other = call(torch_layers, x, to), call(paddle_layers, y, to)
    weights = image(*out.shape).astype(dtype)
    (out * torch.from_numpy(weights)).sum().backward()
    (other * paddle.to_tensor(weights)).sum().backward()
    assert str(other.dtype).endswith(dtype)
    limit = 1e-14 if dtype == "float64" else 1e-6
    assert error(other, out) < limit
    assert error(y.grad, x.grad) < limit


def upstreams_labels(labels, height, width):
    x = torch.from_numpy(labels).unsqueeze(1).float()
    return torch.nn.functional.interpolate(x, (height, width), mode="bilinear", align_corners=True)[:, 0].long()


@pytest.mark.parametrize("size", [(64, 128), (97, 161), (200, 333), (512, 1024), (7, 9)])
@pytest.mark.parametrize("side", SIDES)
def test_labels_are_resized_as_upstream_to_the_pixel(side, size):
    """A processor without fused multiply-add rounds some pixels otherwise; a wrong order of sums does 2 %."""
    noise = np.random.default_rng(1).integers(-1, 19, (2, *size))
    for labels in (blocks(*size), np.full((2, *size), 13), noise):
        for stride in (4, 8, 16):
            to = [-(-s // stride) for s in size]
            found = LOSSES[side].resized_labels(labels, *to)
            assert found.dtype == np.int64
            assert (found != upstreams_labels(labels, *to).numpy()).mean() < 1e-3


def test_upstreams_labels_amid_one_class_are_not_all_of_it():
    """The fact that the loss's page states: rounding takes up to 5 % of the pixels amid class 13 to class 12."""
    found = torch_losses.resized_labels(np.full((1, 960, 960), 13), 60, 60)
    assert set(np.unique(found)) == {12, 13}
    assert 0.03 < (found == 12).mean() < 0.05


@pytest.mark.parametrize("side", SIDES)
def test_the_cascade_loss(side):
    labels = blocks(64, 96)
    outputs = [image(2, 19, 64 // s, 96 // s) for s in (1, 4, 8, 16)]
    loss = LOSSES[side].ICNetLoss()
    total, terms = loss([TENSOR[side](out) for out in outputs], TENSOR[side](labels[:, None]))
    wanted = {}
    for stride, logits in zip((4, 8, 16), outputs[1:], strict=True):
        target = upstreams_labels(labels, 64 // stride, 96 // stride)
        ce = torch.nn.functional.cross_entropy(torch.from_numpy(logits), target, ignore_index=-1)
        wanted[f"sub{stride}"] = ce.item()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-13)
    assert total.item() == pytest.approx(wanted["sub4"] + 0.4 * (wanted["sub8"] + wanted["sub16"]), rel=1e-13)

    nothing = LOSSES[side].ICNetLoss()([TENSOR[side](out) for out in outputs], TENSOR[side](0 * labels - 1))[0]
    assert np.isnan(nothing.item())  # as torch's cross entropy; Paddle's own would say 0
    with pytest.raises(ValueError, match="3 outputs, the cascade has 4"):
        loss([TENSOR[side](out) for out in outputs[1:]], TENSOR[side](labels))
    with pytest.raises(ValueError, match=r"label 255 .* nor the ignored -1"):
        loss([TENSOR[side](out) for out in outputs], TENSOR[side](0 * labels + 255))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropies_agree_past_64_where_paddles_own_ends(dtype):
    logits = image(2, 5, 3, 4).astype(dtype) * [[[[1]]], [[[60]]]]
    labels = np.random.default_rng(0).integers(-1, 5, (2, 3, 4))
    x, y = torch.from_numpy(logits.astype(dtype)).requires_grad_(), paddle.to_tensor(logits.astype(dtype))
    y.stop_gradient = False
    loss = torch_plain.cross_entropies(x, torch.from_numpy(labels), -1)
    other = paddle_plain.cross_entropies(y, paddle.to_tensor(labels), -1)
    loss.sum().backward()
    other.sum().backward()
    limit = 1e-15 if dtype == "float64" else 1e-6
    assert loss.max() > 64
    assert error(other, loss) < limit
    assert error(y.grad, x.grad) < limit


@pytest.mark.parametrize("side", SIDES)
def test_the_metric_truncates_for_accuracy_and_counts_absent_classes_as_0(side):
    logits = np.array([[1.2, 2.9, -0.5, 0.1], [1.7, 2.1, -0.9, 3.4], [0.3, 2.5, 0.9, 9.0]])  # (classes, pixels)
    labels = np.array([1, 0, 0, -1])
    metric = METRICS[side].SegmentationMetric(4)
    assert metric.get() == (0.0, 0.0)
    given = np.concatenate([logits, np.full((1, 4), -5.0)])[np.newaxis, :, np.newaxis]  # (1, 4, 1, 4)
    metric.update(TENSOR[side](given), TENSOR[side](labels[np.newaxis, np.newaxis]))
    # Truncated, pixel 0 has 1, 1, 0, pixel 1 has 2, 2, 2, pixel 2 has 0, 0, 0: the first class wins each time.
    accuracy, iou = metric.get()
    assert accuracy == pytest.approx(2 / 3)
    assert iou == pytest.approx((1 / 2 + 1 + 0 + 0) / 4)  # pixels 0 and 1 are hits, pixel 2 says class 2; no class 3
    metric.reset()
    assert metric.get() == (0.0, 0.0)
    with pytest.raises(ValueError, match="predictions have shape"):
        metric.update(TENSOR[side](given), TENSOR[side](labels[np.newaxis, np.newaxis, :3]))


def upstreams_metric(logits, labels, classes=19):
    """utils/metric.py's two figures, written anew for one batch: argmax of cut logits, histograms of the others."""
    cut, best = np.trunc(logits).argmax(1), logits.argmax(1)
    kept = labels >= 0
    best = np.where(kept, best, -1)
    ious = [
        np.sum((best == c) & (labels == c)) / (np.sum((best == c) | (labels == c)) + np.spacing(1))
        for c in range(classes)
    ]
    return np.sum((cut == labels) & kept) / kept.sum(), np.mean(ious)


class Given:
    """A network that says what it is given."""

    def __init__(self, logits):
        self.logits, self.training = list(logits), True

    def __call__(self, images):
        assert not self.training
        return (self.logits.pop(0),)

    def eval(self):
        self.training = False

    def train(self, mode=True):
        self.training = mode


@pytest.mark.parametrize("side", SIDES)
def test_evaluation_reports_upstreams_averages_too(side):
    rng = np.random.default_rng(2)
    logits = [1.5 * rng.standard_normal((2, 19, 20, 30)) for _ in range(3)]
    labels = [rng.integers(-1, 17, (2, 1, 20, 30)) for _ in range(3)]
    net = Given(map(TENSOR[side], logits))
    found = METRICS[side].evaluate(net, [(None, TENSOR[side](each)) for each in labels])
    figures = [
        upstreams_metric(np.concatenate(logits[:n]), np.concatenate(labels[:n])[:, 0]) for n in (1, 2, 3)
    ]
    assert found["pixel accuracy"] == pytest.approx(figures[-1][0], rel=1e-12)
    assert found["mean IoU"] == pytest.approx(figures[-1][1], rel=1e-12)
    averages = np.mean(figures, axis=0)
    assert [found["average pixel accuracy"], found["average mean IoU"]] == pytest.approx(averages, rel=1e-12)
    assert net.training


def test_groups_and_settings_agree_and_are_upstreams():
    ours, theirs = pair(base=4, layers=(1, 1, 1, 1))
    optimizers = {"torch": torch_optim.build_optimizer(ours), "paddle": paddle_optim.build_optimizer(theirs)}
    for optimizer in optimizers.values():
        optimizer.set_iteration(0)
    settings = {side: optimizer.settings() for side, optimizer in optimizers.items()}
    assert settings["torch"].keys() == {name for name, _ in ours.named_parameters()}
    for name, of in settings["torch"].items():
        group = name.partition(".")[0]
        rate = (1e-2 if group == "pretrained" else 1e-1) * (1 - 1 / 85000) ** 0.9
        wanted = {"group": group, "lr": pytest.approx(rate, rel=1e-15), "weight_decay": 1e-4, "momentum": 0.9}
        assert of == wanted
        assert settings["paddle"][name] == wanted


@pytest.mark.parametrize("side", SIDES)
def test_the_schedule_is_stepped_before_the_optimizer(side):
    optim, weight = OPTIM[side], torch.nn.Parameter(torch.zeros(1))
    own = torch.optim.SGD([weight], lr=0.05)
    poly = torch.optim.lr_scheduler.LambdaLR(own, lambda step: (1 - step / 50) ** 0.9)
    for it in range(50):
        own.step()
        poly.step()
        assert optim.poly_rate(it, 0.05, 50) == pytest.approx(own.param_groups[0]["lr"], rel=1e-14)
    assert optim.poly_rate(49, 0.05, 50) == 0
    for it in (-1, 50):
        with pytest.raises(ValueError, match=f"iteration {it} lies outside the schedule 0..49"):
            optim.poly_rate(it, 0.05, 50)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes")
    write_scenes(root, 4, (48, 96), split="train")
    return root


def test_training_samples_agree_to_the_bit(scenes):
    sets = [
        data.Cityscapes(scenes, "train", transforms.training_steps(base_size=64, crop=60), seed=3)
        for data, transforms in DATA.values()
    ]
    shorter, seen = set(), set()
    for index in range(4):
        ours, theirs = (each.trace(index) for each in sets)
        assert list(ours) == list(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        assert ours["final.image"].shape == (3, 60, 60)
        seen |= set(np.unique(ours["final.label"]).tolist())
        shorter.add(min(ours["scale.image"].shape[:2]))
    assert {-1, 0} < seen <= set(range(-1, 19))
    assert min(shorter) < 60 < max(shorter)  # so that padding, too, was seen
    assert all(32 <= side <= 128 for side in shorter)


@pytest.mark.parametrize("side", SIDES)
def test_a_small_sample_is_padded_at_the_right_and_the_bottom(side):
    _, transforms = DATA[side]
    grey = Image.new("RGB", (5, 3), (9, 9, 9))
    done = transforms.RandomSquare(6)(transforms.Sample(grey, Image.new("L", (5, 3), 7)), Random(0))
    label = np.zeros((6, 6))
    label[:3, :5] = 7
    assert np.array_equal(np.array(done.label), label)
    assert np.array_equal(np.array(done.image)[..., 0], label / 7 * 9)


@pytest.mark.parametrize("side", SIDES)
def test_label_ids_become_train_ids_and_minus_1(side):
    data, _ = DATA[side]
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    trained = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    wanted = [trained.index(i) if i in trained else -1 for i in range(34)]
    assert data.train_ids(ids).ravel().tolist() == wanted
    with pytest.raises(ValueError, match=r"label ids \[34, 255\] do not exist"):
        data.train_ids(np.array([[255, 34, 7]], dtype=np.uint8))
