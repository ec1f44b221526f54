"""Figures that are made of other figures of the same record: which follow from wrong ones, and which are wrong too.

A total is the sum of its terms, a mean that of its parts. Where the reference's figure is what a rule makes of
the reference's own, the other side's must be what the rule makes of that side's. If it is not, it differs by
itself, whatever it rests on. A rule that the reference does not follow says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison

Rule = Callable[[Record, re.Match[str]], Array]
"""What a figure is made of its record's others; the match is that of its name. Raises KeyError if they are absent."""

Derived = Sequence[tuple[str, Rule]]
"""Rows of taps, as regular expressions for whole names, and their rules."""

GIVEN = " of given inputs"
"""What the name of a tap ends in that repeats another on inputs which both sides share: by itself, it must agree."""

AGREED = {"float32": 1e-5, "float64": 1e-9}
"""How near, as a fraction of scale, a figure must come to what its rule makes, by its dtype."""


def by_itself(
    comparison: Comparison, failing: Sequence[Comparison], records: tuple[Record, Record], rules: Derived
) -> bool:
    """Whether a tap that may follow from a wrong one is wrong by itself as well."""
    if any(c.tap == f"{comparison.tap}{GIVEN}" for c in failing):
        return True
    for taps, rule in rules:
        match = re.fullmatch(taps, comparison.tap)
        if match is not None:
            reference, other = (_follows_rule(record, match, rule) for record in records)
            return reference is True and other is False
    return False


def _follows_rule(record: Record, match: re.Match[str], rule: Rule) -> bool | None:
    """Whether a figure is what its rule makes of its record; None if that cannot be told."""
    figure = record.arrays.get(match.string)
    try:
        with np.errstate(all="ignore"):
            made = np.asarray(rule(record, match), np.float64)
    except (KeyError, ValueError, IndexError):
        return None
    if figure is None or figure.shape != made.shape:
        return None
    near = AGREED.get(str(figure.dtype), 0.0) * max(
        1e-300, float(np.abs(np.nan_to_num(made)).max(initial=0.0))
    )
    return bool(np.allclose(figure.astype(np.float64), made, rtol=0.0, atol=near, equal_nan=True))


def sum_of_terms(record: Record, match: re.Match[str]) -> Array:
    """A loss's total: the sum of the terms that are recorded under its path."""
    terms = [tap.name for tap in record.taps if tap.kind == "loss" and tap.path == f"loss.{tap.name}"]
    if not terms:
        raise KeyError(match.string)
    return np.asarray(np.sum([record.arrays[name].astype(np.float64) for name in terms], axis=0))


def mean_of_classes(record: Record, match: re.Match[str]) -> Array:
    """A mean IoU: the mean of the classes that have one."""
    names = (f"{match[1]}: IoU by class", f"{match[1]}: per_class_iou")
    classes = next(record.arrays[name] for name in names if name in record.arrays)
    return np.asarray(np.nanmean(classes.astype(np.float64)))


def iou_of_matrix(record: Record, match: re.Match[str]) -> Array:
    """The IoU of each class, of a confusion matrix; NaN for a class that is nowhere."""
    matrix = record.arrays[f"{match[1]}: confusion matrix"].astype(np.float64)
    hits = np.diag(matrix)
    return np.asarray(hits / (matrix.sum(0) + matrix.sum(1) - hits))


def accuracy_of_matrix(record: Record, match: re.Match[str]) -> Array:
    """The share of hits in a confusion matrix."""
    matrix = record.arrays[f"{match[1]}: confusion matrix"].astype(np.float64)
    return np.asarray(np.diag(matrix).sum() / matrix.sum())


METRIC: Derived = (
    (r"(.*): (?:mean IoU|mean_iou)", mean_of_classes),
    (r"(.*): IoU by class", iou_of_matrix),
    (r"(.*): pixel accuracy", accuracy_of_matrix),
)
"""What the metric rung's scores are made of."""
