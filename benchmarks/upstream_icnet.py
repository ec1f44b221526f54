"""Run the official ICNet and its training code beside both twins in float64 and print how far apart they are.

    python benchmarks/upstream_icnet.py --upstream PATH [--size 128x256] [--batch 2]

PATH is a checkout of github.com/liminn/ICNet-pytorch. Its imports of torchsummary and of a module that it lacks
are stubbed, and that of torchvision's transforms, whose two steps are written down here. The torch twin is compared
with upstream, the
Paddle twin with the torch twin. A figure is max|a-b| / max|reference|, the worst of its tensors, or what it says.
"""

import argparse
import importlib
import random
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch
from PIL import Image
from upstream_nets import load_paddle, paddle_name, randomise_norms

from stdc_parity.fixtures.scenes import scene, write_scenes
from stdc_parity.models_paddle import icnet as paddle_icnet
from stdc_parity.models_paddle import icnet_data as paddle_data
from stdc_parity.models_paddle import icnet_losses as paddle_losses
from stdc_parity.models_paddle import icnet_metrics as paddle_metrics
from stdc_parity.models_paddle import icnet_optim as paddle_optim
from stdc_parity.models_paddle import icnet_transforms as paddle_transforms
from stdc_parity.models_torch import icnet as torch_icnet
from stdc_parity.models_torch import icnet_data as torch_data
from stdc_parity.models_torch import icnet_losses as torch_losses
from stdc_parity.models_torch import icnet_metrics as torch_metrics
from stdc_parity.models_torch import icnet_optim as torch_optim
from stdc_parity.models_torch import icnet_transforms as torch_transforms
from stdc_parity.models_torch.transforms import MEAN, STD, choice_key

Arrays = dict[str, np.ndarray]
SIZES = ((64, 128), (97, 161), (200, 336), (512, 1024))
Row = Callable[..., None]


def to_tensor(image: Image.Image) -> torch.Tensor:
    """torchvision's ToTensor and Normalize, as dataset/cityscapes.py calls them."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    return pixels.sub(torch.tensor(MEAN)[:, None, None]).div(torch.tensor(STD)[:, None, None])


def load_upstream(root: Path) -> dict[str, Any]:
    """Import upstream's modules by name."""
    summary, transforms, vision = (types.ModuleType(n) for n in ("torchsummary", "transforms", "torchvision"))
    summary.summary = None
    transforms.Compose = lambda steps: to_tensor
    transforms.ToTensor = lambda: None
    transforms.Normalize = lambda mean, std: None
    vision.transforms = transforms
    sys.modules |= {"torchsummary": summary, "torchvision": vision}
    sys.modules["dataset.customization"] = types.ModuleType("customization")  # imported, and not published
    sys.modules["dataset.customization"].CustomizedDataset = None
    sys.path.insert(0, str(root))
    names = ("models.icnet", "models.base_models.resnetv1b", "dataset.cityscapes")
    modules = {name: importlib.import_module(name) for name in names}
    for name in ("loss", "metric", "lr_scheduler"):  # utils/__init__.py imports more than is needed
        spec = importlib.util.spec_from_file_location(f"upstream_{name}", root / "utils" / f"{name}.py")
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    for name in ("torchsummary", "torchvision"):
        del sys.modules[name]
    return modules


def gap(a: Any, reference: Any) -> float:
    """max|a-b| / max|reference|."""
    a, reference = np.asarray(a, np.float64), np.asarray(reference, np.float64)
    assert a.shape == reference.shape, (a.shape, reference.shape)
    return float(np.abs(a - reference).max() / max(np.abs(reference).max(), 1e-300))


def worst(a: Arrays, reference: Arrays) -> float:
    """The largest gap of several arrays."""
    assert a.keys() == reference.keys(), a.keys() ^ reference.keys()
    return max(gap(a[name], reference[name]) for name in reference)


