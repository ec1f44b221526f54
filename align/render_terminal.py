"""A run for people at a terminal: plain aligned text, coloured where the terminal can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from stdc_parity.align.describe import (
    describe_baseline,
    describe_input,
    describe_left_out,
    describe_run,
    describe_waivers,
    own_options,
    waived_taps,
)
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.majority import describe_majority
from stdc_parity.align.render_sides import SideRow, side_heads, side_rows, to_explain
from stdc_parity.align.result import Comparison, RunResult, StageResult, Verdict, badness
from stdc_parity.converters.errors import shown

COLOURS = {
    Verdict.PASS: "green",
    Verdict.ROUNDING: "yellow",
    Verdict.WAIVED: "magenta",
    Verdict.BLOCKED: "dim",
    Verdict.DIVERGED: "bold red",
}
ADDS_UP = "No module differs by itself when it gets equal inputs: small differences add up along the depth."
FLOAT32_ONLY = (
    "In float64 the sides agree, and the float32 gap is larger than one side's rounding explains: "
    "look for reduced precision on the other (TF32, bfloat16, fused kernels; `stdc-align doctor`)."
)
FIRST = "First own divergence:"
FIRST_EQUAL = "First own divergence (equal inputs, other output):"
FIRST_OF_ALL = "First divergence:"
FURTHER = "Further own divergences, independent of the first:"
MAX_ROWS = 200
MAX_BLAMED = 5


def render(result: RunResult, console: Console, *, verbose: bool = False) -> None:
    """Print the run: what was compared, a row for each stage of the network, the verdict and what to do."""
    spec = result.spec
    shape = describe_input(spec)
    console.print(Text(f"{spec.pair} · {shown(result.weights, 200)}"), soft_wrap=True)
    console.print(Text(f"{shape} {spec.dtype} · {spec.mode} mode · seed {spec.seed}"), soft_wrap=True)
    facts = {side: each for stage in result.stages[::-1] for side, each in stage.facts.items()}
    sides = [
        f"{side} {facts[side].get(side)}, {_threads(facts[side].get('threads'))}"
        for side in result.sides
        if side in facts
    ]
    graphs = {f"graph {shown(each['graph'], 200)}" for each in facts.values() if "graph" in each}
    sides += sorted(graphs)
    console.print(Text(" · ".join(sides)), style="dim", soft_wrap=True)
    if result.majority is not None:
        _render_sides(result, console, verbose)
    elif len(result.stages) == 1 and not result.left_out:
        _render_stage(result.stages[0], result, console, verbose)
    else:
        _render_ladder(result, console, verbose)
    _render_accepted(result, console)


def _render_sides(result: RunResult, console: Console, verbose: bool) -> None:
    """A table with a column for every two sides, their verdicts, and what a majority says."""
    rungs = dict.fromkeys(stage.stage for stage in result.stages)
    for rung in rungs:
        stages = [stage for stage in result.stages if stage.stage == rung]
        rows = side_rows(result, stages, None if verbose else lambda c: _group(c, result.groups))
        console.print()
        if rows:
            _side_table(rows, side_heads(stages), console)
        for stage in stages:
            for failure in stage.failures:
                text = f"\nThe {failure.side} side failed: {shown(failure.message, 500)}"
                console.print(Text(text), style="bold red", soft_wrap=True)
        console.print()
        for stage in stages:
            _verdict(stage, console)
    for stage in to_explain(result):
        if not stage.failures:
            console.print(Text(f"\n{stage.title}"), style="bold")
            _explain(stage, result, console)
    console.print()
    for number, line in enumerate(describe_majority(result)):
        console.print(Text(line), style="bold" if number == 0 else "", soft_wrap=True)


def _side_table(rows: Sequence[SideRow], heads: Sequence[str], console: Console) -> None:
    head = ("tap (worst of its stage)", "shape", *heads)
    cells = [(row.tap, row.shape, *(cell.text if cell else "" for cell in row.cells)) for row in rows]
    widths = [max(len(head[i]), *(len(row[i]) for row in cells)) for i in range(len(head))]
    console.print(Text(f"  {_line(head, widths)}  of scale"), style="bold", soft_wrap=True)
    for row in rows[:MAX_ROWS]:
        line = Text(f"  {row.tap:<{widths[0]}}  {row.shape:<{widths[1]}}")
        for cell, width in zip(row.cells, widths[2:], strict=True):
            line.append(f"  {cell.text if cell else '':>{width}}", COLOURS[cell.verdict] if cell else "")
        console.print(line.append(f"  {row.says}", "bold red" if "odd" in row.says else ""), soft_wrap=True)
    if len(rows) > MAX_ROWS:
        console.print(Text(f"  … and {len(rows) - MAX_ROWS} more (--json has all)"))


def _render_accepted(result: RunResult, console: Console) -> None:
    """What became of the waivers, and what changed since the baseline."""
    waivers, changes = list(describe_waivers(result)), list(describe_baseline(result))
    if not waivers and not changes:
        return
    console.print()
    for line in waivers[:MAX_ROWS]:
        console.print(Text(shown(line, 500)), soft_wrap=True)
    for number, line in enumerate(changes[:MAX_ROWS]):
        console.print(Text(f"{'  ' if number else ''}{shown(line, 500)}"), soft_wrap=True)
    left = max(0, len(waivers) - MAX_ROWS) + max(0, len(changes) - MAX_ROWS)
    if left:
        console.print(Text(f"  … and {left} more (--json has all)"))
    if not result:
        console.print(Text(f"The run fails: {describe_run(result)}"), style="bold red", soft_wrap=True)


def _threads(number: object) -> str:
    return f"{number} thread{'' if number == 1 else 's'}"


def _render_ladder(result: RunResult, console: Console, verbose: bool) -> None:
    """A line for each rung, then what there is to say of those that do not hold."""
    console.print()
    for stage in result.stages:
        line = Text(f"  {stage.stage:<14}").append(f"{stage.verdict.value:<9}", COLOURS[stage.verdict])
        console.print(line.append(_summary(stage)), soft_wrap=True)
    for each in describe_left_out(result):
        console.print(Text(f"  {each}"), style="dim", soft_wrap=True)
    for stage in result.stages:
        if verbose or stage.verdict is Verdict.DIVERGED:
            console.print(Text(f"\n{stage.stage}"), style="bold")
            _render_stage(stage, result, console, verbose)
    console.print()
    held = sum(bool(stage) for stage in result.stages)
    line = Text("all: ").append(result.verdict.value, COLOURS[result.verdict])
    console.print(line.append(f" · {held} of {len(result.stages)} rungs hold"))
    found = list(describe_own(result))
    if len(found) > 1:
        console.print(Text("Wrong by themselves, none following from another:"), style="bold")
        for each in found:
            console.print(Text(f"  {each}"), soft_wrap=True)


def describe_own(result: RunResult) -> Iterator[str]:
    """What is wrong by itself on each rung, a line each; every renderer uses this."""
    for stage in result.stages:
        taps = [comparison.tap or "(the network)" for comparison in stage.blamed]
        if taps:
            more = f" and {len(taps) - MAX_BLAMED} more" if len(taps) > MAX_BLAMED else ""
            yield f"{stage.title}: {', '.join(taps[:MAX_BLAMED])}{more}"


def _summary(stage: StageResult) -> str:
    if stage.verdict is Verdict.BLOCKED:
        return f"  {describe_block(stage)}"
    if stage.failures:
        return f"  the {stage.failures[0].side} side failed"
    bad = sum(not c for c in stage.comparisons)
    worst = stage.worst
    taps = f"{len(stage.comparisons)} taps" if not bad else f"{bad} of {len(stage.comparisons)} taps differ"
    taps += f", {waived} waived" if (waived := waived_taps(stage)) else ""
    most = (
        f", worst {worst.tap}: {_relative(worst)} of scale"
        if worst is not None and worst.error
        else ", all equal"
    )
    if stage.blocked_by:
        return f"  part by part, for {stage.blocked_by} failed: {taps}{most}"
    times = ", ".join(f"{side} {seconds:.1f} s" for side, seconds in stage.seconds.items())
    return f"  {taps}{most} · {times}"


def describe_block(stage: StageResult) -> str:
    """Why a rung was not judged as a whole, and what its parts say."""
    known = ", nothing new that differs by itself" if stage.again else ", its parts hold by themselves"
    return f"blocked by {stage.blocked_by}{known if stage.isolated else ''}"


def _render_stage(stage: StageResult, result: RunResult, console: Console, verbose: bool) -> None:
    if stage.comparisons:
        rows = (
            [(c.tap, c) for c in stage.comparisons]
            if verbose
            else list(_worst_by_group(stage, result.groups))
        )
        console.print()
        _table(rows, console)
    for failure in stage.failures:
        console.print(
            Text(f"\nThe {failure.side} side failed: {shown(failure.message, 500)}"), style="bold red", soft_wrap=True
        )
        console.print(Text(failure.note), style="dim", soft_wrap=True)
    console.print()
    _verdict(stage, console)
    if stage.verdict is Verdict.DIVERGED and not stage.failures:
        _explain(stage, result, console)


def _worst_by_group(stage: StageResult, groups: Sequence[str]) -> Iterator[tuple[str, Comparison]]:
    """The worst tap of each stage of the network, then those of what lies between the stages."""
    taps: dict[str, list[Comparison]] = {}
    for comparison in stage.comparisons:
        taps.setdefault(_group(comparison, groups), []).append(comparison)
    for group, members in taps.items():
        worst = max(members, key=badness)
        yield (f"{group}" if worst.tap == group else f"{group} › {worst.tap}"), worst


def _group(comparison: Comparison, groups: Sequence[str]) -> str:
    path = next(iter(comparison.paths.values()))
    inside = [g for g in groups if path == g or path.startswith(f"{g}.")]
    return max(inside, key=len, default=path or comparison.tap)


def _table(rows: Sequence[tuple[str, Comparison]], console: Console) -> None:
    cells = [
        (label, "x".join(map(str, c.shape)) or "scalar", f"{c.error:.1e}", _relative(c), c.verdict)
        for label, c in rows
    ]
    head = ("tap (worst of its stage)", "shape", "max|a-b|", "of scale")
    widths = [max(len(head[i]), *(len(row[i]) for row in cells)) for i in range(4)]
    console.print(Text(f"  {_line(head, widths)}  verdict"), style="bold", soft_wrap=True)
    for row in cells[:MAX_ROWS]:
        line = Text(f"  {_line(row[:4], widths)}  ")
        console.print(line.append(row[4].value, COLOURS[row[4]]), soft_wrap=True)
    if len(cells) > MAX_ROWS:
        console.print(Text(f"  … and {len(cells) - MAX_ROWS} more (--json has all)"))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, second, *numbers = cells
    left = f"{first:<{widths[0]}}  {second:<{widths[1]}}"
    return left + "".join(f"  {cell:>{width}}" for cell, width in zip(numbers, widths[2:], strict=True))


def _relative(comparison: Comparison) -> str:
    return "-" if comparison.why else f"{comparison.relative:.1e}"


def _verdict(stage: StageResult, console: Console) -> None:
    bad = [c for c in stage.comparisons if not c]
    line = Text(f"{stage.title}: ").append(stage.verdict.value, COLOURS[stage.verdict])
    if stage.comparisons:
        waived = waived_taps(stage)
        line.append(f" · {len(stage.comparisons) - len(bad) - waived} of {len(stage.comparisons)} taps agree")
        line.append(f", {waived} waived" if waived else "")
        worst = stage.worst
        if worst is not None and not bad:
            line.append(f", worst {worst.tap} at {worst.relative:.1e} of scale")
        line.append(f" · {stage.tolerance}" if stage.tolerance else "")
    times = ", ".join(f"{side} {seconds:.2f} s" for side, seconds in stage.seconds.items())
    console.print(line.append(f" · {times}" if times else ""), soft_wrap=True)
    for remark in (*stage.remarks, *describe_again(stage)):
        console.print(Text(remark), soft_wrap=True)


def describe_again(stage: StageResult) -> Iterator[str]:
    """What differs by itself on this rung too, but was named before; every renderer uses this."""
    if stage.again:
        named = ", ".join(f"{path} ({rung})" for path, rung in stage.again.items())
        yield f"Named before, and different here too: {named}."


def _explain(stage: StageResult, result: RunResult, console: Console) -> None:
    for line in describe_divergence(stage):
        title = line in (FIRST, FIRST_EQUAL, FIRST_OF_ALL, FURTHER)
        console.print(Text(line), style="bold" if title else "", soft_wrap=True)
    console.print(Text(f"Next: {next_command(stage, result)}"), soft_wrap=True)


def describe_divergence(stage: StageResult) -> Iterator[str]:
    """What is to blame on a rung that differs and why, a line each; the terminal and the pytest plugin say this."""
    if stage.blamed:
        yield FIRST_EQUAL if stage.isolated else FIRST
        for number, comparison in enumerate(stage.blamed[:MAX_BLAMED]):
            if number == 1:
                yield FURTHER
            yield from (f"  {line}" for line in describe_failure(comparison))
            yield from (f"  {line}" for line in describe_cause(stage, comparison))
        if len(stage.blamed) > MAX_BLAMED:
            yield f"  … and {len(stage.blamed) - MAX_BLAMED} more (--json has all)"
        if len(stage.blamed) < sum(not c for c in stage.comparisons):
            yield "Everything else that differs inherits it."
    elif not stage.again:
        first = next(c for c in stage.comparisons if not c)
        yield FIRST_OF_ALL
        yield from (f"  {line}" for line in describe_failure(first))
        yield from (f"  {line}" for line in describe_cause(stage, first))
        if stage.isolated:
            agree = first.arbiter is not None and first.arbiter.gap64 <= first.arbiter.agreed
            yield FLOAT32_ONLY if agree else ADDS_UP


def describe_failure(comparison: Comparison) -> Iterator[str]:
    """What there is to say of one tap that differs, a line each; every renderer uses these."""
    types = " / ".join(dict.fromkeys(filter(None, comparison.types.values())))
    yield f"{comparison.tap or '(the network)'}{f'  ({types})' if types else ''}"
    for side, path in comparison.paths.items():
        yield f"{side + ' path:':<13}{path or '(the network itself: code between its modules)'}"
    if comparison.why:
        yield comparison.why
    if comparison.values:
        values = ", ".join(f"{side} {value:.9g}" for side, value in comparison.values.items())
        yield f"worst at {list(comparison.index)}: {values}"
        yield f"max|a-b| {comparison.error:.3g}, {comparison.relative:.3g} of scale {comparison.scale:.3g}"
    if comparison.arbiter is not None:
        noise = ", ".join(f"{side} {value:.1e}" for side, value in comparison.arbiter.noise.items())
        gap = comparison.arbiter.gap64
        wide = f"in float64: {gap:.2g} of scale" if gap == gap else "no float64 on one side"
        yield f"{wide}; own float32 rounding: {noise}"
    if not comparison.why:
        yield f"smallest tolerance that would pass: {_round_up(comparison.relative)}"


def describe_cause(stage: StageResult, comparison: Comparison) -> Iterator[str]:
    """What was found out about why a place is wrong, a line each; every renderer uses these."""
    places = (comparison.tap, *comparison.paths.values())
    diagnosis = next((d for d in stage.diagnoses if d.place in places), None)
    if diagnosis is None:
        return
    if diagnosis:
        yield f"likely cause: {diagnosis.cause}"
        if diagnosis.before > diagnosis.after:
            fall = f"from {diagnosis.before:.1e} to {diagnosis.after:.1e} of scale"
            yield f"With that undone the difference falls {fall}."
        yield f"fix: {diagnosis.fix}"
    else:
        yield "No cause found that explains it."
        if diagnosis.tried:
            yield f"Tried in vain: {', '.join(diagnosis.tried)}."


def _round_up(value: float) -> str:
    """`value` with two digits, never smaller than it is."""
    if value == float("inf"):
        return "none (the reference is zero)"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    text = f"{mantissa}e{exponent}"
    return text if float(text) >= value else f"{float(mantissa) + 0.1:.1f}e{exponent}"


def next_command(stage: StageResult, result: RunResult) -> str:
    """The command that shows more of the same run, for programs and people to paste."""
    spec = result.spec
    if stage.stage not in RUNGS:
        return "stdc-align compare --tol T A.npy B.npy"
    rung = RUNGS[stage.stage]
    needed = any(before.stage in rung.needs and not before for before in result.stages)
    name = "forward --mode train" if stage.stage == "forward-train" else stage.stage
    command = f"stdc-align {'all' if needed else name}"
    if spec.own is not None:
        words = [command, *own_options(spec.own)]
    else:
        words = [f"{command} --pair {spec.pair} --size {spec.size[0]}x{spec.size[1]}"]
        taken = (spec if needed else rung.spec(spec)).batch
        words += [f"--batch {taken}"] if not needed or spec.exact_batch else []
    words += [f"--seed {spec.seed}"]
    words += [f"--weights {spec.weights}"] if spec.weights else []
    words += [f"--converted {spec.converted}"] if spec.converted else []
    words += [f"--key {spec.key}"] if spec.key else []
    words += [f"--base {spec.base}"] if spec.base != 64 and not spec.weights else []
    words += [f"--plant {name}" for name in spec.plant]
    words += [f"--sides {','.join(result.sides)}"] if result.sides != ("torch", "paddle") else []
    words += [f"--onnx {spec.graph}"] if spec.graph else []
    words += ["--taps modules"] if "forward" in stage.stage else []
    if rung.arbitrated and spec.dtype == "float32" and not needed:
        words += ["--dtype float64"]
    return f"{' '.join(words)} -v"
