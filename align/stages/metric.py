"""The metric stage on one side: confusion matrices, IoU and accuracy over scenes, and what they rest on.

By themselves the metrics are judged on a network that is none: the same code on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Framework, Network
from stdc_parity.align.pair import MetricBench, MetricPart, PlainMetric
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.loss import seeded_logits
from stdc_parity.align.stages.plain import add_metric

STAGE = "metric"
CALLS = "metric-calls"
ISOLATED = "metric-isolated"
OUTPUTS = 3
"""Outputs of the network that both sides share."""
MILLION = (1024, 1024)


def capture(session: Session, spec: RunSpec) -> Record:
    """Record the metrics of given logits, then the network's own at both scales and at several with flips.

    For the network's predictions the margin between the two best classes goes along, so that a pixel that
    another class wins can be held against it.
    """
    part = session.recipe(spec).metric
    if isinstance(part, PlainMetric):
        return _plain(session, spec, part, STAGE)
    return replace(_measured(session, spec, session.network), stage=STAGE)


def _plain(session: Session, spec: RunSpec, part: PlainMetric, stage: str) -> Record:
    """A metric that is a function; by itself it is judged on seeded outputs alone."""
    recorder = Recorder(session.framework)
    add_metric(session, spec, part, recorder, network=stage == STAGE)
    return recorder.record(stage)


def capture_calls(session: Session, spec: RunSpec) -> Record:
    """An empty record: to be judged by themselves the metrics need nothing of the reference."""
    return Recorder(session.framework).record(CALLS)


def replay(session: Session, spec: RunSpec, reference: Record) -> Record:
    """Record the same as `capture`, with a network that both sides share."""
    part, classes = session.recipe(spec).metric, session.recipe(spec).num_classes or 0
    if isinstance(part, PlainMetric):
        return _plain(session, spec, part, ISOLATED)

    def shared(wanted: RunSpec) -> SharedNetwork:
        return SharedNetwork(session.framework, classes, wanted.seed, wanted.mode == "train")

    return replace(_measured(session, spec, shared), stage=ISOLATED)


class SharedNetwork:
    """A network in numpy: it weighs the channels of every pixel, and in train mode gives other classes. Outputs
    after the first, as of auxiliary heads, have their classes in another order.

    `seen`, if it is set, makes its calls: a tracer's way to record them. `modes` are those that it was called in;
    `fixed` is the mode that it computes in, whatever it is told.
    """

    def __init__(self, framework: Framework, classes: int, seed: int, training: bool) -> None:
        self.framework, self.training = framework, training
        self.weights = np.random.default_rng([seed, 5]).standard_normal((classes, 3))
        self.seen: Callable[..., Any] = lambda network, call, args, options: call(network, *args)
        self.modes: list[str] = []
        self.fixed = ""

    def __call__(self, images: Any) -> Any:
        """Outputs of images (n, 3, h, w), through `seen`."""
        return self.seen(self, SharedNetwork._outputs, (images,), {})

    def _outputs(self, images: Any) -> list[Any]:
        self.modes.append("train" if self.training else "eval")
        array = self.framework.to_array(images)  # (n, 3, h, w)
        array = array + np.roll(array, 1, axis=3) / 2 + np.roll(array, 1, axis=2) / 4  # so that a flip shows
        weights = self.weights[:: -1 if (self.fixed or self.modes[-1]) == "train" else 1]
        logits = np.einsum("cd,ndhw->nchw", weights, array).astype(array.dtype)
        return [self.framework.to_tensor(np.roll(logits, i, axis=1)) for i in range(OUTPUTS)]

    def eval(self) -> None:
        """Be evaluated."""
        self.training = False

    def train(self, mode: bool = True) -> None:
        """Be trained."""
        self.training = mode


def _measured(session: Session, spec: RunSpec, build: Callable[[RunSpec], Network]) -> Record:
    """The figures of given logits, then those of the network that `build` gives."""
    part, recorder = _part(session, spec), Recorder(session.framework)
    metrics, classes = session.part(spec, part.place), session.classes(spec)
    _given_logits(session, spec, recorder, metrics, classes)
    network = build(replace(spec, mode="eval"))
    single = replace(spec, batch=1)
    totals = {f"scale {scale}": np.zeros((classes, classes), np.int64) for scale in part.scales}
    for number in range(spec.scenes):
        [image], label = session.training_case(single, number)
        for scale in part.scales:
            logits = _single_scale(session, metrics, network, image, spec.size, scale)
            where = "metrics.single_scale_logits"
            prediction = _add_prediction(recorder, f"scene {number} scale {scale}", where, logits, label)
            totals[f"scale {scale}"] += metrics.confusion_matrix(prediction, label, classes)
    if part.several_scales:
        [image], label = session.training_case(single, 0)
        scores = _multi_scale(session, metrics, network, image, classes, part.several_scales)
        where = "metrics.multi_scale_scores"
        prediction = _add_prediction(recorder, "scene 0 several scales, flipped", where, scores, label)
        totals["several scales, flipped"] = metrics.confusion_matrix(prediction, label, classes)
    for name, hist in totals.items():
        _add_figures(recorder, metrics, f"network, {name}", hist)
    _evaluated(session, spec, recorder, metrics, classes, build)
    return recorder.record(STAGE)


def _part(session: Session, spec: RunSpec) -> MetricPart:
    part = session.recipe(spec).metric
    assert isinstance(part, MetricPart)
    return part


def _given_logits(session: Session, spec: RunSpec, recorder: Recorder, metrics: Any, classes: int) -> None:
    """The metrics of seeded logits, which both sides share: these must be the same integers.

    The last class is absent from labels and predictions, the one before it from the labels alone.
    """
    _, labels = session.training_case(spec)
    labels = np.where((labels >= classes - 2) & (labels < classes), session.recipe(spec).ignored, labels)
    logits = seeded_logits(spec, classes, labels.shape[-2:])
    prediction = logits[:, : classes - 1].argmax(axis=1)
    hist = metrics.confusion_matrix(
        session.framework.to_tensor(prediction), session.framework.to_tensor(labels), classes
    )
    recorder.add_array(
        "given logits: classes", "input", prediction.astype(np.uint8), "metrics.confusion_matrix"
    )
    recorder.add_array("given logits: labels", "input", labels.astype(np.uint8), "metrics.confusion_matrix")
    _add_figures(recorder, metrics, "given logits", hist)
    if (probe := _part(session, spec).after) is not None:
        probe(MetricBench(session.framework, recorder, metrics, logits, labels))
    _many_pixels(session, spec, recorder, metrics, classes)


def _many_pixels(session: Session, spec: RunSpec, recorder: Recorder, metrics: Any, classes: int) -> None:
    """The counts of a million pixels, where one must not be lost, and the scores of counts past float32's range."""
    random = np.random.default_rng([spec.seed, 4])
    prediction = random.integers(0, classes, (1, *MILLION))
    left_out = random.random((1, *MILLION)) < 0.1
    labels = np.where(left_out, session.recipe(spec).ignored, random.integers(0, classes, (1, *MILLION)))
    to_tensor = session.framework.to_tensor
    counts = np.asarray(metrics.confusion_matrix(to_tensor(prediction), to_tensor(labels), classes))
    recorder.add_array("a million pixels: confusion matrix", "count", counts, "metrics.confusion_matrix")
    many = random.integers(0, 2**33, (classes, classes)) + (2**36) * np.eye(classes, dtype=np.int64)
    for name in ("per_class_iou", "mean_iou", "pixel_accuracy"):
        score = np.array(getattr(metrics, name)(many))
        recorder.add_array(f"billions of pixels: {name}", "score", score, f"metrics.{name}")


