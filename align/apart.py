"""The two sides apart in time and place: recording one, and comparing what was recorded elsewhere.

Comparing imports no framework and runs nothing from the records.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from stdc_parity.align.carry import prepare, recorded_floors
from stdc_parity.align.compare import (
    SIDES,
    Judging,
    arbiter_is_due,
    describe_rule,
    judge_stage,
    limit_of,
)
from stdc_parity.align.gather import gather
from stdc_parity.align.judge import compare_records
from stdc_parity.align.ladder import RUNGS, Rung
from stdc_parity.align.load import describe_weights, resolve
from stdc_parity.align.majority import decide
from stdc_parity.align.npy import read_npy_record
from stdc_parity.align.pair import Pair
from stdc_parity.align.pairs import find_pair
from stdc_parity.align.record import load_record, stages_of
from stdc_parity.align.result import Failure, RunResult, StageResult
from stdc_parity.align.run import SILENT, possible_rungs, record_rung
from stdc_parity.align.several import (
    arbitrate_pair,
    check_graph,
    check_rungs,
    open_with_exporter,
    prepare_graph,
    without_what_graphs_lack,
)
from stdc_parity.align.sides import FILE_SIDES, PACKAGES, default_threads
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.align.waivers import account_for, apply_waivers
from stdc_parity.converters.errors import CheckpointError, ParityError, UsageError

OWN_BUSINESS = ("weights", "key", "graph", "own")
"""What of a spec the two sides may differ in: the path of the weights, whose hash counts, and of a graph; where a
pair of one's own is, as inputs and weights have hashes."""


def record_side(
    side: Side,
    rungs: Sequence[str],
    spec: RunSpec,
    run: Path,
    judging: Judging,
    threads: int | None,
    onnx_from: Side | None = None,
) -> Iterator[str]:
    """Record `rungs` on one side into `run`, in float64 too where an arbiter may ask; a line for each.

    A side that runs a graph has that of `spec`, or one that is exported first (`several.run_sides`).

    Raises MissingFramework, UsageError and CheckpointError as a run of both sides does, and ParityError if
    the side's own code fails.
    """
    if side in FILE_SIDES:
        check_rungs((side,), rungs)
        check_graph((side,), spec)
    with (
        open_with_exporter((side,), spec, threads or default_threads(), SILENT, onnx_from) as (processes, exporter),
        tempfile.TemporaryDirectory() as temporary,
    ):
        pair, _ = resolve(spec)
        if spec.own is not None:
            run.mkdir(parents=True, exist_ok=True)
            mine = {each: process for each, process in processes.items() if each == "torch" or each == "paddle"}
            prepare(mine, spec, pair, run.resolve())
        rungs = possible_rungs(rungs, pair, spec.size)
        graph = {}
        if side in FILE_SIDES:
            graph = prepare_graph(processes, exporter, spec, pair, Path(temporary), SILENT).job()
        for name in rungs:
            rung = RUNGS[name]
            chosen = rung.spec(spec)
            specs = [(chosen, run)]
            if rung.arbitrated and chosen.dtype == "float32" and judging.arbiter != "never":
                specs.append((replace(chosen, dtype="float64"), run / "float64"))
            for each, folder in specs:
                try:
                    answer = record_rung({side: processes[side]}, rung, each, folder, graph=graph)[side]
                except ParityError as error:
                    if side not in FILE_SIDES or each.dtype == chosen.dtype:
                        raise
                    yield f"{name}: no float64 record: {error.message}"
                    continue
                if isinstance(answer, Failure):
                    raise ParityError(
                        f"the {side} side failed at {name}: {answer.message}", answer.note or None
                    )
                yield f"{name}: recorded {folder / side / name}.safetensors ({each.dtype}, {answer['seconds']:.1f} s)"


def compare_folders(first: Path, second: Path, judging: Judging) -> RunResult:
    """Judge every stage that both sides recorded; `first` and `second` may be one folder, or two .npy files.

    Raises UsageError if the records are of different inputs, weights or options, CheckpointError if they
    cannot be read or a side is missing.
    """
    if first.suffix == ".npy" or second.suffix == ".npy":
        return _compare_npy(first, second, judging)
    folders = _sides_in(first, second)
    recorded = {side: set(stages_of(folder, side)) for side, folder in folders.items()}
    results, specs = [], []
    for name in RUNGS:
        for a, b in combinations(folders, 2):
            if name not in recorded[a] & recorded[b]:
                continue
            two = {a: folders[a], b: folders[b]}
            result, spec = _compare_rung(RUNGS[name], two, judging)
            result = apply_waivers(replace(result, sides=(a, b) if len(folders) > 2 else ()), judging.waivers)
            apart = {side: folder / "isolated" for side, folder in two.items()}
            results.append(gather(result, spec, _pair_of(spec, two), two, apart))
            specs.append(spec)
    if not results:
        alone = ", ".join(f"{side} {sorted(stages)}" for side, stages in recorded.items())
        raise CheckpointError(f"the sides have no stage in common: {alone}")
    pair = _pair_of(specs[0], folders)
    return RunResult(
        specs[0],
        specs[0].weights or describe_weights(specs[0], None, pair),
        pair.stages,
        results,
        account_for(judging.waivers, results),
        sides=tuple(folders),
        majority=decide(list(folders), results, None) if len(folders) > 2 else None,
    )


