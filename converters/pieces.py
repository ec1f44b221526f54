"""The bytes of arrays, piece by piece: what is written, summed or hashed never needs a second whole tensor."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np

from stdc_parity.converters.pickle_values import Array, native

PIECE = 16 << 20
"""Most bytes of an array that are copied at a time."""

_STRIP = 64

Write = Callable[[Any], object]
Progress = Callable[[int], object]
Phases = Callable[[str, int], Progress]
"""Begins a phase of a long work by its name and number of bytes; what it gives is told of bytes done."""


def no_progress(_size: int) -> None:
    """Progress that nobody watches."""


def no_phases(_name: str, _size: int) -> Progress:
    """Phases that nobody watches."""
    return no_progress


def memory_of(array: Array) -> Hashable:
    """What tells whether two arrays are the same elements of the same memory."""
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype


def array_pieces(array: Array) -> Iterator[memoryview]:
    """The elements of ``array`` in C order as bytes: views of it if they lie so, else copies of parts of it."""
    if array.flags.c_contiguous and array.dtype.isnative:
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
    elif array.nbytes <= PIECE:
        yield _packed(native(array)).reshape(-1).view(np.uint8).data
    else:
        rows = max(1, PIECE * len(array) // array.nbytes)
        for start in range(0, len(array), rows):
            part = array[start : start + rows]
            yield from array_pieces(part if part.nbytes <= PIECE else part[0])


def _packed(array: Array) -> Array:
    """``array`` in C order. A transposed matrix is copied in strips, 5 times as fast as numpy does it at once."""
    if array.ndim != 2 or array.shape[1] <= _STRIP:
        return np.ascontiguousarray(array)
    packed = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[1], _STRIP):
        packed[:, start : start + _STRIP] = array[:, start : start + _STRIP]
    return packed


def write_array(write: Write, array: Array, progress: Progress | None = None) -> None:
    """Write the elements of ``array``; ``progress`` is told the size of each piece that was written."""
    for piece in array_pieces(array):
        write(piece)
        if progress is not None:
            progress(len(piece))