def _evaluated(
    session: Session,
    spec: RunSpec,
    recorder: Recorder,
    metrics: Any,
    classes: int,
    build: Callable[[RunSpec], Network],
) -> None:
    """The confusion matrices of the two evaluation loops, which get the network in train mode."""
    pairs = replace(spec, batch=2)
    to_tensor = session.framework.to_tensor
    drawn = [session.training_case(pairs, number) for number in range(0, spec.scenes, 2)]
    loader = [(to_tensor(images), to_tensor(labels[:, np.newaxis])) for (images,), labels in drawn]
    crop, part = max(64, 2 * min(spec.size) // 3), _part(session, spec)
    loops: list[tuple[str, Any, dict[str, Any]]] = [
        ("evaluate_single_scale", loader, {"scale": part.scales[0]})
    ]
    if part.several_scales:
        loops.append(("evaluate_multi_scale", loader[:1], {"scales": part.several_scales, "crop": crop}))
    for name, given, options in loops:
        network = build(replace(spec, mode="train"))
        counts = np.asarray(getattr(metrics, name)(network, given, classes, **options))
        recorder.add_array(f"network, {name}", "count", counts, f"metrics.{name}")
        mode = np.array(int(network.training))
        recorder.add_array(f"train mode after {name}", "count", mode, f"metrics.{name}")


def _add_figures(recorder: Recorder, metrics: Any, name: str, hist: Array) -> None:
    recorder.add_array(f"{name}: confusion matrix", "count", np.asarray(hist), "metrics.confusion_matrix")
    recorder.add_array(f"{name}: IoU by class", "score", metrics.per_class_iou(hist), "metrics.per_class_iou")
    recorder.add_array(f"{name}: mean IoU", "score", np.array(metrics.mean_iou(hist)), "metrics.mean_iou")
    accuracy = np.array(metrics.pixel_accuracy(hist))
    recorder.add_array(f"{name}: pixel accuracy", "score", accuracy, "metrics.pixel_accuracy")


def _single_scale(
    session: Session, metrics: Any, network: Any, image: Array, size: Any, scale: float
) -> Array:
    with session.framework.no_grad():
        logits = metrics.single_scale_logits(network, session.framework.to_tensor(image), *size, scale)
    return session.framework.to_array(logits)


def run_one(session: Session, spec: RunSpec, name: str) -> tuple[SharedNetwork, Callable[[], Array]]:
    """The network that both sides share, as `replay` has it, and a call of one function of the metrics with it:
    logits of the first scene, or counts."""
    part, classes = _part(session, spec), session.classes(spec)
    metrics = session.part(spec, part.place)
    network = SharedNetwork(session.framework, classes, spec.seed, name.startswith("evaluate"))
    [image], label = session.training_case(replace(spec, batch=1), 0)
    tensor, crop = session.framework.to_tensor(image), max(64, 2 * min(image.shape[2:]) // 3)
    loader = [(tensor, session.framework.to_tensor(label[:, np.newaxis]))]
    arguments: dict[str, tuple[Any, ...]] = {
        "single_scale_logits": (tensor, *spec.size, part.scales[0]),
        "multi_scale_scores": (tensor, classes, part.several_scales, crop, True),
        "evaluate_single_scale": (loader, classes, part.scales[0]),
        "evaluate_multi_scale": (loader, classes, part.several_scales, crop),
    }

    def run() -> Array:
        with session.framework.no_grad():
            result = getattr(metrics, name)(network, *arguments[name])
        return (
            session.framework.to_array(result) if session.framework.is_tensor(result) else np.asarray(result)
        )

    return network, run


def _multi_scale(
    session: Session, metrics: Any, network: Any, image: Array, classes: int, scales: Sequence[float]
) -> Array:
    crop = max(64, 2 * min(image.shape[2:]) // 3)
    with session.framework.no_grad():
        tensor = session.framework.to_tensor(image)
        scores = metrics.multi_scale_scores(network, tensor, classes, scales, crop, True)
    return session.framework.to_array(scores)


def _add_prediction(recorder: Recorder, name: str, where: str, logits: Array, label: Array) -> Array:
    """Record the winning class of every pixel, its lead as a fraction of scale, and the label."""
    best = logits.argmax(axis=1)  # (1, h, w)
    top = np.partition(logits, -2, axis=1)[:, -2:]
    lead = ((top[:, 1] - top[:, 0]) / np.abs(logits).max()).astype(np.float32)
    recorder.add_array(f"{name} prediction", "prediction", best.astype(np.uint8), where)
    recorder.add_array(f"{name} margin", "margin", lead, where)
    recorder.add_array(f"{name} label", "input", label.astype(np.uint8), where)
    prediction: Array = best
    return prediction
