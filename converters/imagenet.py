"""ResNet-50 and ResNet-101 with their ImageNet classifier, as torchvision and gluoncv have them.

The names are those of models/base_models/resnetv1b.py in liminn/ICNet-pytorch; v1b's are torchvision's too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from stdc_parity.converters.architecture import Architecture, Side
from stdc_parity.converters.resnet import LAYERS, Form, backbone, linear, norms

NAME = "resnet"
MODELS = tuple(f"{depth}-{form}" for depth in LAYERS for form in get_args(Form))
LOSS_SHAPES: Mapping[str, tuple[int, ...]] = {}
WHOSE = {"official": "torchvision and liminn/ICNet-pytorch", "paddle": "our Paddle twin"}


def architecture(
    model: str, *, num_classes: int | None = None, base: int = 64, imagenet_head: bool = True
) -> Architecture:
    """The network called `model` ("resnet50-v1s", …), by default with 1000 classes; a backbone alone has none.

    Raises KeyError for another name.
    """
    depth, _, form = model.partition("-")
    if form not in get_args(Form):
        raise KeyError(model)
    classes = 1000 if num_classes is None else num_classes
    tensors = dict(backbone("", LAYERS[depth], base, form))  # type: ignore[arg-type]
    if imagenet_head:
        tensors |= linear("fc", base * 32, classes)
    words = [f"{classes} classes"] if imagenet_head else []
    return Architecture(
        name=model,
        facts={
            "num_classes": classes if imagenet_head else 0,
            "base": base,
            "imagenet_head": imagenet_head,
        },
        tensors=tensors,
        aliases={},
        abn_norms=frozenset(),
        other_norms=norms(tensors),
        family=NAME,
        words=(*words, f"base {base}", f"with{'' if imagenet_head else 'out'} ImageNet head"),
        whose=WHOSE,
    )


def every_tensor(model: str) -> Architecture:
    """The network with all tensors that it may have."""
    return architecture(model)


def recognise(shapes: Mapping[str, tuple[int, ...]], side: Side) -> Architecture | None:
    """The network whose names these are, or None. Names decide; shapes only tell classes and width."""
    found = find_backbone(shapes, "")
    if found is None:
        return None
    model, base = found
    classifier = shapes.get("fc.weight", ())
    classes = classifier[0 if side == "torch" else -1] if len(classifier) == 2 else None
    head = any(key.startswith("fc.") for key in shapes)
    return architecture(model, num_classes=classes, base=base, imagenet_head=head)


def find_backbone(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> tuple[str, int] | None:
    """The model whose tensors stand behind `prefix`, and its width; None if there is none."""
    first = shapes.get(f"{prefix}layer1.0.conv1.weight", ())
    stem = [name for name in ("conv1.weight", "conv1.0.weight") if prefix + name in shapes]
    third = {key[len(prefix) :].split(".")[1] for key in shapes if key.startswith(f"{prefix}layer3.")}
    depth = next((name for name, layers in LAYERS.items() if third == {str(i) for i in range(layers[2])}), None)
    if len(first) != 4 or len(stem) != 1 or depth is None:
        return None
    pooled = f"{prefix}layer1.0.downsample.2.weight" in shapes
    form = "v1b" if stem == ["conv1.weight"] else "v1d" if pooled else "v1s"
    return f"{depth}-{form}", first[0]


def training_orders(
    architecture: Architecture, names: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], ...]]:
    """None: no recipe of ours trains it."""
    del architecture, names
    yield from ()
