"""The ladder's rungs: clean twins pass, and each fault planted on the Paddle side is found and named.

Everything from `run_rungs` down is what the commands run; only the two processes are played by this one.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
import torch
from PIL import Image

from stdc_parity.align import capture_paddle, capture_torch, run, worker
from stdc_parity.align.compare import Judging
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.ladder import CAPTURES, REPLAYS, RUNGS
from stdc_parity.align.record import Record, load_record, save_record
from stdc_parity.align.result import Failure, RunResult, StageResult, Verdict
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.models_paddle import (
    data,
    icnet,
    icnet_data,
    icnet_losses,
    icnet_metrics,
    icnet_optim,
    layers,
    losses,
    metrics,
    optim,
    stdcseg,
    transforms,
)
from stdc_parity.models_torch import optim as models_torch_optim

torch.set_num_threads(1)
BACKBONE = "cp.backbone.features"
SMALL = {"pair": "stdc1-seg", "size": (64, 128), "base": 8, "steps": 5, "scenes": 2}

Patch = pytest.MonkeyPatch
Mutation = Callable[[Any], None]
"""Changes the Paddle network after its weights are loaded."""

_weights: Mapping[str, dict[Any, Any]] = {"torch": {}, "paddle": {}}
_torch_records: dict[str, tuple[dict[str, Any], Record]] = {}


class Planted(Session):
    """A session whose networks are changed before anyone gets them."""

    def __init__(self, mutations: Sequence[Mutation]) -> None:
        super().__init__(capture_paddle)
        self._weights = _weights["paddle"]
        self.mutations = mutations

    def _built(self, spec: RunSpec) -> Any:
        network, tensors = super()._built(spec)
        self.framework.load(network, tensors)
        for mutate in self.mutations:
            mutate(network)
        return network, self.framework.state(network)


class HereSide:
    """What a `SideProcess` does, in this process. The torch side never changes: its records are kept."""

    def __init__(self, session: Session) -> None:
        self.session, self.side = session, session.framework.SIDE
        self._reply: dict[str, Any] = {}

    def ask(self, job: Mapping[str, Any]) -> None:
        key = repr({name: value for name, value in job.items() if name != "run"})
        keep = self.side == "torch" and job["do"] in (*CAPTURES, *REPLAYS)
        if keep and key in _torch_records:
            self._reply, record = _torch_records[key]
            save_record(record, Path(job["run"]))
            return
        self._reply = worker.answer(self.session, job)
        if keep and self._reply["ok"]:
            _torch_records[key] = (self._reply, load_record(Path(job["run"]), self.side, job["as"]))

    def answer(self) -> dict[str, Any] | Failure:
        assert self._reply["ok"] or self._reply["kind"] == "Exception", self._reply
        return self._reply if self._reply["ok"] else Failure(self.side, self._reply["message"])


def climb(
    rungs: Sequence[str],
    mutations: Sequence[Mutation] = (),
    judging: Judging | None = None,
    **options: Any,
) -> RunResult:
    """Climb `rungs` with `mutations` on the Paddle network, as `stdc-align` does in two processes."""
    torch_session = Session(capture_torch)
    torch_session._weights = _weights["torch"]

    @contextmanager
    def open_here(sides: Sequence[str], threads: int, _seen: object) -> Iterator[dict[str, HereSide]]:
        yield {"torch": HereSide(torch_session), "paddle": HereSide(Planted(mutations))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "open_sides", open_here)
        return run.run_rungs(rungs, RunSpec(**SMALL | options), judging or Judging(Tolerance()), 1)


def bad_taps(stage: StageResult) -> list[str]:
    return [comparison.tap for comparison in stage.comparisons if not comparison]


def blamed(stage: StageResult) -> list[str]:
    return [next(iter(comparison.paths.values())) for comparison in stage.blamed]


# --- faults -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A fault, and what the rung has to say of it.

    `taps` are what may differ (a tap matches if it contains one of them), of which `first` is the first and
    each must occur; `blamed` are the modules to blame.
    """

    name: str
    rung: str
    network: Mutation | None = None
    patch: Callable[[Patch], None] | None = None
    first: str | None = None
    taps: tuple[str, ...] = ()
    blamed: tuple[str, ...] | None = None
    judging: Judging | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def layer(network: Any, path: str) -> Any:
    return dict(network.named_sublayers())[path]


def setting(path: str, name: str, value: object) -> Mutation:
    def mutate(network: Any) -> None:
        assert hasattr(layer(network, path), name)
        setattr(layer(network, path), name, value)

    return mutate


def tensor(path: str, change: Callable[[np.ndarray], np.ndarray]) -> Mutation:
    def mutate(network: Any) -> None:
        parameter = network.state_dict()[path]
        array = change(parameter.numpy().copy())
        assert not np.array_equal(array, parameter.numpy())
        parameter.set_value(array)

    return mutate


