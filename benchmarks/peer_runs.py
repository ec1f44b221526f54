"""PaDiff or reprod_log on the corpus: what `peers.py` starts in the environment that has them.

Reads a request as JSON from stdin: the tool, the ids of the entries, and the tolerances if an earlier process
has found them already. Writes a JSON object a line: the versions, the tolerances, then what became of each
entry. Both frameworks are in this one process, as both tools want it.
"""

from __future__ import annotations

import bisect
import contextlib
import importlib.metadata
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle
import torch
from padiff import auto_diff
from reprod_log import ReprodDiffHelper, ReprodLogger
from reprod_log.utils import check_print_diff

from stdc_parity.align import capture_paddle, capture_torch
from stdc_parity.align.ladder import CAPTURES, RUNGS
from stdc_parity.align.run import possible_rungs
from stdc_parity.align.selftest import BASE, SIZE
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call, outputs_of
from stdc_parity.align.stages.loss import build_loss
from stdc_parity.align.stages.optimizer import base_rate, build_optimizer
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES

LOGS = Path(sys.path[0], "diff_log")
"""Where PaDiff writes what does not go to stdout."""

WIDE = " float64"
"""What the names of checks end in that run in float64: there rounding is no excuse for a wide tolerance."""

GRID = [step * 10.0**power for power in range(-13, 0) for step in (1, 2, 5)]
"""The tolerances that PaDiff is tried with, tightest first: 1e-13 to 0.5."""

PLAIN = (1e-4, 1e-6, 1e-8)
"""The tolerance of PaDiff's own tutorial, and what to try for differences that are smaller."""

FAR, NOTHING = 100, 1e-5
"""A look-alike that needs so many times what the clean pair needs, and more than float32's rounding, is reported
as it is: limits that let it pass would blind a tool."""

Limits = dict[str, float]


@dataclass(frozen=True)
class Alarm:
    """A difference that a tool reports, and the places that it names for it; none if it names no place."""

    phase: str
    places: Sequence[str]


class Peer(Protocol):
    """A tool: what it runs of a pair, the tightest limits that let a case pass, and its check with given ones."""

    def phases(self, subject: str) -> list[str]:
        """The names of its checks of a pair, in the order in which they are made."""

    def tightest(self, phase: str, spec: RunSpec, least: Limits) -> Limits | None:
        """`least`, widened as little as lets `spec` pass; None if nothing does."""

    def check(self, phase: str, spec: RunSpec, limits: Limits) -> Alarm | None:
        """The first difference beyond `limits`."""


def run_of(subject: str, ids: Sequence[str] = ()) -> RunSpec:
    """The run that the self-test makes of a pair with some bugs."""
    return RunSpec(subject, SIZE, base=BASE, batch=2, plant=tuple(ids))


def open_sessions() -> dict[str, Session]:
    """A session of each side; PaDiff takes Paddle's first."""
    return {"torch": Session(capture_torch), "paddle": Session(capture_paddle)}


class TorchCall(torch.nn.Module):
    """The torch network behind keyword arguments, which is how auto_diff calls it."""

    def __init__(self, net: Any, pair: Any) -> None:
        super().__init__()
        self.net, self.pair = net, pair

    def forward(self, **given: Any) -> Any:
        """Call the network as its pair does."""
        return call(self.net, self.pair, list(given.values()))


class PaddleCall(paddle.nn.Layer):
    """The same around the Paddle network."""

    def __init__(self, net: Any, pair: Any) -> None:
        super().__init__()
        self.net, self.pair = net, pair

    def forward(self, **given: Any) -> Any:
        """Call the network as its pair does."""
        return call(self.net, self.pair, list(given.values()))


WRAPPERS = {"torch": TorchCall, "paddle": PaddleCall}


