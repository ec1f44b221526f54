"""PIL image transforms of upstream's training (MichaelFan01/STDC-Seg, transform.py, cityscapes.py).

Random choices come from a `random.Random` that is handed in, drawn in upstream's order, so both sides of a
twin make the same ones (nothing here needs a framework). `random.seed(choice_key(...))` makes upstream's own
code make them too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

#: ImageNet's statistics, as cityscapes.py has them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
#: The scales of train.py.
SCALES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5)
#: (width, height) of train.py's crops.
CROP = (1024, 512)


class Sample(NamedTuple):
    """An RGB image and its label image (mode L or P), of the same size."""

    image: Image.Image
    label: Image.Image


def choice_key(seed: int, epoch: int, index: int) -> str:
    """What seeds the choices for sample `index` in an epoch: each sample has its own stream, in any order."""
    return f"{seed}/{epoch}/{index}"


def choices(seed: int, epoch: int, index: int) -> Random:
    """The stream of random choices for one sample; Python hashes the key with SHA-512, alike everywhere."""
    return Random(choice_key(seed, epoch, index))


class ColorJitter:
    """Brightness, contrast and saturation, in this order, each times a factor from max(1 - x, 0) to 1 + x."""

    def __init__(self, brightness: float = 0.5, contrast: float = 0.5, saturation: float = 0.5) -> None:
        self.ranges = [(max(1 - x, 0), 1 + x) for x in (brightness, contrast, saturation)]

    def __call__(self, sample: Sample, random: Random) -> Sample:
        """Draw three factors and apply them to the image."""
        image = sample.image
        factors = [random.uniform(low, high) for low, high in self.ranges]
        for enhance, factor in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
        ):
            image = enhance(image).enhance(factor)
        return Sample(image, sample.label)


class HorizontalFlip:
    """Mirror image and label with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, sample: Sample, random: Random) -> Sample:
        """Draw once, mirror or not."""
        if random.random() > self.p:
            return sample
        return Sample(*(im.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for im in sample))


def resize(sample: Sample, width: int, height: int) -> Sample:
    """The image bilinear (PIL's, which filters when it shrinks), the label nearest."""
    return Sample(
        sample.image.resize((width, height), Image.Resampling.BILINEAR),
        sample.label.resize((width, height), Image.Resampling.NEAREST),
    )


class RandomScale:
    """Resize by one of `scales`; the size is rounded down."""

    def __init__(self, scales: Sequence[float] = SCALES) -> None:
        self.scales = tuple(scales)

    def __call__(self, sample: Sample, random: Random) -> Sample:
        """Draw a scale, resize."""
        width, height = sample.image.size
        scale = random.choice(self.scales)
        return resize(sample, int(width * scale), int(height * scale))


class RandomCrop:
    """Cut out `size`, given as (width, height).

    A sample that is smaller in either direction is resized first, by what makes its shorter side fit: its
    width if that is less than its height, else its height. The other side may still fall short (or an ample
    one shrink); then the crop reaches outside: black pixels, label id 0 (ignored in Cityscapes). All as
    upstream.
    """

    def __init__(self, size: tuple[int, int] = CROP) -> None:
        self.size = size

    def __call__(self, sample: Sample, random: Random) -> Sample:
        """Draw a place, unless the sample has the size already."""
        if sample.image.size == self.size:
            return sample
        to_width, to_height = self.size
        width, height = sample.image.size
        if width < to_width or height < to_height:
            scale = to_width / width if width < height else to_height / height
            width, height = int(scale * width + 1), int(scale * height + 1)
            sample = resize(sample, width, height)
        left = int(random.random() * (width - to_width))
        top = int(random.random() * (height - to_height))
        return Sample(*(im.crop((left, top, left + to_width, top + to_height)) for im in sample))


#: A transform and the name its result has in a trace.
Step = tuple[str, Callable[[Sample, Random], Sample]]


def training_steps(crop: tuple[int, int] = CROP, scales: Sequence[float] = SCALES) -> tuple[Step, ...]:
    """The training transforms of cityscapes.py by name: color_jitter, flip, scale, crop."""
    return (
        ("color_jitter", ColorJitter()),
        ("flip", HorizontalFlip()),
        ("scale", RandomScale(scales)),
        ("crop", RandomCrop(crop)),
    )


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB image as float32 (3, h, w): divided by 255, mean subtracted, divided by the deviation.

    Each of the three is rounded to float32, as in torchvision's ToTensor and Normalize, so the bits are
    theirs.
    """
    pixels = np.asarray(image, dtype=np.uint8).astype(np.float32) / np.float32(255)
    pixels = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)  # (h, w, 3)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