def off_by(fraction: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[array.size // 2] += fraction * np.abs(array).max()
        return array

    return change


def with_nan(array: np.ndarray) -> np.ndarray:
    array.reshape(-1)[3] = np.nan
    return array


def swap_channels(array: np.ndarray) -> np.ndarray:
    array[[0, 1]] = array[[1, 0]]
    return array


def swap_heads(network: Any) -> None:
    state, other = network.conv_out16.state_dict(), network.conv_out32.state_dict()
    kept = {name: each.numpy().copy() for name, each in state.items()}
    for name, each in state.items():
        each.set_value(other[name].numpy())
        other[name].set_value(kept[name])


def rewire(path: str, change: Callable[..., Any]) -> Mutation:
    """Replace a layer's forward by `change(original forward, *inputs)`."""

    def mutate(network: Any) -> None:
        module = layer(network, path)
        module.forward = partial(change, module.forward)

    return mutate


def scaled_gradient(forward: Any, x: Any) -> Any:
    out = forward(x)
    return out * 1.001 - (out * 0.001).detach()


def put(owner: Any, name: str, value: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, value)


def interpolating(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Patch], None]:
    """Change the keyword arguments of the Paddle network's interpolations."""

    def interpolate(x: Any, size: Any, **options: Any) -> Any:
        return paddle.nn.functional.interpolate(x, size, **change(options))

    return put(stdcseg, "F", SimpleNamespace(interpolate=interpolate))


def bilinear_for_nearest(options: dict[str, Any]) -> dict[str, Any]:
    return {"mode": "bilinear"} if options["mode"] == "nearest" else options


def no_align_corners(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "align_corners": False} if options["mode"] == "bilinear" else options


def ones(array: np.ndarray) -> np.ndarray:
    return np.ones_like(array)


WEIGHTS = [
    Fault("one element", "weights", tensor(f"{BACKBONE}.3.conv_list.1.conv.weight", off_by(2e-7)),
          first=f"{BACKBONE}.3.conv_list.1.conv.weight"),
    Fault("linear transposed", "weights", tensor("cp.backbone.fc.weight", np.transpose),
          first="cp.backbone.fc.weight"),
    Fault("heads swapped", "weights", swap_heads, first="conv_out16.conv.conv.weight",
          taps=("conv_out16.conv.conv.weight", "conv_out32.conv_out.weight", "conv_out16", "conv_out32")),
    Fault("left at init", "weights", tensor("ffm.convblk.bn.weight", ones), first="ffm.convblk.bn.weight"),
    Fault("statistics left at init", "weights", tensor("cp.arm16.bn_atten._mean", np.zeros_like),
          first="cp.arm16.bn_atten.running_mean"),
]  # fmt: skip


def bgr(self: Any, index: int) -> Any:
    image, label = (Image.open(path) for path in self.pairs[index])
    return transforms.Sample(Image.fromarray(np.asarray(image.convert("RGB"))[:, :, ::-1].copy()), label)


def flip_image_only(self: Any, sample: Any, random: Any) -> Any:
    if random.random() > self.p:
        return sample
    return transforms.Sample(sample.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), sample.label)


