"""A run as one HTML file that needs no network: what a person opens to see what differs, where, and how it looks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stdc_parity.align.describe import describe_baseline, describe_input, describe_run, describe_waivers
from stdc_parity.align.evidence import Evidence, Picture
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.majority import describe_majority
from stdc_parity.align.render_html_images import class_colour, class_name, data_url
from stdc_parity.align.render_html_plots import depth_plot, histogram, kinds_in, legend_mark, loss_curves
from stdc_parity.align.render_html_tree import build_tree, count_signs
from stdc_parity.align.render_html_words import about, both
from stdc_parity.align.render_terminal import (
    describe_again,
    describe_block,
    describe_failure,
    next_command,
)
from stdc_parity.align.result import Comparison, Diagnosis, RunResult, StageResult, Verdict, badness
from stdc_parity.align.spec import Side
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.errors import MissingFramework

SYMBOLS = {"PASS": "✓", "ROUNDING": "≈", "WAIVED": "⚑", "BLOCKED": "‖", "DIVERGED": "✕"}
KIND_SYMBOLS = {
    "unknown": "·",
    "pass": "✓",
    "rounding": "≈",
    "waived": "⚑",
    "inherited": "↳",
    "own": "✕",
    "contains": "⊃",
}
ALONG_DEPTH = ("weights", "forward", "forward-train", "backward", "optimizer", "train")
"""Rungs whose taps stand along the network's depth."""

MOST_ROWS = 40
"""Rows of a rung's table of taps; report.json has all."""

MOST_BLAMED = 8


def write_html(result: RunResult, path: Path) -> None:
    """Write the run to `path` in one step, over an older file.

    Raises UsageError if it cannot be written, MissingFramework without jinja2.
    """
    page = to_html(result)
    with atomic_write(path, force=True) as file:
        file.write(page.encode(errors="backslashreplace"))  # names may hold what UTF-8 cannot


def to_html(result: RunResult) -> str:
    """The run as an HTML page. Raises MissingFramework without jinja2."""
    try:
        import jinja2
        import markupsafe
    except ImportError:
        raise MissingFramework(
            "report.html needs jinja2, which is not installed", "pip install 'stdc-parity[report]'"
        ) from None
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    safe = markupsafe.Markup
    environment.globals |= {
        "t": lambda key: safe(both(key)),
        "about": lambda rung, english: safe(about(rung, english)),
        "include_raw": lambda name: safe((folder / name).read_text(encoding="utf-8")),
        "svg": safe,
        "key": lambda kind: safe(legend_mark(kind)),
        "png": data_url,
        "histogram": lambda evidence: safe(histogram(evidence)),
        "figure": _figure,
        "largest": _largest,
        "symbols": KIND_SYMBOLS,
    }
    return environment.get_template("report.html.j2").render(_page(result)).lstrip() + "\n"


def _page(result: RunResult) -> Mapping[str, Any]:
    """All that the template shows."""
    tree = build_tree(result)
    return {
        "title": f"{result.spec.pair}: {result.verdict.value}",
        "verdict": result.verdict.value,
        "symbol": SYMBOLS[result.verdict.value],
        "sentence": f"says-{result.verdict.value}",
        "held": sum(bool(stage) for stage in result.stages),
        "majority": list(describe_majority(result)),
        "found": [(stage.title, group) for stage in result.stages for group in _by_cause(stage)],
        "accepted": [*describe_waivers(result), *describe_baseline(result)],
        "refused": "" if bool(result) == bool(result.verdict) else describe_run(result),
        "facts": list(_facts(result)),
        "environment": _environment(result),
        "tree": tree if len(tree.children) > 1 or tree.said else None,
        "counts": count_signs(tree),
        "stages": [_stage(stage, result) for stage in result.stages],
    }


def _facts(result: RunResult) -> Iterator[tuple[str, str]]:
    """What was asked for, by the keys of words."""
    spec = result.spec
    yield "pair", spec.pair
    yield "weights", result.weights
    yield "input", f"{describe_input(spec).replace('x', '×')} {spec.dtype}"
    yield "options", f"{spec.mode} mode · seed {spec.seed} · taps {spec.taps} · base {spec.base}"
    if spec.plant:
        yield "planted", ", ".join(spec.plant)


def _environment(result: RunResult) -> Mapping[str, Any]:
    """What differs between repetitions of a run: versions of the frameworks, flags, seconds, a crash's last words."""
    facts = {side: each for stage in result.stages[::-1] for side, each in stage.facts.items()}
    facts = {side: facts[side] for side in result.sides if side in facts}
    names = dict.fromkeys(
        key
        for each in facts.values()
        for key, value in each.items()
        if key != "spec" and not key.endswith("sha256")
    )
    rows = [(name, [str(each.get(name, "")) for each in facts.values()]) for name in names]
    seconds = [
        (stage.title, [f"{stage.seconds.get(side, 0.0):.2f}" for side in facts])
        for stage in result.stages
        if stage.seconds
    ]
    words = [(stage.title, failure) for stage in result.stages for failure in stage.failures if failure.note]
    return {"sides": list(facts), "rows": rows, "seconds": seconds, "last_words": words}


