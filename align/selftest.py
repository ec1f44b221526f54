"""The checker checked: every port bug of the corpus is planted, and must be found and named where it is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from stdc_parity.align.compare import SIDES, Judging, place_of
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.result import Failure, RunResult, StageResult
from stdc_parity.align.run import climb
from stdc_parity.align.sides import SideProcess, default_threads, open_sides
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.errors import UsageError
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES
from stdc_parity.fixtures.portbugs.entry import Entry

SIZE, BASE = (64, 128), 4
"""Small networks, so that an entry runs in about a second."""

NEEDED = {"detected": 1.0, "at the stage": 0.95, "at the place": 0.95, "with the right cause": 0.80}
"""The shares that the corpus must reach for the self-test to pass; false alarms must be none."""

WRONG_CAUSES = 0.02
"""The share of bugs that may be given a wrong cause."""


USES: Mapping[str, set[str]] = {
    "weights": {"network", "tensors"},
    "data": {"data", "transforms"},
    "forward": {"network", "tensors"},
    "forward-train": {"network", "tensors"},
    "loss": {"losses"},
    "backward": {"network", "tensors", "losses"},
    "optimizer": {"network", "tensors", "losses", "optim"},
    "schedule": {"network", "tensors", "losses", "optim"},
    "metric": {"network", "tensors", "metrics"},
}
"""What of a side a rung runs: its network, its weights, and the recipe's modules. `train` runs everything."""


@dataclass(frozen=True)
class Finding:
    """What became of one entry: the rung and the place that were named, and whether they are right.

    `explained` says that a cause was stated, `right_cause` that it is the entry's.
    """

    id: str
    harmless: bool
    found: bool
    stage: str
    place: str
    right_stage: bool
    right_place: bool
    explained: bool = False
    right_cause: bool = False


@dataclass(frozen=True)
class Score:
    """The findings, and whether they are good enough."""

    findings: Sequence[Finding]

    @property
    def shares(self) -> Mapping[str, float]:
        """What share of the real bugs was detected, at the right stage, at the right place; and of those that a
        diagnosis is expected for, with which cause."""
        bugs = [finding for finding in self.findings if not finding.harmless]
        expected = [finding for finding in bugs if ENTRIES[finding.id].diagnosis]
        count, causes = max(1, len(bugs)), max(1, len(expected))
        return {
            "detected": sum(f.found for f in bugs) / count,
            "at the stage": sum(f.found and f.right_stage for f in bugs) / count,
            "at the place": sum(f.found and f.right_place for f in bugs) / count,
            "with the right cause": sum(f.right_cause for f in expected) / causes,
            "with a wrong cause": sum(f.explained and not f.right_cause for f in expected) / causes,
        }

    @property
    def false_alarms(self) -> list[Finding]:
        """Harmless entries that were reported."""
        return [finding for finding in self.findings if finding.harmless and finding.found]

    def __bool__(self) -> bool:
        """Whether the corpus is found as it must be."""
        shares = self.shares
        right = all(shares[name] >= share for name, share in NEEDED.items())
        return right and not self.false_alarms and shares["with a wrong cause"] < WRONG_CAUSES


def chosen(ids: Sequence[str]) -> list[Entry]:
    """The entries called `ids`, all without any. Raises UsageError for an unknown one."""
    unknown = [name for name in ids if name not in ENTRIES]
    if unknown:
        raise UsageError(
            f"there is no port bug {', '.join(unknown)}", "stdc-align selftest --list names them."
        )
    return [ENTRIES[name] for name in ids] if ids else list(ENTRIES.values())


def listing(ids: Sequence[str]) -> Iterator[str]:
    """A line for each entry."""
    for entry in chosen(ids):
        yield f"{entry.id:<36} {'harmless' if entry.harmless else entry.stage:<14} {entry.what}"


def run(ids: Sequence[str], progress: Callable[[str], None] = lambda line: None, jobs: int | None = None) -> Score:
    """Plant each entry by itself and climb the ladder until a rung fails, as `all` does with its defaults.

    `jobs` entries at a time, each with two processes of its own; as many as there are cores if it is None.
    """
    entries = chosen(ids)
    jobs = min(jobs or os.cpu_count() or 1, len(entries))
    findings: dict[str, Finding] = {}

    def work(share: Sequence[Entry]) -> None:
        with open_sides(SIDES, 1 if jobs > 1 else default_threads()) as processes:
            for entry in share:
                progress(f"{len(findings) + 1} of {len(entries)}: {entry.id}")
                findings[entry.id] = judge(entry, plant(processes, [entry]))

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(work, entries[first::jobs]) for first in range(jobs)]:
            done.result()
    return Score([findings[entry.id] for entry in entries])


