"""Latency of networks on every runtime, side by side: the same input, the same threads, in turns, in one run."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stdc_parity.align import pairs
from stdc_parity.align.compare import SIDES
from stdc_parity.align.cost import Cost, measure_sides
from stdc_parity.align.export.deploy import Wanted, deploy
from stdc_parity.align.export.kinds import KINDS, Kind
from stdc_parity.align.pair import Published
from stdc_parity.align.progress import Silent
from stdc_parity.align.result import Failure
from stdc_parity.align.run import SILENT, choose_spec
from stdc_parity.align.sides import FILE_SIDES, SideProcess, open_sides
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.align.timing import Seconds

ROUNDS = 5
"""How often the runtimes take turns: what disturbs a machine for some seconds then meets all of them."""


@dataclass(frozen=True)
class Measuring:
    """How to measure: the runtimes, their threads, calls that are counted and calls before them that are not.

    `fold` measures exported networks once more with batch norms folded into convolutions.
    """

    runtimes: tuple[Side, ...]
    threads: int
    runs: int = 30
    warmup: int = 5
    fold: bool = False


@dataclass(frozen=True)
class Timing:
    """One runtime's calls: `runtime` is the side, with "+fold" if its batch norms were folded."""

    runtime: str
    seconds: Seconds | None
    failure: str = ""


@dataclass(frozen=True)
class Measured:
    """One network at one size: what it costs, what each runtime took, and what its paper published for that size."""

    pair: str
    size: tuple[int, int]
    batch: int
    cost: Cost | None
    timings: Sequence[Timing]
    published: Sequence[Published] = ()

    def rate(self, seconds: float) -> float:
        """Images per second, at so many seconds a call."""
        return self.batch / seconds


@dataclass(frozen=True)
class Latency:
    """All that was measured, and on what: `versions` of each runtime, the machine in words."""

    measuring: Measuring
    measured: Sequence[Measured]
    machine: str
    versions: Mapping[str, str]

    def __bool__(self) -> bool:
        """Whether every runtime gave times."""
        return all(timing.seconds is not None for each in self.measured for timing in each.timings)


@dataclass(frozen=True)
class _Runtime:
    """A side that is to be timed; `file` is what it runs, if it runs one."""

    name: str
    side: Side
    file: Path | None = None


def measure(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    measuring: Measuring,
    *,
    weights: str | None = None,
    key: str | None = None,
    base: int = 64,
    batch: int = 1,
    seed: int = 0,
    progress: Silent = SILENT,
) -> Latency:
    """Time every network of `names` at each of `sizes` (those that are published for it, or its own, without any).

    What runs a file is timed on one that is exported first, and verified against its framework. Raises UsageError,
    CheckpointError and MissingFramework; a runtime that crashes is part of the result.
    """
    measured: list[Measured] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, open_sides(measuring.runtimes, measuring.threads) as processes:
        for name in names or (None,):
            for size in sizes or sizes_of(name):
                spec = choose_spec(
                    pair=name, size=size, batch=batch, weights=weights, key=key, base=base, seed=seed, dtype="float32"
                )
                runtimes = list(_prepare(spec, measuring, Path(folder), progress))
                measured.append(_measure(spec, runtimes, processes, measuring, progress))
        for side, process in processes.items():
            process.ask({"do": "facts"})
            answer = process.answer()
            versions[side] = str(answer["facts"].get(side, "")) if isinstance(answer, dict) else "crashed"
    return Latency(measuring, measured, _machine(), versions)


def sizes_of(name: str | None) -> list[tuple[int, int]]:
    """The sizes that figures are published for: of the pair called `name`, or of any pair of its family."""
    family = pairs.family_of(name or pairs.DEFAULT)
    published = [each.size for other in family.NAMES for each in pairs.find_pair(other).published]
    own = [each.size for each in pairs.find_pair(name or pairs.DEFAULT).published]
    return list(dict.fromkeys(own or published)) or [pairs.find_pair(name or pairs.DEFAULT).size]


def _prepare(spec: RunSpec, measuring: Measuring, folder: Path, progress: Silent) -> Iterator[_Runtime]:
    """The runtimes of one network at one size, with the files that some of them run."""
    files: dict[tuple[str, bool], _Runtime] = {}
    for side in measuring.runtimes:
        if side not in FILE_SIDES:
            yield _Runtime(side, side)
            continue
        for fold in (False, True) if measuring.fold else (False,):
            kind = next(kind for kind in KINDS.values() if side.startswith(kind.name))
            name = f"{side}+fold" if fold else side
            if (kind.name, fold) not in files:
                progress.begin(_title(spec), f"exports to {kind.name}{' with folded batch norms' if fold else ''}")
                target = folder / f"{spec.pair}-{spec.size[0]}x{spec.size[1]}-{fold}{kind.suffixes[0]}"
                files[kind.name, fold] = _export(spec, kind, fold, target)
            yield replace(files[kind.name, fold], name=name, side=side)


def _export(spec: RunSpec, kind: Kind, fold: bool, target: Path) -> _Runtime:
    wanted = Wanted(kind, size=spec.size, fold=fold)
    source = Path(spec.weights) if spec.weights is not None else None
    made = deploy(source, target, wanted, pair=spec.pair, key=spec.key, base=spec.base, seed=spec.seed)
    return _Runtime(kind.name, kind.side, made.files[0])


def _measure(
    spec: RunSpec,
    runtimes: Sequence[_Runtime],
    processes: Mapping[Side, SideProcess],
    measuring: Measuring,
    progress: Silent,
) -> Measured:
    """Time the runtimes in turns, one at a time: nothing else of this run computes meanwhile."""
    cost = _cost(spec, processes)
    seconds: dict[str, list[float]] = {runtime.name: [] for runtime in runtimes}
    failed: dict[str, str] = {}
    shares = [len(range(first, measuring.runs, ROUNDS)) for first in range(min(ROUNDS, measuring.runs))]
    for number, count in enumerate(shares):
        for runtime in runtimes:
            if runtime.name in failed:
                continue
            progress.begin(_title(spec), f"{runtime.name}, round {number + 1} of {len(shares)}")
            job = {"do": "time", "spec": spec.to_json(), "count": count, "warmup": 1 if number else measuring.warmup}
            processes[runtime.side].ask(job | ({"graph": str(runtime.file)} if runtime.file is not None else {}))
            answer = processes[runtime.side].answer()
            if isinstance(answer, Failure):
                failed[runtime.name] = answer.message
            else:
                seconds[runtime.name] += answer["calls"]
    timings = [
        Timing(name, None if name in failed else Seconds(tuple(calls)), failed.get(name, ""))
        for name, calls in seconds.items()
    ]
    published = [each for each in pairs.find_pair(spec.pair).published if each.size == spec.size]
    return Measured(spec.pair, spec.size, spec.batch, cost, timings, published)


def _cost(spec: RunSpec, processes: Mapping[Side, SideProcess]) -> Cost | None:
    """What the network costs, counted by the first framework that takes part; None if none does."""
    for side in SIDES:
        if side in processes:
            found = measure_sides({side: processes[side]}, spec)[side]
            return found if isinstance(found, Cost) else None
    return None


def _title(spec: RunSpec) -> str:
    return f"{spec.pair} {spec.size[0]}x{spec.size[1]}"


def _machine() -> str:
    """The processor in words, as the system has it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()
