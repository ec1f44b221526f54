"""Where the graph of the onnx sides comes from: exported from a framework's network, with its stages for outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stdc_parity.align.export.graph import DEFAULT_OPSET, Naming, finish_graph
from stdc_parity.align.framework import Array
from stdc_parity.align.load import side_weights
from stdc_parity.align.pair import Pair
from stdc_parity.align.result import Failure
from stdc_parity.align.sides import SideProcess, is_installed
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.converters.errors import MissingFramework, ParityError, shown

FRAMEWORKS: tuple[Side, ...] = ("torch", "paddle")
NEEDS: Mapping[Side, Sequence[str]] = {"torch": ("torch", "onnx"), "paddle": ("paddle", "onnx", "paddle2onnx")}
"""What exporting from a framework imports."""


@dataclass(frozen=True)
class Exported:
    """A graph's file, and the framework that it was exported from, None if the user brought it."""

    file: Path
    source: Side | None

    def job(self) -> dict[str, str]:
        """What a job of a side that runs it says of it."""
        return {"graph": str(self.file), "exporter": self.source or ""}


def choose_exporter(sides: Sequence[Side], wanted: Side | None = None) -> Side:
    """The framework to export from: the one that was asked for, else PyTorch if it is a side or can be imported.

    Raises MissingFramework if it lacks something, or if there is none.
    """
    order = [wanted] if wanted else [*(side for side in FRAMEWORKS if side in sides), *FRAMEWORKS]
    for side in order:
        if can_export(side):
            return side
    if wanted == "paddle" and is_installed("paddle"):
        note = "pip install 'stdc-parity[onnx,paddle2onnx]'"
        raise MissingFramework("a graph of Paddle's network needs paddle2onnx", note)
    raise MissingFramework(
        f"the onnx side runs a graph that is exported from {wanted or 'a framework'}, which cannot be imported here",
        "Install torch, or paddlepaddle and paddle2onnx; or bring the graph: --onnx FILE.",
    )


def can_export(side: Side) -> bool:
    """Whether what exporting from a framework imports can be found here."""
    return all(importlib.util.find_spec(module) is not None for module in NEEDS[side])


def export_graph(
    process: SideProcess, source: Side, spec: RunSpec, pair: Pair, folder: Path, *, dynamic: bool = False
) -> Exported:
    """Export the network of `spec` in `process`, that of the framework `source`, into `folder`; batch norms stay.

    With `dynamic` the graph takes images of any size. Port bugs that are planted are of a side, not of the graph,
    which is exported without them. Raises ParityError if the framework cannot export it.
    """
    raw, file = folder / f"raw-{source}.onnx", folder / "graph.onnx"
    clean = replace(spec, plant=(), dtype="float32", mode="eval")
    naming = ask_export(process, clean, raw, kind="onnx", opset=DEFAULT_OPSET, dynamic=dynamic)
    official: Mapping[str, Array] = {} if pair.architecture is None else side_weights("torch", clean)[1]
    metadata = {"pair": pair.name, "source": source}
    model = finish_graph(raw, naming, name=pair.name, metadata=metadata, unused=official)
    file.write_bytes(model.SerializeToString())
    return Exported(file, source)


def ask_export(process: SideProcess, spec: RunSpec, file: Path, **job: object) -> Naming:
    """Have a framework's process write its network to `file`. Raises ParityError if it cannot."""
    process.ask({"do": "export", "spec": spec.to_json(), "file": str(file), **job})
    answer = process.answer()
    if isinstance(answer, Failure):
        note = "A network that cannot have open sizes needs --size HxW." if job.get("dynamic") else None
        raise ParityError(f"{answer.side} cannot export {spec.pair}: {shown(answer.message, 400)}", note)
    return Naming(
        answer["tensors"],
        answer["outputs"],
        answer["aliases"],
        frozenset(answer["transposed"]),
        tuple(answer["folded"]),
        tuple(answer["folded_norms"]),
        answer["gap"],
    )
