"""Explanations that need the recorded arrays of both sides alone, and no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stdc_parity.align.diagnosis.data import explain_data
from stdc_parity.align.diagnosis.metric import explain_metric
from stdc_parity.align.diagnosis.optimizer import explain_optimizer
from stdc_parity.align.diagnosis.schedule import explain_schedule
from stdc_parity.align.diagnosis.statistics import explain_statistics
from stdc_parity.align.diagnosis.weights import explain_weights
from stdc_parity.align.judge import failing
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

Explain = Callable[[Sequence[Comparison], Record, Record], list[Diagnosis]]

EXPLAINED: Mapping[str, Explain] = {
    "weights": explain_weights,
    "data": explain_data,
    "optimizer": explain_optimizer,
    "schedule": explain_schedule,
    "metric": explain_metric,
    "forward-train": explain_statistics,
}
"""Who explains a rung from its records; the others need the modules themselves."""


def explain_records(
    stage: str, comparisons: Sequence[Comparison], reference: Record, other: Record
) -> list[Diagnosis]:
    """Why the first places of a rung differ that failed, at most about five; nothing for a rung that holds.

    Every cause was tested on the records: with it undone the sides agree to rounding. A place that nothing
    explains has a diagnosis without a cause, which says what was tried.
    """
    failed = failing(comparisons)
    if not failed or stage not in EXPLAINED:
        return []
    return EXPLAINED[stage](failed, reference, other)
