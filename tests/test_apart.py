"""The two sides apart in time and place, and what happens when one of them fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stdc_parity.align.compare import SIDES, Judging
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.result import Failure
from stdc_parity.align.sides import open_sides
from stdc_parity.cli import STAGES, align

SMALL = ["--base", "4", "--size", "64x128"]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(align, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "RUN"
    for side in SIDES:
        code, output = run("record", "--side", side, folder, *SMALL, "--stage", "all")
        assert code == 0, output
    return folder


def test_records_say_what_they_are(recorded: Path) -> None:
    facts = json.loads((recorded / "torch" / "run.json").read_text())["forward"]
    assert {
        "torch",
        "threads",
        "deterministic",
        "tf32",
        "spec",
        "weights_sha256",
        "input_sha256",
    } <= facts.keys()
    assert facts["spec"]["seed"] == 0
    assert (recorded / "float64" / "paddle" / "backward.safetensors").exists()


def test_comparing_needs_no_framework(recorded: Path) -> None:
    """The comparing process cannot import one, and judges every rung."""
    program = (
        "import sys\n"
        "for name in ('torch', 'paddle', 'onnxruntime'): sys.modules[name] = None\n"
        "from stdc_parity.cli import align\n"
        "align()\n"
    )
    command = [sys.executable, "-c", program, "compare", str(recorded)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "10 of 10 rungs hold" in result.stdout


def test_the_sides_may_lie_in_two_folders(recorded: Path, tmp_path: Path) -> None:
    for side in SIDES:
        (tmp_path / f"{side}-run").mkdir()
        (tmp_path / f"{side}-run" / side).symlink_to(recorded / side)
    code, output = run("compare", tmp_path / "torch-run", tmp_path / "paddle-run")
    assert code in (0, 1) and "forward" in output
    assert "The arbiter could not be asked" in output or code == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", "1"], ["seed 0 and 1", "weights", "inputs"]),
        (["--size", "64x160"], ["size"]),
        (["--batch", "2"], ["batch 1 and 2"]),
        (["--pair", "stdc1-seg"], ["pair stdc2-seg and stdc1-seg"]),
        (["--base", "8"], ["base 4 and 8"]),
    ],
)
def test_records_of_different_runs_are_refused(
    recorded: Path, tmp_path: Path, options: list[str], named: list[str]
) -> None:
    code, output = run("record", "--side", "paddle", tmp_path, *SMALL, *options)
    assert code == 0, output
    (tmp_path / "torch").symlink_to(recorded / "torch")
    code, output = run("compare", tmp_path)
    assert code == 2
    assert all(word in output for word in named), output


def test_a_missing_side_is_named(tmp_path: Path) -> None:
    code, output = run("compare", tmp_path)
    assert code == 3 and "no record of the torch side" in output and "Traceback" not in output


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "header", "facts"])
def test_damaged_records_are_one_clear_line(recorded: Path, tmp_path: Path, damage: str) -> None:
    for side in SIDES:
        (tmp_path / side).mkdir()
        for name in ("forward.safetensors", "run.json"):
            (tmp_path / side / name).write_bytes((recorded / side / name).read_bytes())
    path = tmp_path / "paddle" / "forward.safetensors"
    data = path.read_bytes()
    broken = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "garbage": os.urandom(1000),
        "header": data[:8] + b"x" * 100 + data[108:],
        "facts": data,
    }
    path.write_bytes(broken[damage])
    if damage == "facts":
        (tmp_path / "paddle" / "run.json").write_text("{}")
    code, output = run("compare", tmp_path)
    assert code == 3, output
    assert output.startswith("Error: ") and "Traceback" not in output


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.system, (f"touch {self.path}",)


def test_npy_dictionaries_as_reprod_log_writes_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {"logits": random.standard_normal((2, 3)).astype("float32"), "loss": np.array(0.5, "float32")}
    np.save(tmp_path / "a.npy", arrays)
    np.save(tmp_path / "b.npy", {name: array * np.float32(1 + 1e-6) for name, array in arrays.items()})
    np.save(tmp_path / "c.npy", {**arrays, "logits": arrays["logits"] + np.float32(0.1)})
    np.save(tmp_path / "d.npy", {"logits": arrays["logits"]})
    np.save(tmp_path / "e.npy", {**arrays, "logits": arrays["logits"].T.copy()})
    assert run("compare", tmp_path / "a.npy", tmp_path / "b.npy")[0] == 0
    for name, word in (("c", "logits"), ("d", "only the torch side has it"), ("e", "shape (2, 3)")):
        code, output = run("compare", tmp_path / "a.npy", tmp_path / f"{name}.npy")
        assert code == 1 and word in output, output


def test_a_hostile_npy_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    np.save(tmp_path / "evil.npy", {"logits": Evil(trace)})
    np.save(tmp_path / "a.npy", {"logits": np.zeros(3)})
    code, output = run("compare", tmp_path / "a.npy", tmp_path / "evil.npy")
    assert code == 3 and "system" in output and "Traceback" not in output
    assert not trace.exists()


def test_a_crash_is_that_sides_result() -> None:
    """A job that does not exist makes the side's own code raise; a killed process is a finding too."""
    with open_sides(("torch",), 1) as processes:
        processes["torch"].ask({"do": "facts"})
        assert isinstance(processes["torch"].answer(), dict)
        processes["torch"]._process.kill()
        processes["torch"].ask({"do": "facts"})
        failure = processes["torch"].answer()
        assert isinstance(failure, Failure) and "SIGKILL" in failure.message


def test_an_error_of_one_side_ends_in_exit_code_1() -> None:
    code, output = run("forward", "--mode", "train", "--batch", "1", *SMALL)
    assert code == 1
    assert "side failed" in output and "Expected more than 1 value per channel" in output


@pytest.mark.parametrize("name", [*STAGES, "record", "compare", "doctor", "selftest"])
def test_every_command_has_help_with_an_example(name: str) -> None:
    code, output = run(name, "--help")
    assert code == 0 and f"stdc-align {name}" in output.split("Example", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["forward", "--pair", "nope"], 2, "There are: stdc1-seg"),
        (["forward", "--size", "512"], 2, "HxW"),
        (["forward", "--weights", "nope.pth"], 3, "does not exist"),
        (["loss", "--pair", "stdcnet813"], 2, "has no loss, so no loss stage"),
        (["forward", "--plant", "nope"], 2, "no such port bug"),
        (["data", "--size", "8x8", "--base", "4"], 2, "smallest scene"),
    ],
)
def test_mistakes_get_one_message_and_their_exit_code(arguments: list[str], code: int, words: str) -> None:
    found, output = run(*arguments)
    assert found == code, output
    assert words in output and "Traceback" not in output


def test_a_missing_framework_is_exit_code_4(tmp_path: Path) -> None:
    program = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'paddle' else real(name, *rest)\n"
        "from stdc_parity.cli import align\n"
        "align()\n"
    )
    command = [sys.executable, "-c", program, "forward", *SMALL]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 4
    assert "paddlepaddle" in result.stderr and "Traceback" not in result.stderr


def test_doctor_names_versions_and_threads() -> None:
    code, output = run("doctor")
    assert (
        code == 0
        and "torch: torch 2" in output
        and "paddle: paddle 3" in output
        and "OMP_NUM_THREADS" in output
    )


def test_judging_is_plain_data() -> None:
    assert Judging(Tolerance()).arbiter == "auto"
