"""Climbing the ladder: both sides at once, each in its own process, then compared, arbitrated and explained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stdc_parity.align import pairs
from stdc_parity.align.carry import prepare
from stdc_parity.align.compare import (
    REFERENCE,
    SIDES,
    Judging,
    arbiter_is_due,
    ask_arbiter,
    describe_rule,
    judge_isolated,
    judge_stage,
    limit_of,
    load_pair,
    own_of,
    place_of,
    set_apart,
)
from stdc_parity.align.diagnose import Bench
from stdc_parity.align.diagnosis.records import explain_records
from stdc_parity.align.gather import gather
from stdc_parity.align.ladder import CONTROL, RUNGS, Rung
from stdc_parity.align.load import describe_weights, open_source, resolve
from stdc_parity.align.own import name_of
from stdc_parity.align.pair import Pair
from stdc_parity.align.progress import Silent
from stdc_parity.align.result import Failure, RunResult, StageResult
from stdc_parity.align.sides import FILE_SIDES, Worker, default_threads, open_sides
from stdc_parity.align.spec import Own, RunSpec, Side
from stdc_parity.align.stages import loss, metric, optimizer, weights
from stdc_parity.align.waivers import account_for, apply_waivers
from stdc_parity.converters.errors import ParityError, UsageError
from stdc_parity.fixtures.scenes import SMALLEST

Answer = dict[str, Any] | Failure
TRAIN_SIZE = (256, 512)
"""The input of stages that train or draw scenes, unless asked otherwise: what a CPU does in seconds."""

LENT = f"The weights differ, so that both sides compute with the {REFERENCE} side's here."
UNTOLD = "rounding is not told from bugs. --arbiter never does without."
ISOLATED = 256 * 512
"""The most pixels of an input for looking at modules one by one, which keeps every value in float64."""

SMALL = (64, 128)
"""The largest input for what keeps every value of a run: tracing all that a loss calls."""

NOTHING = "neither network has anything to compare there"

SILENT = Silent()


def choose_spec(
    *,
    pair: str | None,
    size: tuple[int, int] | None,
    batch: int | None,
    weights: str | None,
    own: Own | None = None,
    **options: Any,
) -> RunSpec:
    """A run's options with the open ones filled in: the pair that fits the weights, its size, its batch.

    Raises UsageError for an unknown pair and CheckpointError for weights that cannot be read.
    """
    if own is not None:
        return RunSpec(
            pair=name_of(own), size=(0, 0), batch=1, exact_batch=True, weights=weights, own=own, **options
        )
    if pair is None and weights is not None:
        name = open_source(weights, options["key"]).architecture.name
        pair = name if name in pairs.names() else None
    name = pair or pairs.DEFAULT
    return RunSpec(
        pair=name,
        size=size or pairs.find_pair(name).size,
        batch=batch or 1,
        exact_batch=batch is not None,
        weights=weights,
        **options,
    )


def choose_rungs(stage: str, options: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The rungs that a command climbs, and its options with what depends on the stage filled in.

    A forward run in train mode is a rung of its own. With one image the norms after a global pooling have
    one value, so rungs that train take more.
    """
    rungs = {"all": list(RUNGS), "forward": ["forward" if options["mode"] == "eval" else "forward-train"]}
    trains = stage not in ("all", "weights", "forward", "metric")
    filled = {
        **options,
        "dtype": options["dtype"] or "float32",
        "mode": "train" if trains else options["mode"],
        "size": options["size"] or (None if stage in ("weights", "forward") else TRAIN_SIZE),
    }
    return rungs.get(stage, [stage]), filled


def run_rungs(
    names: Sequence[str],
    spec: RunSpec,
    judging: Judging,
    threads: int | None = None,
    progress: Silent = SILENT,
    *,
    repro: Path | None = None,
    evidence: bool = False,
) -> RunResult:
    """Climb the rungs called `names` in their order, and find what differs by itself on each.

    A rung that needs one that failed is judged part by part where it can be, and else BLOCKED. After wrong
    weights the rungs that follow compute with the reference's on both sides. `progress` is told what is being
    done. Raises UsageError and CheckpointError for the options and the weights, MissingFramework if a framework
    cannot be imported; a side that crashes or raises is part of the result. Under `repro` a script is written for
    each module to blame. With `evidence` the result has what a report shows of failing taps.
    """
    progress.begin("", "both sides import their frameworks")
    with open_sides(SIDES, threads or default_threads(), progress.tap) as processes:
        return climb(processes, names, spec, judging, progress, repro=repro, evidence=evidence)


