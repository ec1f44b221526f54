"""Images in and out: any image file as RGB, label maps, overlays, comparisons."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stdc_parity.align.infer.palette import Bytes, colours, label_ids, palette
from stdc_parity.converters.errors import CheckpointError, MissingFramework, shown

if TYPE_CHECKING:
    from PIL import Image

Mask = npt.NDArray[np.bool_]

GAP = 8
"""Pixels between the panels of a comparison."""
PAPER = 255
"""What is seen through transparent pixels, and the ground of a comparison: white."""
MARK = (255, 0, 0)


class BadInput(CheckpointError):
    """A file that is no image or video, or a broken one; the others go on."""


def import_pillow() -> Any:
    """Pillow's Image module. Raises MissingFramework."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingFramework("images are read with Pillow, which is not installed", "pip install pillow") from None
    return Image


def read_image(path: Path) -> Bytes:
    """The image in a file as people see it, RGB uint8 (h, w, 3): turned as its EXIF data say, its first frame.

    Raises BadInput for what is none, is cut short, or would have more pixels than Pillow takes for harmless.
    """
    images = import_pillow()
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", images.DecompressionBombWarning)
            with images.open(path) as image:
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
    except images.UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is no image that Pillow can read"
        raise BadInput(f"the file {what}") from None
    except (images.DecompressionBombWarning, images.DecompressionBombError):
        raise BadInput(f"it claims more than {images.MAX_IMAGE_PIXELS:,} pixels, and might be made to exhaust memory"
                       ) from None  # fmt: skip
    except OSError as error:
        raise BadInput(shown(error.strerror or error, 200)) from None
    except Exception as error:  # decoders raise anything for what a file holds
        raise BadInput(f"{type(error).__name__}: {shown(error, 200)}") from None


def _rgb(image: Image.Image) -> Bytes:
    """An image of any mode in RGB.

    16 bits are scaled to 8, floating-point values too (from 0 to 1, or to 255); transparent pixels show white.
    """
    images = import_pillow()
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
        top = {"F": 1.0 if values.max(initial=0) <= 1 else 255.0}.get(image.mode, 65535.0)
        grey = np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.stack([grey] * 3, axis=2)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = images.new("RGBA", image.size, (PAPER, PAPER, PAPER, 255))
        image = images.alpha_composite(ground, image)
    return np.array(image.convert("RGB"))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def label_map(train_ids: Bytes, classes: int, *, labels: bool) -> bytes:
    """A PNG of train ids, or with `labels` of Cityscapes' label ids, that viewers show in the classes' colours."""
    image = import_pillow().fromarray(label_ids(train_ids) if labels else train_ids)
    image.putpalette(palette(classes, labels=labels))
    return _png(image)


def overlay(rgb: Bytes, train_ids: Bytes, classes: int, opacity: float) -> Bytes:
    """The classes' colours over the image: (h, w, 3)."""
    share = np.float32(opacity)
    mixed = rgb * (1 - share) + colours(classes)[train_ids] * share + np.float32(0.5)
    result: Bytes = mixed.astype(np.uint8)
    return result


def picture(rgb: Bytes) -> bytes:
    """A PNG of an RGB image."""
    return _png(import_pillow().fromarray(rgb))


def mask_map(mask: Mask) -> bytes:
    """A black PNG, white where `mask` (h, w) is."""
    return _png(import_pillow().fromarray(mask.astype(np.uint8) * 255))


def marked(rgb: Bytes, mask: Mask) -> Bytes:
    """The image dimmed to grey, with the pixels of `mask` and some around each in red, so that one can be seen."""
    grey: Bytes = (rgb.mean(axis=2, keepdims=True) * 0.35 + 0.5).astype(np.uint8).repeat(3, axis=2)
    wide, reach = mask, max(1, max(mask.shape) // 400)
    for axis in (0, 1):
        size = wide.shape[axis]
        grown = np.zeros_like(wide)
        for step in range(-min(reach, size - 1), min(reach, size - 1) + 1):
            to, of = slice(max(0, step), size + min(0, step)), slice(max(0, -step), size - max(0, step))
            index = (to, of) if axis == 0 else ((slice(None), to), (slice(None), of))
            grown[index[0]] |= wide[index[1]]
        wide = grown
    grey[wide] = MARK
    return grey


def side_by_side(panels: Mapping[str, Bytes]) -> Bytes:
    """Images of one size beside each other, each under its caption: (h + …, 3 w + …, 3)."""
    images = import_pillow()
    from PIL import ImageDraw, ImageFont

    height, width = next(iter(panels.values())).shape[:2]
    letters = min(40, max(12, width // 36))
    head = letters + GAP
    canvas = images.new("RGB", (len(panels) * (width + GAP) - GAP, height + head), (PAPER, PAPER, PAPER))
    draw = ImageDraw.Draw(canvas)
    try:
        font = ImageFont.load_default(letters)
    except (TypeError, ImportError):  # a Pillow before 10.1, or without FreeType, has one size
        font = ImageFont.load_default()
    for number, (caption, panel) in enumerate(panels.items()):
        left = number * (width + GAP)
        draw.text((left + 2, 2), caption, fill=(0, 0, 0), font=font)
        canvas.paste(images.fromarray(panel), (left, head))
    return np.array(canvas)
