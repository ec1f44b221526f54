"""The Paddle side of the STDCNet-Paddle case study: CuberrChen/STDCNet-Paddle as it is, from its checkout.

Its train.py starts with data and pretrained weights and cannot be imported; its constants are repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import paddle
import stdc_paddle
from drawn import first_scene
from loss.detail_loss_paddle import DetailAggregateLoss
from model.model_stages_paddle import BiSeNet
from paddle import nn
from paddle2 import give_vectors
from paddleseg import transforms
from paddleseg.core import infer
from paddleseg.datasets import Cityscapes
from paddleseg.models.losses import OhemCrossEntropyLoss
from paddleseg.utils import metrics
from scheduler.warmup_poly_paddle import Warmup_PolyDecay
from stdc_names import group_of
from steps_paddle import Steps

give_vectors()
SECOND_NAMES = ("x2", "x4", "x8", "x16", "x32")


def build() -> nn.Layer:
    """The network as train.py builds it, the smaller of the two; each tensor under its first name only."""
    network = stdc_paddle.all_heads(BiSeNet)("STDCNet813", 19, use_boundary_8=True)
    for name in SECOND_NAMES:
        object.__setattr__(network.cp.backbone, name, network.cp.backbone._sub_layers.pop(name))
    return stdc_paddle.with_remedies(network)


def Loss() -> nn.Layer:
    """The losses of train.py."""
    return stdc_paddle.Loss(OhemCrossEntropyLoss, DetailAggregateLoss())


def build_optimizer(network: nn.Layer, loss: nn.Layer, lr: float = 0.01, warmup: int = 1000, start: float = 1e-5,
                    iterations: int = 80_000) -> Steps:  # fmt: skip
    """The optimizer and the schedule of train.py."""
    schedule = Warmup_PolyDecay(
        lr_rate=lr, warmup_steps=warmup, iters=iterations, warmup_strat_lr=start, end_lr=1e-5
    )
    optimizer = paddle.optimizer.Momentum(
        schedule, parameters=network.parameters(), momentum=0.9, weight_decay=5.0e-4
    )
    named = dict(network.named_parameters())
    named |= {f"loss.{name}": parameter for name, parameter in loss.named_parameters()}
    steps = Steps(optimizer, schedule, named, group_of)
    steps.set_lr(lr)
    return steps


def metric(outputs: Any, labels: paddle.Tensor) -> dict[str, Any]:
    """The mean IoU of given logits."""
    return stdc_paddle.mean_iou(metrics, outputs[0], labels)


def seen_at(scale: float, image: np.ndarray) -> np.ndarray:
    """What a network is given when train.py evaluates it at `scale`."""
    network, images = stdc_paddle.Watcher(), paddle.to_tensor(image[None])
    infer.aug_inference(network, images, images.shape[2:], [], scales=scale, flip_horizontal=False)
    return network.seen


def data() -> Iterator[Mapping[str, np.ndarray]]:
    """One batch: what becomes of the first of the seeded scenes."""
    return first_scene(samples)


def samples(folder: str) -> dict[str, np.ndarray]:
    """The first validation sample as train.py has it, and it after each transform with a given random choice."""
    dataset = Cityscapes(
        [transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))], dataset_root=folder, mode="val"
    )
    image, label = dataset[0]
    found = {"val image": image, "val label": label[0].astype("int64")}
    found["val image at scale 0.5"] = seen_at(0.5, found["val image"])
    height, width = label.shape[1:]

    def run(*steps: Any) -> Any:
        return transforms.Compose(list(steps))(*dataset.file_list[0])

    half = transforms.ResizeStepScaling(0.5, 0.5)
    steps = {
        "scaled by 0.5": run(half),
        "scaled by 1.5": run(transforms.ResizeStepScaling(1.5, 1.5)),
        "flipped": run(transforms.RandomHorizontalFlip(1.0)),
        "cropped from half the crop": run(half, transforms.RandomPaddingCrop((width, height))),
    }
    for step, (image, label) in steps.items():
        found[f"{step} image"] = image.transpose(1, 2, 0).astype("uint8")
        found[f"{step} label"] = label.astype("int64")
    return found
