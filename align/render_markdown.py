"""A run as Markdown, for a CI job's summary: the verdict first, a row for each rung, then what differs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stdc_parity.align.render_terminal import (
    describe_again,
    describe_block,
    describe_failure,
    describe_own,
    next_command,
)
from stdc_parity.align.result import RunResult, StageResult, Verdict
from stdc_parity.converters.atomic import atomic_write

MARKS = {Verdict.PASS: "✅", Verdict.ROUNDING: "☑️", Verdict.BLOCKED: "⏸️", Verdict.DIVERGED: "❌"}
MAX_TAPS = 10


def to_markdown(result: RunResult) -> str:
    """The run as Markdown."""
    return "\n".join(_lines(result)) + "\n"


def write_markdown(result: RunResult, path: Path) -> None:
    """Write the run to `path` in one step, over an older file."""
    with atomic_write(path, force=True) as file:
        file.write(to_markdown(result).encode())


def _lines(result: RunResult) -> Iterator[str]:
    spec = result.spec
    held = sum(bool(stage) for stage in result.stages)
    yield f"# {MARKS[result.verdict]} {result.verdict.value}: {spec.pair}, {held} of {len(result.stages)} hold"
    yield ""
    yield f"{_escape(result.weights)} · {spec.size[0]}x{spec.size[1]} · {spec.dtype} · seed {spec.seed}"
    facts = next((stage.facts for stage in result.stages if stage.facts), {})
    if facts:
        yield ""
        yield " · ".join(
            f"{side} {each.get(side)}, {each.get('threads')} thread(s)" for side, each in facts.items()
        )
    yield ""
    yield "| rung | verdict | taps | differ | worst tap | of scale |"
    yield "|---|---|---:|---:|---|---:|"
    for stage in result.stages:
        yield _row(stage)
    found = list(describe_own(result))
    if len(found) > 1:
        yield ""
        yield "Wrong by themselves, none following from another:"
        yield ""
        yield from (f"- {_escape(each)}" for each in found)
    for stage in result.stages:
        if stage.verdict is Verdict.DIVERGED:
            yield from _explanation(stage, result)


def _row(stage: StageResult) -> str:
    verdict = f"{MARKS[stage.verdict]} {stage.verdict.value}"
    if stage.verdict is Verdict.BLOCKED:
        return f"| {stage.stage} | {verdict}: {describe_block(stage)} | | | | |"
    verdict += f", part by part, for {stage.blocked_by} failed" if stage.blocked_by else ""
    worst = stage.worst
    name, figure = (worst.tap, worst.why or f"{worst.relative:.1e}") if worst is not None else ("", "")
    bad = sum(not c for c in stage.comparisons)
    return f"| {stage.stage} | {verdict} | {len(stage.comparisons)} | {bad} | `{_escape(name)}` | {_escape(figure)} |"


def _explanation(stage: StageResult, result: RunResult) -> Iterator[str]:
    yield ""
    yield f"## {stage.stage}"
    for failure in stage.failures:
        yield ""
        yield f"The {failure.side} side failed: {_escape(failure.message)}"
    shown = stage.blamed or ([] if stage.again else [c for c in stage.comparisons if not c][:1])
    for number, comparison in enumerate(shown[:MAX_TAPS]):
        title = "First own divergence" if stage.blamed else "First divergence"
        yield ""
        yield f"**{title if number == 0 else 'Further own divergence'}:**"
        yield ""
        yield "```"
        yield from describe_failure(comparison)
        yield "```"
    for remark in (*stage.remarks, *describe_again(stage)):
        yield ""
        yield _escape(remark)
    yield ""
    yield f"Next: `{next_command(stage, result)}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
