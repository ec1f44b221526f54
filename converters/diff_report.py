"""What `stdc-convert diff` tells people and programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from stdc_parity.converters.closeness import Gap
from stdc_parity.converters.diff import VERDICTS, Diff, Facts, Row, Verdict
from stdc_parity.converters.errors import shown
from stdc_parity.converters.opened import Opened

SCHEMA = 1
SHOWN = 20
"""Rows shown of each verdict, but for the equal ones."""

WORDS: dict[Verdict, str] = {
    "same": "same bit for bit",
    "close": "close",
    "different": "different",
    "dtype": "of another dtype",
    "shape": "of another shape",
    "missing": "missing from B",
    "extra": "extra in B",
}


def diff_lines(found: Diff, *, verbose: bool = False) -> Iterator[str]:
    """The comparison: both files, the summary, then what does not agree, worst first (`verbose`: every row)."""
    for letter, opened in (("A", found.a), ("B", found.b)):
        yield f"{letter}  {shown(str(opened.path))}: {opened.contents.container}, {_architecture(opened)}"
    yield from found.notes
    counts = found.counts
    tally = ", ".join(f"{counts[v]:,} {WORDS[v]}" for v in reversed(VERDICTS) if counts[v])
    names = "official names" if found.official else "the files' own names"
    yield f"{len(found.rows):,} tensors by {names}: {tally or 'none'}"
    for verdict in VERDICTS:
        if verdict == "same" and not verbose:
            continue
        rows = sorted((row for row in found.rows if row.verdict == verdict), key=_badness)
        yield from map(_row_line, rows if verbose else rows[:SHOWN])
        if len(rows) > SHOWN and not verbose:
            yield f"  {verdict:<9} … and {len(rows) - SHOWN:,} more (--json has all)"
    if found:
        yield "They agree." if found.tol is None else f"They agree to {found.tol:g} of scale."
    else:
        yield "They differ."


def _architecture(opened: Opened) -> str:
    return opened.architecture.describe() if opened.architecture else f"{opened.side} names, not recognised"


def _badness(row: Row) -> float:
    return 0.0 if row.gap is None else -row.gap.of_scale


def _row_line(row: Row) -> str:
    both = [side for side in (row.a, row.b) if side is not None]
    shapes = " / ".join(dict.fromkeys(_shape(side) for side in both))
    parts = [f"  {row.verdict:<9} {shown(row.name)}  {shapes}"]
    if row.verdict == "dtype":
        parts.append(" / ".join(side.dtype for side in both))
    if row.gap is not None:
        parts.append(describe_gap(row.gap))
    return "  ".join(parts) + (f"  # {row.hint}" if row.hint else "")


def _shape(facts: Facts) -> str:
    return "x".join(map(str, facts.shape)) or "scalar"


def describe_gap(gap: Gap) -> str:
    """`max|a-b| 1.2e-07 (3.4e-08 of scale) at (0, 1): 1.5 / 1.4, 12 values differ`."""
    values = f"{gap.a:.9g} / {gap.b:.9g}"
    at = f" at {gap.at}" if gap.at else ""
    return (
        f"max|a-b| {gap.worst:.1e} ({gap.of_scale:.1e} of scale){at}: {values}, "
        f"{gap.differing:,} value{'s' if gap.differing != 1 else ''} differ{'s' if gap.differing == 1 else ''}"
    )


def diff_account(found: Diff) -> dict[str, Any]:
    """The comparison as JSON: every tensor, the equal ones too. Figures that are not finite are text."""
    return {
        "schema_version": SCHEMA,
        "agree": bool(found),
        "tol": found.tol,
        "names": "official" if found.official else "own",
        "a": _file(found.a),
        "b": _file(found.b),
        "notes": list(found.notes),
        "counts": {verdict: found.count(verdict) for verdict in reversed(VERDICTS)},
        "tensors": [_row_account(row) for row in found.rows],
    }


def _file(opened: Opened) -> dict[str, Any]:
    return {
        "path": str(opened.path),
        "bytes": opened.contents.size,
        "container": opened.contents.container,
        "side": opened.side,
        "state_dict": opened.state.where,
        "architecture": opened.architecture.name if opened.architecture else None,
    }


def _row_account(row: Row) -> dict[str, Any]:
    account: dict[str, Any] = {"name": row.name, "verdict": row.verdict}
    for letter, facts in (("a", row.a), ("b", row.b)):
        account[letter] = facts and {"name": facts.name, "shape": facts.shape, "dtype": facts.dtype}
    if row.gap is not None:
        account |= {
            "differing": row.gap.differing,
            "worst": finite(row.gap.worst),
            "of_scale": finite(row.gap.of_scale),
            "at": row.gap.at,
            "values": [finite(row.gap.a), finite(row.gap.b)],
        }
    return account | ({"hint": row.hint} if row.hint else {})


def finite(value: float) -> float | str:
    """`value`, or its name where JSON has no number for it."""
    return value if math.isfinite(value) else str(value)
