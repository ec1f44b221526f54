"""A run as Markdown, for a CI job's summary: the verdict first, a row for each rung, then what differs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from stdc_parity.align.describe import (
    describe_baseline,
    describe_left_out,
    describe_run,
    describe_waivers,
    waived_taps,
)
from stdc_parity.align.environment import describe_last_words, list_environment
from stdc_parity.align.majority import describe_majority
from stdc_parity.align.render_terminal import (
    describe_again,
    describe_block,
    describe_cause,
    describe_failure,
    describe_own,
    next_command,
)
from stdc_parity.align.result import RunResult, StageResult, Verdict
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.errors import shown

MARKS = {Verdict.PASS: "✅", Verdict.ROUNDING: "☑️", Verdict.WAIVED: "⚠️", Verdict.BLOCKED: "⏸️", Verdict.DIVERGED: "❌"}
MAX_TAPS = 10
MAX_ROWS = 100
MAX_WORDS = 200
LIMIT = 1_000_000
"""The most bytes that are written: GitHub refuses a step's summary over 1 MiB (1,048,576)."""


def to_markdown(result: RunResult) -> str:
    """The run as Markdown of at most LIMIT bytes; what is left out is said at the end."""
    environment = "\n".join(_environment(result)) + "\n"
    text, size = "", len(environment.encode("utf-8", "replace"))
    for block in _blocks(result):
        piece = "\n".join(block) + "\n\n"
        size += len(piece.encode("utf-8", "replace"))
        if size > LIMIT - 100:
            text += "… and more, which would not fit: report.json has all.\n\n"
            break
        text += piece
    return text + environment


def write_markdown(result: RunResult, path: Path) -> None:
    """Write the run to `path` in one step, over an older file."""
    with atomic_write(path, force=True) as file:
        file.write(to_markdown(result).encode("utf-8", "backslashreplace"))


def _blocks(result: RunResult) -> Iterator[list[str]]:
    """The parts that are left out as a whole if there is no room for them."""
    spec = result.spec
    mark = MARKS[result.verdict if result else Verdict.DIVERGED]
    yield [f"# {mark} {result.verdict.value}: {spec.pair}, {describe_run(result)}"]
    weights = _escape(shown(result.weights, 300))
    yield [f"{weights} · {spec.size[0]}x{spec.size[1]} · {spec.dtype} · seed {spec.seed}"]
    head = ["| rung | verdict | taps | differ | worst tap | of scale |", "|---|---|---:|---:|---|---:|"]
    yield [*head, *(_row(stage) for stage in result.stages)]
    left_out = [_cell(line) for line in describe_left_out(result)]
    if left_out:
        yield left_out
    said = list(describe_majority(result))
    if said:
        yield ["## Majority"]
        yield [f"- {_cell(line)}" for line in said]
    yield from _accepted(result)
    found = list(describe_own(result))
    if len(found) > 1:
        yield ["Wrong by themselves, none following from another:"]
        yield [f"- {_cell(each)}" for each in found]
    for stage in result.stages:
        if stage.verdict is Verdict.DIVERGED:
            yield from _explanation(stage, result)


def _accepted(result: RunResult) -> Iterator[list[str]]:
    """What became of the waivers, and what changed since the baseline."""
    for title, lines in (("Waivers", describe_waivers(result)), ("Baseline", describe_baseline(result))):
        rows = [f"- {_cell(line)}" for line in lines]
        if rows:
            yield [f"## {title}"]
            yield rows[:MAX_ROWS]
            if len(rows) > MAX_ROWS:
                yield [f"… and {len(rows) - MAX_ROWS} more (report.json has all)."]


def _environment(result: RunResult) -> Iterator[str]:
    """The block that two summaries of the same run differ in."""
    yield "<!-- environment -->"
    yield "<details><summary>Environment</summary>"
    yield ""
    yield "| fact | value |"
    yield "|---|---|"
    for name, value in list_environment(result):
        yield f"| {_cell(name)} | {_cell(value)} |"
    yield ""
    words = list(describe_last_words(result))
    if words:
        yield from (*_fenced(words[:MAX_WORDS]), "")
    yield "</details>"
    yield "<!-- end of environment -->"


def _row(stage: StageResult) -> str:
    verdict = f"{MARKS[stage.verdict]} {stage.verdict.value}"
    if stage.verdict is Verdict.BLOCKED:
        return f"| {stage.title} | {verdict}: {describe_block(stage)} | | | | |"
    verdict += f", part by part, for {stage.blocked_by} failed" if stage.blocked_by else ""
    worst = stage.worst
    name, figure = (worst.tap, worst.why or f"{worst.relative:.1e}") if worst is not None else ("", "")
    bad = sum(not c for c in stage.comparisons)
    verdict += f", {waived} waived" if (waived := waived_taps(stage)) else ""
    return f"| {stage.title} | {verdict} | {len(stage.comparisons)} | {bad} | `{_cell(name)}` | {_cell(figure)} |"


def _explanation(stage: StageResult, result: RunResult) -> Iterator[list[str]]:
    yield [f"## {stage.title}"]
    for failure in stage.failures:
        yield [f"The {failure.side} side failed: {_escape(shown(failure.message, 500))}"]
    taps = stage.blamed or ([] if stage.again else [c for c in stage.comparisons if not c][:1])
    for number, comparison in enumerate(taps[:MAX_TAPS]):
        title = "First own divergence" if stage.blamed else "First divergence"
        yield [f"**{title if number == 0 else 'Further own divergence'}:**"]
        yield _fenced([*describe_failure(comparison), *describe_cause(stage, comparison)])
    if len(taps) > MAX_TAPS:
        yield [f"… and {len(taps) - MAX_TAPS} more (report.json has all)."]
    for remark in (*stage.remarks, *describe_again(stage)):
        yield [_escape(shown(remark, 2000))]
    yield [f"Next: `{next_command(stage, result)}`"]


def _fenced(lines: Sequence[str]) -> list[str]:
    """A block of code; its fence is longer than any run of backticks within."""
    clipped = [shown(line, 1000) for line in lines]
    longest = max((len(run) for line in clipped for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *clipped, fence]


def _cell(text: str) -> str:
    return _escape(shown(text, 300))


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
