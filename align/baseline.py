"""Baselines: this run held against one that was accepted, which is its report.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stdc_parity.align.apart import OWN_BUSINESS
from stdc_parity.align.render_json import SCHEMA_VERSION, to_json
from stdc_parity.align.result import BaselineResult, Change, RunResult
from stdc_parity.align.stages import train
from stdc_parity.converters.errors import CheckpointError, UsageError

FACTOR = 10.0
"""How many times larger an error may be than the baseline's. Another build of a framework, or another processor,
rounds in another order, and a tap's worst rounding then changes by a few times."""

HOLDS = ("PASS", "ROUNDING", "WAIVED")

EPSILONS = {
    "float16": float(np.finfo(np.float16).eps),
    "float32": float(np.finfo(np.float32).eps),
    "float64": float(np.finfo(np.float64).eps),
}

Json = Mapping[str, Any]


def load_baseline(path: Path) -> Json:
    """The report at `path`. Raises CheckpointError if it cannot be read or is no report of this version."""
    try:
        report: Json = json.loads(path.read_text(encoding="utf-8"))
        version = report["schema_version"]
        if version == SCHEMA_VERSION:
            {stage["stage"]: [_figures(tap) for tap in stage["taps"]] for stage in report["stages"]}
            {**report["spec"]}
            [*report["sides"]]
    except OSError as error:
        raise CheckpointError(f"--baseline {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"--baseline {path} is no report.json of stdc-align ({type(error).__name__})") from None
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"--baseline {path} has schema version {version}, this stdc-align writes {SCHEMA_VERSION}",
            "Make the baseline anew: --report DIR, and accept its report.json.",
        )
    return report


def hold_against(result: RunResult, baseline: Json, source: str, factor: float = FACTOR) -> RunResult:
    """`result` with what changed since `baseline`, a report; `source` says where that came from.

    New failures, errors that are more than `factor` times larger and above the noise floor, and taps and rungs that
    appeared or vanished. Raises UsageError if the two are not runs of the same thing.
    """
    now = to_json(result)
    _check_spec(now["spec"] | {"sides": now["sides"]}, baseline["spec"] | {"sides": baseline["sides"]}, source)
    before = {_title(stage, baseline): stage for stage in baseline["stages"]}
    after = {_title(stage, now): stage for stage in now["stages"]}
    changes = [Change(name, "", "vanished") for name in before if name not in after]
    for name, stage in after.items():
        if name in before:
            changes += _stage_changes(name, stage, before[name], factor)
        else:
            changes.append(Change(name, "", "appeared"))
    differ = [name for name in after if name in before and _hashes(after[name]) != _hashes(before[name])]
    remarks = [f"The weights or inputs are not the baseline's: {', '.join(differ)}."] if differ else []
    return replace(result, baseline=BaselineResult(source, factor, changes, remarks))


def _title(stage: Json, report: Json) -> str:
    """What tells a rung's results apart: its name, with its two sides in a run of more."""
    sides = stage.get("sides", report["sides"])
    return stage["stage"] if sides == report["sides"] else f"{stage['stage']} {'/'.join(sides)}"


def _check_spec(now: Json, before: Json, source: str) -> None:
    keys = sorted((now.keys() | before.keys()) - {*OWN_BUSINESS, "converted", "plant"})
    plain = json.loads(json.dumps(now))
    different = [f"{k} {before.get(k)} then, {plain.get(k)} now" for k in keys if plain.get(k) != before.get(k)]
    if different:
        raise UsageError(
            f"--baseline {source} is of another run: {'; '.join(different)}",
            "Run with the baseline's options, or accept a new one.",
        )


def _hashes(stage: Json) -> list[Any]:
    return [(facts.get("weights_sha256"), facts.get("input_sha256")) for _, facts in sorted(stage["facts"].items())]


def _stage_changes(title: str, now: Json, before: Json, factor: float) -> Iterator[Change]:
    """A rung that is not judged as a whole, now or then, is compared as a whole: its taps are not all there."""
    whole = [not stage["blocked_by"] and not stage["failures"] for stage in (now, before)]
    if not all(whole):
        if now["verdict"] not in HOLDS and before["verdict"] in HOLDS:
            yield Change(title, "", "fails now")
        return
    old = {tap["tap"]: tap for tap in before["taps"]}
    new = {tap["tap"]: tap for tap in now["taps"]}
    yield from (Change(title, name, "vanished") for name in old if name not in new)
    for name, tap in new.items():
        if name not in old:
            yield Change(title, name, "appeared")
        elif (what := _tap_change(tap, old[name], factor, now["stage"])) is not None:
            errors = [float(each["relative"]) for each in (old[name], tap)]
            yield Change(title, name, what, *errors)


def _tap_change(now: Json, before: Json, factor: float, stage: str) -> Any:
    if now["verdict"] not in HOLDS and before["verdict"] in HOLDS:
        return "fails now"
    if now["verdict"] == "WAIVED" != before["verdict"]:  # the waiver is newer than the baseline
        return None
    if stage == train.STAGE:  # chaotic: an error means nothing beside the control that this run judged it by
        return None
    small = max(float(before["relative"]), _noise(now), _noise(before))
    return "grew" if float(now["relative"]) > factor * small else None


def _figures(tap: Json) -> tuple[str, str, float, float]:
    return tap["tap"], tap["verdict"], float(tap["relative"]), _noise(tap)


def _noise(tap: Json) -> float:
    """The noise floor of a tap, a fraction of its scale: each side's measured rounding, or its dtype's epsilon."""
    measured: Sequence[float] = [float(each) for each in ((tap["arbiter"] or {}).get("noise") or {}).values()]
    return max([EPSILONS.get(tap["dtype"], 0.0), *(each for each in measured if math.isfinite(each))])