def nearest_as_cv2(sample: Any, width: int, height: int) -> Any:
    label = np.asarray(sample.label)
    rows, columns = (np.arange(to) * size // to for size, to in zip(label.shape, (height, width), strict=True))
    image = sample.image.resize((width, height), Image.Resampling.BILINEAR)
    return transforms.Sample(image, Image.fromarray(label[rows][:, columns]))


DATA = [
    Fault("BGR", "data", patch=put(data.SegmentationData, "open", bgr), first="train[0] open.image",
          taps=("image",)),
    Fault("mean", "data", patch=put(transforms, "MEAN", (0.485, 0.456, 0.407)), first="train[0] final.image",
          taps=("final.image", "batch 0 images", " images")),
    Fault("std", "data", patch=put(transforms, "STD", (0.229, 0.224, 0.229)), first="train[0] final.image",
          taps=("final.image", "batch 0 images", " images")),
    Fault("label ids", "data", patch=put(data, "train_ids", lambda ids: ids.astype(np.int64)),
          first="train[0] final.label", taps=("final.label", "labels")),
    Fault("flips the image only", "data", patch=put(transforms.HorizontalFlip, "__call__", flip_image_only),
          taps=("flip.label", "label")),
    Fault("another order", "data", patch=put(data, "Random", lambda key: transforms.Random(key + "!")),
          first="train epoch 0 batch 0 images", taps=("train epoch 1", "train epoch 0")),
    Fault("nearest as cv2", "data", patch=put(transforms, "resize", nearest_as_cv2), first="train[0] scale.label",
          taps=("label",)),
    Fault("last batch kept", "data", first="train epoch 0 batches", taps=("batch 1", "batches"),
          patch=lambda patch: patch.setattr(data, "batches", partial(whole, data.batches))),
]  # fmt: skip


def whole(original: Any, length: int, batch_size: int, seed: int, epoch: int, shuffle: bool, _: bool) -> Any:
    return original(length, batch_size, seed, epoch, shuffle, False)


ALWAYS = Judging(Tolerance(), "always")
NORM = f"{BACKBONE}.3.conv_list.1.bn"

FORWARD = [
    Fault("epsilon 1e-3", "forward", setting(NORM, "_epsilon", 1e-3), blamed=(NORM,)),
    Fault("epsilon 1.1e-5", "forward", setting(NORM, "_epsilon", 1.1e-5), blamed=(NORM,), judging=ALWAYS),
    Fault("exclusive", "forward", setting(f"{BACKBONE}.4.skip", "exclusive", True), first=f"{BACKBONE}.4",
          blamed=(f"{BACKBONE}.4.skip",)),
    Fault("channels swapped", "forward", tensor("conv_out.conv.conv.weight", swap_channels),
          first="conv_out", blamed=("conv_out.conv.conv",), taps=("conv_out", "logits")),
    Fault("NaN", "forward", tensor("ffm.conv1.weight", with_nan), first="ffm", blamed=("ffm.conv1",)),
    Fault("align_corners", "forward", patch=interpolating(no_align_corners), first="logits",
          taps=("logits", "logits16", "logits32"), blamed=("",)),
    Fault("bilinear for nearest", "forward", patch=interpolating(bilinear_for_nearest), blamed=("cp",)),
    Fault("one weight element", "forward", tensor(f"{BACKBONE}.0.conv.weight", off_by(0.01)),
          first=f"{BACKBONE}.0", blamed=(f"{BACKBONE}.0.conv",)),
    Fault("leaky", "forward", rewire("ffm.relu", lambda f, x: paddle.nn.functional.leaky_relu(x, 0.01)),
          first="ffm", blamed=("ffm.relu",)),
    Fault("heads exchanged", "forward", swap_heads, first="conv_out16",
          blamed=tuple(f"conv_out{n}.{part}" for n in (16, 32) for part in ("conv.conv", "conv.bn", "conv_out"))),
    Fault("raises", "forward", setting("cp", "forward", None)),
]  # fmt: skip

STATISTICS = ("running_mean", "running_var")
FORWARD_TRAIN = [
    Fault("momentum 0.91", "forward-train", setting(NORM, "_momentum", 0.91), blamed=(NORM,),
          first=f"{NORM}.running_mean", taps=(f"{NORM}.running_mean", f"{NORM}.running_var")),
    Fault("momentum 0.1", "forward-train", lambda network: [setattr(each, "_momentum", 0.1) for each in
          network.sublayers() if isinstance(each, layers.BatchNorm2d)], taps=STATISTICS),
    Fault("biased variance", "forward-train", taps=("cp.conv_avg.bn.running_var", "running_var"),
          patch=put(layers.BatchNorm2d, "forward", paddle.nn.BatchNorm2D.forward)),
    Fault("epsilon 1.1e-5", "forward-train", setting(NORM, "_epsilon", 1.1e-5), blamed=(NORM,), judging=ALWAYS),
    Fault("a norm left in eval mode", "forward-train",
          rewire(NORM, lambda f, x: f.__self__.eval() and f(x)), blamed=(NORM,)),
]  # fmt: skip


def fuse_kernel(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Patch], None]:
    return put(losses, "FUSE", tuple(change(np.array(losses.FUSE))))


def without_term(original: Any, self: Any, outputs: Any, labels: Any) -> Any:
    total, terms = original(self, outputs, labels)
    return total - terms["ohem32"], terms


def counts_ignored(self: Any, logits: Any, labels: Any) -> Any:
    labels = paddle.where(labels == 255, paddle.zeros_like(labels), labels)
    return paddle.nn.functional.cross_entropy(logits, labels, reduction="none", axis=1).reshape([-1])


def resize_bilinear(x: Any, height: int, width: int) -> Any:
    return paddle.nn.functional.interpolate(x, (height, width), mode="bilinear")


