"""The data stage on one side: samples after every transform, then the loader's batches, and each part by itself.

Each side reads the same seeded scenes, written as the pair's data code finds them, with its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.pair import DataPart, PlainData
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.plain import add_batches

STAGE = "data"
CALLS = "data-calls"
ISOLATED = "data-isolated"
TRACED = 4
"""Samples that are followed through the transforms, in each of two epochs: fewer may hold no flip, no small one."""


def capture(session: Session, spec: RunSpec) -> Record:
    """Record traces of the first samples, then two epochs of training batches and the validation batches."""
    recorder, part = Recorder(session.framework), session.recipe(spec).data
    if isinstance(part, PlainData):
        add_batches(session, spec, part, recorder)
        return recorder.record(STAGE)
    with _opened(session, spec) as sets:
        for sample, index in _traced(sets["train"]):
            for name, array in sets["train"].trace(index).items():
                recorder.add_array(f"{sample} {name}", "sample", array, _transform(name))
        _all_batches(session, spec, recorder, sets)
    return recorder.record(STAGE)


def capture_calls(session: Session, spec: RunSpec) -> Record:
    """Record what each transform of the first samples is given, and the random choices from there on."""
    recorder = Recorder(session.framework)
    if isinstance(session.recipe(spec).data, PlainData):
        return recorder.record(CALLS)
    choices = session.module(spec, _part(session, spec).place).choices
    with _opened(session, spec) as sets:
        training = sets["train"]
        for name, index in _traced(training):
            sample, random = training.open(index), choices(training.seed, training.epoch, index)
            for number, (_, step) in enumerate(training.steps):
                _add_given(recorder, f"{name} {number}", sample)
                recorder.add_array(
                    f"{name} {number} choices", "input", np.array(random.getstate()[1], np.int64)
                )
                sample = step(sample, random)
            _add_given(recorder, f"{name} last", sample)
        for name in _validation(sets):
            _add_given(recorder, f"{name}[0] last", sets[name].open(0))
    return recorder.record(CALLS)


def replay(session: Session, spec: RunSpec, reference: Record) -> Record:
    """Run each part of this side on what the reference's had, and record what it gives.

    A transform gets the sample and the random choices that the reference's transform at its place had (the
    first one makes its own choices), the conversion to arrays the reference's last sample, the loader samples
    that say no more than their number.
    """
    if isinstance(session.recipe(spec).data, PlainData):
        return replace(capture(session, spec), stage=ISOLATED)
    recorder, part = Recorder(session.framework), _part(session, spec)
    data, sample_of = session.module(spec, part.place), session.module(spec, part.transforms).Sample
    with _opened(session, spec) as sets:
        training = sets["train"]
        for name, index in _traced(training):
            _add_sample(recorder, name, "open", "open", training.open(index))
            random = data.choices(training.seed, training.epoch, index)
            for number, (step_name, step) in enumerate(training.steps):
                if f"{name} {number} image" not in reference.arrays:
                    recorder.add_array(f"{name} {step_name}.image", "sample", np.zeros(0), step_name)
                    continue
                if number:
                    state = reference.arrays[f"{name} {number} choices"]
                    random.setstate((Random.VERSION, tuple(map(int, state)), None))
                result = step(_given(reference, f"{name} {number}", sample_of), random)
                _add_sample(recorder, name, step_name, step_name, result)
            _add_arrays(recorder, name, training, _given(reference, f"{name} last", sample_of), index)
        for name in _validation(sets):
            _add_sample(recorder, f"{name}[0]", "open", f"loader, {name}", sets[name].open(0))
            given = _given(reference, f"{name}[0] last", sample_of)
            _add_arrays(recorder, f"{name}[0]", sets[name], given, 0, f"loader, {name}")
        count = len(training)
    _all_batches(session, spec, recorder, {name: _Numbers(count) for name in sets})
    return recorder.record(ISOLATED)


@contextmanager
def _opened(session: Session, spec: RunSpec) -> Iterator[dict[str, Any]]:
    """This side's datasets of the seeded scenes, by the names that their taps have: the training set first."""
    part = _part(session, spec)
    data, transforms = session.module(spec, part.place), session.module(spec, part.transforms)
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            part.prepare(folder, spec, _count(spec), split)
        sets = dict(part.open(data, transforms, folder, spec))
        yield {"train": sets.pop("train"), **sets}


def _part(session: Session, spec: RunSpec) -> DataPart:
    part = session.recipe(spec).data
    assert isinstance(part, DataPart)
    return part


def _validation(sets: dict[str, Any]) -> list[str]:
    return [name for name in sets if name != "train"]


def _traced(training: Any) -> Iterator[tuple[str, int]]:
    """The samples to follow, by name and index, while the dataset is in the epoch of each."""
    for epoch in range(2):
        training.epoch = epoch
        for index in range(min(TRACED, len(training))):
            yield f"train[{index}{', epoch 1' if epoch else ''}]", index


def _all_batches(session: Session, spec: RunSpec, recorder: Recorder, sets: dict[str, Any]) -> None:
    """Record the batches of two epochs of training, then those of both validation sets."""
    loader = session.module(spec, _part(session, spec).place).loader
    for epoch in range(2):
        batches = loader(sets["train"], spec.batch, spec.seed, epoch, shuffle=True, drop_last=True)
        _batches(recorder, f"train epoch {epoch}", batches)
    for name in _validation(sets):
        _batches(recorder, name, loader(sets[name], spec.batch))


@dataclass
class _Numbers:
    """A dataset whose samples say which one they are, and of which epoch."""

    count: int
    epoch: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        return np.full((1, 1, 1), index, np.float32), np.full((1, 1, 1), self.epoch, np.int64)


def _add_given(recorder: Recorder, name: str, sample: Any) -> None:
    recorder.add_array(f"{name} image", "input", np.array(sample.image))
    recorder.add_array(f"{name} label", "input", np.array(sample.label))


def _given(reference: Record, name: str, sample_of: Any) -> Any:
    """The sample that `_add_given` recorded."""
    from PIL import Image

    return sample_of(*(Image.fromarray(reference.arrays[f"{name} {what}"]) for what in ("image", "label")))


def _add_sample(recorder: Recorder, name: str, step: str, path: str, sample: Any) -> None:
    recorder.add_array(f"{name} {step}.image", "sample", np.array(sample.image), path)
    recorder.add_array(f"{name} {step}.label", "sample", np.array(sample.label), path)


def _add_arrays(recorder: Recorder, name: str, dataset: Any, sample: Any, index: int, path: str = "") -> None:
    image, label = dataset.to_arrays(sample, index)
    recorder.add_array(f"{name} final.image", "sample", image, path or _transform("final.image"))
    recorder.add_array(f"{name} final.label", "sample", label, path or _transform("final.label"))


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
