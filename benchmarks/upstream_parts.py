"""Run upstream's losses, optimizer, metrics and transforms beside both twins' and print the gaps.

    python benchmarks/upstream_parts.py --upstream PATH

PATH is a checkout of github.com/MichaelFan01/STDC-Seg. Its imports that are not needed are stubbed, `.cuda()`
does nothing, and `torch.cuda.FloatTensor` means float64 on the CPU (float32 where the table says so). A
figure is max|a-b| / max|reference|; "upstream" compares the torch twin with upstream, "twins" Paddle with
torch.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch
from PIL import Image

from stdc_parity.fixtures.scenes import scene, write_scenes
from stdc_parity.models_paddle import data as paddle_data
from stdc_parity.models_paddle import losses as paddle_losses
from stdc_parity.models_paddle import metrics as paddle_metrics
from stdc_parity.models_paddle import optim as paddle_optim
from stdc_parity.models_paddle import transforms as paddle_transforms
from stdc_parity.models_torch import data as torch_data
from stdc_parity.models_torch import losses as torch_losses
from stdc_parity.models_torch import metrics as torch_metrics
from stdc_parity.models_torch import optim as torch_optim
from stdc_parity.models_torch import transforms as torch_transforms

Arrays = dict[str, np.ndarray]
SIZES = ((64, 128), (97, 161), (50, 75))
#: A kernel without the knife edge at 0.1, so that the losses are compared away from it.
KERNEL = (0.55, 0.33, 0.12)


def load_upstream(root: Path) -> dict[str, Any]:
    """Import upstream's modules by name; what they import and do not need is stubbed."""
    stubs = (
        "cv2",
        "torchvision",
        "torchvision.transforms",
        "tqdm",
        "logger",
        "models",
        "models.model_stages",
    )
    known = {name: sys.modules.get(name) for name in stubs}
    sys.modules |= {name: types.ModuleType(name) for name in stubs}
    stub: Any = sys.modules
    stub["tqdm"].tqdm = lambda items: items
    stub["logger"].setup_logger = lambda path: None
    stub["models.model_stages"].BiSeNet = None
    torch.Tensor.cuda = lambda self: self
    sys.path.insert(0, str(root))
    names = ("loss.loss", "loss.detail_loss", "optimizer_loss", "evaluation", "transform")
    modules = {name: importlib.import_module(name) for name in names}
    for name in stubs:  # torch looks for tqdm later
        del sys.modules[name]
    sys.modules |= {name: module for name, module in known.items() if module}
    return modules


def gap(a: np.ndarray, reference: np.ndarray) -> float:
    """max|a-b| / max|reference|."""
    a, reference = np.asarray(a, np.float64), np.asarray(reference, np.float64)
    return float(np.abs(a - reference).max() / max(np.abs(reference).max(), 1e-300))


def worst(a: Arrays, reference: Arrays) -> float:
    """The largest gap of several arrays."""
    assert a.keys() == reference.keys(), a.keys() ^ reference.keys()
    return max(gap(a[name], reference[name]) for name in reference)


def labels_of(size: tuple[int, int], count: int = 2) -> np.ndarray:
    """Train ids of scenes: int64 (count, h, w)."""
    return np.stack([torch_data.train_ids(scene(0, index, size)[1]) for index in range(count)])


def observe_loss(loss: Any, logits: np.ndarray, labels: np.ndarray, framework: Any) -> Arrays:
    """Values of a loss, and the gradients of logits and fuse kernel."""
    tensor = framework.to_tensor if framework is paddle else torch.tensor
    x = tensor(logits)
    if framework is paddle:
        x.stop_gradient = False
    else:
        x.requires_grad_()
    values = loss(x, tensor(labels))
    values = values if isinstance(values, tuple) else (values,)
    (values[0] + values[-1] if len(values) > 1 else values[0]).backward()
    found = {f"value{index}": value.detach().numpy() for index, value in enumerate(values)}
    found["gradient"] = x.grad.numpy()
    if hasattr(loss, "fuse_kernel"):
        found["fuse gradient + 1"] = 1 + loss.fuse_kernel.grad.numpy()  # absent would be an error
    return found


