"""Running stages: both sides at once, each in its own process, then compared."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stdc_parity.align import pairs
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.load import describe_weights, open_source, resolve
from stdc_parity.align.localise import blame
from stdc_parity.align.record import load_record
from stdc_parity.align.result import Failure, RunResult, StageResult
from stdc_parity.align.sides import SideProcess, default_threads, open_sides
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages import forward
from stdc_parity.converters.architecture import Side

SIDES: tuple[Side, Side] = ("torch", "paddle")
REFERENCE: Side = "torch"

Processes = Mapping[Side, SideProcess]
Answer = dict[str, Any] | Failure


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


def run_forward(spec: RunSpec, tolerance: Tolerance, threads: int | None = None) -> RunResult:
    """The forward stage of a pair: capture both sides, compare, and on a divergence find who is to blame.

    Raises UsageError and CheckpointError for the options and the weights, MissingFramework if a framework
    cannot be imported. A side that crashes or raises is part of the result.
    """
    with (
        open_sides(SIDES, threads or default_threads()) as processes,
        tempfile.TemporaryDirectory() as folder,
    ):
        run = Path(folder)
        pair, source = resolve(spec)  # while the sides import
        answers = _both(processes, {"do": "forward", "spec": spec.to_json(), "run": folder})
        failures = [answer for answer in answers.values() if isinstance(answer, Failure)]
        done = {side: answer for side, answer in answers.items() if not isinstance(answer, Failure)}
        comparisons = []
        if not failures:
            reference, other = (load_record(run, side, forward.STAGE) for side in SIDES)
            comparisons = compare_records(reference, other, tolerance)
        result = StageResult(
            stage=forward.STAGE,
            comparisons=comparisons,
            tolerance=tolerance.describe(),
            seconds={side: answer["seconds"] for side, answer in done.items()},
            failures=failures,
            facts={side: answer["facts"] for side, answer in done.items()},
        )
        if not failures and not result:
            result = _isolated(result, spec, tolerance, processes, run)
        return RunResult(spec, describe_weights(spec, source), pair.stages, [result])


def _isolated(
    result: StageResult, spec: RunSpec, tolerance: Tolerance, processes: Processes, run: Path
) -> StageResult:
    """`result` with the modules to blame: the other side's modules, each on the reference's inputs."""
    job = {"spec": spec.to_json(), "run": str(run)}
    for side, what in ((REFERENCE, {"do": "calls"}), (SIDES[1], {"do": "replay", "reference": REFERENCE})):
        processes[side].ask(job | what)
        answer = processes[side].answer()
        if isinstance(answer, Failure):
            return replace(result, failures=[*result.failures, answer])
    reference, other = (load_record(run, side, forward.ISOLATED) for side in SIDES)
    return replace(result, blamed=blame(compare_records(reference, other, tolerance)), isolated=True)


def _both(processes: Processes, job: Mapping[str, object]) -> dict[Side, Answer]:
    for process in processes.values():
        process.ask(job)
    return {side: process.answer() for side, process in processes.items()}
