"""PSPNet, DeepLabv3, GloRe and GINet on ResNet-50 and ResNet-101 as pairs of our own twins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stdc_parity.align.pair import DataPart, Floor, LossPart, MetricPart, OptimizerPart, Pair, Place, Recipe
from stdc_parity.align.pairs.cityscapes import open_cityscapes, write_cityscapes
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters import dilated
from stdc_parity.converters.architecture import Architecture
from stdc_parity.converters.resnet import LAYERS
from stdc_parity.fixtures.scenes import write_context_scenes

NAMES = dilated.MODELS

HEADS: Mapping[str, tuple[str, ...]] = {
    "pspnet": (*(f"ppm.features.{i}" for i in range(4)), "ppm", "cls", "aux"),
    "deeplabv3": (
        *(f"classifier.0.convs.{i}" for i in range(5)), "classifier.0", "classifier", "aux_classifier",
    ),
    "glore": ("classifier.2", "classifier.3.gcn", "classifier.3", "classifier", "aux_classifier"),
    "ginet": (
        "jpu.conv5", "jpu.conv4", "jpu.conv3", *(f"jpu.dilation{i}" for i in range(1, 5)), "jpu",
        "head.fc2", "head.conv5", "head.gloru.graph", "head.gloru", "head.conv6", "head", "auxlayer",
    ),
}  # fmt: skip
"""The stages behind the backbone's blocks."""

WEIGHTS: Mapping[str, Mapping[str, object]] = {
    "pspnet": {"weights": (1.0, 0.4)},
    "deeplabv3": {"weights": (1.0, 0.5)},
    "glore": {"weights": (1.0, 0.4)},
    "ginet": {"weights": (1.0, 0.4)},
}
"""Of the main and the auxiliary head: semseg's config/ (the paper's section 5.1), torchvision's
references/segmentation/train.py, and PaddleSeg's configs/glore and configs/ginet."""

PRESENCE = 0.2
"""The weight of GINet's semantic context loss: that of the like loss of class presence in wuhuikai/FastFCN, whose
code GINet builds on. PaddleSeg's port trains without."""

BILINEAR = "Paddle computes bilinear interpolation ratios in float32 even for float64 tensors"
AVGPOOL = "the gradients of Paddle's average pools divide in float32"
BEHIND: Mapping[str, str] = {"pspnet": r"ppm(?!\.features)|cls", "deeplabv3": r"classifier(?!\.0\.convs)"}
"""The modules that resize inside, and those behind them; in the other networks only the outputs are resized."""


def floors(network: str) -> tuple[Floor, ...]:
    """What remains between the frameworks in float64; the first pattern that matches a tap counts."""
    behind = f"|{BEHIND[network]}" if network in BEHIND else ""
    return (
        Floor(rf"(logits|aux_logits{behind}).*", 2e-5, BILINEAR),
        Floor(r"main|aux|total|loss .*", 2e-5, BILINEAR),
        Floor(r"grad .*", 5e-5, BILINEAR),
        Floor(rf"own grad (network|loss{behind}).*", 5e-5, BILINEAR),
        Floor(r"own grad .*", 1e-7, AVGPOOL),
    )


def pair(name: str, architecture: Architecture | None = None, base: int = 64) -> Pair:
    """The pair called `name`, with the numbers of `architecture` if a checkpoint gave one."""
    network, _, depth = name.partition("-")
    full = architecture if architecture is not None and architecture.name == name else None
    full = full or dilated.architecture(name, base=base)
    prefix = dilated.NETWORKS[network].prefix
    stem = "layer0" if network == "pspnet" else "backbone.maxpool"
    blocks = [
        f"{prefix}layer{stage}.{block}" for stage, count in enumerate(LAYERS[depth], 1) for block in range(count)
    ]
    presence = bool(full.facts.get("presence", False))
    return Pair(
        name=name,
        builders=_ours(f"{network}:{network}_{depth}"),
        architecture=full,
        outputs=("logits", "aux_logits", *(["presence"] if presence else [])),
        stages=(stem, *blocks, *HEADS[network]),
        arguments={fact: value for fact, value in full.facts.items() if fact != "backbone"},
        floors=floors(network),
        recipe=recipe(network, int(full.facts["num_classes"]), presence=presence),
    )


def recipe(network: str, classes: int, *, presence: bool) -> Recipe:
    """The recipe that the networks share, semseg's: momentum SGD, all parameters decay, the heads ten times as fast,
    a polynomial schedule without warm-up (config/cityscapes, tool/train.py; 200 epochs of 185 batches).

    GINet is trained on Pascal Context, the others on Cityscapes.
    """
    weights = {**WEIGHTS[network], **({"presence": PRESENCE} if presence else {})}
    data = DataPart(_ours("data"), _ours("transforms"), write_cityscapes, open_cityscapes)
    if network == "ginet":
        data = DataPart(_ours("data"), _ours("transforms"), _write_context, _open_context)
    return Recipe(
        loss=LossPart(_ours("heads_loss:HeadsLoss"), weights),
        optimizer=OptimizerPart(
            _ours("optim:build_optimizer"), 1e-2, 37_000, {**SETTINGS, "max_iter": 37_000}, _short_run
        ),
        metric=MetricPart(_ours("metrics")),
        data=data,
        num_classes=classes,
    )


SETTINGS: Mapping[str, object] = {"weight_decay": 1e-4, "warmup_steps": 0}


def _short_run(lr: float, warmup: int, iterations: int) -> Mapping[str, object]:
    del warmup  # there is none
    return {**SETTINGS, "lr0": lr, "max_iter": iterations}


def _ours(where: str) -> Place:
    return {"torch": f"stdc_parity.models_torch.{where}", "paddle": f"stdc_parity.models_paddle.{where}"}


def _write_context(folder: str, spec: RunSpec, count: int, split: str) -> None:
    write_context_scenes(folder, count, spec.size, spec.seed, split)


def _open_context(data: Any, transforms: Any, folder: str, spec: RunSpec) -> Mapping[str, Any]:
    """The seeded scenes in Pascal Context's layout: without the background as a class, and with it."""
    height, width = spec.size
    crop = (max(32, width // 2), max(32, height // 2))  # (width, height)
    return {
        "train": data.PascalContext(folder, "train", 59, transforms.training_steps(crop), spec.seed),
        "val": data.PascalContext(folder, "val", 59, seed=spec.seed),
        "val.60": data.PascalContext(folder, "val", 60, seed=spec.seed),
    }
