"""Exports for people: a checkpoint as a file to deploy, which is there only once it computes what its source does."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from stdc_parity.align.compare import Judging
from stdc_parity.align.export.graph import DEFAULT_OPSET, OPSETS, Naming, finish_graph
from stdc_parity.align.export.kinds import Kind, files_of
from stdc_parity.align.export.source import Exported, ask_export, can_export
from stdc_parity.align.framework import Array
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.load import Source, resolve, side_weights
from stdc_parity.align.pair import Pair
from stdc_parity.align.progress import Silent
from stdc_parity.align.record import load_record
from stdc_parity.align.render_terminal import describe_divergence
from stdc_parity.align.result import Failure, RunResult
from stdc_parity.align.run import SILENT, choose_spec, record_rung
from stdc_parity.align.several import Run
from stdc_parity.align.sides import default_threads, is_installed, missing_framework, open_sides
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.atomic import atomic_write, check_target
from stdc_parity.converters.convert import open_state_dict, weights_for
from stdc_parity.converters.errors import MissingFramework, ParityError, UsageError, shown
from stdc_parity.converters.opened import COUNTER
from stdc_parity.converters.version import VERSION

if TYPE_CHECKING:
    import onnx

FrameworkSide = Literal["torch", "paddle"]

TRACED = (96, 160)
"""The size that a network with open sizes is traced at: no two of its feature maps' sides are equal."""

TRACED_BATCH = 2
"""Exporters take a batch of 1 for fixed."""

TRIED = ((96, 160), (65, 97), (128, 96))
"""The sizes that a network with open sizes is verified at, odd ones among them."""

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Wanted:
    """What to export, and how.

    `size` is (height, width) in pixels, None for open sizes (batch too). `framework` is whose network is written,
    None for the one whose names the checkpoint has. `fold` folds batch norms into convolutions, `labels` gives
    winning classes, `lean` leaves tensors out that no output needs.
    """

    kind: Kind
    framework: FrameworkSide | None = None
    size: tuple[int, int] | None = None
    opset: int = DEFAULT_OPSET
    labels: bool = False
    fold: bool = False
    lean: bool = False


@dataclass(frozen=True)
class Deployed:
    """What was written: its files, and lines about it for people."""

    files: Sequence[Path]
    lines: Sequence[str]


@dataclass(frozen=True)
class _Task:
    """One export: what is wanted, the run's options, the pair and the checkpoint."""

    wanted: Wanted
    spec: RunSpec
    pair: Pair
    source: Source | None
    threads: int


