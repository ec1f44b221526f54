"""Why a rung fails: the modules to blame run again in their sides' processes, with changes that might explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stdc_parity.align.arbiter import AGREED
from stdc_parity.align.compare import REFERENCE, SIDES, Judging
from stdc_parity.align.diagnosis.modules import Lab, explain_module
from stdc_parity.align.diagnosis.statistics import explain_each
from stdc_parity.align.diagnosis.total import explain_total
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.ladder import Rung
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record, load_record
from stdc_parity.align.repro import write_repro
from stdc_parity.align.result import Comparison, Diagnosis, Failure, StageResult
from stdc_parity.align.sides import Worker
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.align.stages.explain import METRIC
from stdc_parity.align.tracing import Edit
from stdc_parity.converters.errors import ParityError

MAX_EXPLAINED = 4
"""How many modules of a rung are looked into."""

MAX_NAMED = 5
"""How many norms with one cause are named."""

NETWORK_METRICS = ("single_scale_logits", "multi_scale_scores", "evaluate_single_scale", "evaluate_multi_scale")
"""The functions of a recipe's metrics that run the network."""

MAX_SHOWN = 32
"""The largest tensor whose values are written out."""

OTHER: Side = SIDES[1]
"""The side on which changes are tried."""


@dataclass(frozen=True)
class Bench:
    """Where a rung's modules were run one by one: the processes, the records' folder, the calls' record, the spec."""

    processes: Mapping[Side, Worker]
    folder: Path
    calls: str
    rung: Rung
    spec: RunSpec
    pair: Pair
    judging: Judging
    lent: Path | None = None
    repro: Path | None = None

    def explain(self, result: StageResult) -> StageResult:
        """`result` with the causes of the first modules to blame; norms that have one in common are named once."""
        remarks: list[str] = []
        result, statistics = self._statistics(result)
        found: list[Diagnosis] = list(statistics.values())
        for comparison in result.blamed[:MAX_EXPLAINED]:
            path = next(iter(comparison.paths.values()))
            known = statistics.get(comparison.tap)
            uncalled = None if known is not None else self._not_called(comparison)
            if uncalled is not None:
                found.append(uncalled)
                continue
            call = self._call_of(comparison)
            try:
                if known is None:
                    found.append(explain_module(path, self._lab(call)))
                if self.repro is not None and path != "loss":
                    if known is not None:
                        self._lab(call).trace()
                    explained = found[-1] if known is None else replace(known, place=path)
                    written = self._reproduced(self.repro, explained, call)
                    remarks.append(f"To see it alone: python {written}")
            except (ParityError, LookupError) as error:
                found += [Diagnosis(path, tried=(f"nothing: {error}",))] if known is None else []
        remarks = [*result.remarks, *remarks]
        return replace(result, diagnoses=[*result.diagnoses, *found], remarks=remarks)

    def _statistics(self, result: StageResult) -> tuple[StageResult, dict[str, Diagnosis]]:
        """Causes of running statistics by tap, and `result` without the norms that share another's cause."""
        if not any(c.kind == "buffer" for c in result.blamed):
            return result, {}
        records = (load_record(self.folder, side, f"{self.rung.name}-isolated") for side in SIDES)
        every = explain_each(result.blamed, *records)
        first: dict[tuple[str, ...], str] = {}
        shared: dict[str, list[str]] = {}
        for comparison in result.blamed:
            if comparison.tap in every:
                tried = tuple(every[comparison.tap].tried)
                shared.setdefault(first.setdefault(tried, comparison.tap), []).append(comparison.tap)
        folded = {tap for taps in shared.values() for tap in taps[1:]}
        remarks = [
            f"{len(taps) - 1} more norms differ for the same reason as {tap}, each with its own n: "
            f"{', '.join(taps[1:MAX_NAMED])}{', …' if len(taps) > MAX_NAMED else ''}."
            for tap, taps in shared.items()
            if len(taps) > 1
        ]
        blamed = [comparison for comparison in result.blamed if comparison.tap not in folded]
        kept = {tap: every[tap] for tap in shared}
        return replace(result, blamed=blamed, remarks=[*result.remarks, *remarks]), kept

    def _reproduced(self, folder: Path, diagnosis: Diagnosis, call: str) -> Path:
        """Write a script that shows the module's difference, from its traces that were recorded last."""
        records = {side: load_record(self.folder, side, "explain-trace") for side in SIDES}
        calls = load_record(self.folder, REFERENCE, self.calls)
        return write_repro(folder, self.rung.stage, diagnosis, call, records, calls, self.pair, self.spec)

    def explain_loss(self, result: StageResult) -> StageResult:
        """`result` with the cause of the first term of a loss that differs."""
        comparison = next((c for c in result.comparisons if not c), None)
        if comparison is None:
            return result
        first = comparison.tap
        if comparison.kind == "parameter":
            return replace(result, diagnoses=[*result.diagnoses, self._constant(first)])
        try:
            lab = self._lab("", only=first)
            diagnosis = self._total(first, lab) or explain_module(first, lab, only=first)
        except (ParityError, LookupError) as error:
            diagnosis = Diagnosis(first, tried=(f"nothing: {error}",))
        return replace(result, diagnoses=[*result.diagnoses, diagnosis])

    def explain_metric(self, result: StageResult) -> StageResult:
        """`result` with the cause of the first function of the metrics that runs the network and differs."""
        places = [path for c in result.comparisons if not c for path in c.paths.values()]
        first = next((path for path in places if path.removeprefix("metrics.") in NETWORK_METRICS), None)
        if first is None:
            return result
        try:
            lab = self._lab(first.removeprefix("metrics."), only=METRIC)
            diagnosis = explain_module(first, lab, only=METRIC)
        except (ParityError, LookupError) as error:
            diagnosis = Diagnosis(first, tried=(f"nothing: {error}",))
        return replace(result, diagnoses=[diagnosis, *result.diagnoses])

    def _total(self, name: str, lab: Lab) -> Diagnosis | None:
        """Why a total differs whose terms all agree."""
        if name != "total":
            return None
        one, other = lab.trace()
        terms = [tap.name for tap in one.taps if tap.kind == "loss" and tap.path == f"loss.{tap.name}"]
        sides = [{term: record.arrays[term] for term in terms if term in record.arrays} for record in (one, other)]
        return explain_total(name, (one.arrays[name], other.arrays[name]), (sides[0], sides[1]))

    def _constant(self, name: str) -> Diagnosis:
        """Both sides' values of a small tensor that a loss starts with: a kernel, weights of classes."""
        one, other = (load_record(self.folder, side, self.rung.name).arrays[name] for side in SIDES)
        if one.size > MAX_SHOWN or one.shape != other.shape:
            return Diagnosis(name)
        own, right = (" ".join(np.array2string(a, precision=7).split()) for a in (other, one))
        gap = float(np.abs(one.astype(np.float64) - other).max() / (np.abs(one).max() or 1.0))
        return Diagnosis(name, f"{name} starts as {own}, in the original as {right}", f"{name} = {right}", gap, 0.0)

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