def climb(
    processes: Mapping[Side, Worker],
    names: Sequence[str],
    spec: RunSpec,
    judging: Judging,
    progress: Silent = SILENT,
    *,
    stop_early: bool = False,
    repro: Path | None = None,
    evidence: bool = False,
) -> RunResult:
    """`run_rungs` with processes that are open already; `stop_early` ends it with the first rung that fails."""
    pair, source = resolve(spec)  # while the sides import
    said = describe_weights(spec, source, pair)
    with tempfile.TemporaryDirectory() as folder:
        if spec.own is not None:
            progress.begin("", "both sides build their networks")
            mine = {side: process for side, process in processes.items() if side == "torch" or side == "paddle"}
            pair = prepare(mine, spec, pair, Path(folder))
        return _climb_known(processes, names, spec, judging, pair, said, progress, stop_early, repro, evidence)


def _climb_known(
    processes: Mapping[Side, Worker],
    names: Sequence[str],
    spec: RunSpec,
    judging: Judging,
    pair: Pair,
    said: str,
    progress: Silent,
    stop_early: bool,
    repro: Path | None,
    evidence: bool,
) -> RunResult:
    """`climb` with the pair ready on both sides; rungs that it cannot climb are left out."""
    possible = possible_rungs(names, pair, spec.size)
    options = {"stop_early": stop_early, "evidence": evidence}
    result = climb_pair(processes, possible, spec, judging, pair, said, progress, repro=repro, **options)
    return replace(result, left_out={**left_out(names, pair), **result.left_out})


def climb_pair(
    processes: Mapping[Side, Worker],
    names: Sequence[str],
    spec: RunSpec,
    judging: Judging,
    pair: Pair,
    weights_said: str,
    progress: Silent = SILENT,
    *,
    stop_early: bool = False,
    repro: Path | None = None,
    evidence: bool = False,
) -> RunResult:
    """`climb` for a pair that is at hand; `weights_said` are its weights in words."""
    with tempfile.TemporaryDirectory() as folder:
        results: list[StageResult] = []
        empty: dict[str, str] = {}
        for name in names:
            run = Climb(processes, Path(folder), pair, judging, tuple(results), repro)
            results.append(run.rung(RUNGS[name], RUNGS[name].spec(spec), progress))
            if pair.own and _is_empty(results[-1]):
                results.pop()
                empty[name] = NOTHING
                continue
            if evidence:
                results[-1] = run.shown(results[-1], RUNGS[name].spec(spec))
            progress.judged(results[-1])
            if stop_early and not results[-1]:
                break
        if not results:
            raise UsageError(f"{', '.join(empty)}: {NOTHING}")
        shown = RUNGS[names[0]].spec(spec) if len(names) == 1 else spec
        uses = account_for(judging.waivers, results)
        return RunResult(shown, weights_said, pair.stages, results, uses, left_out=empty)


def _is_empty(result: StageResult) -> bool:
    """Whether neither side had anything to compare: no tensors, no gradients."""
    return not (result.comparisons or result.failures or result.blocked_by)


def possible_rungs(names: Sequence[str], pair: Pair, size: tuple[int, int]) -> list[str]:
    """Those of `names` that the pair has what it takes for.

    Raises UsageError if that is none, and for a size that scenes cannot be drawn at.
    """
    drawn = pair.recipe is not None and pair.recipe.case is None and any(RUNGS[name].draws for name in names)
    if drawn and (size[0] < SMALLEST[0] or size[1] < SMALLEST[1]):
        raise UsageError(f"--size {size[0]}x{size[1]}: the smallest scene is {SMALLEST[0]}x{SMALLEST[1]}")
    possible = [name for name in names if not pair.lacks(RUNGS[name].parts)]
    if not possible:
        lacking = " and no ".join(pair.lacks(RUNGS[names[0]].parts))
        has = [name for name, rung in RUNGS.items() if not pair.lacks(rung.parts)]
        raise UsageError(f"{pair.name} has no {lacking}, so no {names[0]} stage", f"It has {', '.join(has)}.")
    return possible


def left_out(names: Sequence[str], pair: Pair) -> dict[str, str]:
    """Those of `names` that the pair cannot climb, each with the parts that it lacks."""
    lacking = {name: pair.lacks(RUNGS[name].parts) for name in names}
    return {name: f"the pair has no {' and no '.join(parts)}" for name, parts in lacking.items() if parts}


