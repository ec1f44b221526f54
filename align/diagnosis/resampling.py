"""Ways to resize an 8-bit image, as Pillow and OpenCV have them, to tell which one made a given result."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from stdc_parity.align.framework import Array

Resize = Callable[[Array, int, int], Array]
"""Of an image (h, w) or (h, w, c) to a height and a width."""

PRECISION = 22
"""Bits of Pillow's fixed-point weights for 8-bit images (src/libImaging/Resample.c: 32 - 8 - 2)."""

BICUBIC_A = -0.5
"""Pillow's bicubic parameter; OpenCV's is -0.75."""


def _triangle(x: Array) -> Array:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _box(x: Array) -> Array:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bicubic(x: Array, a: float = BICUBIC_A) -> Array:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: Array) -> Array:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def pillow(kernel: Callable[[Array], Array], support: float) -> Resize:
    """Pillow's Image.resize with a filter: across first, then down, each rounded to 8 bits."""

    def resize(image: Array, height: int, width: int) -> Array:
        across = _one_way(np.moveaxis(image, 1, 0), width, kernel, support)
        return _one_way(np.moveaxis(across, 0, 1), height, kernel, support)

    return resize


def _one_way(rows: Array, count: int, kernel: Callable[[Array], Array], support: float) -> Array:
    """Resample the first axis to `count` rows, as Pillow: the filter widens where it shrinks."""
    given = len(rows)
    if count == given:
        return rows
    scale = given / count
    stretch = max(scale, 1.0)
    weights = np.zeros((count, given), np.int64)
    for i in range(count):
        centre = (i + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), given)
        drawn = kernel((np.arange(first, last) - centre + 0.5) / stretch)
        fixed = drawn / drawn.sum() * (1 << PRECISION)
        weights[i, first:last] = np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int64)
    flat = rows.reshape(given, -1).astype(np.int64)
    summed = (weights @ flat + (1 << (PRECISION - 1))) >> PRECISION
    return np.asarray(np.clip(summed, 0, 255).astype(np.uint8).reshape(count, *rows.shape[1:]))


def four_neighbours(image: Array, height: int, width: int) -> Array:
    """Bilinear between the four pixels around a centre, whatever the scale, rounded once: OpenCV's INTER_LINEAR."""
    top, down, fy = _between(image.shape[0], height)
    left, right, fx = _between(image.shape[1], width)
    fy, fx = (f.reshape(shape + (1,) * (image.ndim - 2)) for f, shape in ((fy, (-1, 1)), (fx, (1, -1))))
    upper = image[top][:, left] * (1 - fx) + image[top][:, right] * fx
    lower = image[down][:, left] * (1 - fx) + image[down][:, right] * fx
    return np.asarray(np.floor(upper * (1 - fy) + lower * fy + 0.5), np.uint8)


def _between(given: int, count: int) -> tuple[Array, Array, Array]:
    at = np.clip((np.arange(count) + 0.5) * given / count - 0.5, 0, given - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, given - 1), at - low


def corner_pixel(image: Array, height: int, width: int) -> Array:
    """The pixel at a pixel's corner: OpenCV's INTER_NEAREST."""
    rows = np.arange(height) * image.shape[0] // height
    picked: Array = image[rows][:, np.arange(width) * image.shape[1] // width]
    return picked


def centre_pixel(image: Array, height: int, width: int) -> Array:
    """The pixel at a pixel's centre: Pillow's NEAREST, which adds up its steps, so that ties fall as there."""
    picked: Array = image[_centres(image.shape[0], height)][:, _centres(image.shape[1], width)]
    return picked


def _centres(given: int, count: int) -> Array:
    step = given / count
    return np.cumsum([0.5 * step] + [step] * (count - 1)).astype(np.int64)


WAYS: Mapping[str, Resize] = {
    "PIL's BILINEAR": pillow(_triangle, 1.0),
    "PIL's NEAREST": centre_pixel,
    "PIL's BICUBIC": pillow(_bicubic, 2.0),
    "OpenCV's INTER_NEAREST": corner_pixel,
    "OpenCV's INTER_LINEAR": four_neighbours,
    "PIL's BOX": pillow(_box, 0.5),
    "PIL's LANCZOS": pillow(_lanczos, 3.0),
}
"""The ways by what their library calls them."""

TRAITS: Mapping[str, str] = {
    "PIL's BILINEAR": "which covers all pixels that are merged (antialiased) and rounds after each direction",
    "PIL's NEAREST": "which takes the pixel at the centre",
    "PIL's BICUBIC": "Image.resize's default",
    "OpenCV's INTER_NEAREST": "which takes the pixel at the corner",
    "OpenCV's INTER_LINEAR": "which weighs four pixels at any scale (no antialiasing) and rounds once",
}
"""What is peculiar to a way."""

CODE: Mapping[str, str] = {
    "PIL's BILINEAR": "Image.resize(size, Image.BILINEAR)",
    "PIL's NEAREST": "Image.resize(size, Image.NEAREST), or cv2.INTER_NEAREST_EXACT",
    "PIL's BICUBIC": "Image.resize(size, Image.BICUBIC)",
    "OpenCV's INTER_NEAREST": "cv2.resize(…, interpolation=cv2.INTER_NEAREST)",
    "OpenCV's INTER_LINEAR": "cv2.resize(…, interpolation=cv2.INTER_LINEAR)",
    "PIL's BOX": "Image.resize(size, Image.BOX)",
    "PIL's LANCZOS": "Image.resize(size, Image.LANCZOS)",
}
"""How each is written."""


def which_way(before: Array, after: Array) -> str:
    """The way that makes `after` of `before` to the bit, "" if none does or several do."""
    height, width = after.shape[:2]
    if before.shape[:2] == after.shape[:2]:
        return ""
    ways = [name for name, way in WAYS.items() if np.array_equal(way(before, height, width), after)]
    return ways[0] if len(ways) == 1 else ""
