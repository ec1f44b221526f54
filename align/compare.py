"""Judging the records of a stage, wherever they were made: no framework is needed here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from stdc_parity.align.arbiter import AGREED, arbitrate
from stdc_parity.align.derived import by_itself
from stdc_parity.align.judge import Tolerance, compare_records, failing
from stdc_parity.align.judge_metric import judge_metric
from stdc_parity.align.judge_train import judge_train
from stdc_parity.align.ladder import CONTROL, Rung
from stdc_parity.align.localise import blame, own, uncalled
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record, Tap, load_record
from stdc_parity.align.result import Comparison, StageResult, Verdict, Waiver
from stdc_parity.align.spec import Side
from stdc_parity.align.stages import metric, optimizer, train

SIDES: tuple[Side, Side] = ("torch", "paddle")
REFERENCE: Side = "torch"
Arbiter = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class Judging:
    """How a run is judged: the tolerance, when float64 is asked, whether rounding is forgiven, whether
    modules are looked at one by one (None: when a stage differs), and which taps may fail."""

    tolerance: Tolerance
    arbiter: Arbiter = "auto"
    strict: bool = False
    isolate: bool | None = None
    waivers: Sequence[Waiver] = ()


Folders = Mapping[Side, Path]
"""Where each side's records lie, the reference's first; the same folder for both in a run of both sides."""


def load_judged(folders: Folders, name: str, pair: Pair) -> tuple[Record, Record]:
    """`load_pair`; of a pair of one's own without the modules that only one side calls.

    Its code may compute by a function what the other side's has a module for: the outputs tell whether it is right.
    """
    reference, other = load_pair(folders, name)
    if not pair.own:
        return reference, other
    return _only_shared(reference, other), _only_shared(other, reference)


def _only_shared(record: Record, other: Record) -> Record:
    there = {tap.name for tap in other.taps}

    def is_shared(tap: Tap) -> bool:
        at = re.sub(r"(#\d+)?(\[.*)?$", "", tap.name.removeprefix("grad "))
        of_output = tap.kind == "gradient" and bool(tap.path) and at == tap.path
        module = tap.kind == "module" or tap.name.startswith("own grad ") or of_output
        return tap.name in there or not module

    return replace(record, taps=[tap for tap in record.taps if is_shared(tap)])


def load_pair(folders: Folders, name: str) -> tuple[Record, Record]:
    """Both sides' records called `name`, the reference's first."""
    first, second = (load_record(folder, side, name) for side, folder in folders.items())
    return first, second


def describe_rule(rung: Rung, tolerance: Tolerance) -> str:
    """What a rung's taps are judged by, in words."""
    special = {
        "metric": "given logits exactly, predictions up to near ties",
        "train": "within the control's envelope",
    }
    return special.get(rung.name) or ("its own tolerances" if rung.rule else tolerance.describe())


def limit_of(rung: Rung, tolerance: Tolerance) -> float | None:
    """The fraction of scale that most taps of a rung may differ by, None if its rule is of another kind."""
    rule = rung.rule(Tap("", "parameter", "", "")) if rung.rule else tolerance
    return None if rule.elementwise or not rule.tol or rung.stage in (metric.STAGE, train.STAGE) else rule.tol


def judge_stage(
    rung: Rung, result: StageResult, folders: Folders, dtype: str, pair: Pair, judging: Judging
) -> StageResult:
    """`result` with the comparisons of the stage's records in `folders`, not yet arbitrated."""
    reference, other = load_judged(folders, rung.name, pair)
    if rung.stage == metric.STAGE:
        comparisons, remarks = judge_metric(reference, other, judging.tolerance)
        return replace(result, comparisons=comparisons, remarks=remarks)
    if rung.stage == train.STAGE:
        control = load_record(folders[reference.side], reference.side, CONTROL)
        comparisons, remarks = judge_train(reference, other, control)
        return replace(result, comparisons=comparisons, remarks=remarks)
    floors = pair.floors if dtype == "float64" else ()
    return replace(
        result, comparisons=compare_records(reference, other, rung.rule or judging.tolerance, floors)
    )


def arbiter_is_due(rung: Rung, result: StageResult, dtype: str, judging: Judging) -> bool:
    """Whether a float64 run has to be asked about this stage."""
    if not rung.arbitrated or dtype == "float64" or result.failures:
        return False
    return judging.arbiter == "always" or (
        judging.arbiter == "auto" and any(not c.why for c in failing(result.comparisons))
    )


