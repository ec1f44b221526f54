"""A run as a table: a row for every tap, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stdc_parity.align.render_json import round_error, round_value
from stdc_parity.align.result import Comparison, RunResult
from stdc_parity.align.sides import GRAPH_SIDES
from stdc_parity.align.spec import Side
from stdc_parity.converters.atomic import atomic_write

COLUMNS = (
    "stage", "tap", "kind", "torch_path", "paddle_path", "shape", "dtype", "verdict",
    "error", "scale", "relative", "gap64", "agreed64", "torch_noise", "paddle_noise",
    "index", "torch_value", "paddle_value", "why", "waived", "sides",
    "onnx_noise", "onnx_value", "onnx-plain_noise", "onnx-plain_value",
)  # fmt: skip


def to_csv(result: RunResult) -> str:
    """The run as CSV (RFC 4180) with a header; what was not measured is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(_rows(result))
    return text.getvalue()


def write_csv(result: RunResult, path: Path) -> None:
    """Write the run to `path` in one step, over an older file."""
    with atomic_write(path, force=True) as file:
        file.write(to_csv(result).encode("utf-8", "backslashreplace"))


def _rows(result: RunResult) -> Iterator[tuple[object, ...]]:
    for stage in result.stages:
        for comparison in stage.comparisons:
            yield (stage.stage, *_cells(comparison, stage.sides or result.sides))


def _cells(c: Comparison, sides: Sequence[Side]) -> tuple[object, ...]:
    measured = (round_error(c.error), round_value(c.scale), round_error(c.relative)) if c.values else ("",) * 3
    noise = c.arbiter.noise if c.arbiter else {}
    values = {side: round_value(value) for side, value in c.values.items()}
    return (
        c.tap, c.kind, c.paths.get("torch", ""), c.paths.get("paddle", ""),
        "x".join(map(str, c.shape)), c.dtype, c.verdict.value, *measured,
        round_error(c.arbiter.gap64) if c.arbiter else "",
        round_error(c.arbiter.agreed) if c.arbiter else "",
        round_error(noise["torch"]) if "torch" in noise else "",
        round_error(noise["paddle"]) if "paddle" in noise else "",
        " ".join(map(str, c.index)), values.get("torch", ""), values.get("paddle", ""), c.why,
        "" if c.waiver is None else c.waiver.reason,
        "/".join(sides), *_of_graphs(noise, values),
    )  # fmt: skip


def _of_graphs(noise: Mapping[Side, float], values: Mapping[Side, float | str]) -> tuple[object, ...]:
    """The figures of the sides that run a graph."""
    return tuple(
        figure
        for side in GRAPH_SIDES
        for figure in (round_error(noise[side]) if side in noise else "", values.get(side, ""))
    )