def labels_of(size: tuple[int, int], count: int = 2) -> np.ndarray:
    """Train ids and -1 of scenes: int64 (count, h, w)."""
    return np.stack([torch_data.train_ids(scene(0, index, size)[1]) for index in range(count)])


def numpy_of(value: Any) -> np.ndarray:
    """A copy of a tensor of either framework."""
    return value.detach().numpy().copy()


def observe(net: Any, loss: Any, image: np.ndarray, labels: np.ndarray, train: bool) -> dict[str, Arrays]:
    """One forward and one backward pass from the loss: outputs, gradients, statistics by Paddle's names."""
    is_paddle = isinstance(net, paddle.nn.Layer)
    tensor = paddle.to_tensor if is_paddle else torch.from_numpy
    (net.train if train else net.eval)()
    outs = net(tensor(image))
    total = loss(outs, tensor(labels))
    total = total[0] if isinstance(total, tuple) else total
    total.backward()
    grads = {n: numpy_of(p.grad) for n, p in net.named_parameters() if p.grad is not None}
    found = {
        "outputs": {str(i): numpy_of(out) for i, out in enumerate(outs)},
        "loss": {"total": numpy_of(total)},
        "gradients": {name: grad for name, grad in grads.items() if grad.any()},
    }
    if train:
        state = {n if is_paddle else paddle_name(n): value for n, value in net.state_dict().items()}
        ends = ("_mean", "_variance")
        found["running statistics"] = {n: numpy_of(v) for n, v in state.items() if n.endswith(ends)}
    for param in net.parameters():
        if is_paddle:
            param.clear_gradient()
        else:
            param.grad = None
    return found


def compare_networks(up: dict[str, Any], row: Row, image: np.ndarray, labels: np.ndarray) -> None:
    """Both forms: fresh weights, then all of `observe` in both modes."""
    for form in ("v1b", "v1s"):
        build = getattr(up["models.base_models.resnetv1b"], f"resnet50_{form}")
        importlib.import_module("models.segbase").resnet50_v1s = build
        torch.manual_seed(0)
        reference = up["models.icnet"].ICNet(pretrained_base=False)
        torch.manual_seed(0)
        twin = getattr(torch_icnet, f"icnet_resnet50_{form}")()
        fresh, state = twin.state_dict(), reference.state_dict()
        same = list(fresh) == list(state) and all(torch.equal(fresh[k], v) for k, v in state.items())
        print(f"{form}: fresh weights from one seed are {'' if same else 'NOT '}upstream's, key by key")
        reference.double()
        randomise_norms(reference)
        state = {name: value.clone() for name, value in reference.state_dict().items()}
        twin.double().load_state_dict(state)
        pair = getattr(paddle_icnet, f"icnet_resnet50_{form}")()
        pair.to(dtype="float64")
        load_paddle(pair, state)
        losses = (up["loss"].ICNetLoss(), torch_losses.ICNetLoss(), paddle_losses.ICNetLoss())
        for train in (False, True):
            theirs, ours, paddles = (
                observe(net, loss, image, labels, train)
                for net, loss in zip((reference, twin, pair), losses, strict=True)
            )
            for part in theirs:
                name = f"icnet {form} {'train' if train else 'eval'} {part}"
                row(name, worst(ours[part], theirs[part]), worst(paddles[part], ours[part]))
        own, paddle_icnet.resize = paddle_icnet.resize, by_kernel
        kernels = observe(pair, losses[2], image, labels, True)["outputs"]
        paddle_icnet.resize = own
        row(f"icnet {form} train outputs, by Paddle's own resizing", 0.0, worst(kernels, ours["outputs"]))


