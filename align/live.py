"""Modules that exist already, side by side in this process: what a test of somebody's port needs.

Works on copies: neither module's tensors, dtype nor mode change.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stdc_parity.align.compare import Judging
from stdc_parity.align.describe import describe_run, describe_waivers
from stdc_parity.align.framework import Array, Framework, Network, load_framework
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import hash_arrays
from stdc_parity.align.render_terminal import describe_divergence
from stdc_parity.align.report import write_report
from stdc_parity.align.result import Failure, RunResult, StageResult, Verdict
from stdc_parity.align.run import climb_pair
from stdc_parity.align.session import Session
from stdc_parity.align.sides import Worker, missing_framework, read_reply
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.spec import Side as AnySide
from stdc_parity.align.waivers import load_waivers
from stdc_parity.align.worker import answer
from stdc_parity.converters.architecture import Side, is_transposed
from stdc_parity.converters.errors import UsageError

REFERENCE: Side = "torch"
OTHER: Side = "paddle"


class LiveSession(Session):
    """A session whose network is a copy of a module that exists already."""

    def __init__(
        self, framework: Framework, module: Network, tensors: Mapping[str, Array], arrays: Sequence[Array], pair: Pair
    ) -> None:
        """Take the module, the tensors to load into its copies, by its own names, and what it is called with."""
        super().__init__(framework)
        self._module, self._tensors, self._arrays, self._pair = module, tensors, arrays, pair

    def inputs(self, spec: RunSpec) -> list[Array]:
        """The arrays that were given; those of a floating-point type in the dtype of `spec`."""
        return [array.astype(spec.dtype) if array.dtype.kind == "f" else array for array in self._arrays]

    def _loaded(self, spec: RunSpec) -> tuple[Pair, Mapping[str, Array] | None, str]:
        return self._pair, self._tensors, hash_arrays(self._tensors)

    def _built(self, spec: RunSpec) -> tuple[Network, Mapping[str, Array]]:
        network = copy.deepcopy(self._module)
        self.framework.set_dtype(network, spec.dtype)
        return network, self._tensors


@dataclass
class LiveSide:
    """One side in this process; a module's own exception is a finding, a crash of the process is not caught."""

    side: Side
    session: LiveSession
    _reply: dict[str, Any] = field(default_factory=dict)

    def ask(self, job: Mapping[str, Any]) -> None:
        """Do the job at once; `answer` returns what came of it."""
        self._reply = answer(self.session, job)

    def answer(self) -> dict[str, Any] | Failure:
        """What the last job gave. Raises ParityError."""
        return read_reply(self.side, self._reply)


def check_parity(
    torch_module: Network,
    paddle_layer: Network,
    inputs: Any,
    *,
    load: bool = True,
    backward: bool = False,
    mode: Any = "eval",
    dtype: Any = "float32",
    taps: Any = "outputs",
    tol: float = 1e-5,
    atol: float | None = None,
    rtol: float | None = None,
    arbiter: Any = "auto",
    strict: bool = False,
    seed: int = 0,
    waivers: str | Path | None = None,
    name: str = "parity",
) -> RunResult:
    """Run both modules on `inputs` and judge them as `stdc-align` does; see `assert_parity` for the options."""
    sides = {REFERENCE: (_framework(REFERENCE), torch_module), OTHER: (_framework(OTHER), paddle_layer)}
    tensors = {side: framework.state(module) for side, (framework, module) in sides.items()}
    if load:
        tensors[OTHER] = translate_state(sides[REFERENCE], sides[OTHER])
    children = [path for path, _ in sides[REFERENCE][0].modules(torch_module) if path]
    pair = Pair(name, {}, None, ("output",), tuple(path for path in children if "." not in path))
    arrays = _arrays(inputs)
    workers: dict[AnySide, Worker] = {
        side: LiveSide(side, LiveSession(framework, module, tensors[side], arrays, pair))
        for side, (framework, module) in sides.items()
    }
    rungs = [] if load else ["weights"]
    rungs += ["forward-train" if mode == "train" else "forward", *(["backward"] if backward else [])]
    spec = RunSpec(name, (0, 0), batch=0, exact_batch=True, seed=seed, mode=mode, dtype=dtype, taps=taps)
    judging = Judging(
        Tolerance(tol, atol, rtol), arbiter, strict, None, load_waivers(Path(waivers)) if waivers else ()
    )
    said = "the PyTorch module's weights" if load else "each module's own weights"
    return climb_pair(workers, rungs, spec, judging, pair, said)


