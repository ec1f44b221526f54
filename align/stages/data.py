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
TRACED = 4
"""Samples that are followed through the transforms, in each of two epochs: fewer may hold no flip, no small one."""


def capture(session: Session, spec: RunSpec) -> Record:
    """Record traces of the first samples, then two epochs of training batches and the validation batches."""
    data, transforms = session.part(spec, "data"), session.part(spec, "transforms")
    recorder = Recorder(session.framework)
    height, width = spec.size
    crop = (max(32, width // 2), max(32, height // 2))  # (width, height), as upstream's cropsize
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            write_scenes(folder, _count(spec), spec.size, spec.seed, split)
        steps = transforms.training_steps(crop)
        training = data.Cityscapes(folder, "train", steps, spec.seed)
        listed = data.ListFile(folder, f"{folder}/val.list", seed=spec.seed)
        validation = data.Cityscapes(folder, "val", seed=spec.seed)
        for epoch in range(2):
            training.epoch = epoch
            for index in range(min(TRACED, len(training))):
                sample = f"train[{index}{', epoch 1' if epoch else ''}]"
                for name, array in training.trace(index).items():
                    recorder.add_array(f"{sample} {name}", "sample", array, _transform(name))
        for epoch in range(2):
            loader = data.loader(training, spec.batch, spec.seed, epoch, shuffle=True, drop_last=True)
            _batches(recorder, f"train epoch {epoch}", loader)
        _batches(recorder, "val", data.loader(validation, spec.batch))
        _batches(recorder, "val.list", data.loader(listed, spec.batch))
    return recorder.record(STAGE)


def _count(spec: RunSpec) -> int:
    """How many scenes there are: the last batch of an epoch must be a part of one."""
    count = max(spec.scenes, spec.batch + 1)
    return count + 1 if spec.batch > 1 and count % spec.batch == 0 else count


def _transform(name: str) -> str:
    """The transform that a sample of that name comes from; image and label end in one of their own each."""
    return {"final.image": "to_array", "final.label": "train_ids"}.get(name, name.partition(".")[0])


def _batches(recorder: Recorder, name: str, loader: Any) -> None:
    for number, (images, labels) in enumerate(loader):
        for what, tensor in (("images", images), ("labels", labels)):
            recorder.add(f"{name} batch {number} {what}", "sample", f"loader, {name}", "DataLoader", tensor)
    recorder.add_array(f"{name} batches", "count", np.array(len(loader)), f"loader, {name}")
