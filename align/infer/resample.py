"""Bilinear resampling between aligned corners, as in upstream's evaluation; in numpy, the same for every runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

PIECE = 1 << 18
"""The values of scores that are made at once: 1 MB, which caches hold."""


def _places(size: int, to: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """For each of `to` lines the two of `size` source lines that it lies between, and the share of the second."""
    at = np.arange(to) * ((size - 1) / (to - 1) if to > 1 else 0.0)
    low = np.minimum(at.astype(np.intp), size - 1)
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)


def resize_rows(values: Floats, height: int, width: int, start: int, stop: int) -> Floats:
    """Rows `start` to `stop` of `values` (c, h, w) resized to (c, height, width): (c, stop - start, width)."""
    low, high, share = _places(values.shape[1], height)
    low, high, share = low[start:stop], high[start:stop], share[start:stop, np.newaxis]
    first = int(low[0])
    rows = values[:, first : int(high[-1]) + 1]
    if rows.shape[2] != width:
        left, right, part = _places(values.shape[2], width)
        rows = rows[:, :, left] * (1 - part) + rows[:, :, right] * part
    result: Floats = rows[:, low - first] * (1 - share) + rows[:, high - first] * share
    return result


def resize(values: Floats, height: int, width: int) -> Floats:
    """`values` (c, h, w) resized to (c, height, width)."""
    if values.shape[1:] == (height, width):
        return values
    return resize_rows(values, height, width, 0, height)


def pieces(scores: Floats, height: int, width: int) -> Iterator[tuple[slice, Floats]]:
    """`scores` (c, h, w) resized to (c, height, width), some rows at a time: which, and those."""
    rows = max(1, PIECE // (scores.shape[0] * width))
    for start in range(0, height, rows):
        stop = min(height, start + rows)
        if scores.shape[1:] == (height, width):
            yield slice(start, stop), scores[:, start:stop]
        else:
            yield slice(start, stop), resize_rows(scores, height, width, start, stop)


def classes_of(scores: Floats, height: int, width: int) -> Bytes:
    """The class with the highest score at each pixel of an image (height, width); of equal ones the first."""
    found = np.zeros((height, width), np.uint8)
    for rows, piece in pieces(scores, height, width):
        best = piece[0].copy()  # class by class, which is faster than argmax over the first axis
        for number in range(1, len(piece)):
            np.putmask(found[rows], piece[number] > best, number)
            np.maximum(best, piece[number], out=best)
    return found


def lead_where(scores: Floats, where: npt.NDArray[np.bool_]) -> float:
    """The largest lead of a winning class at the pixels `where` (height, width), as a fraction of the scale."""
    scale = float(np.abs(scores).max()) or 1.0
    most = 0.0
    for rows, piece in pieces(scores, *where.shape):
        picked = piece[:, where[rows]]  # (c, p)
        if picked.size and len(picked) > 1:
            top = np.partition(picked, -2, axis=0)[-2:]
            most = max(most, float((top[1] - top[0]).max()) / scale)
    return most
