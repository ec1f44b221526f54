"""A run as JSON: everything that was measured, for programs. `report.schema.json` beside this file says its shape."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stdc_parity.align.environment import OF_THE_RUN, describe_environment
from stdc_parity.align.majority import describe_majority
from stdc_parity.align.result import BaselineResult, Comparison, RunResult, StageResult, WaiverUse
from stdc_parity.align.spec import Side

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).with_name("report.schema.json")

VALUE_DIGITS = 9
"""Significant digits of a tensor's own values: enough to tell any two float32 numbers apart."""

ERROR_DIGITS = 4
"""Significant digits of what measures a difference."""


WIDTH = 900
"""The longest line that is not broken up; a tap takes about 500 characters."""


def to_json(result: RunResult) -> dict[str, Any]:
    """The run as a JSON object; infinities and NaN become strings. The environment is its last member."""
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": result.verdict.value,
        "holds": bool(result),
        "weights": result.weights,
        "spec": result.spec.to_json(),
        "sides": list(result.sides),
        "groups": list(result.groups),
        "left_out": dict(result.left_out),
        "stages": [_stage(stage, result.sides) for stage in result.stages],
        "majority": None if result.majority is None else _majority(result),
        "waivers": [_use(use) for use in result.waivers],
        "baseline": None if result.baseline is None else _baseline(result.baseline),
        "environment": describe_environment(result),
    }


def write_json(result: RunResult, path: Path) -> None:
    """Write the run to `path` in one step, over an older file. Raises UsageError if it cannot be written."""
    from stdc_parity.converters.atomic import atomic_write

    text = _lay_out(to_json(result), "\n")
    with atomic_write(path, force=True) as file:
        file.write(f"{text}\n".encode())


def _lay_out(value: object, start: str) -> str:
    """`value` as JSON with what is short on one line, so that a changed tap is a changed line."""
    line = json.dumps(value, allow_nan=False, default=str)
    if len(line) <= WIDTH or not isinstance(value, dict | list) or not value:
        return line
    inner = f"{start} "
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_lay_out(item, inner)}" for key, item in value.items()]
        return f"{{{inner}{f',{inner}'.join(items)}{start}}}"
    return f"[{inner}{f',{inner}'.join(_lay_out(item, inner) for item in value)}{start}]"


def round_error(value: float) -> float | str:
    """A measured difference as reports write it: rounded, and "inf", "-inf" or "nan" where JSON has no number."""
    return _rounded(value, ERROR_DIGITS)


def round_value(value: float) -> float | str:
    """A tensor's value as reports write it."""
    return _rounded(value, VALUE_DIGITS)


def _rounded(value: float, digits: int) -> float | str:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else str(float(value))


def _majority(result: RunResult) -> dict[str, Any]:
    majority = result.majority
    assert majority is not None
    return {
        "sides": list(majority.sides),
        "odd": list(majority.odd),
        "source": majority.source,
        "failed": list(majority.failed),
        "said": list(describe_majority(result)),
        "votes": [asdict(vote) for vote in majority.votes],
    }


def _stage(stage: StageResult, sides: Sequence[Side]) -> dict[str, Any]:
    facts = {side: {k: v for k, v in each.items() if k in OF_THE_RUN} for side, each in stage.facts.items()}
    return {
        "stage": stage.stage,
        "sides": list(stage.sides or sides),
        "verdict": stage.verdict.value,
        "tolerance": stage.tolerance,
        "facts": facts,
        "failures": [{"side": failure.side, "message": failure.message} for failure in stage.failures],
        "isolated": stage.isolated,
        "blamed": [_comparison(c) for c in stage.blamed],
        "diagnoses": [
            asdict(d) | {"before": round_error(d.before), "after": round_error(d.after), "tried": list(d.tried)}
            for d in stage.diagnoses
        ],
        "again": dict(stage.again),
        "blocked_by": stage.blocked_by,
        "remarks": list(stage.remarks),
        "taps": [_comparison(c) for c in stage.comparisons],
    }


def _use(use: WaiverUse) -> dict[str, Any]:
    waiver = {**asdict(use.waiver), "expires": use.waiver.expires.isoformat()}
    del waiver["expired"]
    return waiver | {"state": use.state, "matched": [f"{stage}: {tap}" for stage, tap in use.taps]}


def _baseline(baseline: BaselineResult) -> dict[str, Any]:
    changes = [
        asdict(change) | {"before": round_error(change.before), "after": round_error(change.after)}
        for change in baseline.changes
    ]
    return {
        "source": baseline.source,
        "factor": baseline.factor,
        "changes": changes,
        "remarks": list(baseline.remarks),
    }


def _comparison(c: Comparison) -> dict[str, Any]:
    arbiter = c.arbiter and {
        "gap64": round_error(c.arbiter.gap64),
        "agreed": round_error(c.arbiter.agreed),
        "noise": _by_side(c.arbiter.noise, ERROR_DIGITS),
    }
    return {
        "tap": c.tap,
        "kind": c.kind,
        "paths": dict(c.paths),
        "types": dict(c.types),
        "verdict": c.verdict.value,
        "shape": list(c.shape),
        "dtype": c.dtype,
        "error": round_error(c.error),
        "scale": round_value(c.scale),
        "relative": round_error(c.relative),
        "index": list(c.index),
        "values": _by_side(c.values, VALUE_DIGITS),
        "why": c.why,
        "arbiter": arbiter,
        "waived": "" if c.waiver is None else c.waiver.reason,
    }


def _by_side(values: Mapping[Side, float], digits: int) -> dict[str, float | str]:
    return {side: _rounded(value, digits) for side, value in values.items()}
