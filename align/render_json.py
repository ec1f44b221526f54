"""A run as JSON: everything that was measured, for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stdc_parity.align.result import Comparison, RunResult, StageResult

SCHEMA_VERSION = 1


def to_json(result: RunResult) -> dict[str, Any]:
    """The run as a JSON object; infinities and NaN become strings."""
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": result.verdict.value,
        "weights": result.weights,
        "spec": result.spec.to_json(),
        "stages": [_stage(stage) for stage in result.stages],
    }


def write_json(result: RunResult, path: Path) -> None:
    """Write the run to `path` in one step, over an older file. Raises UsageError if it cannot be written."""
    import json

    from stdc_parity.converters.atomic import atomic_write

    with atomic_write(path, force=True) as file:
        file.write((json.dumps(to_json(result), indent=1) + "\n").encode())


def _stage(stage: StageResult) -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "verdict": stage.verdict.value,
        "tolerance": stage.tolerance,
        "seconds": dict(stage.seconds),
        "facts": {side: dict(facts) for side, facts in stage.facts.items()},
        "failures": [asdict(failure) for failure in stage.failures],
        "isolated": stage.isolated,
        "blamed": [_comparison(c) for c in stage.blamed],
        "diagnoses": [_plain(asdict(diagnosis)) for diagnosis in stage.diagnoses],
        "again": dict(stage.again),
        "blocked_by": stage.blocked_by,
        "remarks": list(stage.remarks),
        "taps": [_comparison(c) for c in stage.comparisons],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    data = asdict(comparison) | {"verdict": comparison.verdict.value}
    return {key: _plain(value) for key, value in data.items()}


def _plain(value: object) -> object:
    """Floats that JSON has no numbers for become "inf", "-inf" and "nan"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
