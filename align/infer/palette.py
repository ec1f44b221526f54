"""The classes of Cityscapes as they are shown and numbered, and colours for any other classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

CLASSES: tuple[tuple[str, int, tuple[int, int, int]], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
"""By train id: name, label id and colour, as in cityscapesScripts' helpers/labels.py."""

LABEL_IDS: Bytes = np.array([label for _, label, _ in CLASSES], np.uint8)
"""The label id of each train id."""

MOST = 256
"""The most classes that a label map has room for."""


def colours(classes: int) -> Bytes:
    """A colour for each class, (classes, 3): Cityscapes' for its 19, else PASCAL VOC's by the bits of the number.

    VOC's first colour is black; class 0 gets its last one here, as an overlay would not show black.
    """
    if classes == len(CLASSES):
        return np.array([colour for _, _, colour in CLASSES], np.uint8)
    numbers = np.arange(classes) % (MOST - 1) + 1
    found = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            found[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return found


def name_of(train_id: int, classes: int) -> str:
    """What a class is called."""
    return CLASSES[train_id][0] if classes == len(CLASSES) else f"class {train_id}"


def label_ids(train_ids: Bytes) -> Bytes:
    """Cityscapes' label ids of a map of train ids."""
    found: Bytes = LABEL_IDS[train_ids]
    return found


def palette(classes: int, *, labels: bool) -> bytes:
    """A PNG's palette for a map of train ids, or with `labels` of Cityscapes' label ids; black what is neither."""
    table = np.zeros((MOST, 3), np.uint8)
    table[LABEL_IDS if labels else np.arange(classes)] = colours(classes)
    return table.tobytes()
