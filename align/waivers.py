"""Waivers: taps that may fail for a time, in a file that people review.

    [[waiver]]
    tap = "conv_out16*"          # a "*" stands for any text, all else for itself
    stage = "forward"            # a "*" here too
    reason = "bilinear upsampling of odd sizes, see issue 12"
    owner = "someone@example.org"
    expires = 2027-01-31         # the last day on which it holds

A waived tap does not fail the run. A waiver that has expired, and one that matches no failing tap of a rung that was
judged, fail it: such a file says only what is so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from stdc_parity.align.result import Comparison, StageResult, Verdict, Waiver, WaiverUse
from stdc_parity.converters.errors import CheckpointError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ANY = re.escape("*")


def load_waivers(path: Path, today: date | None = None) -> tuple[Waiver, ...]:
    """The waivers in a TOML file, in its order. `today` is the date in UTC if none is given.

    Raises CheckpointError if the file cannot be read, is no TOML, or an entry lacks something or has too much.
    """
    today = today or datetime.now(timezone.utc).date()
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"--waivers {path}: {error.strerror}") from None
    except ValueError as error:  # no UTF-8, no TOML
        raise CheckpointError(f"--waivers {path} is no TOML file: {error}") from None
    entries = data.pop("waiver", [])
    if data or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CheckpointError(f"--waivers {path}: it may hold [[waiver]] tables and nothing else")
    return tuple(_waiver(entry, f"--waivers {path}, number {i}", today) for i, entry in enumerate(entries, 1))


def _waiver(entry: Mapping[str, Any], where: str, today: date) -> Waiver:
    wanted = {field.name for field in fields(Waiver)} - {"expired"}
    wrong = [f"it lacks {name}" for name in sorted(wanted - entry.keys())]
    wrong += [f"it has {name}, which means nothing here" for name in sorted(entry.keys() - wanted)]
    for name, value in entry.items():
        if name == "expires" and type(value) is not date:
            wrong.append("expires has to be a date without quotes, such as 2027-01-31")
        if name in wanted - {"expires"} and not (isinstance(value, str) and value.strip()):
            wrong.append(f"{name} has to be text")
    if wrong:
        raise CheckpointError(f"{where}: {'; '.join(wrong)}", "docs/reports.md has an example.")
    return Waiver(**entry, expired=today > entry["expires"])


def apply_waivers(result: StageResult, waivers: Sequence[Waiver]) -> StageResult:
    """`result` with the failing taps that a waiver in force matches WAIVED, and no more to blame."""
    active = [w for w in waivers if not w.expired and _matches(w.stage, result.stage)]
    if not active:
        return result
    blamed = [c for c in result.blamed if _waiver_of(c, active) is None]
    return replace(result, comparisons=[_waived(c, active) for c in result.comparisons], blamed=blamed)


def _waived(comparison: Comparison, waivers: Sequence[Waiver]) -> Comparison:
    waiver = None if comparison else _waiver_of(comparison, waivers)
    return comparison if waiver is None else replace(comparison, verdict=Verdict.WAIVED, waiver=waiver)


def _waiver_of(comparison: Comparison, waivers: Sequence[Waiver]) -> Waiver | None:
    return next((waiver for waiver in waivers if _matches(waiver.tap, comparison.tap)), None)


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(ANY, ".*"), text, re.DOTALL) is not None


def account_for(waivers: Sequence[Waiver], stages: Sequence[StageResult]) -> list[WaiverUse]:
    """What became of every waiver, in their order."""
    return [WaiverUse(waiver, _fate(waiver, stages), _taps(waiver, stages)) for waiver in waivers]


def _taps(waiver: Waiver, stages: Sequence[StageResult]) -> list[tuple[str, str]]:
    return [(stage.stage, c.tap) for stage in stages for c in stage.comparisons if c.waiver == waiver]


def _fate(waiver: Waiver, stages: Sequence[StageResult]) -> Any:
    if waiver.expired:
        return "expired"
    if _taps(waiver, stages):
        return "used"
    judged = [s for s in stages if _matches(waiver.stage, s.stage) and not s.blocked_by and not s.failures]
    return "unmatched" if judged else "not asked"
