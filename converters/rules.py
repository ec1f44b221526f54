"""Rules: how one network's tensors are called and laid out on either side, as data that people review.

A rules file is TOML, with a line for each tensor; docs/rules.md explains every field:

    format = 1
    tensors = [
      { torch = "conv.weight", paddle = "stem.weight", torch_shape = [8, 3, 3, 3], paddle_shape = [8, 3, 3, 3], … },
      { torch = "fc.weight", paddle = "head.weight", transform = "transpose", torch_shape = [10, 8], … },
      { torch = "bn.num_batches_tracked", torch_shape = [], value = 0, dtype = "int64", reason = "…", … },
    ]
    open = [ { torch = ["a.w"], paddle = ["x.w", "y.w"], why = "…" } ]

It serves both directions. Nothing is guessed from it: what is open is not converted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from stdc_parity.converters.architecture import Side
from stdc_parity.converters.errors import shown
from stdc_parity.converters.pickle_values import bfloat16

FORMAT = 1

Transform = Literal["copy", "transpose", "permute", "reshape"]
Settled = Literal["path", "type", "order", "probe", "hand"]
Shape = tuple[int, ...]
Rows = tuple[int, int]

DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


@dataclass(frozen=True)
class TensorRule:
    """What one tensor, or some rows of it, is on each side.

    A rule with both names moves it: `transform` makes Paddle's of PyTorch's ("permute" by `axes`, as
    numpy.transpose takes them) and is undone on the way back. `torch_rows` and `paddle_rows` (first, end) are what
    of the first axis it speaks of, if a tensor is several on the other side; Paddle's are counted as PyTorch has
    the tensor turned. A rule with one name is of a tensor that the other side lacks: dropped for `reason`, and
    created on the way back as full of `value` in `dtype` (that of the weights if ""), or, as a second name of
    another tensor of its side, `alias`, as that one. With `exact` it may be dropped only if it is full of `value`;
    `optional` ones are not written at all, as the network makes them itself.

    `torch_alias`, `paddle_alias` name a tensor of that side that has the same memory there, and so has to have the
    same values. `settled` says how the rule was found, `evidence` what speaks for it.
    """

    torch: str | None = None
    paddle: str | None = None
    transform: Transform = "copy"
    axes: tuple[int, ...] = ()
    torch_rows: Rows | None = None
    paddle_rows: Rows | None = None
    torch_shape: Shape | None = None
    paddle_shape: Shape | None = None
    torch_alias: str = ""
    paddle_alias: str = ""
    value: float | int | bool | None = None
    dtype: str = ""
    exact: bool = False
    optional: bool = False
    reason: str = ""
    settled: Settled = "hand"
    evidence: str = ""

    def name(self, side: Side) -> str | None:
        """Its name on a side, None if that has no such tensor."""
        return self.torch if side == "torch" else self.paddle

    def shape(self, side: Side) -> Shape:
        """The whole tensor's shape on a side that has it."""
        return (self.torch_shape if side == "torch" else self.paddle_shape) or ()

    def rows(self, side: Side) -> Rows | None:
        """The rows that it speaks of on a side, None for all."""
        return self.torch_rows if side == "torch" else self.paddle_rows

    def alias(self, side: Side) -> str:
        """The other name of its memory on a side, "" if there is none."""
        return self.torch_alias if side == "torch" else self.paddle_alias


@dataclass(frozen=True)
class OpenRule:
    """Tensors whose place is not known, by their names on each side, and why."""

    torch: tuple[str, ...]
    paddle: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Rules:
    """The rules of a network. `origin` is what a message calls them, `sha256` that of their file."""

    tensors: tuple[TensorRule, ...]
    open: tuple[OpenRule, ...] = ()
    origin: str = "rules"
    sha256: str = ""

    def names(self, side: Side) -> frozenset[str]:
        """The names of a side's tensors that have a rule or are open."""
        ruled = {name for rule in self.tensors if (name := rule.name(side)) is not None}
        return frozenset(ruled.union(*(each.torch if side == "torch" else each.paddle for each in self.open)))