def _stage(stage: StageResult, result: RunResult) -> Mapping[str, Any]:
    worst = stage.worst
    bad = [c for c in stage.comparisons if not c]
    loss, gap = loss_curves(stage) if stage.stage == "train" else ("", "")
    blamed = list(stage.blamed[:MOST_BLAMED])
    first = [] if blamed or stage.again else bad[:1]
    return {
        "name": stage.title,
        "stage": stage.stage,
        "about": RUNGS[stage.stage].about if stage.stage in RUNGS else "",
        "verdict": stage.verdict.value,
        "symbol": SYMBOLS[stage.verdict.value],
        "open": stage.verdict is Verdict.DIVERGED,
        "taps": len(stage.comparisons),
        "differ": len(bad),
        "worst": worst,
        "tolerance": stage.tolerance,
        "failures": stage.failures,
        "block": describe_block(stage) if stage.blocked_by else "",
        "blocked_by": stage.blocked_by,
        "remarks": [*stage.remarks, *describe_again(stage)],
        "plot": depth_plot(stage, result.groups),
        "modules": stage.stage in ALONG_DEPTH,
        "legend": kinds_in(stage),
        "curves": [("curve-loss", loss), ("curve-gap", gap)] if loss else [],
        "findings": [_finding(stage, c) for c in blamed or first],
        "is_own": bool(blamed),
        "more": max(len(stage.blamed) - MOST_BLAMED, 0),
        "evidence": [_evidence(each, stage) for each in stage.evidence],
        "rows": _rows(stage),
        "hidden": max(len(stage.comparisons) - MOST_ROWS, 0),
        "next": "" if stage else next_command(stage, result),
    }


def _finding(stage: StageResult, comparison: Comparison) -> Mapping[str, Any]:
    return {
        "tap": comparison.tap or "(the network)",
        "lines": list(describe_failure(comparison))[1:],
        "type": " / ".join(dict.fromkeys(filter(None, comparison.types.values()))),
        "diagnosis": _diagnosis(stage, comparison),
    }


def _by_cause(stage: StageResult) -> list[list[Mapping[str, Any]]]:
    """What is to blame on a rung, what has the same cause and fix together."""
    groups: dict[object, list[Mapping[str, Any]]] = {}
    for number, comparison in enumerate(stage.blamed[:MOST_BLAMED]):
        diagnosis = _diagnosis(stage, comparison)
        key = (diagnosis.cause, diagnosis.fix) if diagnosis is not None and diagnosis else number
        groups.setdefault(key, []).append(_finding(stage, comparison))
    return list(groups.values())


def _diagnosis(stage: StageResult, comparison: Comparison) -> Diagnosis | None:
    places = (comparison.tap, *comparison.paths.values())
    return next((d for d in stage.diagnoses if d.place in places), None)


def _rows(stage: StageResult) -> Sequence[Comparison]:
    """The taps of a rung's table: those that differ in their order, or else the worst ones."""
    bad = [c for c in stage.comparisons if not c]
    return bad[:MOST_ROWS] or sorted(stage.comparisons, key=badness, reverse=True)[: MOST_ROWS // 4]


def _evidence(evidence: Evidence, stage: StageResult) -> Mapping[str, Any]:
    sides = list(evidence.numbers)
    kinds = {picture.kind for picture in evidence.pictures}
    return {
        "evidence": evidence,
        "sides": sides,
        "elements": _elements(evidence, sides),
        "confusion": _confusion(evidence, sides),
        "swatches": _swatches(evidence) if "disagreement" in kinds else [],
    }


def _elements(evidence: Evidence, sides: Sequence[Side]) -> list[tuple[str, float, float, float]]:
    """Index, both values and their difference, for taps of few elements."""
    if not evidence.elements:
        return []
    a, b = (evidence.elements[side].reshape(-1) for side in sides)
    by_class = "by class" in evidence.tap or "per_class" in evidence.tap
    names = [class_name(i, a.size) if by_class else str(i) for i in range(a.size)]
    return [(name, float(x), float(y), float(y) - float(x)) for name, x, y in zip(names, a, b, strict=True)]


def _confusion(evidence: Evidence, sides: Sequence[Side]) -> Mapping[str, Any] | None:
    """The difference of the confusion matrices: names, and rows of (pixels, strength -1..1)."""
    if not evidence.confusion:
        return None
    a, b = (evidence.confusion[side] for side in sides)
    delta = b.astype(int) - a.astype(int)
    most = max(abs(int(delta.min())), abs(int(delta.max())), 1)
    names = [class_name(i, len(delta)) for i in range(len(delta))]
    rows = [
        (
            name,
            [(int(value), math.copysign(math.log1p(abs(value)) / math.log1p(most), value)) for value in row],
        )
        for name, row in zip(names, delta, strict=True)
    ]
    return {"names": [name.partition(" ")[0] for name in names], "rows": rows}


def _swatches(evidence: Evidence) -> list[tuple[str, str]]:
    """The classes that the pictures show: their names and colours."""
    maps = [picture.pixels for picture in evidence.pictures if picture.kind == "classes"]
    shown = np.unique(np.concatenate([pixels.reshape(-1) for pixels in maps])).tolist() if maps else []
    count = 19 if shown and shown[-1] < 19 else 256
    return [(class_name(n, count), "#" + "".join(f"{part:02x}" for part in class_colour(n))) for n in shown]


def _largest(picture: Picture) -> str:
    """The largest error of an error map."""
    return f"{float(picture.pixels.max()):.1e}"


def _figure(value: float) -> str:
    """A number in few digits."""
    return f"{value:.4g}"