def loss_cases(up: dict[str, Any]) -> Iterator[tuple[str, Any, Any, Any, bool]]:
    """(name, upstream's, torch's, Paddle's, whether it is the detail loss)."""
    ohem = up["loss.loss"].OhemCELoss
    for name, thresh, share in (("few hard", 0.7, 4), ("many hard", 0.7, 16), ("all easy", 1e-4, 16)):
        for size in SIZES:
            n_min = 2 * size[0] * size[1] // share
            yield (
                f"ohem, {name}, {size[0]}x{size[1]}",
                (ohem(thresh, n_min), size),
                torch_losses.OhemCELoss(thresh, n_min),
                paddle_losses.OhemCELoss(thresh, n_min),
                False,
            )
    weigh = up["loss.loss"].enet_weighing
    up["loss.loss"].enet_weighing = lambda labels, count: weigh(labels, count).double()
    up["loss.loss"].FocalLoss = up["loss.loss"].SoftmaxFocalLoss  # what its constructor calls itself
    for size in SIZES:
        n_min = 2 * size[0] * size[1] // 16
        yield (
            f"weighted ohem, nothing ignored, {size[0]}x{size[1]}",
            (up["loss.loss"].WeightedOhemCELoss(0.7, n_min, 19), size),
            torch_losses.WeightedOhemCELoss(0.7, n_min),
            paddle_losses.WeightedOhemCELoss(0.7, n_min),
            False,
        )
        yield (
            f"focal, {size[0]}x{size[1]}",
            (up["loss.loss"].SoftmaxFocalLoss(2.0), size),
            torch_losses.SoftmaxFocalLoss(2.0),
            paddle_losses.SoftmaxFocalLoss(2.0),
            False,
        )
    for size in SIZES:
        detail = up["loss.detail_loss"].DetailAggregateLoss()
        ours, theirs = torch_losses.DetailAggregateLoss().double(), paddle_losses.DetailAggregateLoss()
        theirs.to(dtype="float64")
        kernel = np.reshape(KERNEL, (1, 3, 1, 1))
        detail.fuse_kernel.data.copy_(torch.tensor(kernel))
        ours.fuse_kernel.data.copy_(torch.tensor(kernel))
        theirs.fuse_kernel.set_value(kernel)
        yield f"detail, {size[0]}x{size[1]}", (detail, size), ours, theirs, True


