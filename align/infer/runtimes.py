"""The runtimes that compute predictions, each in a process of its own, all with the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from stdc_parity.align import pairs
from stdc_parity.align.export.source import choose_exporter, export_graph
from stdc_parity.align.infer.palette import CLASSES, MOST
from stdc_parity.align.infer.pictures import BadInput
from stdc_parity.align.infer.resample import Floats
from stdc_parity.align.load import describe_weights, open_source, resolve
from stdc_parity.align.result import Failure
from stdc_parity.align.sides import GRAPH_SIDES, SideProcess, default_threads, open_sides
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.converters.errors import CheckpointError, MissingFramework, UsageError, shown
from stdc_parity.converters.families import part_of

RUNTIMES: tuple[Side, ...] = ("torch", "paddle", "onnx", "onnx-plain")
TRACED = (64, 128)
"""The size of the image that a graph is exported with; it takes any size."""


def parse_runtimes(text: str, option: str) -> tuple[Side, ...]:
    """The runtimes in a list such as "torch,paddle". Raises MissingFramework for one that is not known."""
    found: list[Side] = []
    for name in text.split(","):
        known = [side for side in RUNTIMES if side == name.strip().lower()]
        if not known:
            note = f"There are: {', '.join(RUNTIMES)}."
            raise MissingFramework(f"{option}: there is no runtime {shown(name)}", note)
        found += known
    return tuple(found)


@dataclass(frozen=True)
class Chosen:
    """What computes: the network and its weights, in words too; `graph` is an .onnx file that the user brought."""

    spec: RunSpec | None
    said: str
    graph: Path | None = None


def choose(
    runtimes: Sequence[Side],
    *,
    weights: Path | None,
    key: str | None,
    pair: str | None,
    graph: Path | None,
    seeded: bool,
    base: int,
) -> Chosen:
    """The network that the options ask for, by default what inference needs of the one that the weights are of.

    An .onnx of weights is the graph of the onnx runtimes too. Raises UsageError if there are no weights, or not all,
    without `seeded`; CheckpointError if they cannot be read.
    """
    if weights is None and graph is None and not seeded:
        raise UsageError("there are no weights", "--weights FILE, or --seeded to see it work with random ones.")
    if weights is not None and seeded:
        raise UsageError("--seeded means random weights, and --weights gives some: say one of them")
    if graph is None and weights is not None and weights.suffix.lower() == ".onnx":
        graph = weights
    if graph is not None and not set(runtimes) & set(GRAPH_SIDES):
        graph = None
    if graph is not None and not graph.is_file():
        raise UsageError(f"{shown(graph)} is no file")
    if set(runtimes) <= set(GRAPH_SIDES) and graph is not None:
        return Chosen(None, shown(graph), graph)
    if weights is None and not seeded:
        raise UsageError("a graph is for the onnx runtimes, the others need --weights")
    path = None if weights is None else str(weights)
    spec = RunSpec(pair or pairs.DEFAULT, TRACED, weights=path, key=key, base=base)
    if path is not None:
        source = open_source(path, key)
        name = source.architecture.name
        parts = [each for each in pairs.names() if part_of(source.architecture, each) is not None]
        spec = replace(spec, pair=pair or next(iter(parts), name))
    found, source_of = resolve(spec)
    said = describe_weights(spec, source_of, found)
    if source_of is not None and found.architecture is not None and not seeded:
        given = {source_of.part + tensor for tensor in source_of.architecture.tensors}
        lacking = len(found.architecture.tensors.keys() - given)
        if lacking:
            raise UsageError(
                f"{shown(path)} is {source_of.architecture.describe()}: it lacks {lacking} tensors of {found.name}",
                "Predictions need the weights of a whole network.",
            )
    return Chosen(spec, said, graph)


@dataclass
class Runtimes:
    """The processes of the runtimes; one that died is started again for the next image.

    `size` is the height and width that a graph takes, None for what is free; all runtimes get the same image.
    `seconds` are what all images so far took each, forward passes alone.
    """

    sides: tuple[Side, ...]
    processes: dict[Side, SideProcess]
    threads: int
    folder: Path
    job: Mapping[str, object]
    size: tuple[int | None, int | None] = (None, None)
    seconds: dict[Side, float] = field(default_factory=dict)

    def said(self, scale: float) -> str:
        """Which size an image gets, in words."""
        return f"scale {scale:g}" if None in self.size else f"the graph's size, {self.size[0]}x{self.size[1]}"

    def scores(self, image: Floats) -> dict[Side, Floats]:
        """What each runtime gives for an image (3, h, w), in its own size: (classes, h', w').

        Raises BadInput if one fails on it, UsageError if the network gives no classes of pixels.
        """
        np.save(self.folder / "image.npy", image[np.newaxis])
        for side in self.sides:
            if not self.processes[side].is_alive:
                self.processes[side].close()
                self.processes[side] = SideProcess(side, self.threads)
            self.processes[side].ask({**self.job, "scores": str(self.folder / f"{side}.npy")})
        answers = {side: self.processes[side].answer() for side in self.sides}
        for side, answer in answers.items():
            if isinstance(answer, Failure):
                raise BadInput(f"{side} fails on it: {shown(answer.message, 300)}")
            self.seconds[side] = self.seconds.get(side, 0.0) + answer["seconds"]
        found = {side: as_scores(np.load(self.folder / f"{side}.npy")) for side in self.sides}
        for side, scores in found.items():
            if not np.isfinite(scores).all():
                raise BadInput(f"{side} gives NaN or infinite scores for it")
        return found


@contextmanager
def open_runtimes(chosen: Chosen, sides: tuple[Side, ...], threads: int | None) -> Iterator[Runtimes]:
    """Start a process for each side, and for what exports a graph if none was brought.

    Raises MissingFramework before starting any, ParityError if a graph cannot be exported.
    """
    needs_graph = chosen.graph is None and bool(set(sides) & set(GRAPH_SIDES))
    exporter = (choose_exporter(sides),) if needs_graph else ()
    threads = threads or default_threads(max(2, len(sides)))
    with (
        TemporaryDirectory() as name,
        open_sides(list(dict.fromkeys((*sides, *exporter))), threads) as processes,
    ):
        folder, graph = Path(name), chosen.graph
        if exporter and chosen.spec is not None:
            pair, _ = resolve(chosen.spec)
            graph = export_graph(processes[exporter[0]], exporter[0], chosen.spec, pair, folder, dynamic=True).file
        job = {
            "do": "predict",
            "spec": None if chosen.spec is None else chosen.spec.to_json(),
            "image": str(folder / "image.npy"),
            "graph": str(graph),
        }
        size: tuple[int | None, int | None] = (None, None)
        for side in set(sides) & set(GRAPH_SIDES):
            processes[side].ask({**job, "do": "graph-size"})
            answer = processes[side].answer()
            if isinstance(answer, Failure):
                raise CheckpointError(f"{side} cannot run {shown(graph)}: {shown(answer.message, 300)}")
            size = answer["size"]
        yield Runtimes(sides, processes, threads, folder, job, size)


def as_scores(output: npt.NDArray[Any]) -> Floats:
    """A network's first output as scores (classes, h, w): logits (1, classes, h, w) as they are, labels (1, h, w) as
    ones and zeros, of Cityscapes' classes if there are no others. Raises UsageError for any other form."""
    kind, shape = output.dtype.kind, output.shape
    if kind == "f" and output.ndim == 4 and shape[0] == 1 and shape[1] <= MOST:
        return np.asarray(output[0], np.float32)
    labels = output.reshape(shape[-2:]) if output.ndim in (3, 4) and output.size == np.prod(shape[-2:]) else output
    if kind in "iu" and labels.ndim == 2 and labels.size and labels.min() >= 0 and labels.max() < MOST:
        classes = max(len(CLASSES), int(labels.max()) + 1)
        return np.asarray(labels == np.arange(classes)[:, np.newaxis, np.newaxis], np.float32)
    raise UsageError(
        f"the network's first output is {'x'.join(map(str, shape))} of {output.dtype}, not classes of pixels",
        "A segmentation network gives logits, 1 x classes x height x width, of at most 256 classes.",
    )
