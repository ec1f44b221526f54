"""Run the public PSPNet, DeepLabv3, GloRe and GINet beside the twins, with the same weights, and print how far apart.

    python benchmarks/public_dilated.py --semseg PATH --torchvision --paddleseg [--size 65x129] [--depth 50]

PATH is a checkout of github.com/hszhao/semseg; torchvision and paddleseg are imported (0.28.0 and 2.8.0 were tried;
`pip install paddleseg torchvision`, a PYTHONPATH with them will do). Each public network gets seeded weights through
stdc-convert's own code: semseg's and torchvision's are the official names, PaddleSeg's come by the layout
paddleseg-dilated, back from a plan of PaddleSeg's own state dict, so that every key of it must be accounted for.

A figure is max|a-b| / max|reference|, in eval mode, the worst of the network's outputs. Both twins run in float64
beside each other, the public PyTorch networks in float64 beside the PyTorch twin, PaddleSeg's in float32 (GINet's
casts to it) beside the Paddle twin. PaddleSeg's GloRe has the ReLU of its graph convolution behind the second
convolution, the authors' before it: it runs as it is, then with the ReLU moved. Sizes are semseg's: 8k + 1.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import torch

from stdc_parity.converters import families
from stdc_parity.converters.layouts import get_layout
from stdc_parity.converters.plan import apply_plan, choose_architecture, make_plan
from stdc_parity.converters.statedict import find_state_dict
from stdc_parity.fixtures.weights import seeded_weights

Arrays = dict[str, np.ndarray]
Outputs = list[np.ndarray]


def converted(tensors: Arrays, side: Any, target: str | None = None) -> Arrays:
    """What the converter makes of a state dict."""
    state = find_state_dict(tensors)
    architecture = choose_architecture(state.tensors, side, None)
    plan = make_plan(state, architecture, side, target=get_layout(target) if target else None)
    return apply_plan(plan, state.tensors, {})


def run_torch(net: torch.nn.Module, tensors: Arrays, image: np.ndarray, *, keep: bool = True) -> Outputs:
    """The outputs of a PyTorch network in float64."""
    net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})
    with torch.no_grad():
        outs = net.double().eval()(torch.from_numpy(image))
    return [out.numpy() for out in (outs.values() if isinstance(outs, dict) else outs if keep else [outs])]


def run_paddle(net: Any, tensors: Arrays, image: np.ndarray, dtype: str) -> Outputs:
    """The outputs of a Paddle network."""
    net.to(dtype=dtype)
    net.set_state_dict({name: array.astype(dtype) for name, array in tensors.items()})
    net.eval()
    with paddle.no_grad():
        return [out.numpy() for out in net(paddle.to_tensor(image.astype(dtype)))]


def twin(side: str, model: str, **numbers: Any) -> Any:
    """A twin by the name of its pair."""
    network, _, depth = model.partition("-")
    return getattr(importlib.import_module(f"stdc_parity.models_{side}.{network}"), f"{network}_{depth}")(**numbers)


def apart(outs: Outputs, references: Outputs) -> float:
    """The largest difference of any output, of its scale."""
    errors = []
    for out, reference in zip(outs, references, strict=False):  # semseg has no auxiliary output in eval mode
        assert out.shape == reference.shape, (out.shape, reference.shape)
        errors.append(abs(out - reference).max() / abs(reference).max())
    return float(max(errors))


def semseg(root: str, depth: int, image: np.ndarray) -> Iterator[tuple[str, str, float]]:
    """PSPNet of semseg."""
    sys.path.insert(0, root)
    net = importlib.import_module("model.pspnet").PSPNet(layers=depth, classes=19, pretrained=False)
    model = f"pspnet-resnet{depth}"
    tensors = seeded_weights(families.architecture(model))
    ours = run_torch(twin("torch", model), tensors, image)
    yield model, "semseg", apart(ours, run_torch(net, tensors, image, keep=False))


def torchvision(depth: int, image: np.ndarray) -> Iterator[tuple[str, str, float]]:
    """DeepLabv3 of torchvision."""
    ops = torch.library.Library("torchvision", "DEF")  # what its import needs where its binary fits another torch
    for op in ("nms", "qnms"):
        ops.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    segmentation = importlib.import_module("torchvision.models.segmentation")
    net = getattr(segmentation, f"deeplabv3_resnet{depth}")(
        weights=None, weights_backbone=None, aux_loss=True, num_classes=21
    )
    model = f"deeplabv3-resnet{depth}"
    tensors = seeded_weights(families.architecture(model, num_classes=21))
    ours = run_torch(twin("torch", model, num_classes=21), tensors, image)
    yield model, "torchvision", apart(ours, run_torch(net, tensors, image))


def paddleseg(depth: int, image: np.ndarray) -> Iterator[tuple[str, str, float]]:
    """GloRe and GINet of PaddleSeg, with the settings of configs/glore and configs/ginet."""
    models = importlib.import_module("paddleseg.models")
    for network, public, classes in (("glore", models.GloRe, 19), ("ginet", models.GINet, 59)):
        backbone = getattr(models, f"ResNet{depth}_vd")(output_stride=8)
        net, model = public(classes, backbone), f"{network}-resnet{depth}"
        own = {name: np.asarray(tensor) for name, tensor in net.state_dict().items()}
        official = converted(own, "paddle", "official")  # every key of theirs has its place
        rest = {} if network == "glore" else {"presence": False}
        seeded = seeded_weights(families.architecture(model, **rest))
        assert official.keys() == seeded.keys()
        theirs, ours = converted(seeded, "torch", "paddleseg-dilated"), converted(seeded, "torch")
        assert theirs.keys() == own.keys()
        out = run_paddle(twin("paddle", model, **rest), ours, image, "float32")
        yield model, "PaddleSeg", apart(out, run_paddle(net, theirs, image, "float32"))
        if network == "glore":
            gcn = net.head.gru_module.gcn
            gcn.forward = lambda x, gcn=gcn: gcn.conv2(gcn.relu(gcn.conv1(x.mT).mT + x))
            yield model, "PaddleSeg's, its ReLU moved", apart(out, run_paddle(net, theirs, image, "float32"))


def twins(model: str, image: np.ndarray) -> tuple[str, str, float]:
    """The Paddle twin beside the PyTorch twin."""
    tensors = seeded_weights(families.architecture(model))
    ours = run_paddle(twin("paddle", model), converted(tensors, "torch"), image, "float64")
    return model, "the PyTorch twin", apart(ours, run_torch(twin("torch", model), tensors, image))


def main() -> None:
    """Print a line a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--semseg", metavar="PATH", help="a checkout of github.com/hszhao/semseg")
    parser.add_argument("--torchvision", action="store_true")
    parser.add_argument("--paddleseg", action="store_true")
    parser.add_argument("--size", default="65x129")
    parser.add_argument("--depth", type=int, choices=(50, 101), default=50)
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    image = np.random.default_rng(0).standard_normal((1, 3, height, width))
    rows = [twins(f"{network}-resnet{options.depth}", image) for network in ("pspnet", "deeplabv3", "glore", "ginet")]
    if options.semseg:
        rows += semseg(options.semseg, options.depth, image)
    if options.torchvision:
        rows += torchvision(options.depth, image)
    if options.paddleseg:
        rows += paddleseg(options.depth, image)
    for model, other, figure in rows:
        side = "PyTorch" if other in ("semseg", "torchvision") else "Paddle"
        print(f"{model:20} {side:7} twin beside {other:28} {figure:.1e} of scale")


if __name__ == "__main__":
    main()