OHEM = ("ohem", "ohem16", "ohem32", "weighted ohem", "total")
DETAIL = ("detail targets", "bce8", "dice8", "total")
LOSS = [
    Fault("fuse kernel random", "loss", patch=fuse_kernel(lambda k: np.array([0.31, -0.2, 0.07])),
          first="detail.fuse_kernel", taps=("detail.fuse_kernel", *DETAIL)),
    Fault("fuse kernel off by 1e-4", "loss", patch=fuse_kernel(lambda k: k + 1e-4), first="detail.fuse_kernel"),
    Fault("Laplacian off by 1e-4", "loss", first="detail.laplacian_kernel", taps=("detail.laplacian_kernel",),
          patch=put(losses, "LAPLACIAN", (*losses.LAPLACIAN[:2], (-1.0, -1.0, -1.0001)))),
    Fault("threshold", "loss", patch=put(losses.SegLoss.__init__, "__defaults__", ((8,), 0.6, None, 255, 3)),
          first="ohem", taps=("ohem", "ohem16", "ohem32", "total")),
    Fault("always n_min", "loss", patch=put(losses, "hard_examples", lambda loss, thresh, n: loss.sort()[-n:]),
          first="ohem", taps=OHEM),
    Fault("easy pixels", "loss", patch=put(losses, "hard_examples", lambda loss, thresh, n: loss.sort()[:n]),
          first="ohem", taps=OHEM),
    Fault("ignored label counted", "loss", patch=put(losses.OhemCELoss, "pixel_losses", counts_ignored),
          first="ohem", taps=OHEM),
    Fault("dice smooth", "loss", patch=put(losses.dice_loss, "__defaults__", (0.0,)), first="dice8",
          taps=("dice8",)),
    Fault("term missing", "loss", patch=put(losses.SegLoss, "forward", lambda *args, original=losses.SegLoss.forward:
          without_term(original, *args)), first="total", taps=("total",)),
    Fault("detail bilinear", "loss", patch=put(losses, "resize_nearest", resize_bilinear),
          taps=("detail pyramid", *DETAIL)),
    Fault("focal gamma", "loss", patch=put(losses.SoftmaxFocalLoss.__init__, "__defaults__", (2.1, 255)),
          first="focal", taps=("focal",)),
]  # fmt: skip


def detached_attention(self: Any, fsp: Any, fcp: Any) -> Any:
    feat = self.convblk(paddle.concat([fsp, fcp], 1))
    atten = self.sigmoid(self.conv2(self.relu(self.conv1(feat.mean((2, 3), keepdim=True)))))
    return feat * atten.detach() + feat


def detached_dice(original: Any, self: Any, logits: Any, labels: Any) -> Any:
    bce, dice = original(self, logits, labels)
    return bce, dice.detach()


def freeze(network: Any) -> None:
    layer(network, "ffm.conv2").weight.stop_gradient = True


BACKWARD = [
    Fault("stop_gradient in a branch", "backward", rewire("cp.conv_head32", lambda f, x: f(x.detach())),
          blamed=("cp.conv_head32",)),
    Fault("attention detached", "backward", patch=put(stdcseg.FeatureFusionModule, "forward", detached_attention),
          blamed=("ffm",)),
    Fault("gradient times 1.001", "backward", rewire(f"{BACKBONE}.3.conv_list.2.conv", scaled_gradient),
          blamed=(f"{BACKBONE}.3.conv_list.2.conv",)),
    Fault("leaky slope", "backward", rewire("ffm.relu", lambda f, x: paddle.nn.functional.leaky_relu(x, 0.01)),
          blamed=("ffm.relu",)),
    Fault("a weight without gradient", "backward", freeze, blamed=("ffm.conv2",),
          first="grad ffm.conv2.weight", taps=("grad ffm.conv2.weight",)),
    Fault("dice detached", "backward", blamed=("loss",), first="grad detail8", patch=put(
          losses.DetailAggregateLoss, "forward", lambda *args, original=losses.DetailAggregateLoss.forward:
          detached_dice(original, *args))),
]  # fmt: skip


def rebuilt(**options: Any) -> Callable[[Patch], None]:
    return put(optim, "build_optimizer", lambda net, loss, original=optim.build_optimizer, **given:
               original(net, **{"loss": loss, **given, **options}))  # fmt: skip


def decay_norms(original: Any, *args: Any) -> Any:
    return tuple(optim.Group(g.name, g.lr_mul, 5e-4, g.names, g.params) for g in original(*args))


def no_multiplier(self: Any, lr: float) -> None:
    for each in self.optims:
        each.set_lr(lr)


def decay_forgotten(original: Any, self: Any, lr: float, momentum: float, params: Any, weight_decay: Any) -> None:
    original(self, lr, momentum, params, None)
    self.weight_decay = weight_decay or 0.0


