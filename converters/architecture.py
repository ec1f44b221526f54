"""What the converter knows of a network: its tensors by name, and what kind of thing each one is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "conv", "linear", "bias", "plain", "buffer",
    "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.batches",
]  # fmt: skip
"""What a tensor is. A "bias" is one that only some layouts have; "plain" are official ones, and parameters that no
layer has; a "buffer" is not trained."""
Side = Literal["torch", "paddle"]

PADDLE_SUFFIX: Mapping[Kind, tuple[str, str]] = {
    "norm.running_mean": ("running_mean", "_mean"),
    "norm.running_var": ("running_var", "_variance"),
}
"""Norm statistics are the only tensors that the two frameworks name differently: (torch, paddle)."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an architecture: its kind, which decides the rule, and its shape in PyTorch."""

    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Unused:
    """A tensor that a larger form of a network has, and why this one has no use for it."""

    spec: TensorSpec
    reason: str


@dataclass(frozen=True)
class Architecture:
    """A network as its official state dict shows it.

    `tensors` maps official PyTorch names to their specs, in the order of the official state dict, each
    tensor once. `aliases` maps further official names of the same tensors to those. `abn_norms` are the
    norm modules that the published checkpoints were trained with as InPlaceABN. `other_norms` are the
    norms that stayed plain batch norms in them: they tell an InPlaceABN checkpoint from one that merely
    lost its counters. `groups` are the numbers of the blocks of each stage, by its stride ("8x").
    `family` is the name of the networks that it belongs to, `words` are what `describe` says of it, in order.
    `unused` are the tensors that a checkpoint of a larger form of the network holds besides.
    `whose` says by a layout's name whose names that layout's are for it, where its title does not.
    """

    name: str
    facts: Mapping[str, str | int | bool]
    tensors: Mapping[str, TensorSpec]
    aliases: Mapping[str, str]
    abn_norms: frozenset[str]
    other_norms: frozenset[str]
    groups: Mapping[str, range] = field(default_factory=dict)
    family: str = ""
    words: tuple[str, ...] = ()
    unused: Mapping[str, Unused] = field(default_factory=dict)
    whose: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> dict[str, TensorSpec]:
        """Every tensor that a checkpoint of the network may hold, the unused ones too."""
        return {**self.tensors, **{name: unused.spec for name, unused in self.unused.items()}}

    def describe(self) -> str:
        """`stdc2-seg (19 classes, base 64, cat blocks, with ImageNet head)`: one line for people."""
        return f"{self.name} ({', '.join(self.words)})" if self.words else self.name


def is_transposed(side: Side, kind: Kind) -> bool:
    """Whether `side` has the tensor transposed: Paddle's Linear weights are (in, out)."""
    return side == "paddle" and kind == "linear"


def paddle_name(name: str, kind: Kind) -> str:
    """The name that the Paddle twin gives to the tensor which PyTorch calls `name`."""
    if kind not in PADDLE_SUFFIX:
        return name
    torch_suffix, paddle_suffix = PADDLE_SUFFIX[kind]
    return name.removesuffix(torch_suffix) + paddle_suffix


def paddle_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of the tensor in Paddle: a Linear weight is (in, out) there and (out, in) in PyTorch."""
    return spec.shape[::-1] if spec.kind == "linear" else spec.shape
