"""The Paddle side of the PaddleSeg case study: STDCSeg of the installed `paddleseg` as it is (2.8.0 was tried).

Optimizer and schedule are what PaddleSeg's own builder makes of its configs/stdcseg/
stdc2_seg_cityscapes_1024x512_80k.yml, which PADDLESEG_CONFIG names: the package on PyPI comes without configurations.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import paddle
import stdc_paddle
from drawn import first_scene
from paddle import nn
from paddleseg import transforms
from paddleseg.core import infer
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.datasets import Cityscapes
from paddleseg.models import STDC1, STDCSeg
from paddleseg.models.losses import DetailAggregateLoss, OhemCrossEntropyLoss
from paddleseg.utils import metrics
from stdc_names import group_of, upstream_name
from steps_paddle import Steps

HEADS = ("ffm.convblk", *(f"conv_out{head}.conv" for head in ("", "8", "16", "_sp2", "_sp4", "_sp8", "_sp16")))
NOT_DECAYED = ("bn", "_batch_norm", "avd_layer.1", "bias")
GROUPS = [
    *({"name": f"{part}.{norm}", "lr_mult": 10.0, "weight_decay_mult": 0.0}
      for part in HEADS for norm in ("_batch_norm", "_conv.bias")),
    *({"name": f"{part}.bias", "lr_mult": 10.0, "weight_decay_mult": 0.0}
      for part in ("conv_out", "ffm.conv1", "ffm.conv2")),
    *({"name": name, "lr_mult": 10.0} for name in ("ffm", "conv_out")),
    *({"name": name, "weight_decay_mult": 0.0} for name in NOT_DECAYED),
]
"""The custom_cfg that gives PaddleSeg upstream's groups: the first entry whose name is in a parameter's counts."""


def build() -> nn.Layer:
    """The network as configs/stdcseg builds it, the smaller of the two, but for its backbone's weights."""
    network = stdc_paddle.all_heads(STDCSeg)(19, STDC1())
    return stdc_paddle.with_remedies(network)


def Loss() -> nn.Layer:
    """The losses of configs/stdcseg."""
    return stdc_paddle.Loss(OhemCrossEntropyLoss, DetailAggregateLoss())


def build_optimizer(
    network: nn.Layer, loss: nn.Layer, lr: float = 0.01, iterations: int = 80_000, **_warmup: float
) -> Steps:
    """Optimizer and schedule of the configuration, which has no warm-up; `iterations` are what its `iters` says."""
    builder = _builder(learning_rate=lr, iters=iterations)
    vars(builder)["model"] = network
    named = dict(network.named_parameters())
    named |= {f"loss.{name}": parameter for name, parameter in loss.named_parameters()}
    steps = Steps(builder.optimizer, builder.lr_scheduler, named, lambda name: group_of(upstream_name(name)))
    steps.set_lr(lr)
    return steps


def _builder(**numbers: Any) -> SegBuilder:
    config = Config(os.environ["PADDLESEG_CONFIG"], **numbers)
    if "groups" in stdc_paddle.FIXES:
        config.dic["optimizer"] |= {"custom_cfg": GROUPS, "weight_decay": 5.0e-4}
    return SegBuilder(config)


def metric(outputs: Any, labels: paddle.Tensor) -> dict[str, Any]:
    """The mean IoU of given logits."""
    return stdc_paddle.mean_iou(metrics, outputs[0], labels)


def seen_at(scale: float, image: np.ndarray) -> np.ndarray:
    """What a network is given when it is evaluated with `--aug_eval --scales`."""
    network, images = stdc_paddle.Watcher(), paddle.to_tensor(image[None])
    infer.aug_inference(network, images, [], scales=scale)
    return network.seen


def data() -> Iterator[Mapping[str, np.ndarray]]:
    """One batch: what becomes of the first of the seeded scenes."""
    return first_scene(samples)


def samples(folder: str) -> dict[str, np.ndarray]:
    """The first validation sample as the configuration has it, and it after each transform with a given choice."""
    first = Cityscapes(_builder().val_transforms, folder, mode="val")[0]
    found = {"val image": first["img"], "val label": first["label"][0].astype("int64")}
    found["val image at scale 0.5"] = seen_at(0.5, found["val image"])
    plain = Cityscapes([], folder, mode="val")
    height, width = first["img"].shape[1:]

    def run(*steps: Any) -> Any:
        image, label = plain.file_list[0]
        return transforms.Compose(list(steps))({"img": image, "label": label, "gt_fields": ["label"]})

    half = transforms.ResizeStepScaling(0.5, 0.5)
    steps = {
        "scaled by 0.5": run(half),
        "scaled by 1.5": run(transforms.ResizeStepScaling(1.5, 1.5)),
        "flipped": run(transforms.RandomHorizontalFlip(1.0)),
        "cropped from half the crop": run(half, transforms.RandomPaddingCrop((width, height))),
    }
    for step, done in steps.items():
        found[f"{step} image"] = done["img"].transpose(1, 2, 0).astype("uint8")
        found[f"{step} label"] = done["label"].astype("int64")
    return found
