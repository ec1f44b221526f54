"""What a network costs: its parameters, and the multiplications of one forward pass, counted while it runs.

The convention, for every pair and on both sides:

- *Parameters* are the trainable ones; running statistics and counters are none.
- *MACs* are multiply-accumulates of convolutions, transposed convolutions and linear layers, padding included:
  a convolution's are its output's values times the values of one filter. Biases, norms, activations, pools,
  resampling and plain tensor arithmetic are not counted. (Papers often call MACs FLOPs: what the STDC paper gives
  for its backbones, 813 M and 1446 M at 224x224, is 806 M and 1437 M here, without the norms.)
- *FLOPs* are two for each MAC.

A module with parameters that no rule knows is named in `unknown`, so that nobody takes the sum for the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from stdc_parity.align.framework import Framework, Network
from stdc_parity.align.load import build_network
from stdc_parity.align.pair import Pair
from stdc_parity.align.result import Failure
from stdc_parity.align.session import Session
from stdc_parity.align.sides import Worker
from stdc_parity.align.spec import RunSpec, Side
from stdc_parity.align.stages.forward import call

CONV = re.compile(r"Conv\d[dD]")
TRANSPOSED = re.compile(r"ConvTranspose\dd|Conv\dDTranspose")
LINEAR = re.compile(r"Linear")
FREE = re.compile(r".*Norm.*|PReLU|Embedding")
"""The types of modules, by the name of one of their classes in either framework."""


@dataclass(frozen=True)
class ModuleCost:
    """One module with parameters of its own: how often it ran, its parameters, the MACs of all its calls."""

    path: str
    type: str
    calls: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """What a network costs on one side, module by module in the network's order; `batch` images went through."""

    modules: tuple[ModuleCost, ...]
    parameters: int
    batch: int
    unknown: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the pass."""
        return self.under("").macs

    @property
    def flops(self) -> int:
        """Floating-point operations of the pass: two for each multiply-accumulate."""
        return 2 * self.macs

    def under(self, path: str) -> ModuleCost:
        """The sum over the module at `path` and all below it; "" is the network."""
        inside = [m for m in self.modules if not path or m.path == path or m.path.startswith(f"{path}.")]
        return ModuleCost(
            path, "", sum(m.calls for m in inside), sum(m.parameters for m in inside), sum(m.macs for m in inside)
        )

    def to_json(self) -> dict[str, Any]:
        """The cost as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cost:
        """The cost that `to_json` wrote."""
        modules = tuple(ModuleCost(**module) for module in data["modules"])
        return Cost(modules, data["parameters"], data["batch"], tuple(data["unknown"]))


def measure(session: Session, spec: RunSpec) -> Cost:
    """Count one forward pass of `spec`'s network in eval mode, at its size and batch. Raises ParityError."""
    spec = replace(spec, mode="eval")
    network, pair = session.network(spec), session.pair(spec)
    inputs = [session.framework.to_tensor(array) for array in session.inputs(spec)]
    return count(session.framework, network, pair, inputs, spec.batch)


def measure_shapes(session: Session, spec: RunSpec) -> Cost:
    """The same on shapes alone, where the framework can: nothing is computed, and no weights are drawn."""
    framework, pair = session.framework, session.pair(spec)
    with framework.shapes_alone():
        network = build_network(framework, pair, "float32")
    framework.set_mode(network, "eval")
    inputs = [framework.shape_of(array) for array in session.inputs(spec)]
    return count(framework, network, pair, inputs, spec.batch)


def count(framework: Framework, network: Network, pair: Pair, inputs: Sequence[Any], batch: int = 1) -> Cost:
    """Count one forward pass of `network` on `inputs`, tensors of its framework."""
    counted: dict[str, list[int]] = {}
    unknown: dict[str, None] = {}
    stops, own = [], {}
    for path, module in framework.modules(network):
        parameters = {name: p for name, p in framework.parameters(module).items() if "." not in name}
        if parameters:
            own[path] = (type(module).__name__, sum(prod(p.shape) for p in parameters.values()))
            counted[path] = []
            stops.append(framework.watch(module, _counter(framework, path, module, counted, unknown)))
    try:
        with framework.no_grad():
            call(network, pair, inputs)
    finally:
        for stop in stops:
            stop()
    modules = [
        ModuleCost(path, kind, len(counted[path]), size, sum(counted[path])) for path, (kind, size) in own.items()
    ]
    total = sum(prod(p.shape) for p in framework.parameters(network).values())
    return Cost(tuple(modules), total, batch, tuple(unknown))


def _counter(
    framework: Framework, path: str, module: Any, counted: dict[str, list[int]], unknown: dict[str, None]
) -> Any:
    """A hook that adds the MACs of each call of `module`."""

    def seen(inputs: Sequence[Any], output: Any) -> None:
        macs = _macs(framework, module, inputs, output)
        if macs is None:
            unknown[path] = None
        counted[path].append(macs or 0)

    return seen


def _macs(framework: Framework, module: Any, inputs: Sequence[Any], output: Any) -> int | None:
    """The MACs of one call of a module, None if no rule knows its type."""
    weight = framework.tensors(module).get("weight")

    def is_a(pattern: re.Pattern[str]) -> bool:
        return any(pattern.fullmatch(kind.__name__) for kind in type(module).__mro__)

    if is_a(FREE):
        return 0
    if weight is None or not (is_a(TRANSPOSED) or is_a(CONV) or is_a(LINEAR)):
        return None
    if is_a(LINEAR):  # (out, in) in torch, (in, out) in Paddle
        return int(prod(output.shape)) * int(prod(weight.shape) // output.shape[-1])
    values = inputs[0] if is_a(TRANSPOSED) else output
    return int(prod(values.shape)) * int(prod(weight.shape[1:]))


def measure_sides(processes: Mapping[Side, Worker], spec: RunSpec) -> dict[Side, Cost | Failure]:
    """`measure` in each side's process, all at once; a side that crashes or raises gives a Failure.

    Raises ParityError for what the user can mend.
    """
    for process in processes.values():
        process.ask({"do": "cost", "spec": spec.to_json()})
    replies = {side: process.answer() for side, process in processes.items()}
    return {
        side: Cost.from_json(reply["cost"]) if isinstance(reply, dict) else reply for side, reply in replies.items()
    }