OPTIMIZER = [
    Fault("no decay", "optimizer", patch=rebuilt(weight_decay=0.0), first="lr, weight decay, momentum (wd)",
          taps=("momentum (wd)", "momentum (lr_mul_wd)", "momentum (loss)", "after step")),
    Fault("decay on norms", "optimizer", first="lr, weight decay, momentum (nowd)",
          taps=("momentum (nowd)", "momentum (lr_mul_nowd)", "after step"), patch=put(
          optim, "make_groups", partial(decay_norms, optim.make_groups))),
    Fault("x10 missing", "optimizer", patch=put(optim, "LR_MUL", 1.0), first="momentum (lr_mul_wd)",
          taps=("momentum (lr_mul_wd)", "momentum (lr_mul_nowd)", "after step", "rate of lr_mul")),
    Fault("momentum 0.91", "optimizer", patch=rebuilt(momentum=0.91), first="lr, weight decay, momentum (wd)"),
    Fault("fuse kernel in no group", "optimizer", patch=rebuilt(loss=None), first="loss.detail.fuse_kernel",
          taps=("loss.detail.fuse_kernel", "learning rate of loss")),
    Fault("backbone norms untrained", "optimizer", patch=rebuilt(backbone_norms=False),
          first=f"{BACKBONE}.0.bn.weight", taps=("cp.backbone",)),
    Fault("x10 lost in a step", "optimizer", patch=put(optim.Optimizer, "set_lr", no_multiplier),
          first="learning rate of lr_mul_wd in step 1", taps=("after step", "of lr_mul_wd", "of lr_mul_nowd")),
    Fault("decay said but not done", "optimizer", first="after step 1", taps=("after step",), patch=put(
          optim.Momentum, "__init__", lambda *args, original=optim.Momentum.__init__, weight_decay=None:
          decay_forgotten(original, *args, weight_decay=weight_decay))),
    Fault("a head replaced after the optimizer was built", "optimizer", first="conv_out.conv_out.weight after step 1",
          taps=("conv_out.conv_out.weight after",), patch=put(optim, "build_optimizer", lambda *args,
          original=optim.build_optimizer, **options: stale_head(original, *args, **options))),
    Fault("zero for absent gradients", "optimizer", first="after step", taps=("after step",), patch=put(
          optim.Optimizer, "zero_grad", lambda self: [each.clear_grad(set_to_zero=True) for each in self.optims])),
]  # fmt: skip


def late(it: int, *schedule: float, original: Any = optim.learning_rate) -> float:
    return float(original(max(it - 1, 0), *schedule))


def linear(it: int, lr0: float, start: float, warmup: int, *rest: float) -> float:
    if it < warmup:
        return start + (lr0 - start) * it / warmup
    return float(models_torch_optim.learning_rate(it, lr0, start, warmup, *rest))  # type: ignore[arg-type]


def step_then_schedule(self: Any) -> None:
    self.update()
    self.it += 1
    self.set_iteration(self.it)


def stale_head(original: Any, model: Any, *args: Any, **options: Any) -> Any:
    built = original(model, *args, **options)
    head = model.conv_out.conv_out
    weight = head.weight.numpy()
    head.weight = head.create_parameter(head.weight.shape, dtype=head.weight.dtype)
    head.weight.set_value(weight)
    return built


def still_evaluating(original: Any, net: Any, *args: Any) -> Any:
    counts = original(net, *args)
    net.eval()
    return counts


def floored(it: int, *schedule: float, original: Any = optim.learning_rate) -> float:
    return max(1e-4, original(it, *schedule)) if it > 1000 else float(original(it, *schedule))


EVERY_RATE = tuple(f"learning rate of {group}" for group in ("wd", "nowd", "lr_mul_wd", "lr_mul_nowd", "loss"))
SCHEDULE = [
    Fault("late by one", "schedule", patch=put(optim, "learning_rate", late), taps=EVERY_RATE),
    Fault("linear warm-up", "schedule", patch=put(optim, "learning_rate", linear), taps=EVERY_RATE),
    Fault("power 0.91", "schedule", patch=rebuilt(power=0.91), taps=EVERY_RATE),
    Fault("ends at 1e-4", "schedule", patch=put(optim, "learning_rate", floored), taps=EVERY_RATE),
    Fault("x10 missing", "schedule", patch=put(optim, "LR_MUL", 1.0), taps=("of lr_mul_wd", "of lr_mul_nowd")),
    Fault("stepped after the update", "schedule", patch=put(optim.Optimizer, "step", step_then_schedule),
          first="learning rate of wd step by step", taps=("step by step",)),
    Fault("x10 lost later", "schedule", patch=put(optim.Optimizer, "set_lr", no_multiplier),
          taps=("of lr_mul_wd", "of lr_mul_nowd")),
]  # fmt: skip


def counting(change: Callable[..., Any]) -> Callable[[Patch], None]:
    return put(metrics, "confusion_matrix", partial(change, metrics.confusion_matrix))


def ignored_as_last(original: Any, pred: Any, label: Any, classes: int, *_: Any) -> Any:
    label = np.asarray(label)
    return original(pred, np.where(label == 255, classes - 1, label), classes)


def absent_is_one(hist: Any, original: Any = metrics.per_class_iou) -> Any:
    return np.nan_to_num(original(hist), nan=1.0)


def swap_winner(original: Any, *args: Any) -> Any:
    """Exchange the two best classes of one pixel with a clear winner."""
    logits = original(*args).numpy()
    best = np.sort(logits, axis=1)
    at = np.unravel_index((best[:, -1] - best[:, -2]).argmax(), best[:, -1].shape)
    column = logits[at[0], :, at[1], at[2]]
    first, second = column.argsort()[[-1, -2]]
    column[[first, second]] = column[[second, first]]
    return paddle.to_tensor(logits)