def _pair_of(spec: RunSpec, folders: Mapping[Side, Path]) -> Pair:
    """The pair of a record; of one of a user's own no more than its floors, as nothing from a record is run."""
    if spec.own is None:
        return find_pair(spec.pair, base=spec.base)
    return Pair(spec.pair, {}, own=True, floors=recorded_floors(folders["torch"]) if "torch" in folders else [])


def _compare_rung(rung: Rung, folders: Mapping[Side, Path], judging: Judging) -> tuple[StageResult, RunSpec]:
    facts = {side: load_record(folder, side, rung.name).facts for side, folder in folders.items()}
    spec = _same_run(rung.name, facts)
    pair = _pair_of(spec, folders)
    rule = describe_rule(rung, judging.tolerance)
    result = StageResult(rung.name, [], rule, facts=facts, limit=limit_of(rung, judging.tolerance))
    result = judge_stage(rung, result, folders, spec.dtype, pair, judging)
    result = without_what_graphs_lack(result, list(folders))
    if arbiter_is_due(rung, result, spec.dtype, judging):
        wide = {side: folder / "float64" for side, folder in folders.items()}
        wide = {side: folder for side, folder in wide.items() if rung.name in stages_of(folder, side)}
        graphs = [side for side in folders if side in FILE_SIDES and side not in wide]
        if len(wide) == len(folders) or (wide and graphs):
            why = dict.fromkeys(graphs, "ONNX Runtime has none for its graph")
            return arbitrate_pair(rung, result, folders, wide, pair, judging, why), spec
        remark = "The arbiter could not be asked: both sides would have to be recorded in float64 too."
        result = replace(result, remarks=[*result.remarks, remark])
    return result, spec


def _sides_in(first: Path, second: Path) -> dict[Side, Path]:
    """Which of the folders has which side, the reference first. Raises CheckpointError for fewer than two."""
    folders: dict[Side, Path] = {}
    for side in PACKAGES:
        found = [folder for folder in dict.fromkeys((first, second)) if (folder / side).is_dir()]
        if found:
            folders[side] = found[0]
    if len(folders) < 2:
        side = next(side for side in SIDES if side not in folders)
        raise CheckpointError(
            f"{first}: there is no record of the {side} side",
            note=f"stdc-align record --side {side} --stage forward {first}",
        )
    if first != second and len(set(folders.values())) == 1:
        raise UsageError(
            f"{first} has both sides, so {second} is one too many", "Name one folder, or one for each side."
        )
    return folders


def _same_run(name: str, facts: Mapping[Side, Mapping[str, Any]]) -> RunSpec:
    """The options of both records. Raises UsageError that says what differs."""
    try:
        specs = {side: dict(each["spec"]) for side, each in facts.items()}
        spec = RunSpec.from_json(next(iter(specs.values())))
        hashes = {side: (each["weights_sha256"], each["input_sha256"]) for side, each in facts.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name}: a run.json lacks the facts of the run ({error})") from None
    a, b = specs.values()
    different = [
        f"{key} {a.get(key)} and {b.get(key)}"
        for key in sorted(a.keys() | b.keys())
        if key not in OWN_BUSINESS and a.get(key) != b.get(key)
    ]
    weights, inputs = zip(*hashes.values(), strict=True)
    different += ["weights (sha256)"] if len(set(weights)) > 1 else []
    different += ["inputs (sha256)"] if len(set(inputs)) > 1 else []
    if different:
        raise UsageError(
            f"{name}: the records are of different runs: {'; '.join(different)}",
            note="Record both sides with the same options.",
        )
    return spec


def _compare_npy(first: Path, second: Path, judging: Judging) -> RunResult:
    """Judge two dictionaries of arrays as reprod_log saves them; the first file is the reference."""
    reference, other = read_npy_record(first, "torch"), read_npy_record(second, "paddle")
    comparisons = compare_records(reference, other, judging.tolerance)
    result = StageResult("npy", comparisons, judging.tolerance.describe())
    result = apply_waivers(result, judging.waivers)
    uses = account_for(judging.waivers, [result])
    return RunResult(RunSpec("npy", (0, 0), batch=0), f"{first.name} against {second.name}", (), [result], uses)
