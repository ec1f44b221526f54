"""Layouts: how a code base names the tensors of a network, as tables of lines against the official names.

A layout is a file in `layouts/`; this module reads its table. Rules say what a key is; shapes only confirm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from stdc_parity.converters.architecture import (
    Architecture,
    Kind,
    Side,
    TensorSpec,
    paddle_name,
    paddle_shape,
)
from stdc_parity.converters.statedict import Array

_TOKEN = re.compile(r"\[[^\]]*\]|\{[^}]*\}|\*\*|\*")


@dataclass(frozen=True)
class Line:
    """One line of a layout's table: an official module, and the module that holds its tensors in the layout.

    Both are patterns with the same wild cards in the same order: `*` is (a part of) one component, `**` any
    number of them, `[text]` stands on both sides or on neither, and `{8x}` is the number of a block, which
    the layout counts from 0 within the stage of that stride. `bias` says that the layout's convolutions and Linears
    have a bias where the official ones have none; `pair` that its output channels are (not X, X) where the official
    one has the single channel X.
    """

    official: str
    theirs: str
    bias: bool = False
    pair: bool = False


@dataclass(frozen=True)
class Constant:
    """A tensor of a layout's own that no training changes, there if the official module `beside` is."""

    beside: str
    values: Any

    def array(self) -> Array:
        """The values, float32."""
        return np.asarray(self.values, np.float32)


@dataclass(frozen=True)
class Layout:
    """How a code base names the tensors of the architectures.

    `lines` and `absent` together reach every official module exactly once (tests/test_layouts.py); `absent`
    gives the reason why the layout has no place for one. `constants` are tensors of the layout's own, by name.
    `facts` are what those of an architecture may be. `abn` says that its checkpoints may hold InPlaceABN weights,
    `aliases` that they may hold a stage's tensors a second time, as the official or Paddle's twin does.
    `older` are modules of the layout that files of older releases hold beside, with the reason why they are left
    out. `family` names the networks that its table is for, "" for any. `suffixes` are what it calls tensors of a kind
    otherwise than PyTorch does. A layout of a `container` is that of such files alone, and none to write;
    `structured` gives its names to the tensors of a file that has them in another form. `advice` is what whoever
    loads a written file has to do, `caveat` what its checkpoints may compute otherwise elsewhere, a sentence each.
    """

    name: str
    side: Side
    title: str
    lines: tuple[Line, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    facts: Mapping[str, tuple[str | int | bool, ...]] = field(default_factory=dict)
    older: Mapping[str, str] = field(default_factory=dict)
    abn: bool = False
    aliases: bool = False
    family: str = ""
    suffixes: Mapping[Kind, str] = field(default_factory=dict)
    container: str = ""
    structured: Callable[[Mapping[str, Array]], Mapping[str, str]] | None = None
    advice: str = ""
    caveat: str = ""

    def fits(self, architecture: Architecture) -> bool:
        """Whether the table is for this family of networks."""
        return self.family in ("", architecture.family)


@dataclass(frozen=True)
class Place:
    """Where a layout keeps an official tensor, with the shape that it has there."""

    name: str
    shape: tuple[int, ...]
    pair: bool


def translate(official: str, theirs: str, module: str, groups: Mapping[str, range]) -> str | None:
    """The module that the pattern `theirs` makes of `module`, or None if `official` does not match it."""
    match = _expression(official, tuple(groups.items())).fullmatch(module)
    if match is None:
        return None
    values = iter(match.groups())

    def fill(token: re.Match[str]) -> str:
        text, value = token[0], next(values)
        if text.startswith("["):
            return text[1:-1] if value is not None else ""
        return str(int(value) - groups[text[1:-1]].start) if text.startswith("{") else value

    return _TOKEN.sub(fill, theirs)


@cache
def _expression(pattern: str, groups: tuple[tuple[str, range], ...]) -> re.Pattern[str]:
    """The regular expression of a pattern, a group for each of its wild cards."""
    numbers = dict(groups)
    parts, end = [], 0
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : token.start()]))
        text, end = token[0], token.end()
        if text.startswith("["):
            parts.append(f"({re.escape(text[1:-1])})?")
        elif text.startswith("{"):
            parts.append(f"({'|'.join(map(str, numbers.get(text[1:-1], ()))) or '(?!)'})")
        else:
            parts.append("(.+)" if text == "**" else "([^.]+)")
    return re.compile("".join(parts) + re.escape(pattern[end:]))


def find_place(layout: Layout, module: str, architecture: Architecture) -> tuple[str, Line] | None:
    """The layout's name of an official module and the line that says so; None if it has no place for it."""
    for line in layout.lines:
        if (found := translate(line.official, line.theirs, module, architecture.groups)) is not None:
            return found, line
    return None


def why_absent(layout: Layout, tensor: str, architecture: Architecture) -> str | None:
    """Why the layout has no place for an official tensor, or None if no rule says so."""
    return find_reason(layout.absent, tensor, architecture)


def find_reason(reasons: Mapping[str, str], tensor: str, architecture: Architecture) -> str | None:
    """The reason of the first pattern that matches the tensor's module, or None."""
    module = tensor.rpartition(".")[0]
    for pattern, reason in reasons.items():
        if translate(pattern, pattern, module, architecture.groups) is not None:
            return reason
    return None


def places(layout: Layout, architecture: Architecture) -> dict[str, Place]:
    """Official name -> place, for every tensor of the architecture that the layout has a place for.

    The layout's biases are among them, under the name that the official convolution's would have. Paddle's
    norms have no counters; their names are given all the same, as naive converters write them.
    """
    found: dict[str, tuple[str, Line] | None] = {}
    result = {}
    for name, spec in with_biases(architecture.tensors):
        module, _, last = name.rpartition(".")
        if module not in found:
            found[module] = find_place(layout, module, architecture)
        here = found[module]
        if here is None or (spec.kind == "bias" and not here[1].bias):
            continue
        shape = paddle_shape(spec) if layout.side == "paddle" else spec.shape
        pair = here[1].pair and spec.kind in ("conv", "bias")
        key = f"{here[0]}.{layout.suffixes.get(spec.kind, last)}"
        result[name] = Place(
            paddle_name(key, spec.kind) if layout.side == "paddle" else key,
            (2 * shape[0], *shape[1:]) if pair else shape,
            pair,
        )
    return result


def with_biases(tensors: Mapping[str, TensorSpec]) -> Iterator[tuple[str, TensorSpec]]:
    """The tensors, and after the weight of each convolution or Linear without a bias the one of other layouts."""
    for name, spec in tensors.items():
        yield name, spec
        bias = f"{name.removesuffix('weight')}bias"
        if spec.kind in ("conv", "linear") and bias not in tensors:
            kind: Kind = "bias"
            yield bias, TensorSpec(kind, spec.shape[:1])
