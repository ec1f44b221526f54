"""ICNet on ResNet-50 by its official names: models/icnet.py in liminn/ICNet-pytorch.

pooruss/ICNet-paddle has the same names, so it needs no layout beside our Paddle twin's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stdc_parity.converters.architecture import Architecture, Side
from stdc_parity.converters.imagenet import find_backbone
from stdc_parity.converters.resnet import LAYERS, Form, Tensors, backbone, conv, linear, norm, norms

NAME = "icnet"
DEPTH = "resnet50"
FORMS: tuple[Form, ...] = ("v1b", "v1s")
MODELS = tuple(f"icnet-{DEPTH}-{form}" for form in FORMS)
LOSS_SHAPES: Mapping[str, tuple[int, ...]] = {}
CHILDREN = ("pretrained", "conv_sub1", "head")
"""The modules that have parameters, each a group of upstream's optimizer (train.py)."""

WHOSE = {"official": "liminn/ICNet-pytorch", "paddle": "our Paddle twin; pooruss/ICNet-paddle"}


def architecture(
    model: str,
    *,
    num_classes: int | None = None,
    imagenet_classes: int = 1000,
    base: int = 64,
    imagenet_head: bool = True,
) -> Architecture:
    """The network called `model` ("icnet-resnet50-v1b", "icnet-resnet50-v1s"), by default for 19 classes.

    Upstream's backbone has an ImageNet head of `imagenet_classes`, which no forward pass uses. Raises KeyError
    for another name.
    """
    if model not in MODELS:
        raise KeyError(model)
    form: Form = FORMS[MODELS.index(model)]
    classes = 19 if num_classes is None else num_classes
    tensors = dict(backbone("pretrained.", LAYERS[DEPTH], base, form))
    if imagenet_head:
        tensors |= linear("pretrained.fc", base * 32, imagenet_classes)
    tensors |= _branches(base, classes)
    return Architecture(
        name=model,
        facts={"num_classes": classes, "base": base, "imagenet_head": imagenet_head},
        tensors=tensors,
        aliases={},
        abn_norms=frozenset(),
        other_norms=norms(tensors),
        family=NAME,
        words=(f"{classes} classes", f"base {base}", f"with{'' if imagenet_head else 'out'} ImageNet head"),
        whose=WHOSE,
    )


def every_tensor(model: str) -> Architecture:
    """The network with all tensors that it may have."""
    return architecture(model)


def recognise(shapes: Mapping[str, tuple[int, ...]], side: Side) -> Architecture | None:
    """The network whose names these are, or None. Names decide; shapes only tell classes and width."""
    found = find_backbone(shapes, "pretrained.")
    if found is None or f"icnet-{found[0]}" not in MODELS or not any(k.startswith("head.cff_") for k in shapes):
        return None
    logits, classifier = shapes.get("head.conv_cls.weight", ()), shapes.get("pretrained.fc.weight", ())
    return architecture(
        f"icnet-{found[0]}",
        num_classes=logits[0] if logits else None,
        imagenet_classes=classifier[0 if side == "torch" else -1] if len(classifier) == 2 else 1000,
        base=found[1],
        imagenet_head=any(key.startswith("pretrained.fc.") for key in shapes),
    )


def training_orders(
    architecture: Architecture, names: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Upstream's groups: the backbone, then the two modules that learn ten times as fast."""
    del architecture
    yield tuple(tuple(name for name in names if name.startswith(f"{child}.")) for child in CHILDREN)


def _branches(base: int, classes: int) -> Tensors:
    """The branch of the whole image, both fusions, and the classifier; widths at base 64 are upstream's."""
    half = base // 2
    for number, (width, out) in enumerate(((3, half), (half, half), (half, base))):
        yield from conv(f"conv_sub1.{number}.conv", width, out, 3)
        yield from norm(f"conv_sub1.{number}.bn", out)
    for name, low, high in (("cff_12", base * 2, base), ("cff_24", base * 32, base * 8)):
        path = f"head.{name}"
        yield from conv(f"{path}.conv_low.0", low, base * 2, 3)
        yield from norm(f"{path}.conv_low.1", base * 2)
        yield from conv(f"{path}.conv_high.0", high, base * 2, 1)
        yield from norm(f"{path}.conv_high.1", base * 2)
        yield from conv(f"{path}.conv_low_cls", base * 2, classes, 1)
    yield from conv("head.conv_cls", base * 2, classes, 1)
