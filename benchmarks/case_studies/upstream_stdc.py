"""The PyTorch side of two case studies: MichaelFan01/STDC-Seg as it is, from the checkout on sys.path.

What its modules import and these runs do not need is stubbed: tqdm, cv2, its logger. Three transforms of torchvision
(which is tied to torch's build) are written out. `InPlaceABNSync` needs a CUDA compiler; `nn.BatchNorm2d`, the line
that upstream's model_stages.py has commented out, stands in for it. `.cuda()` does nothing, and
`torch.cuda.FloatTensor` is a CPU tensor of the default type.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn import first_scene
from PIL import Image
from torch import nn

SECOND_NAMES = ("x2", "x4", "x8", "x16", "x32")
TERMS = ("ohem", "ohem16", "ohem32")


def _stub(name: str, **names: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(names)
    sys.modules[name] = module


class Norm(nn.BatchNorm2d):
    """A batch norm that takes InPlaceABNSync's arguments."""

    def __init__(self, channels: int, activation: str = "none") -> None:
        """Take the channels."""
        super().__init__(channels)


class ToTensor:
    """An image as float32 (3, h, w) from 0 to 1, as torchvision's."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Convert."""
        return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy()).float().div(255)


class Normalize:
    """(x - mean) / std of each channel in float32, as torchvision's."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take one figure a channel."""
        self.mean, self.std = (torch.tensor(figures).view(-1, 1, 1) for figures in (mean, std))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Normalise."""
        return (image - self.mean) / self.std


def compose(steps: Sequence[Any]) -> Any:
    """The steps one after another, as torchvision's Compose."""
    return lambda image: functools.reduce(lambda done, step: step(done), steps, image)


for _name in ("cv2", "torchvision"):
    _stub(_name)
_stub("torchvision.transforms", ToTensor=ToTensor, Normalize=Normalize, Compose=compose)
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
_stub("tqdm", tqdm=lambda items: items)
_stub("logger", setup_logger=lambda path: None)
_stub("modules.bn", InPlaceABNSync=Norm)
torch.Tensor.cuda = lambda self: self  # type: ignore[assignment]
torch.cuda.FloatTensor = torch.FloatTensor  # type: ignore[misc]

import evaluation  # noqa: E402
import transform  # noqa: E402
from cityscapes import CityScapes  # noqa: E402
from loss.detail_loss import DetailAggregateLoss  # noqa: E402
from loss.loss import OhemCELoss  # noqa: E402
from models.model_stages import BiSeNet  # noqa: E402
from optimizer_loss import Optimizer  # noqa: E402
from stdc_names import group_of  # noqa: E402
from steps_torch import Steps  # noqa: E402

for _name in ("tqdm", "torchvision", "torchvision.transforms"):  # torch looks for them later
    del sys.modules[_name]
CHECKOUT = Path(evaluation.__file__).parent


def build() -> nn.Module:
    """The network as train.py builds it, the smaller of the two; each tensor under its first name only."""
    network = BiSeNet("STDCNet813", 19, use_boundary_8=True)
    forget_second_names(network.cp.backbone)
    return network


def build_without_imagenet_head() -> nn.Module:
    """The network without what only classification needs, which PaddleSeg's backbone lacks."""
    network = build()
    for name in ("conv_last", "gap", "fc", "bn", "relu", "dropout", "linear"):
        delattr(network.cp.backbone, name)
    return network


def forget_second_names(backbone: Any) -> None:
    """Unregister the backbone's stages x2 … x32, which are `features` a second time; forward still finds them."""
    for name in SECOND_NAMES:
        object.__setattr__(backbone, name, backbone._modules.pop(name))