METRIC = [
    Fault("transposed", "metric", patch=counting(lambda f, *a: f(*a).T.copy()),
          first="given logits: confusion matrix", taps=("confusion matrix", "evaluate_single", "evaluate_multi")),
    Fault("ignored pixels", "metric", patch=counting(ignored_as_last), first="given logits: confusion matrix"),
    Fault("absent class", "metric", patch=put(metrics, "per_class_iou", absent_is_one),
          first="given logits: IoU by class", taps=("IoU",)),
    Fault("one pixel", "metric", patch=put(metrics, "single_scale_logits", partial(swap_winner,
          metrics.single_scale_logits)), first="scene 0 scale 0.5 prediction", taps=("prediction", "network, ")),
    Fault("truncated logits", "metric", patch=put(metrics, "single_scale_logits", lambda *a,
          original=metrics.single_scale_logits: paddle.trunc(original(*a))), first="scene 0 scale 0.5 prediction"),
    Fault("not trained again", "metric", patch=put(metrics, "evaluate_single_scale", lambda *args,
          original=metrics.evaluate_single_scale, **options: still_evaluating(partial(original, **options), *args)),
          first="train mode after evaluate_single_scale", taps=("train mode after evaluate_single_scale",)),
    Fault("no flip", "metric", first="scene 0 several scales, flipped prediction", patch=put(metrics, "chip_scores",
          lambda net, chip, flip, original=metrics.chip_scores: original(net, chip, False)),
          taps=("several scales, flipped", "evaluate_multi")),
    Fault("accuracy with the ignored", "metric", patch=put(metrics, "pixel_accuracy",
          lambda hist: np.diag(hist).sum() / (hist.sum() + 7)), first="given logits: pixel accuracy",
          taps=("pixel accuracy", "pixel_accuracy")),
]  # fmt: skip


def swap_classifiers(network: Any) -> None:
    head = network.head
    kept = head.cff_12.conv_low_cls.weight.numpy().copy()
    head.cff_12.conv_low_cls.weight.set_value(head.cff_24.conv_low_cls.weight.numpy())
    head.cff_24.conv_low_cls.weight.set_value(kept)


def resize_from_edges(x: Any, height: int, width: int) -> Any:
    return paddle.nn.functional.interpolate(x, (height, width), mode="bilinear")


