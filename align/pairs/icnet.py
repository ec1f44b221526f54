"""ICNet on ResNet-50 as a pair of our own twins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stdc_parity.align.pair import (
    DataPart,
    LossBench,
    LossPart,
    MetricBench,
    MetricPart,
    OptimizerPart,
    Pair,
    Place,
    Recipe,
)
from stdc_parity.align.pairs.cityscapes import write_cityscapes
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters import icnet
from stdc_parity.converters.architecture import Architecture
from stdc_parity.converters.resnet import LAYERS

NAMES = icnet.MODELS

OUTPUTS = ("logits", "logits4", "logits8", "logits16")
IGNORED = -1
ITERATIONS = 200 * 425
"""200 epochs of Cityscapes' 2975 training images in batches of 7 (configs/icnet.yaml of liminn/ICNet-pytorch)."""


def pair(name: str, architecture: Architecture | None = None, base: int = 64) -> Pair:
    """The pair called `name`, with the numbers of `architecture` if a checkpoint gave one."""
    facts = architecture.facts if architecture is not None and architecture.name == name else {}
    base, classes = int(facts.get("base", base)), int(facts.get("num_classes", 19))
    backbone = name.removeprefix("icnet-")
    blocks = tuple(
        f"pretrained.layer{stage}.{block}"
        for stage, count in enumerate(LAYERS[icnet.DEPTH], 1)
        for block in range(count)
    )
    return Pair(
        name=name,
        builders=_ours(f"icnet:{name.replace('-', '_')}"),
        architecture=icnet.architecture(name, num_classes=classes, base=base),
        outputs=OUTPUTS,
        stages=("conv_sub1", *blocks, "ppm", "head.cff_24", "head.cff_12", "head"),
        arguments={"num_classes": classes, "base": base},
        parts={backbone: "pretrained."},
        recipe=recipe(classes),
    )


def recipe(classes: int) -> Recipe:
    """Upstream's recipe (liminn/ICNet-pytorch, train.py, configs/icnet.yaml) for that many classes."""
    return Recipe(
        loss=LossPart(
            _ours("icnet_losses:ICNetLoss"),
            outputs=tuple((classes, stride) for stride in (1, 4, 8, 16)),
            before=_resized_labels,
            follows=((r"sub(\d+)", r"labels at stride .*"),),
        ),
        optimizer=OptimizerPart(
            _ours("icnet_optim:build_optimizer"), 1e-2, ITERATIONS, {"max_iter": ITERATIONS}, _short_run
        ),
        metric=MetricPart(_ours("icnet_metrics"), after=_both_figures),
        data=DataPart(_ours("icnet_data"), _ours("icnet_transforms"), write_cityscapes, _open),
        num_classes=classes,
        ignored=IGNORED,
    )


def _ours(where: str) -> Place:
    return {"torch": f"stdc_parity.models_torch.{where}", "paddle": f"stdc_parity.models_paddle.{where}"}


def _short_run(lr: float, warmup: int, iterations: int) -> Mapping[str, object]:
    """There is no warm-up."""
    return {"lr0": lr, "max_iter": iterations}


def _open(data: Any, transforms: Any, folder: str, spec: RunSpec) -> Mapping[str, Any]:
    """The seeded scenes, written in the Cityscapes layout; the crop is to the shorter side as 960 to 1024."""
    short = min(spec.size)
    steps = transforms.training_steps(short, max(32, 15 * short // 16))
    return {
        "train": data.Cityscapes(folder, "train", steps, spec.seed),
        "val": data.Cityscapes(folder, "val", seed=spec.seed),
    }


def _resized_labels(bench: LossBench) -> None:
    """The labels that each of the trained outputs is held against."""
    target, kind = bench.framework.to_tensor(bench.target), type(bench.loss).__name__
    for stride, logits in zip((4, 8, 16), bench.outputs[1:], strict=True):
        built = bench.loss.targets(bench.framework.to_tensor(logits), target)
        bench.recorder.add(f"labels at stride {stride}", "target", "loss.targets", kind, built)


def _both_figures(bench: MetricBench) -> None:
    """Upstream's metric, whose pixel accuracy cuts the logits to whole numbers first."""
    where, to_tensor = "metrics.SegmentationMetric", bench.framework.to_tensor
    metric = bench.module.SegmentationMetric(bench.logits.shape[1])
    metric.update(to_tensor(bench.logits), to_tensor(bench.labels))
    bench.recorder.add_array("whole logits: confusion matrix", "count", metric.truncated, where)
    for name, score in zip(("pixel accuracy", "mean IoU"), metric.get(), strict=True):
        bench.recorder.add_array(f"both figures: {name}", "score", np.array(score), where)
