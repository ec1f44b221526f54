"""Latency for people and programs: a table, JSON, and a plot. Nothing is measured or judged here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from stdc_parity.align.latency import Latency, Measured, Timing
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.errors import MissingFramework, shown

FORMATS = (".svg", ".png", ".pdf")
"""What a plot can be written as."""

WORDS = ("network", "runtime")
PARTS = ("network", "parameters", "GFLOPs", "runtime", "median", "p95", "images/s")


def latency_lines(latency: Latency) -> Iterator[str]:
    """The table: a block of rows for each network at a size, what is published for it under them."""
    measuring = latency.measuring
    yield f"{latency.machine}, {_counted(measuring.threads, 'thread')} for each runtime, one runtime at a time"
    yield ", ".join(f"{side} {version}" for side, version in latency.versions.items())
    yield (
        f"float32, batch {latency.measured[0].batch}, {_counted(measuring.runs, 'call')} each after "
        f"{measuring.warmup} to warm up, in turns; milliseconds"
    )
    rows = [PARTS, *(row for each in latency.measured for row in _rows(each))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(PARTS))]
    yield ""
    for row in rows:
        cells = zip(PARTS, row, widths, strict=True)
        yield "  " + "  ".join(f"{cell:{'<' if part in WORDS else '>'}{w}}" for part, cell, w in cells).rstrip()
    yield from _notes(latency)


def _rows(measured: Measured) -> Iterator[tuple[str, ...]]:
    cost = measured.cost
    first = (
        f"{measured.pair} {measured.size[0]}x{measured.size[1]}",
        f"{cost.parameters:,}" if cost is not None else "",
        f"{cost.flops / cost.batch / 1e9:.2f}" if cost is not None else "",
    )
    for timing in measured.timings:
        yield (*first, timing.runtime, *_figures(measured, timing))
        first = ("", "", "")
    for published in measured.published:
        yield ("", "", "", f"published: {published.machine}", "", "", f"{published.rate:.1f}")


def _figures(measured: Measured, timing: Timing) -> tuple[str, str, str]:
    if timing.seconds is None:
        return ("failed", "", "")
    median, p95 = timing.seconds.median, timing.seconds.p95
    return (f"{median * 1e3:.1f}", f"{p95 * 1e3:.1f}", f"{measured.rate(median):.1f}")


def _notes(latency: Latency) -> Iterator[str]:
    """What the figures mean, and what failed."""
    yield ""
    if any(each.cost is not None for each in latency.measured):
        yield "GFLOPs are of one image, two for each multiply-accumulate of convolutions and linear layers."
    for source in dict.fromkeys(each.source for measured in latency.measured for each in measured.published):
        yield f"Published figures are not measured here: {source}."
    for measured in latency.measured:
        for timing in measured.timings:
            if timing.failure:
                yield f"{measured.pair} on {timing.runtime} failed: {shown(timing.failure, 300)}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def latency_json(latency: Latency) -> dict[str, Any]:
    """All figures as a JSON object: seconds of every call too."""
    measuring = latency.measuring
    return {
        "schema": 1,
        "machine": latency.machine,
        "versions": dict(latency.versions),
        "threads": measuring.threads,
        "runs": measuring.runs,
        "warmup": measuring.warmup,
        "networks": [_network_json(each) for each in latency.measured],
    }


def _network_json(measured: Measured) -> dict[str, Any]:
    cost = measured.cost
    return {
        "pair": measured.pair,
        "size": list(measured.size),
        "batch": measured.batch,
        "parameters": cost.parameters if cost is not None else None,
        "macs": cost.macs // cost.batch if cost is not None else None,
        "runtimes": {timing.runtime: _timing_json(measured, timing) for timing in measured.timings},
        "published": [
            {"images_per_second": each.rate, "machine": each.machine, "source": each.source}
            for each in measured.published
        ],
    }


def _timing_json(measured: Measured, timing: Timing) -> dict[str, Any]:
    if timing.seconds is None:
        return {"failure": timing.failure}
    seconds = timing.seconds
    return {
        "median": seconds.median,
        "p95": seconds.p95,
        "images_per_second": measured.rate(seconds.median),
        "seconds": list(seconds.calls),
    }


def write_latency(latency: Latency, path: Path) -> None:
    """Write `latency_json` to `path` in one step."""
    with atomic_write(path, force=True) as file:
        file.write((json.dumps(latency_json(latency), indent=1) + "\n").encode())


def plot_latency(latency: Latency, path: Path) -> None:
    """Draw images per second of every runtime, a panel a size, published figures as lines; `path` ends in FORMATS.

    Raises MissingFramework without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingFramework("--plot needs matplotlib", note="pip install 'stdc-parity[plot]'.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = list(dict.fromkeys(each.size for each in latency.measured))
    with matplotlib.rc_context({"svg.hashsalt": "stdc-parity", "svg.fonttype": "none", "font.size": 9}):
        widest = max(sum(each.size == size for each in latency.measured) for size in sizes)
        figure, panels = pyplot.subplots(
            len(sizes), squeeze=False, figsize=(max(6.4, 1.6 * widest), 3.4 * len(sizes)), layout="constrained"
        )
        for panel, size in zip(panels[:, 0], sizes, strict=True):
            _draw(panel, [each for each in latency.measured if each.size == size])
            panel.set_title(f"{size[0]}x{size[1]}, batch {latency.measured[0].batch}", fontsize=10)
        handles = {label: h for p in panels[:, 0] for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize=8)
        figure.suptitle(f"{latency.machine}, {_counted(latency.measuring.threads, 'thread')}", fontsize=9)
        drawn = BytesIO()
        figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=150, metadata=_undated(path))
        pyplot.close(figure)
    with atomic_write(path, force=True) as file:
        file.write(drawn.getvalue())


def _undated(path: Path) -> dict[str, None]:
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})


def _draw(panel: Any, measured: Sequence[Measured]) -> None:
    """Bars of one size: a group a network, a bar a runtime."""
    runtimes = list(dict.fromkeys(timing.runtime for each in measured for timing in each.timings))
    width = 0.8 / len(runtimes)
    for number, runtime in enumerate(runtimes):
        places, rates = [], []
        for place, each in enumerate(measured):
            seconds = next((t.seconds for t in each.timings if t.runtime == runtime), None)
            if seconds is not None:
                places.append(place + (number - (len(runtimes) - 1) / 2) * width)
                rates.append(each.rate(seconds.median))
        bars = panel.bar(places, rates, width, label=runtime)
        panel.bar_label(bars, fmt="%.1f", fontsize=6)
    for place, each in enumerate(measured):
        for published in each.published:
            label = f"published: {published.machine}"
            panel.hlines(published.rate, place - 0.45, place + 0.45, "black", "dashed", label=label)
            panel.annotate(f"{published.rate:.1f}", (place, published.rate), (0, 2), textcoords="offset points",
                           ha="center", fontsize=7)  # fmt: skip
    panel.set_yscale("log")
    panel.set_ylabel("images per second")
    panel.set_xticks(range(len(measured)), [each.pair for each in measured], fontsize=8)
    panel.margins(y=0.15)