def by_kernel(x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Paddle's bilinear interpolation between aligned corners."""
    return paddle.nn.functional.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def compare_losses(up: dict[str, Any], row: Row) -> None:
    """The loss and the gradients of logits on scenes; how many resized labels differ, and how many are no scene's."""
    rng = np.random.default_rng(0)
    for size in SIZES:
        labels = labels_of(size)
        outputs = [rng.standard_normal((2, 19, *(-(-s // d) for s in size))) for d in (1, 4, 8, 16)]
        found = []
        for loss, framework in (
            (up["loss"].ICNetLoss(), torch),
            (torch_losses.ICNetLoss(), torch),
            (paddle_losses.ICNetLoss(), paddle),
        ):
            tensor = paddle.to_tensor if framework is paddle else torch.tensor
            given = [tensor(each) for each in outputs]
            for each in given:
                each.stop_gradient = False
                each.requires_grad = True
            total = loss(given, tensor(labels))
            total = total[0] if isinstance(total, tuple) else total
            total.backward()
            grads = {str(i): numpy_of(each.grad) for i, each in enumerate(given) if each.grad is not None}
            found.append({"total": numpy_of(total), **grads})
        row(f"loss and its gradients, {size[0]}x{size[1]}", worst(found[1], found[0]), worst(found[2], found[1]))
        off = [0, 0]
        for out in outputs[1:]:
            x = torch.tensor(labels)[:, None].float()
            height, width = out.shape[2:]
            wanted = torch.nn.functional.interpolate(x, (height, width), mode="bilinear", align_corners=True)
            wanted = wanted[:, 0].long().numpy()
            off[0] += int((torch_losses.resized_labels(labels, height, width) != wanted).sum())
            off[1] += int((paddle_losses.resized_labels(labels, height, width) != wanted).sum())
        row(f"resized labels that differ, {size[0]}x{size[1]}", *map(float, off))


def compare_dtypes(row: Row, size: tuple[int, int] = (960, 960)) -> None:
    """The share of labels at each stride that Paddle's float64 kernel makes another class: of 13, and of scenes."""
    for name, labels in (("class 13", np.full((1, *size), 13)), ("scenes", labels_of(size, 4))):
        for stride in (4, 8, 16):
            height, width = (side // stride for side in size)
            wide = by_kernel(paddle.to_tensor(labels[:, None].astype("float64")), height, width)
            off = torch_losses.resized_labels(labels, height, width) != np.trunc(wide.numpy()[:, 0])
            row(f"labels of {name} that Paddle resizes otherwise in float64, 1/{stride}", off.mean(), 0.0)


def compare_metric(up: dict[str, Any], row: Row) -> None:
    """Both figures after each of three batches; upstream's mean IoU is float32."""
    rng = np.random.default_rng(1)
    for size in SIZES[:3]:
        metrics = (
            up["metric"].SegmentationMetric(19),
            torch_metrics.SegmentationMetric(),
            paddle_metrics.SegmentationMetric(),
        )
        off, twins = [0.0, 0.0], [0.0, 0.0]
        for _ in range(3):
            logits, labels = 1.5 * rng.standard_normal((2, 19, *size)), labels_of(size)
            for metric, tensor in zip(metrics, (torch.tensor, torch.tensor, paddle.to_tensor), strict=True):
                metric.update(tensor(logits), tensor(labels))
            theirs, ours, paddles = (metric.get() for metric in metrics)
            off = [max(was, abs(a - b)) for was, a, b in zip(off, ours, theirs, strict=True)]
            twins = [max(was, abs(a - b)) for was, a, b in zip(twins, paddles, ours, strict=True)]
        for name, a, b in zip(("pixel accuracy", "mean IoU"), off, twins, strict=True):
            row(f"{name}, absolute, {size[0]}x{size[1]}", a, b)


def compare_training(up: dict[str, Any], row: Row, steps: int = 30) -> None:
    """Parameters, momentum and learning rates of upstream's optimizer and schedule over a short run."""
    from stdc_parity.models_paddle.resnet import ResNet as PaddleResNet
    from stdc_parity.models_torch.resnet import ResNet as TorchResNet

    torch.manual_seed(0)
    layers, base = (1, 1, 1, 1), 4
    nets = [torch_icnet.ICNet(TorchResNet(layers, base, 5), 19, base).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    pair = paddle_icnet.ICNet(PaddleResNet(layers, base, 5), 19, base)
    pair.to(dtype="float64")
    load_paddle(pair, nets[0].state_dict())
    rate = 1e-2
    groups = [{"params": nets[0].pretrained.parameters(), "lr": rate}]
    groups += [{"params": getattr(nets[0], m).parameters(), "lr": rate * 10} for m in ("conv_sub1", "head")]
    reference = torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=1e-4)
    poly = up["lr_scheduler"].IterationPolyLR(reference, max_iters=steps, power=0.9)
    ours = torch_optim.build_optimizer(nets[1], max_iter=steps)
    theirs = paddle_optim.build_optimizer(pair, max_iter=steps)
    rng = np.random.default_rng(2)
    rates = []
    for _ in range(steps):
        poly.step()
        for optimizer in (reference, ours, theirs):
            optimizer.zero_grad()
        for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
            if ".fc." in name:  # no forward pass uses it
                continue
            value = rng.standard_normal(tuple(a.shape))
            a.grad, b.grad = torch.tensor(value), torch.tensor(value)
            (dict(pair.named_parameters())[name] * paddle.to_tensor(value)).sum().backward()
        for optimizer in (reference, ours, theirs):
            optimizer.step()
        each = [[group["lr"] for group in reference.param_groups]]
        rates.append(each + [list(o.learning_rates().values()) for o in (ours, theirs)])
    values = [{n: numpy_of(p) for n, p in net.named_parameters() if ".fc." not in n} for net in nets]
    paddles = {n: numpy_of(p) for n, p in pair.named_parameters() if n in values[0]}
    row(f"parameters after {steps} steps", worst(values[1], values[0]), worst(paddles, values[1]))
    table = np.array(rates)
    row("effective learning rates", gap(table[:, 1], table[:, 0]), gap(table[:, 2], table[:, 1]))


def compare_data(up: dict[str, Any], row: Row, count: int = 20) -> None:
    """Training samples under the same seeds, and the class key: values that differ."""
    dataset = up["dataset.cityscapes"].CityscapesDataset
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(folder, count, (96, 192), split="train")
        for base_size, crop in ((96, 90), (64, 120), (200, 90)):
            theirs = dataset(folder, "train", base_size, crop)
            given = dict(zip(theirs.images, theirs.mask_paths, strict=True))
            sides = [
                data.Cityscapes(folder, "train", transforms.training_steps(base_size, crop), seed=5)
                for data, transforms in ((torch_data, torch_transforms), (paddle_data, paddle_transforms))
            ]
            off, twins = 0, 0
            for index, (image, label) in enumerate(sides[0].pairs):
                theirs.images, theirs.mask_paths = [str(image)], [given[str(image)]]
                assert given[str(image)] == str(label)
                random.seed(choice_key(5, 0, index))
                wanted = theirs[0]
                a, b = (side[index] for side in sides)
                off += int((a[0] != wanted[0].numpy()).sum() + (a[1][0] != wanted[1].numpy()).sum())
                twins += sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))
            row(f"training samples, base {base_size}, crop {crop}, values that differ", float(off), float(twins))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upstream", type=Path, required=True, help="checkout of liminn/ICNet-pytorch")
    parser.add_argument("--size", default="128x256", help="image size of the networks, HxW")
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    size = tuple(map(int, options.size.split("x")))
    image = np.random.default_rng(0).standard_normal((options.batch, 3, *size))
    up = load_upstream(options.upstream)

    def row(name: str, upstream: float, twins: float) -> None:
        print(f"{name:62}{upstream:10.1e}{twins:10.1e}", flush=True)

    print(f"{'':62}{'upstream':>10}{'twins':>10}")
    compare_networks(up, row, image, labels_of(size, options.batch))
    compare_losses(up, row)
    compare_dtypes(row)
    compare_metric(up, row)
    compare_training(up, row)
    compare_data(up, row)


if __name__ == "__main__":
    main()
