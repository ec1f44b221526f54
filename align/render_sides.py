"""A run of three or more sides as a table: a row for each tap, a column for every two sides, and who is odd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stdc_parity.align.result import Comparison, RunResult, StageResult, Verdict, badness


@dataclass(frozen=True)
class Cell:
    """Two sides at one tap: the error as a fraction of scale, and the verdict."""

    text: str
    verdict: Verdict


@dataclass(frozen=True)
class SideRow:
    """One tap: its name, its shape, a cell for every two sides (None where one lacks it), and who is odd."""

    tap: str
    shape: str
    cells: Sequence[Cell | None]
    says: str


def side_heads(stages: Sequence[StageResult]) -> list[str]:
    """The names of the columns of cells."""
    return ["/".join(stage.sides) for stage in stages]


def side_rows(
    result: RunResult, stages: Sequence[StageResult], group: Callable[[Comparison], str] | None
) -> list[SideRow]:
    """A row for every tap of a rung; with `group` one for each group of taps, the worst of it."""
    taps: dict[str, list[Comparison | None]] = {}
    for number, stage in enumerate(stages):
        for comparison in stage.comparisons:
            taps.setdefault(comparison.tap, [None] * len(stages))[number] = comparison
    chosen = [(tap, tap, row) for tap, row in taps.items()]
    if group is not None:
        groups: dict[str, list[tuple[str, str, list[Comparison | None]]]] = {}
        for tap, row in taps.items():
            name = group(next(c for c in row if c is not None))
            groups.setdefault(name, []).append((tap if tap == name else f"{name} › {tap}", tap, row))
        chosen = [max(members, key=lambda each: _badness(each[2])) for members in groups.values()]
    says = _says(result)
    return [
        SideRow(label, _shape(row), [_cell(c) for c in row], says.get(tap, "agree" if _agree(row) else "differ"))
        for label, tap, row in chosen
    ]


def _badness(row: Sequence[Comparison | None]) -> tuple[bool, bool, float]:
    return max(badness(c) for c in row if c is not None)


def _agree(row: Sequence[Comparison | None]) -> bool:
    return all(c for c in row if c is not None)


def _shape(row: Sequence[Comparison | None]) -> str:
    return "x".join(map(str, next(c for c in row if c is not None).shape)) or "scalar"


def _cell(comparison: Comparison | None) -> Cell | None:
    if comparison is None:
        return None
    return Cell("-" if comparison.why else f"{comparison.relative:.1e}", comparison.verdict)


def _says(result: RunResult) -> dict[str, str]:
    """Who is odd, by tap."""
    votes = result.majority.votes if result.majority is not None else ()
    return {vote.tap: f"{', '.join(vote.odd)} odd" if vote.agreeing else "no majority" for vote in votes}


def to_explain(result: RunResult) -> list[StageResult]:
    """The results of two sides that show most of a run that diverged: each odd side against one of the majority.

    The two frameworks first, as their modules were run one by one; without a majority every two that differ.
    """
    differ = [stage for stage in result.stages if stage.verdict is Verdict.DIVERGED]
    odd = result.majority.odd if result.majority is not None else ()
    apart = [stage for stage in differ if len(set(stage.sides) & set(odd)) == 1]
    apart.sort(key=lambda stage: not stage.isolated)
    chosen = [next((number for number, stage in enumerate(apart) if side in stage.sides), None) for side in odd]
    return [apart[number] for number in dict.fromkeys(chosen) if number is not None] or differ