def ask_arbiter(
    rung: Rung, result: StageResult, narrow: Folders, wide: Folders, pair: Pair, judging: Judging
) -> StageResult:
    """`result` after the float64 records in `wide` were asked about the float32 ones in `narrow`."""
    single, double = (load_judged(folders, rung.name, pair) for folders in (narrow, wide))
    every = judging.arbiter == "always"
    comparisons = arbitrate(result.comparisons, single, double, pair.floors, every=every)
    if judging.strict:
        comparisons = [
            replace(c, verdict=Verdict.DIVERGED) if c.verdict is Verdict.ROUNDING else c for c in comparisons
        ]
    return replace(result, comparisons=comparisons)


def judge_isolated(
    rung: Rung,
    result: StageResult,
    folders: Folders,
    dtype: str,
    pair: Pair,
    judging: Judging,
    known: Mapping[str, str] = MappingProxyType({}),
) -> StageResult:
    """`result` with what is to blame, from the records of a rung's parts run one by one.

    `known` are the modules that rungs before named, each with its rung: they are not blamed again. Of a
    blocked rung these comparisons are the only ones, and left out where nothing new is found.
    """
    comparisons = _compare_parts(rung, folders, dtype, pair, judging)
    if rung.modules:
        blamed = blame(comparisons)
        blamed += uncalled(result.comparisons, blamed)
    else:
        blamed = own_of(rung, comparisons, pair, load_pair(folders, f"{rung.name}-isolated"))
    result = set_apart(replace(result, blamed=blamed, isolated=True, parts=comparisons), known)
    return replace(result, comparisons=comparisons) if result.blocked_by and result.blamed else result


def own_of(
    rung: Rung, comparisons: Sequence[Comparison], pair: Pair, records: tuple[Record, Record]
) -> list[Comparison]:
    """What differs by itself on a rung without modules, by its table and by what its figures are made of."""
    rules = rung.rules(pair)

    def itself(comparison: Comparison, bad: Sequence[Comparison]) -> bool:
        return by_itself(comparison, bad, records, rules)

    return own(comparisons, rung.table(pair), by_place=rung.by_place, itself=itself)


def set_apart(
    result: StageResult, known: Mapping[str, str], records: tuple[Record, Record] | None = None
) -> StageResult:
    """`result` without those to blame that follow from `known` modules, which are named as such.

    With the optimizer's `records` a parameter that moves, from the same start and in the same group, is not
    accounted for by what its module does wrong: its gradients are given, so the update itself is another one.
    """
    moved = {c.path for c in result.blamed if records is not None and _moves_otherwise(c, *records)}
    accounted = [(c, _accounts_for(c, known) if c.path not in moved else None) for c in result.blamed]
    again = {path: known[path] for _, path in accounted if path is not None}
    return replace(result, blamed=[c for c, path in accounted if path is None], again=again)


def _moves_otherwise(comparison: Comparison, reference: Record, other: Record) -> bool:
    """Whether a parameter that both sides have is updated on both, and otherwise."""
    start, end = (f"{comparison.path} {when}" for when in (optimizer.BEFORE, "after step 1"))
    sides = [(record.arrays.get(start), record.arrays.get(end)) for record in (reference, other)]
    (a, a_end), (b, b_end) = sides
    if a is None or b is None or a_end is None or b_end is None or len(set(comparison.types.values())) > 1:
        return False
    same = a.shape == b.shape and np.array_equal(a, b)
    return same and not np.array_equal(a, a_end) and not np.array_equal(b, b_end)


def _accounts_for(comparison: Comparison, known: Mapping[str, str]) -> str | None:
    """The known module that a difference is of: its own, its parameter's, or its statistics' within another."""
    place, (_, leaves, within) = place_of(comparison), comparison.tap.partition(" leaves ")
    inner = f"{comparison.path}.{within}".lstrip(".") if leaves else place
    if place in known:
        return place
    parameter = leaves or comparison.kind in ("setting", "parameter", "momentum")
    return next((path for path in known if parameter and inner.startswith(f"{path}.")), None)


def _compare_parts(
    rung: Rung, folders: Folders, dtype: str, pair: Pair, judging: Judging
) -> list[Comparison]:
    reference, other = load_judged(folders, f"{rung.name}-isolated", pair)
    if rung.stage == metric.STAGE:
        return judge_metric(reference, other, judging.tolerance)[0]
    if dtype == "float64" and rung.modules:
        return compare_records(reference, other, Tolerance(AGREED), pair.floors)
    return compare_records(reference, other, rung.rule or judging.tolerance)


def place_of(comparison: Comparison) -> str:
    """The dotted path of the module that a comparison is of; "network" is the network itself."""
    return comparison.path or "network"
