"""Parity in other projects' tests: the assertion, the fixture, and that the plugin costs nothing until it is used."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.align.pytest_plugin import assert_parity
from stdc_parity.converters.errors import UsageError

torch.set_num_threads(1)
IMAGE = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.bn = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


class PaddleNet(paddle.nn.Layer):
    def __init__(self, epsilon: float = 1e-5, fails: bool = False, slope: float = 0.0) -> None:
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3)
        self.bn = paddle.nn.BatchNorm2D(4, epsilon=epsilon)
        self.fc = paddle.nn.Linear(4, 5)
        self.fails, self.slope = fails, slope

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.fails:
            raise RuntimeError("out of order")
        x = paddle.nn.functional.leaky_relu(self.bn(self.conv(x)), self.slope)
        return self.fc(x.mean((2, 3)))


def state(network: Any) -> dict[str, Any]:
    return {name: np.array(tensor.numpy()) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("options", "rungs"),
    [
        ({}, ["forward"]),
        ({"backward": True}, ["forward", "backward"]),
        ({"taps": "modules", "arbiter": "always"}, ["forward"]),
        ({"dtype": "float64", "tol": 1e-12}, ["forward"]),
    ],
)
def test_a_right_port_passes_and_nothing_changes(options: dict[str, Any], rungs: list[str]) -> None:
    first, second = TorchNet(), PaddleNet()
    before = state(first), state(second), first.training, second.training
    result = assert_parity(first, second, IMAGE, **options)
    assert [stage.stage for stage in result.stages] == rungs and result
    after = state(first), state(second), first.training, second.training
    for was, now in zip(before[:2], after[:2], strict=True):
        assert all(np.array_equal(was[name], now[name]) for name in was) and was.keys() == now.keys()
    assert before[2:] == after[2:]


def test_train_mode_shows_that_paddle_keeps_the_biased_variance() -> None:
    """torch.nn.BatchNorm2d keeps the unbiased one: a known difference of the frameworks, 1/72 of the batch's here."""
    with pytest.raises(AssertionError, match=r"First own divergence.*\n  bn.running_var"):
        assert_parity(TorchNet(), PaddleNet(), IMAGE, mode="train")


def test_inputs_may_be_tensors_of_either_framework() -> None:
    for given in (torch.tensor(IMAGE), paddle.to_tensor(IMAGE), [IMAGE], (torch.tensor(IMAGE),)):
        assert assert_parity(TorchNet(), PaddleNet(), given)


def test_a_wrong_module_is_named_with_its_cause() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_parity(TorchNet(), PaddleNet(epsilon=1e-2), IMAGE, name="test_net")
    message = str(caught.value)
    assert message.startswith("test_net: DIVERGED, 0 of 1 rungs hold")
    assert "First own divergence (equal inputs, other output):\n  bn  (BatchNorm2d / BatchNorm2D)" in message
    assert "likely cause: " in message and "epsilon" in message
    assert "smallest tolerance that would pass: " in message and "stdc-align" not in message


def test_code_between_modules_and_gradients_are_named_too() -> None:
    with pytest.raises(AssertionError, match=r"\(the network itself: code between its modules\)"):
        assert_parity(TorchNet(), PaddleNet(slope=0.1), IMAGE, backward=True)


def test_a_side_that_raises_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="the paddle side failed: RuntimeError: out of order"):
        assert_parity(TorchNet(), PaddleNet(fails=True), IMAGE)


def test_own_weights_are_compared_first() -> None:
    first, second = TorchNet(), PaddleNet()
    with pytest.raises(AssertionError, match=r"weights: \d of 8 taps differ"):
        assert_parity(first, second, IMAGE, load=False)
    values = {name.replace("running_mean", "_mean").replace("running_var", "_variance"): array
              for name, array in state(first).items() if "tracked" not in name}  # fmt: skip
    second.set_state_dict(values | {"fc.weight": values["fc.weight"].T})
    result = assert_parity(first, second, IMAGE, load=False)
    assert [stage.stage for stage in result.stages] == ["weights", "forward"]


def test_weights_that_do_not_fit_are_listed() -> None:
    layer = PaddleNet()
    layer.fc, layer.extra = paddle.nn.Linear(4, 6), paddle.nn.Linear(1, 1)
    with pytest.raises(UsageError) as caught:
        assert_parity(TorchNet(), layer, IMAGE)
    for part in ("fc.weight: (4, 6), the torch module's gives (4, 5)", "extra.weight: the torch module has no"):
        assert part in str(caught.value)


OTHERS_TESTS = """
import numpy as np, paddle, torch

def pair():
    return torch.nn.Linear(3, 2), paddle.nn.Linear(3, 2)

def test_good(parity):
    assert parity(*pair(), np.ones((1, 3), np.float32))

def test_bad(parity):
    first, _ = pair()
    class Wrong(paddle.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 1.01
    parity(first, Wrong(3, 2), np.ones((1, 3), np.float32))
"""
NO_FRAMEWORK = """
import sys

def test_nothing_is_imported(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("stdc_parity.align.pytest_plugin")
    heavy = {"torch", "paddle", "numpy", "rich"} & set(sys.modules)
    assert not heavy, heavy
    assert [m for m in sys.modules if m.startswith("stdc_parity.")] == [
        "stdc_parity.align", "stdc_parity.align.pytest_plugin"
    ]
"""


def run_pytest(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a project of its own, with this plugin alone: installed, its entry point loads it."""
    (folder / "test_it.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-p", "stdc_parity.align.pytest_plugin", "-c", os.devnull,
               "--rootdir", str(folder), *arguments, str(folder)]  # fmt: skip
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_the_plugin_imports_nothing_until_it_is_used(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, NO_FRAMEWORK)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_fixture_in_another_project(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, OTHERS_TESTS, "--parity-report", "out")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: test_bad: DIVERGED" in done.stdout
    assert "live.py" not in done.stdout.partition("short test summary")[0]  # the traceback ends in the test
    reports = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/report.json")}
    assert {name: report["holds"] for name, report in reports.items()} == {
        "test_it.py__test_good": True, "test_it.py__test_bad": False,
    }  # fmt: skip
