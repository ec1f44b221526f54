"""Small pictures for the HTML report: arrays as PNG data URLs, in colours that the colour-blind tell apart."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from stdc_parity.align.evidence import Picture, PictureKind
from stdc_parity.align.framework import Array
from stdc_parity.fixtures.scenes import CLASSES

DECADES = 8
"""How many powers of ten an error map shows; smaller errors are as dark as none."""

RAMP = ((10, 14, 50), (32, 64, 140), (40, 125, 150), (120, 185, 120), (255, 235, 90))
"""From no error to the largest: lightness grows all the way, so that it reads without hues too."""

GOLDEN = 0.618034
"""The golden ratio's fraction: hues that many turns apart stay different however many there are."""

IGNORED = (0, 0, 0)

LEVELS = (6, 7, 6)
"""Shades of red, green and blue in a photo: together no more than a palette holds."""


def data_url(picture: Picture) -> str:
    """The picture as a PNG in a data URL."""
    return (
        "data:image/png;base64," + base64.b64encode(to_png(PAINTERS[picture.kind](picture.pixels))).decode()
    )


def to_png(rgb: Array) -> bytes:
    """An RGB image, uint8 (h, w, 3), as a PNG file; the same bytes for the same pixels.

    Up to 256 colours make it a palette image, a quarter of the size.
    """
    height, width, _ = rgb.shape
    codes = rgb.astype(np.uint32) @ np.array((1 << 16, 1 << 8, 1), np.uint32)  # (h, w)
    colours, indices = np.unique(codes, return_inverse=True)
    few = colours.size <= 256
    rows = indices.reshape(height, width).astype(np.uint8) if few else rgb.reshape(height, -1)
    lines = np.zeros((height, rows.shape[1] + 1), np.uint8)  # each row starts with its filter, 0: none
    lines[:, 1:] = rows
    palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8)
    head = struct.pack(">IIBBBBB", width, height, 8, 3 if few else 2, 0, 0, 0)
    chunks = [(b"IHDR", head), *([(b"PLTE", palette.tobytes())] if few else [])]
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, *zip(*chunks, strict=True)))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def ramp(values: Array) -> Array:
    """Colours of values 0..1, uint8 (…, 3)."""
    stops = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(values, stops, [colour[i] for colour in RAMP]) for i in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _paint_error(pixels: Array) -> Array:
    """By the logarithm of the error, from DECADES under the largest on; what is not finite is the brightest."""
    finite = pixels[np.isfinite(pixels)]
    most = float(finite.max(initial=0.0)) or 1.0
    with np.errstate(divide="ignore"):
        decades = np.log10(np.where(np.isfinite(pixels), pixels, most) / most)
    return ramp((1 + decades / DECADES).clip(0, 1))


def _paint_disagreement(pixels: Array) -> Array:
    return np.where(pixels[..., np.newaxis], np.array(RAMP[-1], np.uint8), np.array(RAMP[0], np.uint8))


def class_colour(number: int) -> tuple[int, int, int]:
    """The colour of a class id, as the scenes have it where they do."""
    known = {train_id: colour for _, train_id, colour in CLASSES.values() if train_id != 255}
    if number in known or number == 255:
        return known.get(number, IGNORED)
    hue = 6 * (number * GOLDEN % 1)
    light = 120 + 40 * (number % 4)
    shares = [min(max(abs((hue + shift) % 6 - 3) - 1, 0), 1) for shift in (0, 4, 2)]
    red, green, blue = (int(light * (0.35 + 0.65 * share)) for share in shares)
    return red, green, blue


def class_name(number: int, count: int) -> str:
    """What class `number` of `count` is called, if they are the scenes' classes; its number otherwise."""
    names = {train_id: name for name, train_id, _ in CLASSES.values() if train_id != 255}
    return f"{number} {names[number]}" if len(names) == count else str(number)


def _paint_classes(pixels: Array) -> Array:
    table = np.array([class_colour(number) for number in range(256)], np.uint8)
    painted: Array = table[pixels]
    return painted


def _paint_photo(pixels: Array) -> Array:
    """In few colours, which suffices to see what it shows and takes a quarter of the room."""
    cells = np.array(LEVELS) - 1
    painted: Array = (np.rint(pixels / 255 * cells) * 255 / cells).astype(np.uint8)
    return painted


PAINTERS: Mapping[PictureKind, Callable[[Array], Array]] = {
    "scene": _paint_photo,
    "image": _paint_photo,
    "classes": _paint_classes,
    "label": _paint_classes,
    "error": _paint_error,
    "disagreement": _paint_disagreement,
}
"""How each kind of picture becomes RGB, uint8 (h, w, 3)."""