def compare_losses(up: dict[str, Any], row: Callable[..., None]) -> None:
    """OHEM and detail losses, values and gradients, in float64."""
    rng = np.random.default_rng(0)
    torch.cuda.FloatTensor = torch.DoubleTensor
    for name, (upstream, size), ours, theirs, is_detail in loss_cases(up):
        labels = labels_of(size)
        if "weighted" in name:  # upstream fails with ignored pixels
            labels[labels == 255] = 0
        if is_detail:
            shapes = [(2, 1, *size), (2, 1, -(-size[0] // 8), -(-size[1] // 8))]
        else:
            shapes = [(2, 19, *size)]
        for shape in shapes:
            logits = 3 * rng.standard_normal(shape)
            if "few" in name:
                logits += 12 * (np.arange(19)[:, None, None] == np.where(labels == 255, 0, labels)[:, None])
            reference = observe_loss(upstream, logits, labels, torch)
            torch_side = observe_loss(ours, logits, labels, torch)
            paddle_side = observe_loss(theirs, logits, labels, paddle)
            note = "" if shape[-2:] == size else f" from {shape[2]}x{shape[3]}"
            row(f"{name}{note}", worst(torch_side, reference), worst(paddle_side, torch_side))


def compare_targets(up: dict[str, Any], row: Callable[..., None]) -> None:
    """The detail targets with the published kernel: ours against upstream's in both dtypes."""
    torch.cuda.FloatTensor = torch.FloatTensor
    upstream = up["loss.detail_loss"].DetailAggregateLoss()
    seen: list[torch.Tensor] = []
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    functional: Any = up["loss.detail_loss"].F

    def watched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets)
        return bce(logits, targets)

    functional.binary_cross_entropy_with_logits = watched
    for size in SIZES:
        labels = labels_of(size)
        results = []
        for dtype in (torch.FloatTensor, torch.DoubleTensor):
            torch.cuda.FloatTensor = dtype
            upstream.laplacian_kernel = upstream.laplacian_kernel.type(dtype)
            upstream.fuse_kernel.data = upstream.fuse_kernel.data.type(dtype)
            logits = torch.zeros(2, 1, *size).type(dtype)
            upstream(logits, torch.tensor(labels))
            results.append(seen[-1].detach().numpy())
        for upstreams, dtype in zip(results, ("float32", "float64"), strict=True):
            ours, theirs = torch_losses.DetailAggregateLoss(), paddle_losses.DetailAggregateLoss()
            ours.to(getattr(torch, dtype)), theirs.to(dtype=dtype)
            a = ours.targets(torch.tensor(labels)).detach().numpy()
            b = theirs.targets(paddle.to_tensor(labels)).numpy()
            row(f"detail targets {dtype}, {size[0]}x{size[1]}", gap(a, upstreams), gap(b, a))
    functional.binary_cross_entropy_with_logits = bce


class Small(torch.nn.Module):
    """Something with upstream's parameter groups."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.randn(5, 4, dtype=torch.float64) for _ in range(4))

    def get_params(self, backbone_norms: bool = True) -> tuple[list[torch.nn.Parameter], ...]:
        """One parameter a group."""
        del backbone_norms
        first, second, third, fourth = self.weights
        return [first], [second], [third], [fourth]


class SmallPaddle(paddle.nn.Layer):
    """The same in Paddle, with the same values."""

    def __init__(self, source: Small) -> None:
        super().__init__()
        self.weights = paddle.nn.ParameterList(
            [self.create_parameter((5, 4), dtype="float64") for _ in source.weights]
        )
        for mine, its in zip(self.weights, source.weights, strict=True):
            mine.set_value(its.detach().numpy())

    def get_params(self, backbone_norms: bool = True) -> tuple[list[paddle.Tensor], ...]:
        """One parameter a group."""
        del backbone_norms
        first, second, third, fourth = self.weights
        return [first], [second], [third], [fourth]


def compare_optimizer(up: dict[str, Any], row: Callable[..., None], steps: int = 40) -> None:
    """Parameters and momentum after steps past the end of a short warm-up, and the whole schedule."""
    torch.cuda.FloatTensor = torch.DoubleTensor
    torch.manual_seed(0)
    up_loss = up["loss.detail_loss"].DetailAggregateLoss()
    up_net, net = Small(), Small()
    net.load_state_dict(up_net.state_dict())
    paddle_net = SmallPaddle(net)
    loss, paddle_loss = torch_losses.DetailAggregateLoss().double(), paddle_losses.DetailAggregateLoss()
    paddle_loss.to(dtype="float64")
    numbers: dict[str, Any] = {"warmup_steps": 10, "warmup_start_lr": 1e-5, "max_iter": 60, "power": 0.9}
    reference = up["optimizer_loss"].Optimizer(up_net, up_loss, lr0=1e-2, momentum=0.9, wd=5e-4, **numbers)
    ours = torch_optim.build_optimizer(net, loss, **numbers)
    theirs = paddle_optim.build_optimizer(paddle_net, paddle_loss, **numbers)
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(steps):
        values = [rng.standard_normal((5, 4)) for _ in range(4)] + [np.zeros((1, 3, 1, 1))]
        for optimizer in (reference, ours, theirs):
            optimizer.zero_grad()
        for parameters in ([*up_net.weights, up_loss.fuse_kernel], [*net.weights, loss.fuse_kernel]):
            for parameter, value in zip(parameters, values, strict=True):
                parameter.grad = torch.tensor(value)
        for parameter, value in zip([*paddle_net.weights, paddle_loss.fuse_kernel], values, strict=True):
            (parameter * paddle.to_tensor(value)).sum().backward()
        for optimizer in (reference, ours, theirs):
            optimizer.step()
        rates.append(
            [
                [group["lr"] for group in reference.optim.param_groups],
                list(ours.learning_rates().values()),
                list(theirs.learning_rates().values()),
            ]
        )
    sides = []
    for weights, kernel in (
        (up_net.weights, up_loss.fuse_kernel),
        (net.weights, loss.fuse_kernel),
        (paddle_net.weights, paddle_loss.fuse_kernel),
    ):
        sides.append({str(i): p.detach().numpy() for i, p in enumerate([*weights, kernel])})
    row(f"parameters after {steps} steps", worst(sides[1], sides[0]), worst(sides[2], sides[1]))
    buffers = [s["momentum_buffer"].numpy() for s in reference.optim.state.values()]
    named = [{str(i): b.numpy() for i, b in enumerate(o.momentum_buffers().values())} for o in (ours, theirs)]
    first = {str(i): b for i, b in enumerate(buffers)}
    row(f"momentum after {steps} steps", worst(named[0], first), worst(named[1], named[0]))
    table = np.array(rates)
    row("effective learning rates", gap(table[:, 1], table[:, 0]), gap(table[:, 2], table[:, 1]))
    reference.it, reference.warmup_steps, reference.max_iter = 0, 1000, 60000.0
    reference.warmup_factor = (1e-2 / 1e-5) ** (1.0 / 1000)
    schedule = []
    for it in range(60000):
        reference.it = it
        schedule.append(reference.get_lr())
    a = np.array([torch_optim.learning_rate(it) for it in range(60000)])
    b = np.array([paddle_optim.learning_rate(it) for it in range(60000)])
    relative = np.abs(a / np.array(schedule) - 1).max()
    row("schedule, 60000 iterations (relative)", float(relative), float(np.abs(b / a - 1).max()))


class Net(torch.nn.Module):
    """A convolution; kernel and bias are set from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 19, 5, padding=2, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Logits first, as the network's."""
        return (self.conv(x),)


class NetPaddle(paddle.nn.Layer):
    """The same in Paddle, with the same values."""

    def __init__(self, source: Net) -> None:
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 19, 5, padding=2)
        self.to(dtype="float64")
        self.conv.weight.set_value(source.conv.weight.detach().numpy())
        self.conv.bias.set_value(source.conv.bias.detach().numpy())

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor]:
        """Logits first, as the network's."""
        return (self.conv(x),)