def turned_shape(rule: TensorRule, shape: Shape, *, back: bool = False) -> Shape | None:
    """The shape that the rule's transform makes of one in PyTorch's layout (`back`: of one in Paddle's).

    None if it cannot be; any of the same size for "reshape", which is decided by the rule's shapes.
    """
    if rule.transform == "transpose":
        return shape[::-1] if len(shape) == 2 else None
    if rule.transform == "permute":
        axes = tuple(int(axis) for axis in np.argsort(rule.axes)) if back else rule.axes
        return tuple(shape[axis] for axis in axes) if sorted(axes) == list(range(len(shape))) else None
    return shape


def dtype_of(name: str) -> np.dtype[Any]:
    """The numpy dtype of that name."""
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def part_shape(rule: TensorRule, side: Side) -> Shape | None:
    """The shape of what a rule moves, in PyTorch's layout: the whole tensor or its rows; None if there is none."""
    whole = rule.shape(side)
    turned = whole if side == "torch" else turned_shape(rule, whole, back=True)
    rows = rule.rows(side)
    if turned is None or rows is None:
        return turned
    return (rows[1] - rows[0], *turned[1:])


def fits(rule: TensorRule) -> bool:
    """Whether the transform makes one side's part of the other's."""
    ours, theirs = part_shape(rule, "torch"), part_shape(rule, "paddle")
    if ours is None or theirs is None:
        return False
    if rule.transform == "reshape":
        return rule.paddle_rows is None and math.prod(ours) == math.prod(theirs)
    return ours == theirs


def check_rules(rules: Rules) -> Iterator[str]:
    """What of the rules does not fit together: a tensor twice, rows with gaps, aliases of nothing."""
    sides: tuple[Side, ...] = ("torch", "paddle")
    for side in sides:
        by_name: dict[str, list[TensorRule]] = {}
        for rule in rules.tensors:
            if (name := rule.name(side)) is not None:
                by_name.setdefault(name, []).append(rule)
        for name, parts in by_name.items():
            yield from (f"{side} {shown(name)}: {line}" for line in _wrong_parts(side, parts))
            alias = parts[0].alias(side)
            if alias and (alias == name or alias not in by_name or by_name[alias][0].alias(side)):
                yield f"{side} {shown(name)}: its alias {shown(alias)} is no other tensor with a rule of its own"
        for name in [name for each in rules.open for name in (each.torch if side == "torch" else each.paddle)]:
            if name in by_name:
                yield f"{side} {shown(name)}: it has a rule and is open"


def _wrong_parts(side: Side, parts: Sequence[TensorRule]) -> Iterator[str]:
    """What is wrong with all the rules of one tensor: together they have to have each row once."""
    first = parts[0]
    rows = sorted(rule.rows(side) or (0, -1) for rule in parts)
    if len(parts) == 1 and rows[0] == (0, -1):
        return
    same = {(rule.shape(side), rule.alias(side), *_turn(rule, side)) for rule in parts}
    whole = part_shape(TensorRule(**{**vars(first), f"{side}_rows": None}), side)
    if any(end == -1 for _, end in rows):
        yield f"{len(parts)} rules have it, without saying which rows"
    elif len(same) > 1:
        yield "its rules differ in its shape, alias or transform"
    elif whole and (rows[0][0] or rows[-1][1] != whole[0] or any(a[1] != b[0] for a, b in pairwise(rows))):
        yield f"its rules have the rows {', '.join(f'{a}-{b}' for a, b in rows)} of {whole[0]}"


def _turn(rule: TensorRule, side: Side) -> tuple[object, ...]:
    """How a tensor in several parts is turned: one way for all of Paddle's, any way for each of PyTorch's."""
    return (rule.transform, rule.axes) if side == "paddle" else ()
