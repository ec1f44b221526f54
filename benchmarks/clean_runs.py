"""How much correct twins differ, over many clean runs: what the arbiter's and the control's multiples rest on.

    python benchmarks/clean_runs.py [--runs 200] [--threads 1] [--pairs NAME,…]

Each run draws a pair (of STDC's, or of those that are given), a width, a size, a batch, a seed and a stage, and
judges it as `stdc-align` does, with float64 asked about every tap. Printed are the runs that were not PASS or
ROUNDING (there should be none), and the largest figures seen: float64 gaps by kind of tap, and the float32 gap as a
multiple of the two sides' own rounding. Both sides run in this process, one after the other.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch

from stdc_parity.align import capture_paddle, capture_torch
from stdc_parity.align.compare import SIDES, Judging, ask_arbiter, judge_isolated, judge_stage
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.ladder import CAPTURES, CONTROL, REPLAYS, RUNGS, Rung
from stdc_parity.align.pairs import find_pair
from stdc_parity.align.record import save_record
from stdc_parity.align.result import StageResult
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec

SIZES = [(64, 128), (97, 161), (128, 256), (96, 224), (75, 131)]
DRAWN = ["forward", "forward-train", "loss", "backward", "optimizer", "metric", "train", "data", "weights"]
PAIRS = "stdc1-seg,stdc2-seg,stdcnet813,stdcnet1446"


def record(side: Session, rung: Rung, spec: RunSpec, folder: Path, what: str, name: str) -> None:
    save_record(replace(CAPTURES[what](side, spec), stage=name), folder)


def run_once(sides: list[Session], rung: Rung, spec: RunSpec, folder: Path) -> StageResult:
    judging = Judging(Tolerance(1e-5), arbiter="always")
    both = dict.fromkeys(SIDES, folder)
    wide = replace(spec, dtype="float64")
    for side in sides:
        record(side, rung, spec, folder, rung.stage, rung.name)
        if rung.arbitrated:
            record(side, rung, wide, folder / "float64", rung.stage, rung.name)
    if rung.name == "train":
        record(sides[0], rung, spec, folder, CONTROL, CONTROL)
    pair = sides[0].pair(spec)
    result = judge_stage(rung, StageResult(rung.name, [], ""), both, spec.dtype, pair, judging)
    if rung.arbitrated:
        result = ask_arbiter(rung, result, both, dict.fromkeys(SIDES, folder / "float64"), pair, judging)
    if rung.isolated:
        place = folder / "isolated"
        reference = CAPTURES[f"{rung.stage}-calls"](sides[0], wide)
        for side in sides:
            replayed = REPLAYS[f"{rung.stage}-replay"](side, wide, reference)
            save_record(replace(replayed, stage=f"{rung.name}-isolated"), place)
        result = judge_isolated(rung, result, dict.fromkeys(SIDES, place), "float64", pair, judging)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", default=PAIRS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draw = random.Random(0)
    gaps: dict[str, float] = defaultdict(float)
    multiples: dict[str, float] = defaultdict(float)
    train: dict[str, float] = defaultdict(float)
    bad = 0
    start = time.time()
    for number in range(options.runs):
        pair = draw.choice(options.pairs.split(","))
        rung = RUNGS[draw.choice([name for name in DRAWN if not find_pair(pair).lacks(RUNGS[name].parts)])]
        spec = rung.spec(
            RunSpec(
                pair,
                draw.choice(SIZES),
                base=draw.choice([4, 8, 16]),
                batch=draw.choice([1, 2, 3]),
                seed=number,
                dtype=draw.choice(["float32", "float32", "float64"]),
                lr=draw.choice([1e-4, 1e-3, 1e-2]),
                scenes=2,
            )
        )
        sides = [Session(capture_torch), Session(capture_paddle)]
        with tempfile.TemporaryDirectory() as folder:
            result = run_once(sides, rung, replace(spec, dtype="float32") if rung.arbitrated else spec, Path(folder))
        if not result or result.blamed:
            bad += 1
            names = [c.tap for c in result.comparisons if not c][:3] + [c.tap for c in result.blamed][:3]
            print(f"run {number}: {rung.name} {result.verdict.value} {names} {spec}", flush=True)
        envelope = [0.0, 0.0]
        for c in result.comparisons:
            if c.arbiter is None:
                continue
            if rung.name == "train":
                limit = c.arbiter.noise["torch"] or 1e-300
                train[c.kind] = max(train[c.kind], c.relative / limit if c.relative > 1e-8 else 0.0)
                continue
            gaps[f"{rung.name} {c.kind}"] = max(gaps[f"{rung.name} {c.kind}"], c.arbiter.gap64)
            envelope = [max(pair) for pair in zip(envelope, c.arbiter.noise.values(), strict=True)]
            if c.relative > 1e-5 and min(envelope):
                multiples[rung.name] = max(multiples[rung.name], c.relative / min(envelope))
    print(f"{options.runs} runs, {bad} not clean, {time.time() - start:.0f} s, {options.threads} thread(s)")
    for title, figures in (
        ("largest float64 gap, of scale", gaps),
        ("largest float32 gap over the tolerance, as a multiple of the smaller side's rounding so far", multiples),
        ("largest training gap as a multiple of the control's envelope", train),
    ):
        print(f"\n{title}")
        for name, figure in sorted(figures.items()):
            print(f"  {name:<28} {figure:.2e}")


if __name__ == "__main__":
    main()
