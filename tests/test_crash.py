"""Short runs of `benchmarks/crash.py` and `benchmarks/fuzz.py`, and folders that cannot be written."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.fixtures.samples import write_sample

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name):
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


crash, fuzz = load("crash"), load("fuzz")


def fine(found):
    assert not [outcome for outcome in found if outcome.startswith("BROKEN")], found
    return found


def test_killed_conversions_leave_the_old_file_or_the_new(tmp_path):
    found = fine(crash.kill(tmp_path, kills=8))
    assert found["old"] + found["new"] == 8


def test_a_file_that_may_not_grow(tmp_path):
    found = fine(crash.starve(tmp_path))
    assert found == {"old": 5, "none": 5, "new": 2}


def test_a_full_disk_and_a_read_only_one(tmp_path):
    found = fine(crash.fill(tmp_path))
    if found["none"] != 2:
        pytest.skip("; ".join(found))


def test_two_conversions_into_one_target(tmp_path):
    assert fine(crash.race(tmp_path, rounds=4)) == {"one whole file": 4}


@pytest.mark.parametrize(
    "name", ["locked/x.pdparams", "/sys/x.pdparams", "/proc/x.pdparams", "file/x.pdparams"]
)
def test_a_folder_that_cannot_be_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "locked").mkdir(mode=0o555)
    if name.startswith("locked") and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    if name.startswith("/") and not Path(name).parent.is_dir():
        pytest.skip("this system has no such folder")
    write_sample(tmp_path / "net.tar", stdc.architecture("stdcnet813", base=8, imagenet_head=False))
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(cli.convert, ["torch2paddle", "net.tar", name])
    assert result.exit_code == 2, result.output
    assert f"{name} cannot be written: " in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no alarms there")
def test_mutated_files_of_every_container(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    findings = []
    outcomes = fuzz.fuzz(700, seed=1, folder=tmp_path, say=findings.append)
    assert findings == []
    assert outcomes["read"] > 20
    assert outcomes["CheckpointError"] > 400


def test_the_fuzzer_finds_what_is_wrong(tmp_path, monkeypatch):
    """One that could not fail would prove nothing."""
    monkeypatch.chdir(tmp_path)

    def fails(_path):
        raise ZeroDivisionError

    monkeypatch.setattr(fuzz, "open_state_dict", fails)
    findings = []
    assert fuzz.fuzz(3, seed=1, folder=tmp_path, say=findings.append)["FINDING"] == 3
    assert all("ZeroDivisionError" in finding for finding in findings)
    assert len(list(tmp_path.glob("fuzz-finding-1-*.bin"))) == 3
