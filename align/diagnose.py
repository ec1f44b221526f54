"""Why a rung fails: the modules to blame run again in their sides' processes, with changes that might explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stdc_parity.align.arbiter import AGREED
from stdc_parity.align.compare import REFERENCE, SIDES, Judging
from stdc_parity.align.diagnosis.modules import Lab, explain_module
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.ladder import Rung
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record, load_record
from stdc_parity.align.result import Comparison, Diagnosis, Failure, StageResult
from stdc_parity.align.sides import SideProcess
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.tracing import Edit
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.errors import ParityError

MAX_EXPLAINED = 4
"""How many modules of a rung are looked into."""

OTHER: Side = SIDES[1]
"""The side on which changes are tried."""


@dataclass(frozen=True)
class Bench:
    """Where a rung's modules were run one by one: the processes, the records' folder, the calls' record, the spec."""

    processes: Mapping[Side, SideProcess]
    folder: Path
    calls: str
    rung: Rung
    spec: RunSpec
    pair: Pair
    judging: Judging
    lent: Path | None = None

    def explain(self, result: StageResult) -> StageResult:
        """`result` with the causes of the first modules to blame."""
        found: list[Diagnosis] = []
        for comparison in result.blamed[:MAX_EXPLAINED]:
            path = next(iter(comparison.paths.values()))
            try:
                found.append(explain_module(path, self._lab(self._call_of(comparison))))
            except (ParityError, LookupError) as error:
                found.append(Diagnosis(path, tried=(f"nothing: {error}",)))
        if not result.blamed:
            found += [d for c in result.comparisons if c.kind == "module" and (d := self._not_called(c)) is not None]
        return replace(result, diagnoses=[*result.diagnoses, *found])

    def explain_loss(self, result: StageResult) -> StageResult:
        """`result` with the cause of the first term of a loss that differs."""
        first = next((c.tap for c in result.comparisons if not c), None)
        if first is None:
            return result
        try:
            diagnosis = explain_module(first, self._lab("", only=first))
        except (ParityError, LookupError) as error:
            diagnosis = Diagnosis(first, tried=(f"nothing: {error}",))
        return replace(result, diagnoses=[*result.diagnoses, diagnosis])

    def _not_called(self, comparison: Comparison) -> Diagnosis | None:
        """Why a module's tap is there on the reference's side alone, if the module itself agrees on its inputs."""
        if list(comparison.paths) != [REFERENCE]:
            return None
        path, lab = comparison.paths[REFERENCE], self._lab(comparison.tap)
        try:
            after, fine = lab.gap(lab.trace()[1])
        except (ParityError, LookupError):
            return None
        cause = f"{path} is not called in the forward pass on the {OTHER} side; called by hand, it agrees"
        fix = f"Run {path} in the forward pass, as the original does."
        return Diagnosis(path, cause, fix, float("inf"), after) if fine else None

    def _call_of(self, comparison: Comparison) -> str:
        """The name of the call that a comparison of the isolated records is about."""
        path = next(iter(comparison.paths.values()))
        calls = load_record(self.folder, REFERENCE, self.calls)
        names = {tap.name.rpartition(" input")[0] for tap in calls.taps if " input" in tap.name and tap.path == path}
        inside = [name for name in names if name and name in comparison.tap]
        return max(inside, key=len, default=path)

    def _lab(self, call: str, only: str = "") -> Lab:
        """A lab for one call of a module; `only` is the tap that has to agree, "" for all."""

        def ask(side: Side, name: str, edits: Sequence[Edit] = ()) -> Record | None:
            values = "explain-trace" if edits else ""
            job: dict[str, Any] = {
                "do": f"{self.rung.stage}-explain", "spec": self.spec.to_json(), "run": str(self.folder), "as": name,
                "of": self.calls, "reference": REFERENCE, "call": call, "values": values,
                "edits": [edit.to_json() for edit in edits],
            }  # fmt: skip
            lent = {"lent": str(self.lent)} if self.lent is not None and side != REFERENCE else {}
            self.processes[side].ask(job | lent)
            try:
                answer = self.processes[side].answer()
            except ParityError:
                return None
            return None if isinstance(answer, Failure) else load_record(self.folder, side, name)

        def trace() -> tuple[Record, Record]:
            records = [ask(side, "explain-trace") for side in SIDES]
            if records[0] is None or records[1] is None:
                raise LookupError("a side could not run it alone")
            return records[0], records[1]

        def gap(record: Record) -> tuple[float, bool]:
            reference = load_record(self.folder, REFERENCE, "explain-trace")
            double = self.spec.dtype == "float64"
            tolerance = Tolerance(AGREED) if double else self.judging.tolerance
            compared = compare_records(reference, record, tolerance, self.pair.floors if double else ())
            compared = [c for c in compared if not only or c.tap == only]
            bad = [c for c in compared if not c]
            worst = max(((float("inf") if c.why else c.relative) for c in bad or compared), default=0.0)
            return worst, not bad and bool(compared)

        return Lab(trace, lambda edits: ask(OTHER, "explain-trial", edits), gap)