def half_as_far_as_needed(self: Any, x: Any) -> Any:
    """Run on the half what the head takes of it, the first two stages: the statistics of the others miss a batch."""
    height, width = x.shape[2:]
    net = self.pretrained
    half = net.bn1(net.conv1(layers.resize(x, height // 2, width // 2)))
    half = net.layer2(net.layer1(net.maxpool(net.relu(half))))
    quarter = net(layers.resize(x, height // 4, width // 4))[3]
    return self.head(self.conv_sub1(x), half, self.ppm(quarter))


def levels_exchanged(original: Any, self: Any, outputs: Any, labels: Any) -> Any:
    total, terms = original(self, outputs, labels)
    return total, {**terms, "sub8": terms["sub16"], "sub16": terms["sub8"]}


def ignored_is_road(self: Any, logits: Any, targets: Any) -> Any:
    targets = paddle.where(targets == -1, paddle.zeros_like(targets), targets)
    return paddle.nn.functional.cross_entropy(logits, targets, axis=1)


def resized_in_float64(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """As pooruss/ICNet-paddle does."""
    x = paddle.to_tensor(labels[:, None].astype("float64"))
    resized = paddle.nn.functional.interpolate(x, (height, width), mode="bilinear", align_corners=True)
    return np.trunc(resized.numpy()[:, 0]).astype(np.int64)


def update_of_logits(self: Any, logits: Any, labels: Any) -> None:
    counts = self.counts(paddle.argmax(logits, 1), labels)
    self.hist += counts
    self.truncated += counts


CASCADE = {"pair": "icnet-resnet50-v1s", "base": 4}
TERMS = ("sub4", "sub8", "sub16", "total")
CASCADES = [
    Fault("classifiers of two levels swapped", "weights", swap_classifiers, first="head.cff_12.conv_low_cls.weight",
          taps=("head.cff_12.conv_low_cls.weight", "head.cff_24.conv_low_cls.weight")),
    Fault("ignored labels are 255", "data", patch=put(icnet_data, "IGNORED", 255), first="final.label",
          taps=("final.label", "labels")),
    Fault("align_corners", "forward", patch=put(icnet, "resize", resize_from_edges),
          blamed=("head.cff_12", "head.cff_24", "ppm")),
    Fault("the half as far as needed", "forward-train", patch=put(icnet.ICNet, "forward", half_as_far_as_needed),
          taps=("pretrained.layer3", "pretrained.layer4")),
    Fault("auxiliary weight", "loss", patch=put(icnet_losses.ICNetLoss.__init__, "__defaults__", (0.5, -1)),
          first="total", taps=("total",)),
    Fault("levels exchanged", "loss", first="sub8", taps=("sub8", "sub16"), patch=put(
          icnet_losses.ICNetLoss, "forward", lambda *args, original=icnet_losses.ICNetLoss.forward:
          levels_exchanged(original, *args))),
    Fault("ignored pixels are road", "loss", patch=put(icnet_losses.ICNetLoss, "cross_entropy", ignored_is_road),
          first="sub4", taps=TERMS),
    Fault("labels resized in float64", "loss", patch=put(icnet_losses, "resized_labels", resized_in_float64),
          first="labels at stride 4", taps=("labels at stride 4", "sub4", "total")),
    Fault("one learning rate", "optimizer", patch=put(icnet_optim, "LR_MULS", dict.fromkeys(icnet_optim.LR_MULS, 1)),
          first="momentum (conv_sub1)", taps=("momentum (conv_sub1)", "momentum (head)", "after step", "rate of")),
    Fault("stepped after the optimizer", "schedule", first="learning rate of pretrained", patch=put(icnet_optim,
          "poly_rate", lambda it, lr0, max_iter, power: lr0 * (1 - it / max_iter) ** power)),
    Fault("logits not truncated", "metric", patch=put(icnet_metrics.SegmentationMetric, "update", update_of_logits),
          first="whole logits: confusion matrix", taps=("whole logits", "both figures: pixel accuracy")),
    Fault("absent classes left out", "metric", patch=put(icnet_metrics, "mean_iou", metrics.mean_iou),
          first="given logits: mean IoU", taps=("mean IoU",)),
]  # fmt: skip
CASCADES = [replace(fault, name=f"cascade, {fault.name}", options=CASCADE) for fault in CASCADES]

FAULTS = [*WEIGHTS, *DATA, *FORWARD, *FORWARD_TRAIN, *LOSS, *BACKWARD, *OPTIMIZER, *SCHEDULE, *METRIC, *CASCADES]


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{fault.rung}: {fault.name}" for fault in FAULTS])
def test_a_fault_is_found_and_named(fault: Fault, monkeypatch: Patch) -> None:
    if fault.patch is not None:
        fault.patch(monkeypatch)
    mutations = [fault.network] if fault.network is not None else []
    result = climb([fault.rung], mutations, fault.judging, **fault.options)
    (stage,) = result.stages
    assert stage.verdict is Verdict.DIVERGED
    if fault.name == "raises":
        assert [failure.side for failure in stage.failures] == ["paddle"]
        return
    assert not stage.failures
    bad = bad_taps(stage)
    assert bad
    if fault.first is not None:
        assert fault.first in bad[0]
    for part in fault.taps:
        assert any(part in tap for tap in bad), part
    strays = [tap for tap in bad if fault.taps and not any(part in tap for part in fault.taps)]
    assert strays == []
    if fault.first is not None and not fault.taps and fault.rung == "weights":
        assert bad == [fault.first]
    if fault.blamed is not None:
        assert sorted(blamed(stage)) == sorted(fault.blamed)


# --- training ---------------------------------------------------------------------------------------------

TRAIN = [
    ("pooling", 0, [setting(f"{BACKBONE}.4.skip", "exclusive", True)], None),
    ("fuse kernel", 0, [], fuse_kernel(lambda k: np.array([0.31, -0.2, 0.07]))),
    ("OHEM", 0, [], put(losses, "hard_examples", lambda loss, thresh, n: loss.sort()[-n:])),
    ("group multipliers", 1, [], put(optim, "LR_MUL", 1.0)),
    ("schedule", 1, [], put(optim, "learning_rate", late)),
    ("weight decay", 4, [], rebuilt(weight_decay=0.0)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("iteration", "mutations", "patch"), [row[1:] for row in TRAIN], ids=[row[0] for row in TRAIN]
)
def test_a_removed_fix_shows_in_the_losses(
    iteration: int, mutations: list[Mutation], patch: Callable[[Patch], None] | None, monkeypatch: Patch
) -> None:
    if patch is not None:
        patch(monkeypatch)
    (stage,) = climb(["train"], mutations).stages
    assert stage.verdict is Verdict.DIVERGED
    apart = [re.match(r"iteration (\d+): ", tap) for tap in bad_taps(stage)]
    assert min(int(found[1]) for found in apart if found) <= iteration
    assert any("loss" in remark for remark in stage.remarks)


# --- several at once, blocked rungs, clean twins ----------------------------------------------------------


def test_three_faults_in_a_forward_pass_are_all_named() -> None:
    planted = {
        f"{BACKBONE}.3.conv_list.1.bn": setting(NORM, "_epsilon", 1e-3),
        "cp.arm16.conv.conv": tensor("cp.arm16.conv.conv.weight", swap_channels),
        "conv_out_sp8.conv.relu": rewire("conv_out_sp8.conv.relu", lambda f, x: x.clip(-0.1)),
    }
    (stage,) = climb(["forward"], list(planted.values())).stages
    assert blamed(stage) == list(planted)


def test_three_faults_in_a_backward_pass_are_all_named() -> None:
    planted = {
        "conv_out.conv.bn": rewire("conv_out.conv.bn", scaled_gradient),
        "cp.conv_head32": rewire("cp.conv_head32", lambda f, x: f(x.detach())),
        f"{BACKBONE}.3.conv_list.2.conv": rewire(f"{BACKBONE}.3.conv_list.2.conv", scaled_gradient),
    }
    (stage,) = climb(["backward"], list(planted.values())).stages
    assert blamed(stage) == list(planted)


def test_wrong_weights_hide_nothing_behind_them() -> None:
    result = climb(list(RUNGS), [WEIGHTS[0].network])  # type: ignore[list-item]
    verdicts = {stage.stage: stage.verdict for stage in result.stages}
    assert verdicts.pop("weights") is Verdict.DIVERGED and all(verdicts.values())
    lent = [stage.stage for stage in result.stages if run.LENT in stage.remarks]
    assert lent == ["forward", "forward-train", "backward", "optimizer", "metric", "train"]
    assert result.verdict is Verdict.DIVERGED


def test_faults_of_several_rungs_are_all_named_once() -> None:
    wrong, tensor_path = f"{BACKBONE}.3.conv_list.1.bn", "cp.arm16.conv.conv.weight"
    mutations = [
        tensor(tensor_path, off_by(2e-7)),
        setting(wrong, "_epsilon", 1e-3),
        setting("ffm.convblk.bn", "_momentum", 0.8),
        rewire("cp.conv_head32", scaled_gradient),
    ]
    stages = {stage.stage: stage for stage in climb(list(RUNGS), mutations).stages}
    assert {name: [c.tap for c in stage.blamed] for name, stage in stages.items() if stage.blamed} == {
        "weights": [tensor_path],
        "forward": [wrong],
        "forward-train": ["ffm.convblk.bn.running_mean"],
        "backward": ["own grad cp.conv_head32 input[0]"],
    }
    assert stages["forward-train"].again == {wrong: "forward"}
    assert stages["backward"].again == {wrong: "forward"}
    assert stages["backward"].blocked_by == "forward-train" and stages["backward"].verdict is Verdict.DIVERGED
    blocked = {name: stage.blocked_by for name, stage in stages.items() if stage.verdict is Verdict.BLOCKED}
    assert blocked == {"metric": "forward", "train": "backward"}
    assert all(stages[name] for name in ("data", "loss", "optimizer", "schedule"))


def test_what_follows_from_a_fault_is_not_named_again() -> None:
    wrong = f"{BACKBONE}.3.conv_list.1.bn"
    stages = climb(["forward", "forward-train", "backward", "metric"], [setting(wrong, "_epsilon", 1e-3)]).stages
    assert [(stage.stage, blamed(stage), stage.again) for stage in stages] == [
        ("forward", [wrong], {}),
        ("forward-train", [], {wrong: "forward"}),
        ("backward", [], {wrong: "forward"}),
        ("metric", [], {}),
    ]
    assert [stage.verdict.value for stage in stages] == ["DIVERGED", "DIVERGED", "BLOCKED", "BLOCKED"]
    assert all(stage.isolated for stage in stages)


def test_a_side_without_a_network_blocks_what_needs_one() -> None:
    def fail(network: Any) -> None:
        raise ValueError("there is no such layer")

    result = climb(list(RUNGS), [fail])
    verdicts = {stage.stage: (stage.verdict, stage.blocked_by) for stage in result.stages}
    blocked = ("forward", "forward-train", "backward", "optimizer", "metric", "train")
    assert {name: verdicts[name] for name in blocked} == dict.fromkeys(blocked, (Verdict.BLOCKED, "weights"))
    assert verdicts["data"] == verdicts["loss"] == (Verdict.PASS, "")
    assert result.stages[0].failures and not any(stage.blamed for stage in result.stages)


MIDDLE = ("forward", "forward-train", "loss", "backward")
CLEAN: list[tuple[Sequence[str], dict[str, Any]]] = [
    (tuple(RUNGS), {"batch": 3, "steps": 3}),
    ((*MIDDLE, "metric"), {"pair": "stdc2-seg", "seed": 1, "size": (97, 161)}),
    ((*MIDDLE, "train"), {"dtype": "float64", "seed": 2, "steps": 2}),
]


@pytest.mark.parametrize(("rungs", "options"), CLEAN, ids=["all", "an odd size", "float64"])
def test_clean_twins_pass(rungs: Sequence[str], options: dict[str, Any]) -> None:
    result = climb(rungs, judging=Judging(Tolerance(), "always", isolate=True), **options)
    found = [(stage.stage, bad_taps(stage), blamed(stage)) for stage in result.stages]
    assert [row for row in found if row[1:] != ([], [])] == []
    assert result and [stage.stage for stage in result.stages] == list(rungs)