def compare_metrics(up: dict[str, Any], row: Callable[..., None]) -> None:
    """mIoU of single-scale and multi-scale evaluation in float64; twins: pixels counted in another cell."""
    evaluation = up["evaluation"]
    torch.manual_seed(3)
    net = Net()
    paddle_net = NetPaddle(net)
    zeros = torch.zeros
    torch.set_default_dtype(torch.float64)  # upstream's accumulators take the default
    for size in SIZES:
        images = np.random.default_rng(2).standard_normal((2, 3, *size))
        labels = labels_of(size)[:, None]
        torch_loader = [(torch.tensor(images), torch.tensor(labels))]
        paddle_loader = [(paddle.to_tensor(images), paddle.to_tensor(labels))]
        for scale in (0.5, 0.75):
            with torch.no_grad():
                reference = evaluation.MscEvalV0(scale=scale)(net, torch_loader, 19)
            a = torch_metrics.evaluate_single_scale(net, torch_loader, scale=scale)
            b = paddle_metrics.evaluate_single_scale(paddle_net, paddle_loader, scale=scale)
            row(
                f"single scale {scale}, {size[0]}x{size[1]}, mIoU / pixels",
                abs(torch_metrics.mean_iou(a, absent="nan") - reference),
                float(np.abs(a - b).sum() / 2),
            )
        for crop, name in ((40, "crop 40"), (None, "as published")):
            upstream = evaluation.MscEval(net, torch_loader, cropsize=crop or 1024)
            if crop:
                sweep = upstream.scale_crop_eval
                scales = iter(upstream.scales)
                upstream.eval_chip = deferred(upstream, sweep, scales)
            reference = upstream.evaluate()
            a = torch_metrics.evaluate_multi_scale(net, torch_loader, crop=crop)
            b = paddle_metrics.evaluate_multi_scale(paddle_net, paddle_loader, crop=crop)
            row(
                f"multi-scale {name}, {size[0]}x{size[1]}, mIoU / pixels",
                abs(torch_metrics.mean_iou(a, absent="nan") - reference),
                float(np.abs(a - b).sum() / 2),
            )
    torch.set_default_dtype(torch.float32)
    assert torch.zeros is zeros


def deferred(
    upstream: Any, sweep: Callable[..., torch.Tensor], scales: Iterator[float]
) -> Callable[..., Any]:
    """An `eval_chip` that does the line upstream commented out, and is itself when that line calls it."""
    original, busy = upstream.eval_chip, list[bool]()

    def eval_chip(images: torch.Tensor) -> Any:
        if busy:
            return original(images)
        busy.append(True)
        found = sweep(images, next(scales))
        busy.pop()
        return found

    return eval_chip


def compare_data(up: dict[str, Any], row: Callable[..., None], count: int = 30) -> None:
    """Training transforms under the same seeds: grey levels and label pixels that differ."""
    transform = up["transform"]
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(folder, count, (96, 192), split="train")
        for crop in ((64, 32), (192, 96), (200, 60), (64, 128)):
            steps = transform.Compose(
                [
                    transform.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5),
                    transform.HorizontalFlip(),
                    transform.RandomScale(torch_transforms.SCALES),
                    transform.RandomCrop(crop),
                ]
            )
            ours = torch_data.Cityscapes(folder, "train", torch_transforms.training_steps(crop), seed=5)
            theirs = paddle_data.Cityscapes(folder, "train", paddle_transforms.training_steps(crop), seed=5)
            off, twins = 0.0, 0.0
            for index, (image, label) in enumerate(ours.pairs):
                random.seed(torch_transforms.choice_key(5, 0, index))
                done = steps({"im": Image.open(image).convert("RGB"), "lb": Image.open(label)})
                a, b = ours.trace(index), theirs.trace(index)
                for name, key in (("im", "crop.image"), ("lb", "crop.label")):
                    off += float((np.array(done[name]) != a[key]).sum())
                twins += sum(float((a[key] != b[key]).sum()) for key in a)
            row(f"transforms, crop {crop[0]}x{crop[1]}, values that differ", off, twins)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", type=Path, required=True, help="checkout of MichaelFan01/STDC-Seg")
    args = parser.parse_args()
    torch.set_num_threads(1)
    up = load_upstream(args.upstream)

    def row(name: str, upstream: float | None = None, twins: float | None = None) -> None:
        figures = "" if upstream is None else f"{upstream:10.1e} {twins:10.1e}"
        print(f"{name:58}{figures}")

    print(f"{'':58}{'upstream':>10} {'twins':>10}")
    compare_losses(up, row)
    compare_targets(up, row)
    compare_optimizer(up, row)
    compare_metrics(up, row)
    compare_data(up, row)


if __name__ == "__main__":
    main()
