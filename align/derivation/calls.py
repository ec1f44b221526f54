"""What a run of one side shows of its modules: each call's inputs and outputs, as figures that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array

Figures = tuple[float, ...]
"""A tensor's size, largest and smallest value, and the means of its values, squares and cubes: the same for any
order of its axes, as one side may have channels or batches last, and different for different tensors."""

AGREE = 2e-5
"""Relative to a tensor's largest value: what float64 runs of a correct pair stay below (Paddle's float32
interpolation ratios give 5.6e-6, align/pairs/stdc.py)."""
DIFFER = 1e-3
"""What tells two tensors apart for certain; between the two nothing is decided."""


@dataclass(frozen=True)
class Call:
    """One call of the module at `path`: the figures of its positional inputs and of what it gave."""

    path: str
    inputs: Sequence[Figures]
    outputs: Sequence[Figures]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Call:
        """The call that a worker wrote."""
        return Call(data["path"], *([tuple(each) for each in data[key]] for key in ("inputs", "outputs")))


@dataclass(frozen=True)
class Run:
    """A run of one side: the calls in their order, what the network returned, or why it failed."""

    calls: Sequence[Call]
    outputs: Mapping[str, Array]
    failed: str = ""
    by_path: Mapping[str, Sequence[Call]] = field(init=False)

    def __post_init__(self) -> None:
        """Sort the calls by module."""
        by_path: dict[str, list[Call]] = {}
        for call in self.calls:
            by_path.setdefault(call.path, []).append(call)
        object.__setattr__(self, "by_path", by_path)


def figures(array: Array) -> Figures:
    """What is kept of a tensor."""
    if array.size == 0:
        return (0.0,)
    wide = array.astype(np.float64)
    means = (np.mean(wide), np.mean(wide * wide), np.mean(wide * wide * wide))
    return tuple(float(value) for value in (array.size, wide.max(), wide.min(), *means))


def apart(a: Sequence[Figures], b: Sequence[Figures]) -> float | None:
    """How far the tensors of two calls are apart, relative to their largest value; None if either has none.

    Only as many are looked at as both have: one side may return more.
    """
    if not a or not b:
        return None
    return max(_apart(x, y) for x, y in zip(a, b, strict=False))


def _apart(a: Figures, b: Figures) -> float:
    if len(a) != len(b) or a[0] != b[0]:
        return float("inf")
    if len(a) == 1:
        return 0.0
    scale = max(abs(value) for value in (*a[1:3], *b[1:3]))
    if scale == 0:
        return 0.0
    powers = (1, 1, 1, 2, 3)
    found = max(abs(x - y) / scale**power for x, y, power in zip(a[1:], b[1:], powers, strict=True))
    return found if found == found else float("inf")  # NaN is like nothing


def gap_of(reference: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """The largest difference of two runs' outputs relative to each output's largest value; inf if their number or
    shapes differ."""
    if len(reference) != len(other) or not reference:
        return float("inf")
    worst = 0.0
    for a, b in zip(reference.values(), other.values(), strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            scale, gap = float(np.abs(a).max()), float(np.abs(a.astype(np.float64) - b).max())
            relative = gap / scale if scale else (0.0 if gap == 0 else float("inf"))
            worst = max(worst, relative if relative == relative else float("inf"))
    return worst
