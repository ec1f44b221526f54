"""Totals and means that follow from wrong terms: named only if they are not what their own side's terms make."""

from collections.abc import Sequence

import numpy as np
import pytest

from stdc_parity.align.derived import GIVEN, METRIC, Derived, by_itself, sum_of_terms
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.localise import own
from stdc_parity.align.record import Record, Tap

Terms = dict[str, float]
LOSS: Derived = ((r"total", sum_of_terms),)
FOLLOWS = ((r"total", r".*"), (rf".*{GIVEN}", r".*"))


def losses(side: str, terms: Terms, total: float) -> Record:
    arrays = {name: np.array(value) for name, value in {**terms, "total": total}.items()}
    paths = {name: "loss" if name == "total" else f"loss.{name.removesuffix(GIVEN)}" for name in arrays}
    taps = [Tap(name, "loss", path, "") for name, path in paths.items()]
    return Record(side, "loss", taps, arrays)  # type: ignore[arg-type]


def named(a: Record, b: Record, rules: Derived = LOSS, follows: Sequence[tuple[str, str]] = FOLLOWS) -> list[str]:
    comparisons = compare_records(a, b, Tolerance(1e-9))
    found = own(
        comparisons, follows, by_place=False, itself=lambda one, bad: by_itself(one, bad, (a, b), rules)
    )
    return [comparison.tap for comparison in found]


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (5.0, ["ohem"]),  # the sum of its own terms
        (4.0, ["ohem", "total"]),  # one term has a weight too
        (3.0, ["ohem"]),  # the right total by chance does not differ
    ],
)
def test_a_total_behind_a_wrong_term(total: float, expected: list[str]) -> None:
    a, b = losses("torch", {"ohem": 1.0, "dice": 2.0}, 3.0), losses("paddle", {"ohem": 3.0, "dice": 2.0}, total)
    assert named(a, b) == expected


def test_a_rule_that_the_reference_does_not_follow_says_nothing() -> None:
    a, b = losses("torch", {"ohem": 1.0, "dice": 2.0}, 2.0), losses("paddle", {"ohem": 3.0, "dice": 2.0}, 9.0)
    assert named(a, b) == ["ohem"]


def test_a_term_is_wrong_by_itself_if_it_is_on_given_inputs() -> None:
    follows = (*FOLLOWS, (r"dice", r"targets"))
    right = {"targets": 1.0, "dice": 2.0, f"dice{GIVEN}": 5.0}
    a = losses("torch", right, 0.0)
    inherited = losses("paddle", {**right, "targets": 2.0, "dice": 3.0}, 0.0)
    both = losses("paddle", {**right, "targets": 2.0, "dice": 3.0, f"dice{GIVEN}": 6.0}, 0.0)
    assert named(a, inherited, follows=follows) == ["targets"]
    assert named(a, both, follows=follows) == ["targets", "dice"]


def metric(side: str, matrix: np.ndarray, iou: np.ndarray, mean: float) -> Record:
    arrays = {"x: confusion matrix": matrix, "x: IoU by class": iou, "x: mean IoU": np.array(mean)}
    taps = [Tap(name, "score", name, "") for name in arrays]
    return Record(side, "metric", taps, arrays)  # type: ignore[arg-type]


def test_scores_behind_wrong_counts() -> None:
    matrix = np.array([[5, 1, 0], [2, 7, 0], [0, 0, 0]])
    other = matrix.T + np.diag([1, 0, 0])

    def iou(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))

    a = metric("torch", matrix, iou(matrix), float(np.nanmean(iou(matrix))))
    follows = ((r".*IoU.*", r".*matrix"), (r".*mean.*", r".*IoU by class"))
    cases = [
        (iou(other), float(np.nanmean(iou(other))), []),
        (np.nan_to_num(iou(other)), float(np.nan_to_num(iou(other)).mean()), ["x: IoU by class"]),
        (iou(other), float(np.nan_to_num(iou(other)).mean()), ["x: mean IoU"]),
    ]
    for scores, mean, besides in cases:
        assert named(a, metric("paddle", other, scores, mean), METRIC, follows) == ["x: confusion matrix", *besides]
