"""ResNets of bottlenecks by gluoncv's and torchvision's names: what networks that stand on them have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from stdc_parity.converters.architecture import Kind, TensorSpec

LAYERS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
"""Blocks in the four stages (He et al., table 1)."""

Form = Literal["v1b", "v1s", "v1d"]
Tensors = Iterator[tuple[str, TensorSpec]]


def backbone(prefix: str, layers: tuple[int, ...], base: int, form: Form) -> Tensors:
    """The tensors of a ResNet without its classifier, each name behind `prefix`.

    Its stem is one 7x7 convolution in v1b, else three of 3x3, which v1d has at half of v1s's width.
    """
    width = base * 2 if form == "v1s" else base
    half = width // 2
    if form == "v1b":
        yield from conv(f"{prefix}conv1", 3, width, 7)
    else:
        yield from conv(f"{prefix}conv1.0", 3, half, 3)
        yield from norm(f"{prefix}conv1.1", half)
        yield from conv(f"{prefix}conv1.3", half, half, 3)
        yield from norm(f"{prefix}conv1.4", half)
        yield from conv(f"{prefix}conv1.6", half, width, 3)
    yield from norm(f"{prefix}bn1", width)
    for stage, blocks in enumerate(layers):
        planes = base * 2**stage
        for block in range(blocks):
            yield from _bottleneck(f"{prefix}layer{stage + 1}.{block}", width, planes, form, first=block == 0)
            width = planes * 4


def _bottleneck(path: str, width: int, planes: int, form: Form, *, first: bool) -> Tensors:
    """One residual block; the first of a stage projects its input, in v1d after a pool."""
    for number, shape in enumerate(((width, planes, 1), (planes, planes, 3), (planes, planes * 4, 1)), 1):
        yield from conv(f"{path}.conv{number}", *shape)
        yield from norm(f"{path}.bn{number}", shape[1])
    if first:
        start = 1 if form == "v1d" else 0
        yield from conv(f"{path}.downsample.{start}", width, planes * 4, 1)
        yield from norm(f"{path}.downsample.{start + 1}", planes * 4)


def conv(path: str, width: int, out: int, kernel: int, *, bias: bool = False, dimensions: int = 2) -> Tensors:
    """A convolution with the same kernel in each of its dimensions."""
    yield f"{path}.weight", TensorSpec("conv", (out, width, *(dimensions * (kernel,))))
    if bias:
        yield f"{path}.bias", TensorSpec("plain", (out,))


def linear(path: str, width: int, out: int) -> Tensors:
    """A linear layer with a bias."""
    yield f"{path}.weight", TensorSpec("linear", (out, width))
    yield f"{path}.bias", TensorSpec("plain", (out,))


def norm(path: str, width: int) -> Tensors:
    """A batch norm."""
    kinds: tuple[Kind, ...] = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    for kind in kinds:
        yield f"{path}.{kind.removeprefix('norm.')}", TensorSpec(kind, (width,))
    yield f"{path}.num_batches_tracked", TensorSpec("norm.batches", ())


def norms(tensors: Mapping[str, TensorSpec]) -> frozenset[str]:
    """The dotted paths of the norms."""
    return frozenset(k.rpartition(".")[0] for k, spec in tensors.items() if spec.kind == "norm.batches")
