"""ResNets with their ImageNet classifier as pairs of our own twins."""

from __future__ import annotations

from stdc_parity.align.pair import Pair
from stdc_parity.converters import imagenet
from stdc_parity.converters.architecture import Architecture
from stdc_parity.converters.resnet import LAYERS

NAMES = imagenet.MODELS


def pair(name: str, architecture: Architecture | None = None, base: int = 64) -> Pair:
    """The pair called `name`, with the numbers of `architecture` if a checkpoint gave one."""
    facts = architecture.facts if architecture is not None and architecture.name == name else {}
    base, classes = int(facts.get("base", base)), int(facts.get("num_classes", 0)) or 1000
    layers = LAYERS[name.partition("-")[0]]
    blocks = (f"layer{stage}.{block}" for stage, count in enumerate(layers, 1) for block in range(count))
    factory = f"resnet:{name.replace('-', '_')}"
    return Pair(
        name=name,
        builders={
            "torch": f"stdc_parity.models_torch.{factory}",
            "paddle": f"stdc_parity.models_paddle.{factory}",
        },
        architecture=imagenet.architecture(name, num_classes=classes, base=base),
        outputs=("logits",),
        stages=("maxpool", *blocks, "fc"),
        size=(224, 224),
        method="forward_impl",
        arguments={"base": base, "num_classes": classes, "output_stride": 32},
    )
