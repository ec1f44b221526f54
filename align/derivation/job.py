"""One side's part of a derivation, in that side's process: its table, seeded values for it, and runs of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdc_parity.align.derivation.calls import figures
from stdc_parity.align.derivation.table import Table
from stdc_parity.align.derivation.values import telling_values
from stdc_parity.align.framework import Array, Framework, Network
from stdc_parity.align.load import build_network, resolve
from stdc_parity.align.own_session import OwnSession
from stdc_parity.align.record import Record, load_record, save_record
from stdc_parity.align.recorder import tensors_in
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call

WEIGHTS, OUTPUTS = "derive-weights", "derive-outputs"


class Bench:
    """A network of one side in float64, and what it was built with."""

    def __init__(self, session: Session, spec: RunSpec) -> None:
        """Build the network of `spec`, whose dtype is float64. Raises UsageError for what a user's code raises."""
        self.session, self.spec, self.pair = session, spec, resolve(spec)[0]
        self.framework: Framework = session.framework
        self.network: Network = (
            session.build(spec) if isinstance(session, OwnSession)
            else build_network(self.framework, self.pair, "float32")
        )  # fmt: skip
        self.framework.set_dtype(self.network, spec.dtype)
        self._tables: Any = importlib.import_module(f"stdc_parity.align.capture_table_{self.framework.SIDE}")
        self.table: Table = self._tables.table(self.network)
        self._tables.make_runnable(self.network)
        self.initial = self.framework.state(self.network)

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
        calls: list[dict[str, Any]] = []
        watched, stops = set(job["watch"]), []
        for path, module in framework.modules(network):
            if path in watched and path:
                stops.append(framework.watch(module, self._watcher(path, calls)))
        try:
            with framework.no_grad(), self._tables.default_dtype(self.spec.dtype):
                inputs = [framework.to_tensor(array) for array in self.session.inputs(self.spec)]
                result = call(network, self.pair, inputs)
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


def derive(session: Session, spec: RunSpec, job: Mapping[str, Any]) -> dict[str, Any]:
    """Do one job of a derivation; its network is built once, and kept in the session's `benches`."""
    if spec not in session.benches:
        session.benches.clear()
        session.benches[spec] = Bench(session, spec)
    found: dict[str, Any] = session.benches[spec].do(job)
    return found
