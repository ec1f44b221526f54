"""PIL image transforms of ICNet's training, as upstream (liminn/ICNet-pytorch, dataset/segbase.py).

Random choices are drawn as in `transforms`, in upstream's order: with its `random` seeded by `choice_key`,
upstream's own code makes the same ones.
"""

from __future__ import annotations

from random import Random

from PIL import Image, ImageFilter, ImageOps

from stdc_parity.models_paddle.transforms import HorizontalFlip, Sample, Step, resize

#: What the shorter side is drawn around, and the side of the square crop (configs/icnet.yaml).
BASE_SIZE = 1024
CROP = 960


class RandomShortSide:
    """Resize so that the shorter side is a whole number from half to twice `base_size`, drawn evenly."""

    def __init__(self, base_size: int = BASE_SIZE) -> None:
        """Take the size."""
        self.base_size = base_size

    def __call__(self, sample: Sample, random: Random) -> Sample:
        """Draw a side, resize; the other side is rounded down."""
        short = random.randint(int(self.base_size * 0.5), int(self.base_size * 2.0))
        width, height = sample.image.size
        if height > width:
            return resize(sample, short, int(1.0 * height * short / width))
        return resize(sample, int(1.0 * width * short / height), short)


class RandomSquare:
    """Cut out a square of side `size`; what is missing is black, label id 0, at the right and the bottom."""

    def __init__(self, size: int = CROP) -> None:
        """Take the side."""
        self.size = size

    def __call__(self, sample: Sample, random: Random) -> Sample:
        """Pad if need be, draw a place, crop."""
        width, height = sample.image.size
        border = (0, 0, max(0, self.size - width), max(0, self.size - height))
        image, label = (ImageOps.expand(each, border=border, fill=0) for each in sample)
        left = random.randint(0, image.size[0] - self.size)
        top = random.randint(0, image.size[1] - self.size)
        box = (left, top, left + self.size, top + self.size)
        return Sample(image.crop(box), label.crop(box))


class RandomBlur:
    """Blur the image with probability 1/2, by a Gaussian of a radius below one pixel."""

    def __call__(self, sample: Sample, random: Random) -> Sample:
        """Draw once, then a radius if it is to be."""
        if random.random() < 0.5:
            image: Image.Image = sample.image.filter(ImageFilter.GaussianBlur(radius=random.random()))
            return Sample(image, sample.label)
        return sample


def training_steps(base_size: int = BASE_SIZE, crop: int = CROP) -> tuple[Step, ...]:
    """The training transforms by name: flip, scale, crop, blur."""
    return (
        ("flip", HorizontalFlip()),
        ("scale", RandomShortSide(base_size)),
        ("crop", RandomSquare(crop)),
        ("blur", RandomBlur()),
    )
