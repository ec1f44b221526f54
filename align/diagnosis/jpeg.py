"""Whether an image went through JPEG on the way: the compression is modelled, without the coding of its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from stdc_parity.align.diagnosis.relations import Relation, nothing
from stdc_parity.align.framework import Array

TRIED = "a JPEG copy"
QUALITIES = (95, 90, 75, 85, 80, 100, 70, 98, 92, 60, 50)

LUMA = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
], np.float64).reshape(8, 8)  # fmt: skip
"""The quantisation of brightness at quality 50 (ITU-T T.81, table K.1)."""

CHROMA = np.full((8, 8), 99.0)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
"""That of colour (table K.2)."""

REMAINS = 0.35
"""What part of the difference a model of JPEG may leave, as decoders round differently; a wrong one leaves most."""


def jpeg_relations(named: str, a: Array, b: Array) -> Iterator[Relation]:
    """That `b`, an 8-bit RGB image (h, w, 3), is `a` after JPEG at a usual quality."""
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        return
    if min(a.shape[:2]) < 16 or np.array_equal(a, b):
        yield nothing(TRIED)
        return
    gap = _rms(a, b)
    models = {quality: compressed(a, quality) for quality in QUALITIES}
    quality = min(models, key=lambda quality: _rms(models[quality], b))
    if _rms(models[quality], b) > REMAINS * gap:
        yield nothing(TRIED)
        return
    cause = f"{named} went through JPEG (quality {quality} or so), which does not keep the pixels."
    fix = "Read the PNG files, or keep copies in a lossless format."
    yield Relation(TRIED, cause, fix, partial(_given, given=models[quality]), forward=True, allowed=np.inf)


def _given(_: Array, given: Array) -> Array:
    return given


def _rms(a: Array, b: Array) -> float:
    return float(np.sqrt(((a.astype(np.float64) - b) ** 2).mean()))


def compressed(image: Array, quality: int) -> Array:
    """`image` uint8 (h, w, 3) as JPEG leaves it, its colours at half the size (4:2:0)."""
    height, width = image.shape[:2]
    full = np.pad(image, ((0, -height % 16), (0, -width % 16), (0, 0)), mode="edge").astype(np.float64)
    r, g, b = full[..., 0], full[..., 1], full[..., 2]
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb, cr = (0.5 * (b - y) / (1 - 0.114), 0.5 * (r - y) / (1 - 0.299))
    y = _quantised(y - 128, LUMA, quality) + 128
    cb, cr = (_enlarged(_quantised(_halved(c), CHROMA, quality)) for c in (cb, cr))
    red, blue = y + 1.402 * cr, y + 1.772 * cb
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    rgb = np.stack([red, green, blue], axis=2)[:height, :width]
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _halved(plane: Array) -> Array:
    h, w = plane.shape
    return np.asarray(np.rint(plane.reshape(h // 2, 2, w // 2, 2).mean((1, 3))))


def _enlarged(plane: Array) -> Array:
    """Twice the size, each pixel three quarters of the nearest and one of the next, as libjpeg does."""
    for axis in (0, 1):
        rows = np.moveaxis(plane, axis, 0)
        before, after = np.concatenate([rows[:1], rows[:-1]]), np.concatenate([rows[1:], rows[-1:]])
        both = np.stack([0.75 * rows + 0.25 * before, 0.75 * rows + 0.25 * after], axis=1)
        plane = np.moveaxis(both.reshape(2 * len(rows), -1), 0, axis)
    return plane


def _quantised(plane: Array, table: Array, quality: int) -> Array:
    """A plane after the cosine transform of 8x8 blocks, rounded to multiples of the table's steps, and back."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.clip(np.floor((table * percent + 50) / 100), 1, 255)
    n = np.arange(8)
    basis = np.cos((2 * n[np.newaxis] + 1) * n[:, np.newaxis] * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    h, w = plane.shape
    blocks = plane.reshape(h // 8, 8, w // 8, 8).transpose(0, 2, 1, 3)
    kept = np.rint(basis @ blocks @ basis.T / steps) * steps
    return np.asarray((basis.T @ kept @ basis).transpose(0, 2, 1, 3).reshape(h, w))