def deploy(
    source: Path | None,
    target: Path,
    wanted: Wanted,
    *,
    pair: str | None = None,
    key: str | None = None,
    base: int = 64,
    seed: int = 0,
    force: bool = False,
    progress: Silent = SILENT,
) -> Deployed:
    """Export the checkpoint `source` (None: seeded weights) to `target`, and verify what was written.

    Raises UsageError, CheckpointError and MissingFramework; ParityError if the file would compute something else. In
    any of these cases nothing is left behind.
    """
    files = files_of(wanted.kind, target)
    for file in files:
        check_target(file, force=force, source=source)
        if not file.parent.is_dir():
            raise UsageError(f"{shown(str(file))} cannot be written: the folder does not exist.")
    _check_opset(wanted)
    spec = choose_spec(
        pair=pair,
        size=wanted.size or TRACED,
        batch=1 if wanted.size else TRACED_BATCH,
        weights=None if source is None else str(source),
        key=key,
        base=base,
        seed=seed,
        taps="stages" if wanted.kind.name == "onnx" else "outputs",
    )
    found, checkpoint = resolve(spec)
    task = _Task(wanted, spec, found, checkpoint, default_threads())
    framework, remarks = choose_framework(wanted, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        made = _Made(task, Path(folder), progress)
        naming, framework, more = made.write(framework)
        lines = [*remarks, *more, *made.finish(naming, framework), *made.verify(framework)]
        _publish(made.files, files, source, force)
    size = sum(file.stat().st_size for file in files)
    written = " and ".join(shown(str(file)) for file in files)
    return Deployed(files, [*lines, f"Wrote {written} ({size / 1e6:.1f} MB)."])


def choose_framework(wanted: Wanted, source: Source | None) -> tuple[FrameworkSide, list[str]]:
    """Whose network to write, and what there is to say of that: the asked one, or the checkpoint's own.

    Raises MissingFramework if it cannot be imported.
    """
    first = wanted.kind.frameworks[0]
    own = source.side if source is not None and source.side in wanted.kind.frameworks else first
    framework = wanted.framework or own
    if not is_installed(framework):
        if wanted.framework is None and any(is_installed(other) for other in wanted.kind.frameworks):
            framework = next(other for other in wanted.kind.frameworks if is_installed(other))
        else:
            raise missing_framework(framework)
    if wanted.kind.name != "onnx" or can_export(framework):
        return framework, []
    if framework == "paddle" and can_export("torch"):
        return "torch", [THROUGH_TORCH.format("paddle2onnx is not installed")]
    raise MissingFramework(
        "writing ONNX graphs needs onnx" + (" and paddle2onnx" if framework == "paddle" else ""),
        "pip install 'stdc-parity[onnx]'",
    )


THROUGH_TORCH = "Through the torch twin with the converted weights: {}."


def _check_opset(wanted: Wanted) -> None:
    if wanted.kind.name == "onnx" and wanted.opset not in OPSETS:
        raise UsageError(
            f"--opset {wanted.opset}: graphs of opset {OPSETS[0]} to {OPSETS[-1]} can be written",
            f"{DEFAULT_OPSET} is what runtimes of recent years take.",
        )


@dataclass
class _Made:
    """The files that are being made in a folder of their own."""

    task: _Task
    folder: Path
    progress: Silent

    @property
    def files(self) -> list[Path]:
        """What will be published, in the order of the kind's suffixes."""
        return files_of(self.task.wanted.kind, self.folder / f"written{self.task.wanted.kind.suffixes[0]}")

    def write(self, framework: FrameworkSide) -> tuple[Naming, FrameworkSide, list[str]]:
        """Have the framework write its network; a graph of Paddle's that cannot be written is PyTorch's instead."""
        try:
            return self._written(framework), framework, []
        except ParityError as error:
            if framework != "paddle" or self.task.wanted.kind.name != "onnx" or not can_export("torch"):
                raise
            said = THROUGH_TORCH.format(f"paddle2onnx failed ({shown(error.message, 200)})")
            return self._written("torch"), "torch", [said]

    def _written(self, framework: FrameworkSide) -> Naming:
        wanted, raw = self.task.wanted, self.folder / f"raw{self.task.wanted.kind.suffixes[0]}"
        self.progress.begin("", f"{framework} writes its network")
        file = raw if wanted.kind.name == "onnx" else self.files[0]
        file = file.with_suffix("") if wanted.kind.optional else file
        with open_sides((framework,), self.task.threads) as processes:
            return ask_export(
                processes[framework], self.task.spec, file, kind=wanted.kind.name, opset=wanted.opset,
                dynamic=wanted.size is None, fold=wanted.fold, labels=wanted.labels,
            )  # fmt: skip

    def finish(self, naming: Naming, framework: FrameworkSide) -> Iterator[str]:
        """Give a graph its official names; say what was written."""
        wanted, task = self.task.wanted, self.task
        yield from describe(task, framework)
        if naming.folded:
            yield (
                f"Batch norms folded into {len(naming.folded)} convolutions, whose weights are new values under "
                f"their official names, with a bias each; in float64 the outputs move by {naming.gap:.1e} of scale."
            )
        if wanted.kind.name != "onnx":
            return
        self.progress.begin("", "the graph gets its names, and is checked")
        official = given_weights(task)
        kept = {} if wanted.lean else official
        outputs = ["labels"] if wanted.labels else [name for name in naming.outputs if not _is_stage(name, task)]
        model = finish_graph(
            self.folder / "raw.onnx", naming, name=task.pair.name, metadata=metadata_of(task, framework, naming),
            unused={name: array for name, array in kept.items() if name not in _gone(naming)}, given=outputs,
        )  # fmt: skip
        yield from describe_graph(model, official, naming, lean=wanted.lean)
        self.files[0].write_bytes(model.SerializeToString())

    def verify(self, framework: FrameworkSide) -> Iterator[str]:
        """Run what was written in a fresh process against its source, at every size. Raises ParityError."""
        wanted = self.task.wanted
        reference = self._reference(framework)
        sizes = TRIED if wanted.size is None and self.task.pair.inputs is None else (self.task.spec.size,)
        self.progress.begin("", f"{reference} and {wanted.kind.side} run what was written")
        with open_sides((reference, wanted.kind.side), self.task.threads) as processes:
            run = Run(
                {reference: processes[reference], wanted.kind.side: processes[wanted.kind.side]},
                self.folder,
                Judging(Tolerance(TOLERANCE)),
                Exported(self.files[0], framework),
            )
            worst = 0.0
            for number, size in enumerate(sizes):
                batch = 2 if wanted.size is None and number == 0 else 1
                spec = replace(self.task.spec, size=size, batch=batch, exact_batch=True, taps="outputs")
                spec = replace(spec, graph=str(self.files[0]))
                if wanted.labels:
                    worst = max(worst, check_labels(run, spec, self.task.pair))
                else:
                    worst = max(worst, _check(run.climb(["forward"], spec)))
        where = ", ".join(f"{height}x{width}" for height, width in sizes)
        what = "pixels of another class (near ties)" if wanted.labels else "of scale"
        yield (
            f"Verified in fresh processes: {wanted.kind.side} against {reference} at {where}: "
            f"at most {worst:.1e} {what}."
        )

    def _reference(self, framework: FrameworkSide) -> FrameworkSide:
        """The side that the file is held against: the checkpoint's own if it can run here."""
        source = self.task.source
        own = self.task.wanted.framework or (source.side if source is not None else framework)
        return own if is_installed(own) else framework


def given_weights(task: _Task) -> dict[str, Array]:
    """The tensors that the checkpoint gives, or all if the weights are seeded, by official names, counters too."""
    if task.pair.architecture is None:
        return {}
    official = side_weights("torch", task.spec)
    if task.source is None:
        return official[0]
    source = task.source
    names = {f"{source.part}{name}" for name in weights_for("torch", source.state, source.side).tensors}
    given = {name: array for name, array in official[0].items() if name in names}
    if source.side == "torch":
        return given
    batches = open_state_dict(task.spec.weights or "", task.spec.key)[0].batches
    counts = {source.part + name: np.array(count, np.int64) for name, count in batches.items()}
    return {
        name: counts.get(name, array)
        for name, array in given.items()
        if name in counts or not name.endswith(f".{COUNTER}")
    }


def metadata_of(task: _Task, framework: FrameworkSide, naming: Naming) -> dict[str, str]:
    """The properties of a graph: who made it, of what."""
    found = {"tool": f"stdc-parity {VERSION}", "pair": task.pair.name, "exported_from": framework}
    if task.spec.weights is not None:
        path = Path(task.spec.weights)
        found["source"] = path.name
        if path.is_file():
            found["source_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        found["source"] = f"seeded weights (seed {task.spec.seed})"
    if naming.folded:
        found["folded_batch_norms"] = str(len(naming.folded))
    return found


def describe(task: _Task, framework: FrameworkSide) -> Iterator[str]:
    """What is written: the network, its size, whose exporter."""
    wanted, spec = task.wanted, task.spec
    size = f"{spec.size[0]}x{spec.size[1]}" if wanted.size is not None else "any size"
    how = {"torch": "from torch", "paddle": "from paddle"}[framework]
    if wanted.kind.name == "onnx":
        how += f" by {'torch.onnx' if framework == 'torch' else 'paddle2onnx'}, opset {wanted.opset}"
    outputs = "labels (int64)" if wanted.labels else ", ".join(task.pair.outputs)
    whose = f"seeded weights (seed {spec.seed})" if spec.weights is None else Path(spec.weights).name
    yield f"{shown(whose)}: {task.pair.name}, {size}, {outputs}; {how}"


def describe_graph(
    model: onnx.ModelProto, official: Mapping[str, Array], naming: Naming, *, lean: bool
) -> Iterator[str]:
    """What the graph holds. Raises ParityError if a weight in it is not the checkpoint's, bit for bit."""
    from onnx import numpy_helper

    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    folded = set(naming.folded)
    wrong = [
        name
        for name, array in official.items()
        if name in held and name not in folded and not np.array_equal(held[name], array, equal_nan=True)
    ]
    if wrong:
        raise ParityError(f"{len(wrong)} weights in the graph are not the checkpoint's, first {wrong[0]}")
    needed = {value for node in model.graph.node if not node.name.startswith("unused/") for value in node.input}
    kept = sum(name in held for name in official)
    unused = [name for name in official if name not in needed]
    words = f"{len(model.graph.node)} nodes; {kept} of {len(official)} tensors under their official names"
    if unused and not lean:
        words += f", {len(unused) - len(_gone(naming) & set(unused))} that no output needs among them (--lean)"
    elif unused:
        words += f"; {len(unused)} that no output needs are left out"
    yield words + "."


def _gone(naming: Naming) -> set[str]:
    """The tensors of norms that were folded."""
    return set(naming.folded_norms)


def _is_stage(name: str, task: _Task) -> bool:
    return name.partition("[")[0].partition("#")[0] in task.pair.stages


def _check(result: RunResult) -> float:
    """The worst tap of a verification. Raises ParityError with what differs if it did not pass."""
    stage = result.stages[0]
    if result:
        worst = stage.worst
        return worst.relative if worst is not None else 0.0
    failed = [f"the {failure.side} side failed: {_short(failure.message)}" for failure in stage.failures]
    said = failed or [line.strip() for line in describe_divergence(stage)]
    raise ParityError(
        f"what was written does not compute what its source does at {result.spec.size[0]}x{result.spec.size[1]}: "
        + "; ".join(said[:8]),
        "Nothing was written. A network that is fixed to one size needs --size HxW.",
    )


def _short(message: str) -> str:
    """The first and the last line of a message, which may have the whole of a traceback between them."""
    lines = [line for line in message.splitlines() if line.strip()]
    return shown(" … ".join(dict.fromkeys([*lines[:1], *lines[-2:]])), 400)


def check_labels(run: Run, spec: RunSpec, pair: Pair) -> float:
    """The share of pixels whose class is another one, all near ties. Raises ParityError if one is not.

    A near tie: the source's two largest logits are closer than twice the tolerance of their scale.
    """
    reference, other = run.processes
    graph = run.graph.job() if run.graph else {}
    answers = record_rung(run.processes, RUNGS["forward"], spec, run.folder, graph=graph)
    failures = [answer for answer in answers.values() if isinstance(answer, Failure)]
    if failures:
        raise ParityError(f"the {failures[0].side} side failed: {failures[0].message}", failures[0].note or None)
    logits = load_record(run.folder, reference, "forward").arrays[pair.outputs[0]]
    labels = load_record(run.folder, other, "forward").arrays["labels"]
    expected = logits.argmax(1)
    if labels.shape != expected.shape or labels.dtype != np.int64:
        raise ParityError(f"labels are {labels.dtype} {labels.shape}, not int64 {expected.shape}")
    chosen = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    behind = logits.max(1) - chosen  # how far the class that was chosen is behind the largest
    allowed = 2 * TOLERANCE * float(np.abs(logits).max())
    if (behind > allowed).any():
        wrong = int((behind > allowed).sum())
        raise ParityError(f"{wrong} of {labels.size} pixels have another class than their source's logits say")
    return float((labels != expected).mean())


def _publish(made: Sequence[Path], files: Sequence[Path], source: Path | None, force: bool) -> None:
    """Give the files their names, the one that is opened first last; all of them or, as far as files allow, none."""
    done: list[Path] = []
    try:
        for file, target in list(zip(made, files, strict=True))[::-1]:
            existed = target.exists()
            with atomic_write(target, force=force, source=source) as out:
                out.write(file.read_bytes())
            done += [] if existed else [target]
    except BaseException:
        for target in done:
            target.unlink(missing_ok=True)
        raise
