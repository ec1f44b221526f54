"""Running stages: both sides at once, each in its own process, then compared, arbitrated and explained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stdc_parity.align import pairs
from stdc_parity.align.arbiter import arbitrate
from stdc_parity.align.judge import Tolerance, compare_records, failing
from stdc_parity.align.load import describe_weights, open_source, resolve
from stdc_parity.align.localise import blame
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import Record, load_record
from stdc_parity.align.result import Failure, RunResult, StageResult, Verdict
from stdc_parity.align.sides import SideProcess, default_threads, open_sides
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages import forward
from stdc_parity.converters.architecture import Side

SIDES: tuple[Side, Side] = ("torch", "paddle")
REFERENCE: Side = "torch"
Arbiter = Literal["auto", "always", "never"]

Processes = Mapping[Side, SideProcess]
Answer = dict[str, Any] | Failure


@dataclass(frozen=True)
class Judging:
    """How a run is judged: the tolerance, when float64 is asked, and whether rounding is forgiven."""

    tolerance: Tolerance
    arbiter: Arbiter = "auto"
    strict: bool = False


def choose_spec(
    *, pair: str | None, size: tuple[int, int] | None, batch: int | None, weights: str | None, **options: Any
) -> RunSpec:
    """A run's options with the open ones filled in: the pair that fits the weights, its size, its batch.

    In train mode the default batch is 2: with one image the norms after a global pooling have one value.
    Raises UsageError for an unknown pair and CheckpointError for weights that cannot be read.
    """
    if pair is None and weights is not None:
        name = open_source(weights, options["key"]).architecture.name
        pair = name if name in pairs.names() else None
    name = pair or pairs.DEFAULT
    return RunSpec(
        pair=name,
        size=size or pairs.find_pair(name).size,
        batch=batch or (2 if options["mode"] == "train" else 1),
        weights=weights,
        **options,
    )


def run_forward(spec: RunSpec, judging: Judging, threads: int | None = None) -> RunResult:
    """The forward stage of a pair: capture both sides, compare, and on a divergence find who is to blame.

    Raises UsageError and CheckpointError for the options and the weights, MissingFramework if a framework
    cannot be imported. A side that crashes or raises is part of the result.
    """
    with (
        open_sides(SIDES, threads or default_threads()) as processes,
        tempfile.TemporaryDirectory() as folder,
    ):
        pair, source = resolve(spec)  # while the sides import
        run = _Run(processes, Path(folder), pair, judging)
        result = run.stage(forward.STAGE, spec)
        if not result and not result.failures:
            result = run.isolated(result, spec)
        return RunResult(spec, describe_weights(spec, source), pair.stages, [result])


@dataclass(frozen=True)
class _Run:
    """The processes of a run, where their records go, and how they are judged."""

    processes: Processes
    folder: Path
    pair: Pair
    judging: Judging

    def stage(self, stage: str, spec: RunSpec) -> StageResult:
        """Capture `stage` on both sides and judge it."""
        answers = self._both(stage, spec)
        failures = [answer for answer in answers.values() if isinstance(answer, Failure)]
        done = {side: answer for side, answer in answers.items() if not isinstance(answer, Failure)}
        result = StageResult(
            stage=stage,
            comparisons=[],
            tolerance=self.judging.tolerance.describe(),
            seconds={side: answer["seconds"] for side, answer in done.items()},
            failures=failures,
            facts={side: answer["facts"] for side, answer in done.items()},
        )
        if failures:
            return result
        single = self._records(stage, spec)
        comparisons = compare_records(*single, self.judging.tolerance)
        return self._arbitrated(replace(result, comparisons=comparisons), spec, single)

    def isolated(self, result: StageResult, spec: RunSpec) -> StageResult:
        """`result` with the modules to blame: the other side's, each run on the reference's inputs.

        In float64, unless that is never to be asked, so that rounding is not blamed.
        """
        double = spec.dtype == "float64" or self.judging.arbiter != "never"
        spec = replace(spec, dtype="float64" if double else spec.dtype)
        for side, job in ((REFERENCE, f"{result.stage}-calls"), (SIDES[1], f"{result.stage}-replay")):
            self.processes[side].ask(self._job(job, spec))
            answer = self.processes[side].answer()
            if isinstance(answer, Failure):
                return replace(result, failures=[*result.failures, answer])
        comparisons = self._own(
            compare_records(*self._records(forward.ISOLATED, spec), self._own_tolerance(double))
        )
        return replace(result, blamed=blame(comparisons), isolated=True)

    def _arbitrated(self, result: StageResult, spec: RunSpec, single: tuple[Record, Record]) -> StageResult:
        """`result` after the float64 run, if one is due."""
        every = self.judging.arbiter == "always"
        due = every or (
            self.judging.arbiter == "auto" and any(not c.why for c in failing(result.comparisons))
        )
        if spec.dtype == "float64" or not due:
            return result
        wide = replace(spec, dtype="float64")
        answers = self._both(result.stage, wide)
        failures = [answer for answer in answers.values() if isinstance(answer, Failure)]
        if failures:
            return replace(result, failures=failures)
        double = self._records(result.stage, wide)
        comparisons = arbitrate(result.comparisons, single, double, self.pair.floors, every=every)
        if self.judging.strict:
            comparisons = [
                replace(c, verdict=Verdict.DIVERGED) if c.verdict is Verdict.ROUNDING else c
                for c in comparisons
            ]
        return replace(result, comparisons=comparisons)

    def _job(self, what: str, spec: RunSpec) -> dict[str, Any]:
        return {
            "do": what,
            "spec": spec.to_json(),
            "run": str(self.folder / spec.dtype),
            "reference": REFERENCE,
        }

    def _both(self, what: str, spec: RunSpec) -> dict[Side, Answer]:
        for process in self.processes.values():
            process.ask(self._job(what, spec))
        return {side: process.answer() for side, process in self.processes.items()}

    def _records(self, stage: str, spec: RunSpec) -> tuple[Record, Record]:
        folder = self.folder / spec.dtype
        return load_record(folder, SIDES[0], stage), load_record(folder, SIDES[1], stage)
