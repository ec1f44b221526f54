"""What the networks of the case studies are called with: two made-up street scenes a batch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.pair import Case
from stdc_parity.align.spec import RunSpec
from stdc_parity.fixtures.images import normalised
from stdc_parity.fixtures.scenes import scene, train_ids, write_scenes

IGNORED = 255
SIZE, BATCH = (64, 128), 2


def images(spec: RunSpec, first: int = 0) -> tuple[Array, ...]:
    """Normalised images, float32 (2, 3, 64, 128)."""
    drawn = [scene(spec.seed, first + number, SIZE)[0] for number in range(BATCH)]
    return (np.stack([normalised(rgb) for rgb in drawn]).astype(np.float32),)


def labelled(ignored: int) -> Case:
    """Batches of images with their train ids, int64 (2, 64, 128), those of no class being `ignored`."""

    def draw(spec: RunSpec, first: int) -> tuple[tuple[Array, ...], Array]:
        drawn = [train_ids(scene(spec.seed, first + number, SIZE)[1]) for number in range(BATCH)]
        labels = np.stack(drawn).astype(np.int64)
        return images(spec, first), np.where(labels == IGNORED, ignored, labels)

    return draw


def first_scene(samples: Callable[[str], Mapping[str, Array]]) -> Iterator[Mapping[str, Array]]:
    """One batch: what `samples` makes of the first scene of a folder that is laid out as Cityscapes is."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(folder, 1, (96, 192))
        yield samples(folder)
