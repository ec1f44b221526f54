"""Plain parts of a user's own recipe on one side: a loader's batches, and a metric that is a function."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Framework
from stdc_parity.align.pair import PlainData, PlainMetric
from stdc_parity.align.record import PLAIN
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call
from stdc_parity.align.stages.loss import for_loss, seeded_result, to_tensors
from stdc_parity.converters.errors import UsageError


def add_batches(session: Session, spec: RunSpec, part: PlainData, recorder: Recorder) -> None:
    """Record the first batches of two epochs. What draws random numbers is seeded before each epoch."""
    found = session.part(spec, part.place)
    for epoch in range(2):
        session.framework.seed(spec.seed + epoch)
        random.seed(spec.seed + epoch)
        np.random.seed(spec.seed + epoch)
        loader = found() if callable(found) else found
        for number, batch in enumerate(islice(iter(loader), part.batches)):
            for suffix, array in arrays_in(batch, session.framework):
                where = f"loader{suffix}"
                recorder.add_array(f"epoch {epoch} batch {number}{suffix}", "sample", array, where, PLAIN)


def add_metric(session: Session, spec: RunSpec, part: PlainMetric, recorder: Recorder, *, network: bool) -> None:
    """Record what the metric says of seeded outputs, and if `network` of the network's own for each batch."""
    framework, metric = session.framework, session.part(spec, part.place)
    arrays, target = session.training_case(spec)
    given = seeded_result(session, spec)
    with framework.no_grad():
        _add_scores(recorder, "given outputs", metric(given, to_tensors(framework, target)))
    if not network:
        return
    built = session.network(replace(spec, mode="eval"))
    for number in range(spec.scenes):
        arrays, target = session.training_case(spec, number * spec.batch)
        with framework.no_grad():
            outputs = call(built, session.pair(spec), [framework.to_tensor(array) for array in arrays])
            scores = metric(for_loss(outputs), to_tensors(framework, target))
        _add_scores(recorder, f"network, batch {number}", scores)


def _add_scores(recorder: Recorder, name: str, scores: Any) -> None:
    found = list(arrays_in(scores, recorder.framework))
    if not found:
        raise UsageError(
            f"the metric on the {recorder.framework.SIDE} side gives a {type(scores).__name__}",
            "It may be a number, an array, a tensor, or a tuple or dict of them.",
        )
    for suffix, array in found:
        recorder.add_array(f"{name}: metric{suffix}", "score", array, "metric", PLAIN)


def arrays_in(value: Any, framework: Framework) -> Iterator[tuple[str, Array]]:
    """The tensors, arrays and numbers of a nested value as arrays, with their places in it."""
    if framework.is_tensor(value):
        yield "", framework.to_array(value)
    elif isinstance(value, np.ndarray):
        yield "", value
    elif isinstance(value, bool | int | float | np.generic):
        yield "", np.asarray(value, np.float64 if isinstance(value, float | np.floating) else None)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ((f"[{key}]{suffix}", array) for suffix, array in arrays_in(item, framework))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from ((f"[{i}]{suffix}", array) for suffix, array in arrays_in(item, framework))