def assert_parity(
    torch_module: Network,
    paddle_layer: Network,
    inputs: Any,
    *,
    report: str | Path | None = None,
    **options: Any,
) -> RunResult:
    """Assert that a torch.nn.Module and a paddle.nn.Layer compute the same, and return the run's result.

    `inputs` is what both are called with: an array or a tensor of either framework, or a tuple or list of them;
    floating-point ones are cast to `dtype` ("float32"). With `load` (the default) the layer computes with the
    module's weights, by name, linear weights transposed; without it with its own, which are compared first. `mode`
    is "eval" or "train"; with `backward` the gradients of inputs and parameters are compared too, in train mode,
    from a seeded (`seed`) random projection of the outputs. `taps` is "outputs", or "modules" for every module's
    output where both sides have the same modules. `tol`, `atol`, `rtol`, `arbiter` and `strict` are the command's.
    `waivers` is a file of waivers, `report` a folder to write the reports to, `name` what the run is called.

    Raises AssertionError with the command's own words: the first module that differs by itself, and why. Raises
    UsageError if the weights do not fit the layer. Both modules stay as they are.
    """
    __tracebackhide__ = True
    result = check_parity(torch_module, paddle_layer, inputs, **options)
    if report is not None:
        write_report(result, Path(report))
    if not result:
        raise AssertionError("\n".join(describe(result)))
    return result


def describe(result: RunResult) -> list[str]:
    """The message of a failed assertion."""
    lines = [f"{result.spec.pair}: {result.verdict.value}, {describe_run(result)}"]
    for stage in result.stages:
        if stage.verdict is Verdict.DIVERGED:
            lines += _describe_stage(stage)
    return [*lines, *describe_waivers(result)]


def _describe_stage(stage: StageResult) -> list[str]:
    if stage.failures:
        name = stage.stage
        return [f"{name}: the {each.side} side failed: {each.message}\n{each.note}" for each in stage.failures]
    bad = sum(not c for c in stage.comparisons)
    head = f"{stage.stage}: {bad} of {len(stage.comparisons)} taps differ · {stage.tolerance}"
    return [head, *describe_divergence(stage), *stage.remarks]


def translate_state(
    reference: tuple[Framework, Network], other: tuple[Framework, Network]
) -> dict[str, Array]:
    """The reference's tensors by the other side's names and in its shapes; batch counters have no place in Paddle.

    Raises UsageError that lists every tensor that has no counterpart, or another shape.
    """
    framework, module = reference
    state, names = framework.state(module), framework.official_names(module)
    given = {name: state[own] for own, (name, kind) in names.items() if kind != "norm.batches"}
    layer_framework, layer = other
    own_state, found, wrong = layer_framework.state(layer), {}, []
    for own, (name, kind) in layer_framework.official_names(layer).items():
        array = given.pop(name, None)
        if array is None:
            wrong.append(f"{own}: the {framework.SIDE} module has no {name}")
            continue
        found[own] = array.T if is_transposed(layer_framework.SIDE, kind) else array
        if found[own].shape != own_state[own].shape:
            wrong.append(f"{own}: {own_state[own].shape}, the {framework.SIDE} module's gives {found[own].shape}")
    wrong += [f"{name}: the {layer_framework.SIDE} layer has none" for name in given]
    if wrong:
        raise UsageError(
            f"the weights do not fit the layer: {'; '.join(wrong[:8])}{' …' if len(wrong) > 8 else ''}",
            "Name the layers alike, or load the weights yourself and say load=False.",
        )
    return found


def _arrays(inputs: Any) -> list[Array]:
    return [_array(each) for each in (inputs if isinstance(inputs, tuple | list) else [inputs])]


def _array(value: Any) -> Array:
    value = value.detach().cpu() if hasattr(value, "detach") else value
    return np.array(value.numpy() if hasattr(value, "numpy") else value, order="C")


def _framework(side: Side) -> Framework:
    try:
        return load_framework(side)
    except ImportError as error:
        raise missing_framework(side, str(error)) from None