class Loss(nn.Module):
    """The training loss of train.py: OHEM on three outputs, the detail loss on the fourth."""

    def __init__(self) -> None:
        """Build the parts."""
        super().__init__()
        self.detail = DetailAggregateLoss()

    def forward(self, outputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The total and its terms."""
        terms = {name: self.hard(logits, labels) for name, logits in zip(TERMS, outputs, strict=False)}
        bce, dice = self.detail(outputs[3], labels)
        terms["detail8"] = bce + dice
        return sum(terms.values()), terms  # type: ignore[return-value]

    def hard(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of hard pixels. `n_min` is a sixteenth of the batch's pixels, as train.py has it."""
        return OhemCELoss(0.7, labels.numel() // 16)(logits, labels)

    def get_params(self) -> list[nn.Parameter]:
        """The parameters that upstream's optimizer asks the detail loss for."""
        return self.detail.get_params()


def build_optimizer(
    network: nn.Module,
    loss: Loss,
    lr: float = 1e-2,
    warmup: int = 1000,
    start: float = 1e-5,
    iterations: int = 60_000,
) -> Steps:
    """The optimizer with the constants of train.py; 60000 iterations are those of scripts/*.sh."""
    theirs = Optimizer(network, loss, lr, 0.9, 5e-4, warmup, start, iterations, 0.9)
    named = dict(network.named_parameters())
    named |= {f"loss.{name}": parameter for name, parameter in loss.named_parameters()}

    def set_rates(lr_now: float | None, it: int = 0) -> None:
        """Have upstream's own step set the rates, without an update."""
        theirs.it, update, theirs.optim.step = it, theirs.optim.step, lambda: None
        get_lr = theirs.get_lr
        if lr_now is not None:
            theirs.get_lr = lambda: lr_now
        theirs.step()
        theirs.optim.step, theirs.get_lr = update, get_lr

    set_rates(lr)  # until its first step upstream's groups have one rate
    return Steps(theirs.optim, named, group_of, lambda it: set_rates(None, it), set_rates)


def metric(outputs: Any, labels: torch.Tensor) -> dict[str, Any]:
    """MscEvalV0's mean IoU of given logits (n, c, h, w), at scale 1."""
    logits = outputs[0]
    score = evaluation.MscEvalV0(scale=1.0)(lambda images: (logits,), [(logits, labels[:, None])], logits.shape[1])
    return {"mean IoU": float(score)}


def seen_at(scale: float, image: np.ndarray) -> np.ndarray:
    """What a network is given when MscEvalV0 measures it at `scale` of an image (3, h, w)."""
    images, seen = torch.from_numpy(image[None]), list[torch.Tensor]()

    def network(scaled: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(scaled)
        return (scaled,)

    labels = torch.zeros((images.shape[0], 1, *images.shape[2:]), dtype=torch.int64)
    evaluation.MscEvalV0(scale=scale)(network, [(images, labels)], 3)
    return seen[0].numpy()


def data() -> Iterator[Mapping[str, np.ndarray]]:
    """One batch: what becomes of the first of the seeded scenes."""
    return first_scene(samples)


def samples(folder: str) -> dict[str, np.ndarray]:
    """The first validation sample of a `folder`, and it after each transform with a given random choice."""
    with contextlib.chdir(CHECKOUT):  # cityscapes.py opens ./cityscapes_info.json
        dataset = CityScapes(folder, mode="val")
    image, label = dataset[0]
    found = {"val image": np.asarray(image), "val label": np.asarray(label)[0]}
    found["val image at scale 0.5"] = seen_at(0.5, found["val image"])
    name = dataset.imnames[0]
    start = {"im": Image.open(dataset.imgs[name]).convert("RGB"), "lb": Image.open(dataset.labels[name])}
    half = transform.RandomScale((0.5,))(start)
    width, height = start["im"].size
    steps = {
        "scaled by 0.5": half,
        "scaled by 1.5": transform.RandomScale((1.5,))(start),
        "flipped": transform.HorizontalFlip(1.0)(start),
        "cropped from half the crop": transform.RandomCrop((width, height))(half),
    }
    for step, done in steps.items():
        found[f"{step} image"] = np.asarray(done["im"])
        found[f"{step} label"] = dataset.convert_labels(np.array(done["lb"], np.int64))
    return found
