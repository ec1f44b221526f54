"""How close two tensors are: the same bits, or else by how much, where, and against what scale.

Blocks of a few megabytes are compared one by one, so that two files of any size need no memory of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stdc_parity.converters.statedict import Array

BLOCK = 1 << 19
"""Elements compared at a time: 4 MB of float64, several of which fit a processor's cache."""


@dataclass(frozen=True)
class Gap:
    """What lies between two tensors of one shape that are not the same bits.

    `differing` is the number of elements whose bits (or, between dtypes, whose values) differ. `worst` is
    max|a-b|, infinite where NaN or Inf stands in one of them alone; `at` is its index, `a` and `b` the two
    values there. `scale` is max|a| over `a`'s finite elements.
    """

    differing: int
    worst: float
    scale: float
    at: tuple[int, ...]
    a: float
    b: float

    @property
    def of_scale(self) -> float:
        """`worst` relative to `scale`; infinite if `a` is all zero."""
        if self.worst == 0:
            return 0.0
        return self.worst / self.scale if self.scale else math.inf


def gap_between(a: Array, b: Array) -> Gap | None:
    """What lies between two arrays of one shape; None if they are the same, bit for bit.

    Arrays of different dtypes are compared by value, and the gap is never None.
    """
    exact = a.dtype == b.dtype
    if exact and _same_memory(a, b):
        return None
    if exact and all(_differ(x, y) == 0 for _start, x, y in _blocks(a, b)):
        return None
    differing, worst, scale, place = 0, -1.0, 0.0, 0
    for start, x, y in _blocks(a, b):
        distance, size = _distances(x, y)
        differing += _differ(x, y) if exact else int(np.count_nonzero(distance))
        scale = max(scale, size)
        if distance.size and (here := int(distance.argmax())) >= 0 and distance.flat[here] > worst:
            worst, place = float(distance.flat[here]), start + here
    if a.size == 0:
        return Gap(0, 0.0, 0.0, (), 0.0, 0.0)
    at = tuple(int(i) for i in np.unravel_index(place, a.shape))
    return Gap(differing, worst, scale, at, float(a[at]), float(b[at]))


def is_transpose(a: Array, b: Array) -> bool:
    """Whether `b` is `a` transposed, bit for bit: two matrices."""
    return (
        a.ndim == b.ndim == 2
        and a.shape == b.shape[::-1]
        and a.dtype == b.dtype
        and gap_between(a, b.T) is None
    )


def _same_memory(a: Array, b: Array) -> bool:
    return a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides


def _blocks(a: Array, b: Array) -> Iterator[tuple[int, Array, Array]]:
    """Both arrays in pieces, each with the place of its first element in C order."""
    if a.flags.c_contiguous and b.flags.c_contiguous:
        a, b = a.reshape(-1), b.reshape(-1)
    row = math.prod(a.shape[1:])
    step = max(1, BLOCK // max(1, row))
    for start, stop in pairwise([*range(0, len(a), step), len(a)]):
        yield start * row, a[start:stop], b[start:stop]


def _differ(x: Array, y: Array) -> int:
    """In how many elements the bits differ."""
    raw = f"u{x.dtype.itemsize}"
    return int(np.count_nonzero(np.ascontiguousarray(x).view(raw) != np.ascontiguousarray(y).view(raw)))


def _distances(x: Array, y: Array) -> tuple[Array, float]:
    """|x-y| in float64 (infinite where one alone is NaN or Inf), and max|x| of the finite."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(all="ignore"):
        if x.dtype == y.dtype and x.dtype.kind in "iu":  # exact beyond 2**53 too
            distance = (np.maximum(x, y).astype(np.uint64) - np.minimum(x, y).astype(np.uint64)).astype(
                np.float64
            )
        else:
            distance = np.abs(a - b)
            distance[(a == b) | (np.isnan(a) & np.isnan(b))] = 0
            distance[np.isnan(distance)] = np.inf
    size = np.abs(a[np.isfinite(a)])
    return distance, float(size.max()) if size.size else 0.0
