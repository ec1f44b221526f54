"""The data rung's samples for pairs that are trained on Cityscapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stdc_parity.align.spec import RunSpec
from stdc_parity.fixtures.scenes import write_scenes


def write_cityscapes(folder: str, spec: RunSpec, count: int, split: str) -> None:
    """Write the seeded scenes in the Cityscapes layout."""
    write_scenes(folder, count, spec.size, spec.seed, split)


def open_cityscapes(data: Any, transforms: Any, folder: str, spec: RunSpec) -> Mapping[str, Any]:
    """The seeded scenes, written in the Cityscapes layout, read in both ways that upstream has."""
    height, width = spec.size
    crop = (max(32, width // 2), max(32, height // 2))  # (width, height), as upstream's cropsize
    return {
        "train": data.Cityscapes(folder, "train", transforms.training_steps(crop), spec.seed),
        "val": data.Cityscapes(folder, "val", seed=spec.seed),
        "val.list": data.ListFile(folder, f"{folder}/val.list", seed=spec.seed),
    }