@dataclass(frozen=True)
class Climb:
    """The processes of a run, where their records go, how they are judged, and what the rungs so far gave."""

    processes: Mapping[Side, Worker]
    folder: Path
    pair: Pair
    judging: Judging
    before: Sequence[StageResult]
    repro: Path | None = None

    def rung(self, rung: Rung, spec: RunSpec, progress: Silent) -> StageResult:
        """Climb one rung, as a whole unless one that it needs failed, and find what differs by itself."""
        progress.begin(rung.name, rung.about)
        blocker = next((r for r in self.before if r.stage in rung.needs and not self._holds(r)), None)
        if blocker is not None:
            result = StageResult(rung.name, [], "", blocked_by=blocker.stage)
            apart = rung.isolated and not (blocker.stage == weights.STAGE and blocker.failures)
        else:
            result = apply_waivers(self._whole(rung, spec, progress), self.judging.waivers)
            apart = rung.isolated and not result and not result.failures
        if rung.isolated and not result.failures and self.judging.isolate is not None:
            apart = self.judging.isolate
        if apart:
            progress.begin(rung.name, "part by part")
            result = self.isolated(rung, result, spec)
        if not rung.modules and result.comparisons and not result and not result.blamed:
            records = load_pair(_both(self._widest(rung)), rung.name)
            found = own_of(rung, result.comparisons, self.pair, records)
            blamed = replace(result, blamed=found[:1] if rung.isolated else found)
            result = set_apart(blamed, self._named, records if rung.stage == optimizer.STAGE else None)
        failed = not result and not result.failures
        bench = self._bench(rung, replace(spec, size=min(spec.size, SMALL)), self.folder)
        if rung.stage == loss.STAGE and failed:
            progress.begin(rung.name, "call by call")
            result = bench.explain_loss(result)
        if result.comparisons and failed and not any(result.diagnoses):
            result = self._explained(rung, result)
        if rung.stage == metric.STAGE and failed and not any(result.diagnoses):
            progress.begin(rung.name, "call by call")
            result = bench.explain_metric(result)
        if self._lends and weights.STAGE in rung.needs and (apart or blocker is None):
            result = replace(result, remarks=[*result.remarks, LENT])
        return apply_waivers(result, self.judging.waivers)

    def _explained(self, rung: Rung, result: StageResult) -> StageResult:
        """`result` with what the records alone explain, those in float64 if there are any."""
        place = self._widest(rung)
        if not (place / REFERENCE / f"{rung.name}.safetensors").exists():
            return result  # judged part by part alone
        found = explain_records(rung.name, result.comparisons, *load_pair(_both(place), rung.name))
        if result.diagnoses and not any(found):
            return result
        return replace(result, diagnoses=[*found, *result.diagnoses])

    def _widest(self, rung: Rung) -> Path:
        """Where the records of a rung are, those in float64 if there are any."""
        wide = self.folder / "float64"
        return wide if (wide / REFERENCE / f"{rung.name}.safetensors").exists() else self.folder

    def shown(self, result: StageResult, spec: RunSpec) -> StageResult:
        """`result` with the evidence of what fails on it."""
        return gather(result, spec, self.pair, _both(self.folder), _both(self.folder / "isolated"))

    def _holds(self, result: StageResult) -> bool:
        """Whether a rung that holds, or wrong weights that can all be put right, let others be judged as a whole."""
        lent = result.stage == weights.STAGE and self._lends
        return bool(result) or (lent and all(c.values for c in result.comparisons if not c))

    @property
    def _lends(self) -> bool:
        """Whether the weights rung failed, or would without a waiver: the reference's weights are lent then."""
        found = (r for r in self.before if r.stage == weights.STAGE and not r.failures)
        return any(not r or any(c.waiver is not None for c in r.comparisons) for r in found)

    @property
    def _named(self) -> dict[str, str]:
        """The modules that were named so far, each with its rung; those with tensors that only one side has too."""
        named: dict[str, str] = {}
        for result in self.before:
            places = [] if not RUNGS[result.stage].modules else [place_of(c) for c in result.blamed]
            if result.stage == weights.STAGE:
                places = [place_of(c) for c in result.blamed if not c.values]
            if result.stage == loss.STAGE and not result:
                places = ["loss"]
            named |= {place: result.stage for place in places if place not in named}
        return named

    def _whole(self, rung: Rung, spec: RunSpec, progress: Silent) -> StageResult:
        """The rung recorded by both sides and judged, the arbiter asked."""
        result = self._recorded(rung, spec, self.folder)
        if result.failures:
            return result
        result = judge_stage(rung, result, _both(self.folder), spec.dtype, self.pair, self.judging)
        if arbiter_is_due(rung, result, spec.dtype, self.judging):
            progress.begin(rung.name, "the same in float64")
            wide = self.folder / "float64"
            second = self._recorded(rung, replace(spec, dtype="float64"), wide)
            if second.failures and spec.own is not None:  # code that casts to float32 is none of the sides' faults
                failed = second.failures[0]
                remark = f"In float64 the {failed.side} side cannot be run ({failed.message}): {UNTOLD}"
                return replace(result, remarks=[*result.remarks, remark])
            if second.failures:
                return replace(result, failures=second.failures)
            result = ask_arbiter(rung, result, _both(self.folder), _both(wide), self.pair, self.judging)
        return result

    def _recorded(self, rung: Rung, spec: RunSpec, folder: Path) -> StageResult:
        """The stage recorded by both sides at once, not yet judged."""
        lent = self.folder if self._lends else None
        answers = record_rung(self.processes, rung, spec, folder, lent)
        done = {side: answer for side, answer in answers.items() if not isinstance(answer, Failure)}
        return StageResult(
            stage=rung.name,
            comparisons=[],
            tolerance=describe_rule(rung, self.judging.tolerance),
            limit=limit_of(rung, self.judging.tolerance),
            seconds={side: answer["seconds"] for side, answer in done.items()},
            failures=[answer for answer in answers.values() if isinstance(answer, Failure)],
            facts={side: answer["facts"] for side, answer in done.items()},
        )

    def isolated(self, rung: Rung, result: StageResult, spec: RunSpec) -> StageResult:
        """`result` with what is to blame: each side's parts, one by one, on what the reference's had.

        Modules in float64, unless that is never to be asked, so that rounding is not blamed.
        """
        if rung.modules:
            small = replace(spec, size=_smaller(spec.size))
            judged = self._parts(rung, result, small)
            if judged.blamed or small == spec:
                return self._bench(rung, small, self.folder / "isolated").explain(judged)
        return self._parts(rung, result, spec)

    def _parts(self, rung: Rung, result: StageResult, spec: RunSpec) -> StageResult:
        """`result` with the parts to blame, run with the options of `spec`."""
        doubled = rung.modules and self.judging.arbiter != "never"
        wide = replace(spec, dtype="float64") if doubled else spec
        place, calls = self.folder / "isolated", f"{rung.name}-calls"
        jobs = [(REFERENCE, f"{rung.stage}-calls", calls)]
        jobs += [(side, f"{rung.stage}-replay", f"{rung.name}-isolated") for side in SIDES]
        lent = self.folder if self._lends else None
        for side, what, name in jobs:
            self.processes[side].ask(_job(side, what, wide, place, name, lent) | {"of": calls})
            answer = self.processes[side].answer()
            if isinstance(answer, Failure):
                failed = f"Part by part the {side} side failed: {answer.message}"
                return replace(result, remarks=[*result.remarks, failed])
        return judge_isolated(rung, result, _both(place), wide.dtype, self.pair, self.judging, self._named)

    def _bench(self, rung: Rung, spec: RunSpec, folder: Path) -> Bench:
        wide = replace(spec, dtype="float64" if self.judging.arbiter != "never" else spec.dtype)
        lent = self.folder if self._lends else None
        places = (folder, f"{rung.name}-calls")
        return Bench(self.processes, *places, rung, wide, self.pair, self.judging, lent, self.repro)


