"""A run's waivers and baseline in words, for every renderer; nothing is judged here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from stdc_parity.align.result import Change, RunResult, StageResult, Verdict, WaiverUse
from stdc_parity.align.spec import Own, RunSpec


def describe_run(result: RunResult) -> str:
    """The verdict in one line: the rungs that hold, and what else fails the run."""
    held = sum(bool(stage) for stage in result.stages)
    line = f"{held} of {len(result.stages)} rungs hold"
    bad = [use for use in result.waivers if not use]
    changes = result.baseline.changes if result.baseline is not None else ()
    wrong = [f"{count(len(bad), 'waiver')} out of order"] if bad else []
    wrong += [f"{count(len(changes), 'change')} since the baseline"] if changes else []
    return f"{line}, but {' and '.join(wrong)}" if wrong else line


def describe_input(spec: RunSpec) -> str:
    """What the networks are called with: the size of an image batch, or what was said of a pair of one's own."""
    if spec.own is None:
        return f"{spec.batch}x3x{spec.size[0]}x{spec.size[1]}"
    return ", ".join(spec.own.inputs) or f"inputs of {Path(spec.own.file).name},"


def own_options(own: Own) -> Iterator[str]:
    """The options of a command that name a pair of one's own."""
    options = [("--pair", own.file), ("--torch", own.torch), ("--paddle", own.paddle)]
    options += [("--input", each) for each in own.inputs]
    options += [("--torch-path", own.torch_path), ("--paddle-path", own.paddle_path)]
    options += list(zip(("--args", "--torch-args", "--paddle-args"), own.arguments, strict=True))
    options += list(zip(("--loss-torch", "--loss-paddle"), own.losses, strict=True))
    options += [("--target", each) for each in own.target] + [("--rules", own.rules)]
    yield from (f"{name} {shlex.quote(value)}" for name, value in options if value)


def count(number: int, word: str) -> str:
    """A number with its noun."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def describe_left_out(result: RunResult) -> Iterator[str]:
    """A line for each reason for which rungs were left out: "data, metric: left out, …"."""
    for reason in dict.fromkeys(result.left_out.values()):
        names = [name for name, each in result.left_out.items() if each == reason]
        yield f"{', '.join(names)}: left out, {reason}"


def waived_taps(stage: StageResult) -> int:
    """How many of a rung's taps fail and are waived."""
    return sum(c.verdict is Verdict.WAIVED for c in stage.comparisons)


def describe_waivers(result: RunResult) -> Iterator[str]:
    """A line for each waiver, those that fail the run first."""
    yield from map(describe_waiver, sorted(result.waivers, key=bool))


def describe_waiver(use: WaiverUse) -> str:
    """What became of a waiver."""
    waiver = use.waiver
    state = {
        "used": f"waived ({count(len(use.taps), 'tap')})",
        "unmatched": "UNMATCHED waiver (nothing that it names fails: take it out)",
        "expired": "EXPIRED waiver (mend it, or have it accepted anew)",
        "not asked": "waiver without its rung in this run",
    }[use.state]
    return f"{state}: {waiver.stage}: {waiver.tap} · {waiver.reason} · {waiver.owner}, until {waiver.expires}"


def describe_baseline(result: RunResult) -> Iterator[str]:
    """What changed since the baseline, a line each after one that says what it was held against."""
    baseline = result.baseline
    if baseline is None:
        return
    found = count(len(baseline.changes), "change") if baseline.changes else "no change"
    yield f"Against the baseline {baseline.source}, errors up to {baseline.factor:g} times as large: {found}"
    yield from map(describe_change, baseline.changes)
    yield from baseline.remarks


def describe_change(change: Change) -> str:
    """A change since the baseline."""
    place = f"{change.stage}: {change.tap}" if change.tap else f"{change.stage} (the rung)"
    if not change.tap or change.what in ("appeared", "vanished"):
        return f"{place} {change.what}"
    return f"{place} {change.what}: {change.before:.1e} of scale then, {change.after:.1e} now"