class PaDiff:
    """auto_diff in seven calls, each elementwise with a tolerance of its own.

    The weights are loaded already (auto_weights would copy torch's over them). A LayerMap pairs the layers that
    have no parameters and those whose parameters are arranged otherwise: without it PaDiff does not look at them.
    It cannot hold layers that are called more than once ("Duplicate key or values, check your LayerMap").
    """

    WRITTEN_OTHERWISE = ("LSTM", "GRU", "MultiHeadAttention", "MultiheadAttention")
    STEPS = 3

    def __init__(self) -> None:
        self.sessions = open_sessions()
        self.once: dict[str, list[str]] = {}

    def phases(self, subject: str) -> list[str]:
        """Forward in both modes, with the loss and backward, and some steps if the pair has an optimizer."""
        trains = self.sessions["torch"].pair(run_of(subject)).recipe is not None
        checks = [name + dtype for name in ("eval", "train", "backward") for dtype in ("", WIDE)]
        return checks + ([f"steps{WIDE}"] if trains else [])

    def tightest(self, phase: str, spec: RunSpec, least: Limits) -> Limits | None:
        """The first tolerance of the grid that passes."""
        possible = [tolerance for tolerance in GRID if tolerance >= least.get("", 0.0)]
        if least and self._difference(phase, spec, possible[0]) is None:
            return least
        first = bisect.bisect(possible, False, key=lambda t: self._difference(phase, spec, t) is None)
        return {"": possible[first]} if first < len(possible) else None

    def check(self, phase: str, spec: RunSpec, limits: Limits) -> Alarm | None:
        """Whether there is a difference is asked with the tightest tolerance; where it is, with one at which
        the layers before it, whose rounding may be larger than the output's, are not named in its place."""
        alarm = self._difference(phase, spec, limits[""])
        wider = (self._difference(phase, spec, plain) for plain in PLAIN if plain > limits[""])
        return alarm and next(filter(None, wider), alarm)

    def _difference(self, phase: str, spec: RunSpec, tolerance: float) -> Alarm | None:
        what = phase.removesuffix(WIDE)
        dtype = "float64" if phase.endswith(WIDE) else "float32"
        spec = replace(spec, mode="eval" if what == "eval" else "train", dtype=dtype)
        try:
            arguments = self._arguments(what, spec)
        except Exception:  # a planted network that cannot even be built
            return Alarm(phase, ["paddle failed"])
        arguments["options"] = {
            "atol": tolerance,
            "rtol": tolerance,
            "compare_mode": "strict",
            "diff_phase": "forward" if what in ("eval", "train") else "both",
        }
        for file in LOGS.glob("*.log"):
            file.unlink()
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                passed = auto_diff(**arguments)
        except Exception as error:
            failed = "running forward of paddle_layer" in str(error)
            return Alarm(phase, ["paddle failed"] if failed else [])
        if passed:
            return None
        words = said.getvalue() + "\n".join(f.read_text() for f in LOGS.glob("*.log"))
        marked = re.findall(r"\(PaddleCall\.?([^()]*)\)\s+<---  \*\*\* HERE", words)
        listed = re.findall(r"paddle path:\s+PaddleCall\.(\S+)", words)  # parameters, in the network's order
        places = marked or [listed[-1], listed[0]] if marked or listed else []
        return Alarm(phase, [place.removeprefix("net").removeprefix(".") or "network" for place in places])

    def _arguments(self, phase: str, spec: RunSpec) -> dict[str, Any]:
        networks, inputs, losses, steps, layers = {}, {}, {}, {}, {}
        for side, session in self.sessions.items():
            network, framework = session.network(spec, fresh=True), session.framework
            networks[side] = WRAPPERS[side](network, session.pair(spec))
            arrays, target = session.inputs(spec), None
            if phase in ("backward", "steps"):
                arrays, labels = session.training_case(spec)
                loss, target = build_loss(session, spec), framework.to_tensor(labels)
                losses[side] = _total(loss, target)
                if phase == "steps":
                    steps[side] = _step(build_optimizer(session, spec, network, loss, base_rate(session, spec)))
            given = framework.to_tensor if phase == "steps" else _with_gradient(framework)
            inputs[side] = {f"x{i}": given(array) for i, array in enumerate(arrays)}
            once = self._called_once(spec)
            layers[side] = {p: m for p, m in self._mapped(framework.modules(network)) if p in once}
        return {
            "layer": networks["paddle"],
            "module": networks["torch"],
            "example_inp": (inputs["paddle"], inputs["torch"]),
            "auto_weights": False,
            "layer_map": {
                m: layers["paddle"][path] for path, m in layers["torch"].items() if path in layers["paddle"]
            },
            "loss_fn": (losses["paddle"], losses["torch"]) if losses else None,
            "optimizer": (steps["paddle"], steps["torch"]) if steps else None,
            "steps": self.STEPS if steps else 1,
        }

    def _called_once(self, spec: RunSpec) -> list[str]:
        """The paths of the modules that the clean torch network calls once."""
        if spec.pair not in self.once:
            session, clean = self.sessions["torch"], replace(spec, mode="eval", plant=())
            network, framework, calls = session.network(clean, fresh=True), session.framework, list[str]()
            for path, module in framework.modules(network):
                framework.watch(module, lambda given, result, path=path: calls.append(path))
            with framework.no_grad():
                call(network, session.pair(clean), [framework.to_tensor(a) for a in session.inputs(clean)])
            self.once[spec.pair] = [path for path in calls if calls.count(path) == 1]
        return self.once[spec.pair]

    def _mapped(self, modules: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        whole: list[str] = []
        for path, module in modules:
            if not path or any(path.startswith(f"{outer}.") for outer in whole):
                continue
            if type(module).__name__ in self.WRITTEN_OTHERWISE:
                whole.append(path)
                yield path, module
            elif not list(module.children()) and not list(module.parameters()):
                yield path, module


def _with_gradient(framework: Any) -> Any:
    """A tensor that networks without parameters have a backward pass for, and that can be changed in place."""
    return lambda array: framework.variable(array).clone()


def _total(loss: Any, target: Any) -> Any:
    return lambda output: loss(outputs_of(output), target)[0]


def _step(optimizer: Any) -> Any:
    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return step


class ReprodLog:
    """ReprodLogger and ReprodDiffHelper with the very taps that stdc-align records.

    A file for each rung and kind of tap, each with a threshold of its own on the largest absolute difference.
    """

    LEFT_OUT = ("input",)
    TRAINING = ("loss", "rate")
    """What is logged of a training: single weights go their own ways after some steps."""

    def __init__(self) -> None:
        self.sessions = open_sessions()

    def phases(self, subject: str) -> list[str]:
        """Every rung, those that compute once more in float64."""
        rungs = possible_rungs(list(RUNGS), self.sessions["torch"].pair(run_of(subject)), SIZE)
        again = [f"{name}{WIDE}" for name in rungs if RUNGS[name].arbitrated or name == "optimizer"]
        return sorted([*rungs, *again], key=lambda name: rungs.index(name.removesuffix(WIDE)))

    def tightest(self, phase: str, spec: RunSpec, least: Limits) -> Limits | None:
        """The largest difference of each kind."""
        found = self._differences(phase, spec)
        if isinstance(found, Alarm):
            return None
        limits = dict(least)
        for kind, rows in found[0].items():
            limits[kind] = max([limits.get(kind, 0.0), *(float(row["max"]) for row in rows.values())])
        return limits

    def check(self, phase: str, spec: RunSpec, limits: Limits) -> Alarm | None:
        """The first tap of the run that is beyond its kind's threshold."""
        found = self._differences(phase, spec)
        if isinstance(found, Alarm):
            return found
        differences, paths = found
        bad = []
        for kind, rows in differences.items():
            for name, row in rows.items():
                if not check_print_diff({name: row}, "max", limits.get(kind, 0.0), lambda line: None):
                    bad.append(name)
        first = next((name for name in paths if name in bad), None)
        return None if first is None else Alarm(phase, [first, paths[first] or "network"])

    def _differences(self, phase: str, spec: RunSpec) -> Alarm | tuple[dict[str, Any], dict[str, str]]:
        """What compare_info makes of each kind of tap, and every tap's module in the order of the run."""
        rung = RUNGS[phase.removesuffix(WIDE)]
        spec, logs, paths = rung.spec(spec), {}, {}
        if phase.endswith(WIDE):
            spec = replace(spec, dtype="float64")
        for side, session in self.sessions.items():
            try:
                record = CAPTURES[rung.stage](session, spec)
            except Exception:
                return Alarm(phase, [f"{side} failed"])
            logs[side] = {}
            for tap in record.taps:
                array = record.arrays[tap.name]
                left_out = tap.kind in self.LEFT_OUT or (phase == "train" and tap.kind not in self.TRAINING)
                if not left_out and array.size:
                    log = logs[side].setdefault(tap.kind, ReprodLogger())
                    log.add(tap.name, array.astype(np.int8) if array.dtype == bool else array)
                    paths.setdefault(tap.name, tap.path)
        if logs["torch"].keys() != logs["paddle"].keys():
            return Alarm(phase, [])
        helper, differences = ReprodDiffHelper(), {}
        for kind, log in logs["torch"].items():
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    helper.compare_info(log.data, logs["paddle"][kind].data)
            except Exception:  # a name that one side lacks, shapes that do not broadcast
                return Alarm(phase, [])
            differences[kind] = helper.diff_dict
        return differences, paths


PEERS = {"padiff": PaDiff, "reprod_log": ReprodLog}


def calibrate(peer: Peer, subject: str) -> dict[str, Limits]:
    """The tightest limits of each phase that let the clean pair and its harmless entries pass.

    A phase that no limits let the clean pair pass in is left out: the tool cannot run it.
    """
    harmless = [entry.id for entry in ENTRIES.values() if entry.harmless and entry.subject == subject]
    tolerances: dict[str, Limits] = {}
    for phase in peer.phases(subject):
        clean = limits = peer.tightest(phase, run_of(subject), {})
        if clean is None or limits is None:
            continue
        for name in harmless:
            wider = peer.tightest(phase, run_of(subject, [name]), limits)
            if wider and all(wider[k] <= max(FAR * clean.get(k, 0.0), NOTHING) for k in wider):
                limits = wider
        tolerances[phase] = limits
    return tolerances


def main() -> None:
    request = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr

    def tell(**answer: Any) -> None:
        print(json.dumps(answer), file=out, flush=True)

    torch.set_num_threads(1)
    packages = (request["tool"], "torch", "paddlepaddle", "numpy")
    tell(versions={name: importlib.metadata.version(name.replace("_", "-")) for name in packages})
    peer = PEERS[request["tool"]]()
    tolerances: dict[str, dict[str, Limits]] = request["tolerances"] or {}
    for subject in dict.fromkeys(ENTRIES[name].subject for name in request["ids"]):
        if subject not in tolerances:
            tolerances[subject] = calibrate(peer, subject)
            tell(tolerances=tolerances)
    for name in request["ids"]:
        subject, alarm = ENTRIES[name].subject, None
        for phase, limits in tolerances[subject].items():
            alarm = alarm or peer.check(phase, run_of(subject, [name]), limits)
        tell(finding={"id": name, "alarm": alarm.__dict__ if alarm else None})


if __name__ == "__main__":
    main()
