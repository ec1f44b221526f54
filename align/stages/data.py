"""The data stage on one side: samples after every transform, then the loader's batches.

Each side reads the same seeded scenes, written in the Cityscapes layout, with its own data code.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.fixtures.scenes import write_scenes

STAGE = "data"
TRACED = 3


def capture(session: Session, spec: RunSpec) -> Record:
    """Record traces of the first samples, then two epochs of training batches and the validation batches."""
    data, transforms = session.part(spec, "data"), session.part(spec, "transforms")
    recorder = Recorder(session.framework)
    height, width = spec.size
    crop = (max(32, width // 2), max(32, height // 2))  # (width, height), as upstream's cropsize
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            write_scenes(folder, max(spec.scenes, spec.batch + 1), spec.size, spec.seed, split)
        steps = transforms.training_steps(crop)
        training = data.Cityscapes(folder, "train", steps, spec.seed)
        listed = data.ListFile(folder, f"{folder}/val.list", seed=spec.seed)
        validation = data.Cityscapes(folder, "val", seed=spec.seed)
        for index in range(min(TRACED, len(training))):
            for name, array in training.trace(index).items():
                recorder.add_array(f"train[{index}] {name}", "sample", array, name.partition(".")[0])
        for epoch in range(2):
            loader = data.loader(training, spec.batch, spec.seed, epoch, shuffle=True, drop_last=True)
            _batches(recorder, f"train epoch {epoch}", loader)
        _batches(recorder, "val", data.loader(validation, spec.batch))
        _batches(recorder, "val.list", data.loader(listed, spec.batch))
    return recorder.record(STAGE)


def _batches(recorder: Recorder, name: str, loader: Any) -> None:
    for number, (images, labels) in enumerate(loader):
        for what, tensor in (("images", images), ("labels", labels)):
            recorder.add(f"{name} batch {number} {what}", "sample", "loader", "DataLoader", tensor)
    recorder.add_array(f"{name} batches", "count", np.array(len(loader)), "loader")
