"""One side's part of a derivation, in that side's process: its table, seeded values for it, and runs of it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdc_parity.align.derivation.calls import figures
from stdc_parity.align.derivation.table import Table
from stdc_parity.align.derivation.values import telling_values
from stdc_parity.align.framework import Array, Framework, Network
from stdc_parity.align.record import Record, load_record, save_record
from stdc_parity.align.recorder import tensors_in
from stdc_parity.converters.errors import UsageError

WEIGHTS, INPUTS, OUTPUTS = "derive-weights", "derive-inputs", "derive-outputs"


class Bench:
    """A network of one side in float64, and what it was built with."""

    def __init__(self, framework: Framework, job: Mapping[str, Any]) -> None:
        """Build what the job's `builder`, `package.module:function`, gives for its `arguments`."""
        self.framework = framework
        self.network: Network = build(framework, job)
        framework.set_dtype(self.network, "float64")
        tabulate = importlib.import_module(f"stdc_parity.align.capture_table_{framework.SIDE}")
        self.table: Table = tabulate.table(self.network)
        tabulate.make_runnable(self.network)
        self.initial = framework.state(self.network)

    def do(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The table, seeded values (a record of them), or a run (its calls, and a record of its outputs)."""
        if job["do"] == "derive-table":
            return {"table": self.table.to_json(), "facts": self.framework.facts()}
        run = Path(job["run"])
        if job["do"] == "derive-values":
            values = telling_values(self.table, self.initial, job["seed"], job["kept"], job["zeros"])
            self._save(WEIGHTS, values, run)
            return {}
        return self._run(job, run)

    def _save(self, stage: str, arrays: Mapping[str, Array], run: Path) -> None:
        save_record(Record(self.framework.SIDE, stage, (), arrays), run)

    def _run(self, job: Mapping[str, Any], run: Path) -> dict[str, Any]:
        framework, network = self.framework, self.network
        given = load_record(run, framework.SIDE, WEIGHTS).arrays
        framework.load(network, {name: given.get(name, own) for name, own in self.initial.items()})
        framework.set_mode(network, job["mode"])
        inputs = load_record(run, "torch", INPUTS).arrays
        calls: list[dict[str, Any]] = []
        watched, stops = set(job["watch"]), []
        for path, module in framework.modules(network):
            if path in watched and path:
                stops.append(framework.watch(module, self._watcher(path, calls)))
        try:
            with framework.no_grad():
                tensors = [framework.to_tensor(array) for array in inputs.values()]
                result = getattr(network, job["method"])(*tensors) if job["method"] else network(*tensors)
        finally:
            for stop in stops:
                stop()
        arrays = {name or "output": framework.to_array(tensor) for name, tensor in tensors_in(result, framework)}
        self._save(OUTPUTS, arrays, run)
        return {"calls": calls}

    def _watcher(self, path: str, calls: list[dict[str, Any]]) -> Any:
        def seen(inputs: Any, output: Any) -> None:
            sides = {"inputs": inputs, "outputs": output}
            calls.append({"path": path} | {name: self._figures(value) for name, value in sides.items()})

        return seen

    def _figures(self, value: Any) -> list[tuple[float, ...]]:
        return [figures(self.framework.to_array(tensor)) for _, tensor in tensors_in(value, self.framework)]


def derive(benches: dict[str, Bench], framework: Framework, job: Mapping[str, Any]) -> dict[str, Any]:
    """Do one job of a derivation; its network is built once, and kept in `benches`."""
    key = json.dumps([job["builder"], job.get("arguments", {})])
    if key not in benches:
        benches.clear()
        benches[key] = Bench(framework, job)
    return benches[key].do(job)


def build(framework: Framework, job: Mapping[str, Any]) -> Network:
    """The network of a job. Raises UsageError if its builder cannot be found."""
    for folder in reversed(job.get("path", ())):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    place, _, function = job["builder"].partition(":")
    try:
        factory = getattr(importlib.import_module(place), function or "build")
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"--{framework.SIDE} {job['builder']}: {error}",
            "It is package.module:function, found from the current folder; the function returns the network.",
        ) from None
    return factory(**job.get("arguments", {}))
