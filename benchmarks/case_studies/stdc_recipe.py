"""What the pairs of STDC-Seg have in common: taps, parts of the recipe, and upstream's constants."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from drawn import IGNORED, images, labelled

from stdc_parity.align.pair import (
    LossBench,
    LossPart,
    OptimizerPart,
    Pair,
    Place,
    PlainData,
    PlainMetric,
    Recipe,
)

STAGES = (
    *(f"cp.backbone.features.{number}" for number in range(8)),
    "cp.arm32", "cp.conv_avg", "cp.conv_head32", "cp.arm16", "cp.conv_head16", "conv_out_sp8",
    "ffm", "conv_out", "conv_out16", "conv_out32",
)  # fmt: skip


def pair(
    name: str, build: str, port: str, iterations: int, names: Mapping[str, str] = MappingProxyType({})
) -> Pair:
    """Upstream, built by `build`, and the port whose adapter is the module `port`."""

    def place(what: str) -> Place:
        return {"torch": f"upstream_stdc:{what}", "paddle": f"{port}:{what}"}

    return Pair(
        name=name,
        builders={"torch": build, "paddle": f"{port}:build"},
        outputs=("logits", "logits16", "logits32", "detail8"),
        stages=STAGES,
        inputs=images,
        recipe=Recipe(
            loss=LossPart(place("Loss"), after=hard_pixels, follows=((r"detail8", r"detail\.fuse_kernel"),)),
            optimizer=OptimizerPart(
                place("build_optimizer"),
                iterations=iterations,
                whole={"iterations": iterations},
                short=lambda lr, warmup, count: {
                    "lr": lr, "warmup": warmup, "start": lr / 10, "iterations": count
                },
            ),
            metric=PlainMetric(place("metric")),
            data=PlainData(place("data"), batches=1),
            case=labelled(255),
            num_classes=19,
        ),
        names=names,
    )  # fmt: skip


def hard_pixels(bench: LossBench) -> None:
    """Hard example mining where it keeps its least number: of 40 pixels 39 are easy, or 39 ignored."""
    logits, labels = bench.outputs[0], bench.target
    often = (np.arange(labels.size).reshape(labels.shape) % 40 > 0)[:, None]
    truth = labels[:, None] == np.arange(logits.shape[1])[:, None, None]
    cases = {
        "ohem of easy pixels": (logits + 20 * (truth & often), labels),
        "ohem of few labels": (logits, np.where(often[:, 0], IGNORED, labels)),
    }
    for name, (given, target) in cases.items():
        tensors = [bench.framework.to_tensor(a) for a in (given.astype(logits.dtype), target)]
        bench.recorder.add(name, "loss", f"loss.{name}", "OHEM", bench.loss.loss.hard(*tensors))
