"""The composite action and the workflow: their shell steps, run as a runner would run them."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import stdc_parity.cli

ROOT = Path(stdc_parity.cli.__file__).resolve().parent
ACTION: Any = yaml.safe_load((ROOT / "action.yml").read_text())
WORKFLOW: Any = yaml.safe_load((ROOT / ".github" / "workflows" / "parity.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
SMALL = "--base 4 --size 64x128"


class Runner:
    """What GitHub's runner is to a composite action, as far as ours needs it."""

    def __init__(self, folder: Path, **inputs: str) -> None:
        self.folder, self.summary, self.output = folder, folder / "summary", folder / "output"
        self.summary.touch()
        self.output.touch()
        defaults = {name: each["default"] for name, each in ACTION["inputs"].items()}
        assert inputs.keys() <= defaults.keys()
        self.values = {f"inputs.{name}": value for name, value in (defaults | inputs).items()}
        self.values["github.action_path"] = str(ROOT)
        (folder / "bin").mkdir()
        self.command("stdc-align", f'exec "{sys.executable}" -c "from stdc_parity.cli import align; align()" "$@"')

    def command(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def step(self, name: str) -> int:
        step = STEPS[name]
        assert step["shell"] == "bash" and "${{" not in step["run"]  # no input becomes a part of a script
        given = {key: self.expand(value) for key, value in step.get("env", {}).items()}
        environment = os.environ | given | {
            "GITHUB_STEP_SUMMARY": str(self.summary), "GITHUB_OUTPUT": str(self.output),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(command, cwd=self.folder, env=environment, check=False, capture_output=True, text=True)
        self.log = done.stdout + done.stderr
        for line in self.output.read_text().splitlines():
            key, _, value = line.partition("=")
            self.values[f"steps.{step.get('id')}.outputs.{key}"] = value
        self.output.write_text("")
        return done.returncode

    def expand(self, value: str) -> str:
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda found: self.values[found[1]], value)


@pytest.mark.parametrize(
    ("inputs", "code", "first"),
    [
        ({"command": "forward", "arguments": SMALL}, 0, "# ✅ PASS"),
        ({"command": "forward", "arguments": f"{SMALL} --plant norm-eps-wide --no-isolate"}, 1, "# ❌ DIVERGED"),
        ({"command": "forward", "arguments": "--size *"}, 2, "stdc-align ended with exit code 2"),
        ({"command": "forward", "waivers": "not there.toml"}, 3, "stdc-align ended with exit code 3"),
    ],
)
def test_the_action_publishes_a_run_and_ends_with_its_code(
    tmp_path: Path, inputs: dict[str, str], code: int, first: str
) -> None:
    runner = Runner(tmp_path, report="a report", **inputs)
    assert runner.step("Run") == 0, runner.log
    assert runner.step("Summary") == 0, runner.log
    assert runner.summary.read_text().startswith(first), runner.log
    assert runner.step("Exit status") == code
    assert runner.expand(ACTION["outputs"]["exit-code"]["value"]) == str(code)
    folder = tmp_path / runner.expand(STEPS["Upload"]["with"]["path"])
    assert (folder / "junit.xml").exists() is (code < 2)


def test_an_older_summary_is_not_taken_for_this_runs(tmp_path: Path) -> None:
    runner = Runner(tmp_path, arguments="--no-such-option")
    (tmp_path / "parity-report").mkdir()
    (tmp_path / "parity-report" / "summary.md").write_text("# ✅ PASS")
    assert runner.step("Run") == 0 and runner.step("Summary") == 0
    assert "PASS" not in runner.summary.read_text()


@pytest.mark.parametrize(("index", "words"), [("", []), ("https://example.org/cpu", ["--extra-index-url"])])
def test_the_action_installs_itself(tmp_path: Path, index: str, words: list[str]) -> None:
    runner = Runner(tmp_path, **({"extra-index-url": index} if index else {}))
    runner.command("python", f'printf "%s\\n" "$@" > "{tmp_path}/said"')
    assert runner.step("Install") == 0, runner.log
    said = (tmp_path / "said").read_text().splitlines()
    extra = [*words, index] if index else []
    assert said == ["-m", "pip", "install", "-c", f"{ROOT}/constraints.txt", *extra, f"{ROOT}[torch,paddle]"]
    assert (ROOT / "constraints.txt").is_file()


def test_the_workflow_calls_the_action_with_inputs_that_it_has() -> None:
    (call,) = [step for step in WORKFLOW["jobs"]["ladder"]["steps"] if step.get("uses") == "./"]
    assert call["with"].keys() <= ACTION["inputs"].keys()
    assert WORKFLOW["permissions"] == {"contents": "read"}
    scripts = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    assert scripts == [".ci/run"] and os.access(ROOT / ".ci" / "run", os.X_OK)
    assert subprocess.run(["sh", "-n", ROOT / ".ci" / "run"], check=False).returncode == 0


def test_steps_after_the_run_are_done_whatever_it_gave() -> None:
    names = list(STEPS)
    assert names == ["Install", "Run", "Summary", "Upload", "Exit status"]
    assert all("!cancelled()" in STEPS[name]["if"] for name in ("Summary", "Upload"))
    assert "|| code=$?" in STEPS["Run"]["run"]
