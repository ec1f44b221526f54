"""What pairs there are: their parameters, FLOPs, layouts and stages, as rows for a table or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod

from stdc_parity.align.cost import Cost
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.pair import Pair
from stdc_parity.align.pairs import find_pair, names
from stdc_parity.align.progress import Silent
from stdc_parity.align.result import Failure
from stdc_parity.align.sides import Worker, is_installed, open_sides
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import Architecture
from stdc_parity.converters.errors import UsageError
from stdc_parity.converters.layout import Layout
from stdc_parity.converters.layouts import all_layouts

PIPED = 200
"""Characters of a line where no terminal says how wide it is."""

STATISTICS = ("norm.running_mean", "norm.running_var", "norm.batches")


@dataclass(frozen=True)
class Row:
    """One pair. `flops` are those of one pass with an input of `size` (height, width), twice its multiply-accumulates
    (align/cost.py); None if they were not counted. `layouts` are the code bases whose checkpoints are known."""

    name: str
    parameters: int | None
    size: tuple[int, int]
    flops: int | None
    layouts: tuple[str, ...]
    stages: tuple[str, ...]


def rows(wanted: Sequence[str], progress: Silent) -> list[Row]:
    """The pairs whose names begin as one of `wanted` does, all without any. Raises UsageError if one names none.

    FLOPs are counted by the torch side, on shapes alone, if it is installed.
    """
    unknown = [each for each in wanted if not any(name.startswith(each) for name in names())]
    if unknown:
        raise UsageError(f"there is no pair {', '.join(unknown)}", f"There are: {', '.join(names())}.")
    pairs = [find_pair(name) for name in names() if not wanted or name.startswith(tuple(wanted))]
    if not is_installed("torch"):
        return [_row(pair, None) for pair in pairs]
    with open_sides(("torch",), 1) as processes:
        return list(_counted(pairs, processes["torch"], progress))


def _counted(pairs: Sequence[Pair], worker: Worker, progress: Silent) -> Iterator[Row]:
    for pair in pairs:
        progress.begin("", f"counting {pair.name}")
        worker.ask({"do": "shape-cost", "spec": RunSpec(pair.name, pair.size).to_json()})
        answer = worker.answer()
        yield _row(pair, None if isinstance(answer, Failure) else Cost.from_json(answer["cost"]).flops)


def _row(pair: Pair, flops: int | None) -> Row:
    architecture = pair.architecture
    parameters, layouts = None, list[str]()
    if architecture is not None:
        learned = [spec for spec in architecture.tensors.values() if spec.kind not in STATISTICS]
        parameters = sum(prod(spec.shape) for spec in learned)
        layouts = [layout.name for layout in all_layouts().values() if _holds(layout, architecture)]
    stages = tuple(name for name, rung in RUNGS.items() if not pair.lacks(rung.parts))
    return Row(pair.name, parameters, pair.size, flops, tuple(layouts), stages)


def _holds(layout: Layout, architecture: Architecture) -> bool:
    """Whether a layout is for a network, and builds it as it is."""
    facts = layout.facts.items()
    return layout.fits(architecture) and all(architecture.facts.get(fact) in needed for fact, needed in facts)


def to_json(found: Sequence[Row]) -> str:
    """The rows as a JSON list of objects."""
    return json.dumps([asdict(row) for row in found], indent=1)


def show(found: Sequence[Row]) -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED  # whoever reads lines wants one a pair
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("pair", "parameters", "input", "FLOPs", "layouts", "stages"):
        table.add_column(
            title, justify="right" if title in ("parameters", "FLOPs") else "left", no_wrap=title == "pair",
            overflow="fold",
        )  # fmt: skip
    for row in found:
        table.add_row(
            row.name, _short(row.parameters, "M", 1e6), f"{row.size[0]}x{row.size[1]}", _short(row.flops, "G", 1e9),
            ", ".join(row.layouts), _stages(row.stages),
        )  # fmt: skip
    console.print(table)
    if any(row.flops is None for row in found):
        console.print("FLOPs are counted where torch is installed.")


def _short(number: int | None, unit: str, size: float) -> str:
    return "-" if number is None else f"{number / size:.2f} {unit}"


def _stages(stages: Sequence[str]) -> str:
    """That it is all, all but some, or which."""
    missing = [name for name in RUNGS if name not in stages]
    if not missing:
        return f"all {len(RUNGS)}"
    return ", ".join(stages) if len(stages) <= len(missing) else f"all but {', '.join(missing)}"
