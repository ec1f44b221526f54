"""The bytes of arrays, piece by piece: what is written, summed or hashed never needs a second whole tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stdc_parity.converters.pickle_values import Array, native

PIECE = 16 << 20
"""Most bytes of an array that are copied at a time."""

Write = Callable[[Any], object]
Progress = Callable[[int], object]
Phases = Callable[[str, int], Progress]
"""Begins a phase of a long work by its name and number of bytes; what it gives is told of bytes done."""


def no_progress(_size: int) -> None:
    """Progress that nobody watches."""


def no_phases(_name: str, _size: int) -> Progress:
    """Phases that nobody watches."""
    return no_progress


def array_pieces(array: Array) -> Iterator[memoryview]:
    """The elements of ``array`` in C order as bytes: views of it if they lie so, else copies of parts of it."""
    if array.flags.c_contiguous and array.dtype.isnative:
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
    elif array.nbytes <= PIECE:
        yield np.ascontiguousarray(native(array)).reshape(-1).view(np.uint8).data
    else:
        rows = max(1, PIECE * len(array) // array.nbytes)
        for start in range(0, len(array), rows):
            part = array[start : start + rows]
            yield from array_pieces(part if part.nbytes <= PIECE else part[0])


def write_array(write: Write, array: Array, progress: Progress | None = None) -> None:
    """Write the elements of ``array``; ``progress`` is told the size of each piece that was written."""
    for piece in array_pieces(array):
        write(piece)
        if progress is not None:
            progress(len(piece))
