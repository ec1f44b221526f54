"""How STDC-Seg is trained and measured, and what only its loss has: detail targets and hard example mining."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from stdc_parity.align.derived import GIVEN
from stdc_parity.align.framework import Array
from stdc_parity.align.pair import DataPart, LossBench, LossPart, MetricPart, OptimizerPart, Place, Recipe
from stdc_parity.align.pairs.cityscapes import open_cityscapes, write_cityscapes
from stdc_parity.align.record import Record

IGNORED = 255
EDGE = 0.1
"""Where a detail target begins (loss/detail_loss.py)."""


def recipe(classes: int, heads: int = 3) -> Recipe:
    """The published recipe (MichaelFan01/STDC-Seg, train.py, README) for that many classes and heads with logits."""
    return Recipe(
        loss=LossPart(
            _ours("losses:SegLoss"),
            arguments={"heads": heads} if heads != 3 else {},
            outputs=(*[(classes, 1)] * heads, (1, 8)),
            before=_detail_targets,
            after=_besides,
            follows=((r"(bce|dice)\d+", r"detail.*"), (r"detail targets.*", r"detail.*")),
            derived=((r"detail targets", _fused),),
        ),
        optimizer=OptimizerPart(
            _ours("optim:build_optimizer"), 1e-2, 60_000, {"max_iter": 60_000}, _short_run
        ),
        metric=MetricPart(_ours("metrics"), scales=(0.5, 0.75), several_scales=(0.75, 1.0)),
        data=DataPart(_ours("data"), _ours("transforms"), write_cityscapes, open_cityscapes),
        num_classes=classes,
        ignored=IGNORED,
    )


def _ours(where: str) -> Place:
    return {"torch": f"stdc_parity.models_torch.{where}", "paddle": f"stdc_parity.models_paddle.{where}"}


def _short_run(lr: float, warmup: int, iterations: int) -> Mapping[str, object]:
    return {"lr0": lr, "warmup_start_lr": lr / 10, "warmup_steps": warmup, "max_iter": iterations}


def _detail_targets(bench: LossBench) -> None:
    """The Laplacian, and what the detail loss builds of the labels with it."""
    detail, target = bench.loss.detail, bench.framework.to_tensor(bench.target)
    kind = type(bench.loss).__name__
    bench.recorder.add("detail.laplacian_kernel", "parameter", "loss", kind, detail.laplacian_kernel)
    for name in ("pyramid", "targets"):
        built = getattr(detail, name)(target)
        bench.recorder.add(f"detail {name}", "target", f"loss.detail.{name}", type(detail).__name__, built)


def _fused(record: Record, match: re.Match[str]) -> Array:
    """The detail targets, of the pyramid and the kernel: 1 where the sum is above 0.1 (loss/detail_loss.py)."""
    kernel = record.arrays["detail.fuse_kernel"].astype(np.float64)
    return np.asarray(np.einsum("nchw,ocij->nohw", record.arrays["detail pyramid"], kernel) > EDGE)


def _given_targets(bench: LossBench) -> None:
    """The detail terms once more, with targets that both sides share."""
    detail, given, to_tensor = bench.loss.detail, bench.outputs[-1], bench.framework.to_tensor
    height, width = bench.target.shape[1:]
    every = np.add.outer(np.arange(height), np.arange(width)) % 7 < 2
    targets = np.broadcast_to(every, (len(given), 1, height, width)).astype(given.dtype)
    kept = detail.targets
    detail.targets = lambda labels: to_tensor(targets)
    try:
        terms = detail(to_tensor(given), to_tensor(bench.target))
    finally:
        detail.targets = kept
    for name, term in zip(("bce8", "dice8"), terms, strict=True):
        bench.recorder.add(f"{name}{GIVEN}", "loss", f"loss.{name}", type(detail).__name__, term)


def _besides(bench: LossBench) -> None:
    """The detail terms of given targets; the weighted OHEM and the focal loss that upstream carries beside its
    recipe; then OHEM's edge cases."""
    _given_targets(bench)
    to_tensor, recorder = bench.framework.to_tensor, bench.recorder
    logits, labels = to_tensor(bench.outputs[0]), to_tensor(bench.target)
    weighted = bench.module.WeightedOhemCELoss(num_classes=bench.outputs[0].shape[1])
    for name, loss in (("weighted ohem", weighted), ("focal", bench.module.SoftmaxFocalLoss())):
        kind = "WeightedOhemCELoss" if loss is weighted else "SoftmaxFocalLoss"
        recorder.add(name, "loss", kind, kind, loss(logits, labels))
    ohem = bench.loss.ohem
    for name, given, few in _edge_cases(bench.outputs[0], bench.target):
        recorder.add(name, "loss", "loss.ohem", type(ohem).__name__, ohem(to_tensor(given), to_tensor(few)))


def _edge_cases(logits: Array, labels: Array) -> list[tuple[str, Array, Array]]:
    """Where hard example mining keeps its least number: nearly all pixels easy, and nearly all ignored."""
    every = np.arange(labels.size).reshape(labels.shape)
    truth = (labels[:, np.newaxis] == np.arange(logits.shape[1])[:, np.newaxis, np.newaxis]) & (
        every % 40 > 0
    )[:, np.newaxis]
    few = np.where(every % 40 > 0, IGNORED, labels)
    easy = (logits + 20 * truth).astype(logits.dtype)
    return [("ohem of easy pixels", easy, labels), ("ohem of few labels", logits, few)]
