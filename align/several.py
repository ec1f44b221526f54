"""Runs of any sides, frameworks and ONNX Runtime: every two are judged, and three or more have a majority."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from stdc_parity.align.arbiter import arbitrate_alone
from stdc_parity.align.compare import (
    SIDES,
    Folders,
    Judging,
    arbiter_is_due,
    ask_arbiter,
    describe_rule,
    judge_stage,
    limit_of,
)
from stdc_parity.align.export.graph import open_graph
from stdc_parity.align.export.source import Exported, choose_exporter, export_graph
from stdc_parity.align.gather import gather
from stdc_parity.align.ladder import RUNGS, Rung
from stdc_parity.align.load import describe_weights, resolve
from stdc_parity.align.majority import decide
from stdc_parity.align.pair import Pair
from stdc_parity.align.progress import Silent
from stdc_parity.align.record import load_record
from stdc_parity.align.result import Failure, RunResult, StageResult, Verdict
from stdc_parity.align.run import SILENT, Answer, Climb, record_rung, run_rungs
from stdc_parity.align.sides import (
    FILE_SIDES,
    SideProcess,
    Worker,
    default_threads,
    is_installed,
    missing_framework,
    open_sides,
)
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.align.waivers import account_for, apply_waivers
from stdc_parity.converters.errors import ParityError, UsageError

GRAPH_RUNGS = ("weights", "forward")
"""The rungs that a graph has: it is a network in eval mode, without a loss, gradients or an optimizer."""


def run_sides(
    sides: Sequence[Side],
    names: Sequence[str],
    spec: RunSpec,
    judging: Judging,
    threads: int | None = None,
    progress: Silent = SILENT,
    *,
    onnx_from: Side | None = None,
    repro: Path | None = None,
    evidence: bool = False,
) -> RunResult:
    """Climb the rungs called `names` with `sides`, the reference first, and judge every two of them.

    The two frameworks in their usual order are `run_rungs`. Other sides have the weights and forward rungs alone;
    the graph of the onnx sides is that of `spec`, or exported from a framework (`onnx_from`, or one of the sides).
    Raises UsageError, CheckpointError and MissingFramework; a side that crashes is part of the result.
    """
    if tuple(sides) == SIDES:
        return run_rungs(names, spec, judging, threads, progress, repro=repro, evidence=evidence)
    if spec.own is not None:
        raise UsageError("a pair of one's own has the sides torch and paddle", "Leave out --sides.")
    check_rungs(sides, names)
    check_graph(sides, spec)
    progress.begin("", "the sides import what they compute with")
    with (
        open_with_exporter(sides, spec, threads, progress, onnx_from) as (processes, exporter),
        tempfile.TemporaryDirectory() as folder,
    ):
        pair, _ = resolve(spec)
        graph = prepare_graph(processes, exporter, spec, pair, Path(folder), progress) if _run_files(sides) else None
        mine = {side: processes[side] for side in sides}
        run = Run(mine, Path(folder), judging, graph, repro, evidence)
        return run.climb(names, spec, progress)


def check_rungs(sides: Sequence[Side], names: Sequence[str]) -> None:
    """Raise UsageError if these sides cannot have one of the rungs called `names`."""
    wrong = [name for name in names if name not in GRAPH_RUNGS]
    if not wrong:
        return
    graphs = [side for side in sides if side in FILE_SIDES]
    what = "forward --mode train" if wrong[0] == "forward-train" else wrong[0] if len(names) == 1 else "all"
    why = (
        f"{' and '.join(graphs)} can have {' and '.join(GRAPH_RUNGS)} alone: a graph is the network in eval mode, "
        "without loss, gradients or optimizer"
        if graphs
        else f"{what} has torch for its reference"
    )
    raise UsageError(f"{what} --sides {','.join(sides)}: {why}", "Leave out --sides, or say --sides torch,paddle.")


def check_graph(sides: Sequence[Side], spec: RunSpec) -> None:
    """Raise CheckpointError if the graph that is to be run is none, MissingFramework without ONNX Runtime."""
    for side in sides:
        if side in FILE_SIDES and not is_installed(side):
            raise missing_framework(side)
    if spec.graph is not None:
        open_graph(Path(spec.graph))


def _run_files(sides: Sequence[Side]) -> bool:
    return any(side in FILE_SIDES for side in sides)


@contextmanager
def open_with_exporter(
    sides: Sequence[Side], spec: RunSpec, threads: int | None, progress: Silent, onnx_from: Side | None
) -> Iterator[tuple[dict[Side, SideProcess], Side | None]]:
    """The processes of `sides`, and of the framework that a graph is exported from, if one has to be."""
    exporter = None if spec.graph or not _run_files(sides) else choose_exporter(sides, onnx_from)
    needed = dict.fromkeys([*sides, *([exporter] if exporter else [])])
    with open_sides(list(needed), threads or default_threads(len(needed)), progress.tap) as processes:
        yield processes, exporter


def prepare_graph(
    processes: Mapping[Side, SideProcess],
    exporter: Side | None,
    spec: RunSpec,
    pair: Pair,
    folder: Path,
    progress: Silent,
) -> Exported:
    """The graph that the onnx sides run: the file of `spec`, or one exported into `folder`."""
    if exporter is None:
        assert spec.graph is not None
        return Exported(Path(spec.graph), None)
    progress.begin("", f"{exporter} exports its graph")
    return export_graph(processes[exporter], exporter, spec, pair, folder)


@dataclass
class Run:
    """A run of any sides: their processes, the reference first, where records go, and the file that some run."""

    processes: Mapping[Side, Worker]
    folder: Path
    judging: Judging
    graph: Exported | None
    repro: Path | None = None
    evidence: bool = False
    wide: dict[Side, str] = field(default_factory=dict)
    """Why a side has no float64 record, "" if it has one; empty until they are recorded."""

    def climb(self, names: Sequence[str], spec: RunSpec, progress: Silent = SILENT) -> RunResult:
        """Climb the rungs called `names`, every two sides judged on each, and vote."""
        pair, source = resolve(spec)
        results = [
            result for name in names for result in self._rung(RUNGS[name], RUNGS[name].spec(spec), pair, progress)
        ]
        sides = tuple(self.processes)
        origin = self.graph.source if self.graph else None
        return RunResult(
            RUNGS[names[0]].spec(spec) if len(names) == 1 else spec,
            describe_weights(spec, source, pair),
            pair.stages,
            results,
            account_for(self.judging.waivers, results),
            sides=sides,
            majority=decide(sides, results, origin) if len(sides) > 2 else None,
        )

    def _rung(self, rung: Rung, spec: RunSpec, pair: Pair, progress: Silent) -> list[StageResult]:
        """The rung's result for every two sides, in the order of the sides."""
        progress.begin(rung.name, rung.about)
        answers = record_rung(self.processes, rung, spec, self.folder, graph=self._job)
        self.wide = {}
        results = []
        for two in combinations(self.processes, 2):
            result = self._judged(rung, spec, pair, two, answers, progress)
            results.append(result)
            progress.judged(result)
        return results

    @property
    def _job(self) -> dict[str, str]:
        return {} if self.graph is None else self.graph.job()

    def _judged(
        self,
        rung: Rung,
        spec: RunSpec,
        pair: Pair,
        two: tuple[Side, Side],
        answers: Mapping[Side, Answer],
        progress: Silent,
    ) -> StageResult:
        done = {side: answers[side] for side in two}
        failures = [answer for answer in done.values() if isinstance(answer, Failure)]
        given = {side: answer for side, answer in done.items() if not isinstance(answer, Failure)}
        result = StageResult(
            stage=rung.name,
            comparisons=[],
            tolerance=describe_rule(rung, self.judging.tolerance),
            limit=limit_of(rung, self.judging.tolerance),
            seconds={side: answer["seconds"] for side, answer in given.items()},
            failures=failures,
            facts={side: answer["facts"] for side, answer in given.items()},
            sides=two if len(self.processes) > 2 else (),
        )
        if failures:
            return result
        folders = dict.fromkeys(two, self.folder)
        result = judge_stage(rung, result, folders, spec.dtype, pair, self.judging)
        result = without_what_graphs_lack(result, two)
        if arbiter_is_due(rung, result, spec.dtype, self.judging):
            result = self._arbitrated(rung, spec, pair, result, folders, progress)
        result = apply_waivers(result, self.judging.waivers)
        if rung.isolated and set(two) == set(SIDES) and self._look_closer(result):
            progress.begin(rung.name, "part by part")
            result = Climb(self.processes, self.folder, pair, self.judging, (), self.repro).isolated(
                rung, result, spec
            )
            result = apply_waivers(result, self.judging.waivers)
        isolated = dict.fromkeys(two, self.folder / "isolated")
        return gather(result, spec, pair, folders, isolated) if self.evidence else result

    def _look_closer(self, result: StageResult) -> bool:
        return not result if self.judging.isolate is None else self.judging.isolate

    def _arbitrated(
        self, rung: Rung, spec: RunSpec, pair: Pair, result: StageResult, folders: Folders, progress: Silent
    ) -> StageResult:
        """`result` after float64 was asked: both sides, or the one that has it."""
        if not self.wide:
            progress.begin(rung.name, "the same in float64")
            self.wide = self._record_wide(rung, replace(spec, dtype="float64"))
        wide = {side: self.folder / "float64" for side in folders if not self.wide[side]}
        return arbitrate_pair(rung, result, folders, wide, pair, self.judging, self.wide)

    def _record_wide(self, rung: Rung, spec: RunSpec) -> dict[Side, str]:
        """Every side's float64 record; a side that cannot make one says why."""
        found: dict[Side, str] = {}
        for side, process in self.processes.items():
            try:
                answer = record_rung({side: process}, rung, spec, self.folder / "float64", graph=self._job)[side]
                found[side] = answer.message if isinstance(answer, Failure) else ""
            except ParityError as error:
                found[side] = error.message
        return found