def plant(
    processes: Mapping[Side, SideProcess], entries: Sequence[Entry], *, stop_early: bool = True
) -> RunResult:
    """Climb the ladder with `entries`, which are of one subject, planted together.

    Rungs that use nothing of what the entries change are those of a clean run, and left out. `stop_early` ends it
    with the first rung that fails. Raises UsageError if the entries exclude each other.
    """
    spec = RunSpec(entries[0].subject, SIZE, base=BASE, batch=2, plant=tuple(entry.id for entry in entries))
    changed = _touched(processes, spec.plant)
    rungs = [name for name in RUNGS if not changed or name not in USES or changed & USES[name]]
    return climb(processes, rungs, spec, Judging(Tolerance(), "always"), stop_early=stop_early)


def _touched(processes: Mapping[Side, SideProcess], ids: Sequence[str]) -> set[str]:
    """What the bugs of `ids` change, on any side."""
    for process in processes.values():
        process.ask({"do": "touched", "plant": list(ids)})
    answers = [process.answer() for process in processes.values()]
    return {name for answer in answers if not isinstance(answer, Failure) for name in answer["touched"]}


def judge(entry: Entry, result: RunResult) -> Finding:
    """Hold what a run named against what the entry says."""
    failed = next((stage for stage in result.stages if not stage), None)
    place = places(failed)[0] if failed is not None and places(failed) else ""
    cause = stated_cause(failed) if failed is not None else ""
    return Finding(
        id=entry.id,
        harmless=entry.harmless,
        found=failed is not None,
        stage=failed.stage if failed is not None else "",
        place=place,
        right_stage=failed is not None and failed.stage == entry.stage,
        right_place=failed is not None and failed.stage == entry.stage and place == entry.where,
        explained=bool(cause),
        right_cause=bool(cause and entry.diagnosis and re.search(entry.diagnosis, cause, re.I | re.S)),
    )


def stated_cause(stage: StageResult) -> str:
    """The first cause that a rung states, with its fix; "" if nothing explains it."""
    first = next((diagnosis for diagnosis in stage.diagnoses if diagnosis), None)
    return f"{first.cause} {first.fix}" if first is not None else ""


def places(stage: StageResult) -> list[str]:
    """What a failed rung names, first one first: the modules to blame, or else what differs.

    That is the place that a tap was taken at, or the tap where several are taken at one place.
    """
    if stage.failures:
        return [f"{failure.side} failed" for failure in stage.failures]
    rung = RUNGS[stage.stage]
    if stage.blamed and rung.modules:
        return [place_of(comparison) for comparison in stage.blamed]
    named = stage.blamed or [c for c in stage.comparisons if not c and not stage.again]
    return list(dict.fromkeys(c.path if rung.by_place else c.tap for c in named))


def describe(score: Score) -> Iterator[str]:
    """The score for people: what was missed first, the shares last."""
    for finding in score.findings:
        if finding.harmless and finding.found:
            yield f"FALSE ALARM  {finding.id}: {finding.stage}, {finding.place}"
        elif not finding.harmless and not finding.found:
            yield f"MISSED       {finding.id}: expected at {ENTRIES[finding.id].stage}, {ENTRIES[finding.id].where}"
        elif not finding.harmless and not finding.right_place:
            entry = ENTRIES[finding.id]
            yield f"ELSEWHERE    {finding.id}: {finding.stage}, {finding.place}, not {entry.stage}, {entry.where}"
        if ENTRIES[finding.id].diagnosis and finding.found and not finding.right_cause:
            what = "WRONG CAUSE" if finding.explained else "NO CAUSE   "
            yield f"{what}  {finding.id}: expected {ENTRIES[finding.id].cause}"
    bugs = sum(not finding.harmless for finding in score.findings)
    shares = ", ".join(f"{share:.1%} {name}" for name, share in score.shares.items())
    alarms = f"{len(score.false_alarms)} false alarms on {len(score.findings) - bugs} harmless entries"
    yield f"{bugs} port bugs: {shares}; {alarms}"


def write_json(score: Score, path: Path) -> None:
    """Write the findings to `path` in one step."""
    data = {"shares": dict(score.shares), "findings": [asdict(finding) for finding in score.findings]}
    with atomic_write(path, force=True) as file:
        file.write((json.dumps(data, indent=1) + "\n").encode())
