"""The forward stage: clean twins pass, and every planted fault is found at the right module."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.align import capture_paddle, capture_torch
from stdc_parity.align.arbiter import AGREED
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.localise import blame
from stdc_parity.align.result import Comparison
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages import forward

torch.set_num_threads(1)
BACKBONE = "cp.backbone.features"


def run(
    spec: RunSpec, mutate: Callable[[Any], None] | None = None
) -> tuple[list[Comparison], list[Comparison]]:
    """Both sides of `spec` in this process, the Paddle network changed by `mutate`: comparisons and blame."""
    torch_side, paddle_side = Session(capture_torch), Session(capture_paddle)
    if mutate is not None:

        class Mutated(Session):
            def network(self, spec: RunSpec) -> Any:
                network = super().network(spec)
                mutate(network)
                return network

        paddle_side = Mutated(capture_paddle)
    tolerance = Tolerance(1e-5)
    comparisons = compare_records(
        *(forward.capture(side, spec) for side in (torch_side, paddle_side)), tolerance
    )
    double = replace(spec, dtype="float64")
    reference = forward.capture_calls(torch_side, double)
    own = forward.replay(torch_side, double, reference)
    replayed = forward.replay(paddle_side, double, reference)
    floors = torch_side.pair(spec).floors
    return comparisons, blame(compare_records(own, replayed, Tolerance(AGREED), floors))


def small(**options: Any) -> RunSpec:
    return RunSpec(**{"pair": "stdc2-seg", "size": (64, 128), "base": 8, **options})


@pytest.mark.parametrize("pair", ["stdc1-seg", "stdc2-seg", "stdcnet813", "stdcnet1446"])
@pytest.mark.parametrize("options", [
    {}, {"taps": "modules"}, {"taps": "outputs", "size": (97, 161)},
    {"mode": "train", "batch": 2, "dtype": "float64"},
])  # fmt: skip
def test_clean_twins_agree(pair: str, options: dict[str, Any]) -> None:
    comparisons, blamed = run(small(pair=pair, **options))
    assert [c.tap for c in comparisons if not c] == []
    assert blamed == []


def set_setting(path: str, name: str, value: object) -> Callable[[Any], None]:
    def mutate(network: Any) -> None:
        layer = dict(network.named_sublayers())[path]
        assert hasattr(layer, name)
        setattr(layer, name, value)

    return mutate


def change_weight(path: str, change: Callable[[np.ndarray], None]) -> Callable[[Any], None]:
    def mutate(network: Any) -> None:
        parameter = dict(network.named_parameters())[path]
        array = parameter.numpy().copy()
        change(array)
        parameter.set_value(array)

    return mutate


def add_to_one(array: np.ndarray) -> None:
    array.reshape(-1)[array.size // 2] += 0.5


def swap_channels(array: np.ndarray) -> None:
    array[[0, 1]] = array[[1, 0]]


def make_nan(array: np.ndarray) -> None:
    array.reshape(-1)[3] = np.nan


FAULTS = [
    (set_setting(f"{BACKBONE}.3.conv_list.1.bn", "_epsilon", 1e-3), f"{BACKBONE}.3.conv_list.1.bn"),
    (set_setting(f"{BACKBONE}.6.skip", "exclusive", True), f"{BACKBONE}.6.skip"),
    (change_weight(f"{BACKBONE}.0.conv.weight", add_to_one), f"{BACKBONE}.0.conv"),
    (change_weight("conv_out.conv.conv.weight", swap_channels), "conv_out.conv.conv"),
    (change_weight("ffm.conv1.weight", make_nan), "ffm.conv1"),
    (set_setting("ffm.relu", "forward", lambda x: paddle.clip(x, -0.1)), "ffm.relu"),
    (set_setting("cp", "forward", None), "cp"),
]  # fmt: skip


@pytest.mark.parametrize(("mutate", "path"), FAULTS, ids=[path for _, path in FAULTS])
def test_a_fault_is_found_at_its_module(mutate: Callable[[Any], None], path: str) -> None:
    if path == "cp":  # the module's own code, between its parts

        def mutate(network: Any) -> None:
            original = type(network.cp).forward

            def changed(x: Any) -> Any:
                *others, last = original(network.cp, x)
                return (*others, last * 1.001)

            network.cp.forward = changed

    comparisons, blamed = run(small(), mutate)
    assert any(not c for c in comparisons)
    assert [next(iter(c.paths.values())) for c in blamed] == [path]


def test_three_faults_are_all_named() -> None:
    def mutate(network: Any) -> None:
        for one, _ in FAULTS[:4]:
            one(network)

    _, blamed = run(small(), mutate)
    assert {next(iter(c.paths.values())) for c in blamed} == {path for _, path in FAULTS[:4]}


def test_statistics_of_a_norm_that_moves_too_slowly_are_found() -> None:
    path = f"{BACKBONE}.2.conv_list.2.bn"
    comparisons, blamed = run(
        small(mode="train", batch=2, dtype="float64"), set_setting(path, "_momentum", 0.99)
    )
    assert [c.tap for c in comparisons if not c] == [f"{path}.running_mean", f"{path}.running_var"]
    assert [next(iter(c.paths.values())) for c in blamed] == [path]