def record_rung(
    processes: Mapping[Side, Worker],
    rung: Rung,
    spec: RunSpec,
    folder: Path,
    lent: Path | None = None,
    graph: Mapping[str, str] | None = None,
) -> dict[Side, Answer]:
    """Have every side record a rung under `folder`, all at once; the reference side adds a training's control.

    `lent` is where the reference's record of its weights is, if the other side is to compute with them;
    `graph` is what jobs of sides that run a graph say of it.
    """
    for side, process in processes.items():
        job = _job(side, rung.stage, spec, folder, rung.name, lent)
        process.ask({**job, **(graph or {})} if side in FILE_SIDES else job)
    answers: dict[Side, Answer] = {}
    mistakes: list[ParityError] = []
    for side, process in processes.items():  # all of them, so that no answer is left over for the next job
        try:
            answers[side] = process.answer()
        except ParityError as error:
            mistakes.append(error)
    if mistakes:
        raise mistakes[0]
    if rung.name == "train" and isinstance(answers.get(REFERENCE), dict):
        processes[REFERENCE].ask(_job(REFERENCE, CONTROL, spec, folder, CONTROL))
        control = processes[REFERENCE].answer()
        if isinstance(control, Failure):
            answers[REFERENCE] = control
    return answers


def _smaller(size: tuple[int, int]) -> tuple[int, int]:
    """`size`, or if it has more than ISOLATED pixels one of about that many, of the same proportions."""
    factor = (ISOLATED / max(1, size[0] * size[1])) ** 0.5
    if factor >= 1.0:
        return size
    return max(32, int(size[0] * factor) // 32 * 32), max(32, int(size[1] * factor) // 32 * 32)


def _both(folder: Path) -> dict[Side, Path]:
    return dict.fromkeys(SIDES, folder)


def _job(
    side: Side, what: str, spec: RunSpec, folder: Path, name: str, lent: Path | None = None
) -> dict[str, Any]:
    job = {"do": what, "spec": spec.to_json(), "run": str(folder), "as": name, "reference": REFERENCE}
    return job | ({"lent": str(lent)} if lent is not None and side != REFERENCE else {})