def arbitrate_pair(
    rung: Rung,
    result: StageResult,
    narrow: Folders,
    wide: Folders,
    pair: Pair,
    judging: Judging,
    why: Mapping[Side, str],
) -> StageResult:
    """`result` after the float64 records in `wide` were asked: both sides', or one's; `why` says why not both.

    A side without float64 is held against the other one's float64 result, as `arbitrate_alone` does.
    """
    if len(wide) == len(narrow):
        return ask_arbiter(rung, result, narrow, wide, pair, judging)
    lacking = [side for side in narrow if side not in wide]
    said = "; ".join(f"the {side} side has no float64 run: {why[side]}" for side in lacking)
    remark = f"Not asked in float64 on both sides: {said}."
    if wide:
        ((side, folder),) = wide.items()
        single = {each: load_record(place, each, rung.name) for each, place in narrow.items()}
        double = load_record(folder, side, rung.name)
        comparisons = arbitrate_alone(result.comparisons, single, double)
        if judging.strict:
            comparisons = [
                replace(c, verdict=Verdict.DIVERGED) if c.verdict is Verdict.ROUNDING else c for c in comparisons
            ]
        remark += f" Its float32 result is held against {side}'s float64 one."
        result = replace(result, comparisons=comparisons)
    return replace(result, remarks=[*result.remarks, remark])


def without_what_graphs_lack(result: StageResult, two: Sequence[Side]) -> StageResult:
    """`result` without stages and tensors that a graph does not name; its outputs have to be there."""
    graphs = [side for side in two if side in FILE_SIDES]
    absent = [
        c
        for c in result.comparisons
        if len(c.paths) == 1 and c.kind != "output" and any(side not in c.paths for side in graphs)
    ]
    if not absent:
        return result
    kept = [c for c in result.comparisons if c not in absent]
    what = "tensors" if absent[0].kind == "tensor" else "modules"
    remark = f"{len(absent)} {what} are not named in the graph and are left out, first {absent[0].tap}."
    return replace(result, comparisons=kept, remarks=[*result.remarks, remark])
