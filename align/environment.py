"""What of a run's facts belongs to the machine and the moment: every report keeps it in one block, apart.

Two reports of the same run are the same bytes without that block.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from stdc_parity.align.result import RunResult

OF_THE_RUN = ("spec", "weights_sha256", "input_sha256")
"""The facts of a side that belong to the run itself: what it computed."""


def describe_environment(result: RunResult) -> dict[str, Any]:
    """Where and how long a run ran, as a JSON object.

    `sides` has each framework's version, threads and flags; `seconds` what each side took at each rung;
    `last_words` what a side that failed said last, which may name paths and processes.
    """
    sides: dict[str, dict[str, Any]] = {}
    for stage in result.stages:
        for side, facts in stage.facts.items():
            sides.setdefault(side, {key: value for key, value in facts.items() if key not in OF_THE_RUN})
    failures = {stage.title: {each.side: each.note for each in stage.failures} for stage in result.stages}
    return {
        "stdc_parity": _version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "sides": sides,
        "seconds": {s.title: {side: round(t, 3) for side, t in s.seconds.items()} for s in result.stages},
        "last_words": {stage: notes for stage, notes in failures.items() if notes},
    }


def list_environment(result: RunResult) -> list[tuple[str, str]]:
    """`describe_environment` as rows of a name ("sides.torch.threads") and its value, without the last words."""
    return list(_rows("", {**describe_environment(result), "last_words": {}}))


def describe_last_words(result: RunResult) -> Iterator[str]:
    """What sides that failed said last, a line each: a traceback, or the end of a process's standard error."""
    for stage in result.stages:
        for failure in stage.failures:
            if failure.note:
                yield f"{stage.title}, {failure.side}:"
                yield from failure.note.splitlines()


def _rows(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _rows(f"{prefix}.{key}".lstrip("."), item)]
    return [(prefix, str(value))]


def _version() -> str:
    try:
        return metadata.version("stdc-parity")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
