"""One side of a pair of one's own: its code imported from its own folder, its networks and their weights."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stdc_parity.align.carry import GIVEN, INITIAL
from stdc_parity.align.carry_rules import read_special
from stdc_parity.align.framework import Array, Framework, Network
from stdc_parity.align.own import arguments_of, own_pair
from stdc_parity.align.pair import Pair, Place
from stdc_parity.align.places import call_or_keep, calling, find, find_module, put_first
from stdc_parity.align.record import Record, load_record
from stdc_parity.align.renamed import Renamed
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call
from stdc_parity.converters.errors import UsageError


class OwnSession(Session):
    """A session whose networks come from a user's code."""

    def __init__(self, framework: Framework, spec: RunSpec) -> None:
        """Let this side's imports come from its folder. Raises UsageError for a pair file that cannot be read."""
        assert spec.own is not None
        super().__init__(framework)
        self._own, self._pair = spec.own, own_pair(spec.own)
        self._framework = framework
        self._given: Mapping[str, Array] | None = None
        self._sha256 = ""
        if framework.SIDE in self._pair.paths:
            put_first(self._pair.paths[framework.SIDE])

    def build(self, spec: RunSpec) -> Network:
        """A network as its code initialises it, from the run's seed. Raises UsageError for what their code raises."""
        framework, side = self._framework, self._framework.SIDE
        build = self._pair.builders[side]
        framework.seed(spec.seed)
        found = find(build, f"--{side}")
        with calling(f"--{side} {build}: building it", UsageError):
            network = call_or_keep(found, framework.is_network, arguments_of(self._own, self._pair, side))
        if isinstance(network, tuple | list) and network and framework.is_network(network[0]):
            network = network[0]
        if not framework.is_network(network):
            raise UsageError(
                f"--{side} {build} gives a {type(network).__name__}, no network",
                "It must be a module, or return one, or a tuple whose first item is one.",
            )
        return copy.deepcopy(network) if network is found else network

    def table(self, spec: RunSpec) -> dict[str, Any]:
        """The network's modules and tensors, as JSON: paths with types; own names with official name, kind, shape."""
        network = self.build(spec)
        state = self._framework.state(network)
        tabulate = importlib.import_module(f"stdc_parity.align.capture_table_{self._framework.SIDE}")
        return {
            "derived": tabulate.table(network).to_json(),
            "modules": [[path, type(module).__name__] for path, module in self._framework.modules(network)],
            "tensors": {
                own: [name, kind, list(state[own].shape)]
                for own, (name, kind) in self._framework.official_names(network).items()
            },
        }

    def initial_record(self, spec: RunSpec) -> Record:
        """What the network's tensors are before anything is loaded, by this side's names."""
        return Record(self._framework.SIDE, INITIAL, (), self._framework.state(self.build(spec)))

    def calls(self, spec: RunSpec) -> list[tuple[str, str]]:
        """What a forward pass calls, as `own_floors.floors_of` takes it; nothing if it fails: a rung will say so."""
        framework, network, found, inside = self._framework, self.build(spec), [], [""]
        notice: Any = getattr(framework, "noticed", None)
        if notice is None:
            return []
        self._framework.set_mode(network, "eval")
        for path, module in framework.modules(network):
            if path:
                module.register_forward_pre_hook(lambda *_, path=path: inside.append(path))
                framework.watch(module, lambda *_, path=path: found.append(("", inside.pop())))
        try:
            with framework.no_grad(), notice(lambda name: found.append((name, inside[-1]))):
                call(network, self._pair, [framework.to_tensor(array) for array in self.inputs(spec)])
        except Exception:
            return []
        return found

    def set_up(self, job: Mapping[str, Any]) -> None:
        """Take what to load, a record of some tensors by this side's names, and what the other side calls things."""
        self._given = load_record(Path(job["given"]), self._framework.SIDE, GIVEN).arrays
        self._sha256, self._pair = job["sha256"], replace(self._pair, stages=tuple(job["stages"]))
        self.special = read_special(job["special"])
        modules, tensors = job["modules"], {own: tuple(of) for own, of in job["tensors"].items()}
        renamed: Any = Renamed(self._framework, modules, tensors)
        self.framework = renamed if modules or tensors else self._framework

    def module(self, spec: RunSpec, place: Place) -> Any:
        """This side's module of a place."""
        side = self._framework.SIDE
        return find_module(place[side].rpartition(":")[0] or place[side], f"--pair, on the {side} side:")

    def part(self, spec: RunSpec, place: Place) -> Any:
        """What is at a place on this side."""
        side = self._framework.SIDE
        return find(place[side], f"--pair, on the {side} side:")

    def _loaded(self, spec: RunSpec) -> tuple[Pair, Mapping[str, Array] | None, str]:
        return self._pair, self._given, self._sha256

    def _built(self, spec: RunSpec) -> tuple[Network, Mapping[str, Array]]:
        network = self.build(spec)
        self.framework.set_dtype(network, spec.dtype)
        state = self.framework.state(network)
        given = {name: array for name, array in (self._given or {}).items() if name in state}
        return network, {name: np.asarray(given.get(name, array)) for name, array in state.items()}


def session_of(session: Session, spec: RunSpec) -> Session:
    """`session`, or the one for the user's own pair that `spec` is about, which it keeps."""
    if spec.own is None or isinstance(session, OwnSession):
        return session
    if session.other is None or session.other[0] != spec.own:
        session.other = (spec.own, OwnSession(session.framework, spec))
    kept: Session = session.other[1]
    return kept
