"""Exporting, in a framework's own process: the network traced with its taps, and written to a file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Framework, Network, Tensor
from stdc_parity.align.pair import Pair
from stdc_parity.align.recorder import Recorder, tensors_in
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import output_name, outputs_of, tapped_modules
from stdc_parity.converters.architecture import is_transposed
from stdc_parity.converters.errors import MissingFramework, ParityError

LABELS = "labels"
"""What the winning classes are called, int64 (n, h, w), if a file gives those."""

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""The official names of a batch norm's tensors."""

FOLDED = 1e-12
"""The most that folding may change an output in float64, as a fraction of its scale; 2e-15 was measured."""


class Traced:
    """A network's run and what is kept of it: its outputs, and what the modules that are tapped give.

    `names` are those of the last run's tensors, as records name their taps; `aliases` maps names of taps that are
    tensors of another name to that.
    """

    def __init__(self, framework: Framework, network: Network, pair: Pair, level: str, labels: bool) -> None:
        """Watch the modules that `level` asks for. With `labels` the first output's classes are all it gives."""
        self.run: Callable[..., Any] = getattr(network, pair.method)
        self._framework, self._pair, self._labels = framework, pair, labels
        self._seen: list[tuple[str, Tensor]] = []
        self.names: tuple[str, ...] = ()
        self.aliases: dict[str, str] = {}
        self._recorder = Recorder(framework)
        for path, module in tapped_modules(framework, network, pair, level):
            framework.watch(module, self._watcher(path))

    def _watcher(self, path: str) -> Any:
        def seen(given: Sequence[Any], result: Any) -> None:
            name = self._recorder.call_name(path)
            self._seen += [(name + suffix, tensor) for suffix, tensor in tensors_in(result, self._framework)]

        return seen

    def arrange(self, result: Any) -> Any:
        """The tensors of a run that has just ended, given what it returned: a tuple of them, or one alone."""
        outputs = outputs_of(result)
        if self._labels:
            found = [(LABELS, outputs[0].argmax(1))]
        else:
            found = [
                (output_name(self._pair, i) + suffix, tensor)
                for i, value in enumerate(outputs)
                for suffix, tensor in tensors_in(value, self._framework)
            ]
        first = {id(tensor): name for name, tensor in reversed([*found, *self._seen])}
        taps = {name: first[id(tensor)] for name, tensor in self._seen}
        found += [(name, tensor) for name, tensor in self._seen if taps[name] == name]
        self.aliases = {name: other for name, other in taps.items() if other != name}
        self._seen, self._recorder = [], Recorder(self._framework)
        self.names = tuple(name for name, _ in found)
        tensors = tuple(tensor for _, tensor in found)
        return tensors if len(tensors) > 1 else tensors[0]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the network, for its tensors."""
        return outputs_of(self.arrange(self.run(*inputs)))


def export(session: Session, spec: RunSpec, job: Mapping[str, Any]) -> dict[str, Any]:
    """Write the network of `spec` to the job's `file`, and say what its tensors are called there.

    `kind` is what to write ("onnx", …), `opset` a graph's version, `dynamic` whether images may have other sizes,
    `fold` whether batch norms are folded, `labels` whether it gives classes. Raises MissingFramework if an exporter
    is not installed, ParityError if folding changes what the network computes.
    """
    framework, pair = session.framework, session.pair(spec)
    exporter = importlib.import_module(f"stdc_parity.models_{framework.SIDE}.export")
    inputs = session.inputs(spec)
    folded: list[tuple[str, str]] = []
    gap = 0.0
    if job.get("fold"):
        network, folded, gap = _folded(session, spec, exporter, inputs)
    else:
        network = session.own_network(spec)
    traced = Traced(framework, network, pair, spec.taps, bool(job.get("labels")))
    tensors = [framework.to_tensor(array) for array in inputs]
    with framework.no_grad():
        traced(*tensors)
    names, aliases = traced.names, traced.aliases
    flat = exporter.Flat(network, traced.run, lambda result: traced.arrange(result))
    framework.set_mode(flat, "eval")
    axes = [_axes(array) if job.get("dynamic") else {} for array in inputs]
    try:
        given = exporter.SAVERS[job["kind"]](flat, tensors, job["file"], axes, names, job.get("opset", 0))
    except ImportError as error:
        raise MissingFramework(f"exporting from {framework.SIDE} needs what is not installed: {error}") from None
    kinds = framework.official_names(network)
    return {
        "outputs": list(names),
        "aliases": aliases,
        "tensors": {theirs: kinds[own][0] for theirs, own in given.items()},
        "transposed": [name for name, kind in kinds.values() if is_transposed(framework.SIDE, kind)],
        "folded": [f"{conv}.weight" for conv, _ in folded],
        "folded_norms": [f"{norm}.{name}" for _, norm in folded for name in NORM_TENSORS],
        "gap": gap,
        "facts": framework.facts(),
    }


def _folded(
    session: Session, spec: RunSpec, exporter: Any, inputs: Sequence[Array]
) -> tuple[Network, list[tuple[str, str]], float]:
    """The network with its batch norms folded in float64 and rounded once, their convolutions, and how much
    folding changes the outputs in float64, as a fraction of their scale. Raises ParityError if that is too much."""
    from dataclasses import replace

    framework, pair = session.framework, session.pair(spec)
    network = session.own_network(replace(spec, dtype="float64"))
    wide = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in inputs]
    tensors = [framework.to_tensor(array) for array in wide]
    traced = Traced(framework, network, pair, "outputs", labels=False)
    with framework.no_grad():
        before = [framework.to_array(tensor) for tensor in traced(*tensors)]
        folded = exporter.fold_batch_norms(network, traced, tensors)
        after = [framework.to_array(tensor) for tensor in traced(*tensors)]
    gap = max(float(np.abs(a - b).max() / (np.abs(a).max() or 1.0)) for a, b in zip(before, after, strict=True))
    if not gap <= FOLDED:
        raise ParityError(
            f"folding {len(folded)} batch norms changes the outputs by {gap:.1e} of scale in float64",
            "Something else uses what a convolution gives to its norm. Export it without folding.",
        )
    framework.set_dtype(network, spec.dtype)
    return network, folded, gap


def _axes(array: Array) -> dict[int, str]:
    """The axes of an input that may change: the batch, and an image's height and width."""
    return {0: "batch", 2: "height", 3: "width"} if array.ndim == 4 else {0: "batch"}
