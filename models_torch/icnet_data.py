"""Cityscapes as ICNet reads it: what is not trained is -1 (liminn/ICNet-pytorch, dataset/cityscapes.py)."""

from __future__ import annotations

import numpy as np

from stdc_parity.models_torch import data
from stdc_parity.models_torch.data import loader
from stdc_parity.models_torch.transforms import Sample, choices, to_array

__all__ = ["IGNORED", "Cityscapes", "choices", "loader", "train_ids"]

IGNORED = -1


def train_ids(label_ids: np.ndarray) -> np.ndarray:
    """Label ids uint8 (h, w) as train ids int64 (h, w).

    Raises ValueError for an id that Cityscapes does not have, 255 too.
    """
    if (label_ids >= data.NUM_IDS).any():
        wrong = np.unique(label_ids[label_ids >= data.NUM_IDS])
        raise ValueError(f"label ids {wrong.tolist()} do not exist, Cityscapes has 0..{data.NUM_IDS - 1}")
    found = data.train_ids(label_ids)
    return np.where(found == data.IGNORED, IGNORED, found)


class Cityscapes(data.Cityscapes):
    """`data.Cityscapes` with labels of train ids and -1.

    `steps` are those of `icnet_transforms.training_steps()` for training and () for evaluation.
    """

    def to_arrays(self, sample: Sample, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image float32 (3, h, w) and label int64 (1, h, w)."""
        try:
            label = train_ids(np.array(sample.label))
        except ValueError as error:
            raise ValueError(f"{self.pairs[index][1]}: {error}") from None
        return to_array(sample.image), label[np.newaxis]
