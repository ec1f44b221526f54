"""What a run leaves for CI: report.json, junit.xml and summary.md, of a run that holds and one that does not."""

import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from stdc_parity.align.render_json import to_json
from stdc_parity.align.render_junit import to_junit
from stdc_parity.align.render_markdown import to_markdown
from stdc_parity.align.render_terminal import render
from stdc_parity.align.result import Comparison, Failure, RunResult, StageResult, Verdict
from stdc_parity.align.spec import RunSpec
from stdc_parity.cli import align

GOOD = Comparison(
    "a", "module", {"torch": "a", "paddle": "a"}, {"torch": "A", "paddle": "B"}, Verdict.PASS, (2,)
)
BAD = Comparison(
    "b|<x>", "module", {"torch": "b"}, {"torch": "A"}, Verdict.DIVERGED, (2,), relative=float("inf"), error=1.0,
    values={"torch": float("nan"), "paddle": 1.0}, index=(0,), why="NaN\x00 in 1 place",
)  # fmt: skip


@pytest.fixture
def failed() -> RunResult:
    stages = [
        StageResult("weights", [GOOD], "exact", {"torch": 0.1, "paddle": 0.2}),
        StageResult("forward", [GOOD, BAD], "tol", blamed=[BAD], isolated=True, remarks=["a remark"]),
        StageResult("backward", [], "", blocked_by="forward"),
        StageResult("loss", [], "", failures=[Failure("paddle", "it\x07 crashed", "last words")]),
    ]
    return RunResult(RunSpec("stdc2-seg", (64, 128)), "seeded", ("a", "b"), stages)


def test_every_rendering_says_what_is_named_where() -> None:
    elsewhere = replace(BAD, tap="c", paths={"torch": "c"})
    stages = [
        StageResult("forward", [GOOD, BAD], "tol", blamed=[BAD], isolated=True),
        StageResult("forward-train", [BAD], "tol", isolated=True, again={"b": "forward"}),
        StageResult("backward", [elsewhere], "", blocked_by="forward-train", blamed=[elsewhere], isolated=True),
        StageResult("metric", [], "", blocked_by="forward", isolated=True),
        StageResult("train", [], "", blocked_by="backward"),
    ]
    result = RunResult(RunSpec("stdc2-seg", (64, 128)), "seeded", ("a", "b"), stages)
    assert [s.verdict.value for s in stages] == ["DIVERGED", "DIVERGED", "DIVERGED", "BLOCKED", "BLOCKED"]
    console = Console(file=io.StringIO(), width=200)
    render(result, console)
    junit = ET.tostring(to_junit(result), encoding="unicode")
    for text in (console.file.getvalue(), to_markdown(result)):  # type: ignore[attr-defined]
        own = text[text.index("none following from another") :]
        assert "forward: b|" in own.replace("\\|", "|") and "backward: c" in own
        assert "b (forward)" in text and "for forward-train failed" in text
        assert "its parts hold by themselves" in text and "stdc-align all" in text
    assert "b (forward)" in junit and to_junit(result).get("skipped") == "2"
    json_stages = to_json(result)["stages"]
    assert [stage["blocked_by"] for stage in json_stages] == ["", "", "forward-train", "forward", "backward"]
    assert json_stages[1]["again"] == {"b": "forward"}


def test_verdicts(failed: RunResult) -> None:
    assert [stage.verdict.value for stage in failed.stages] == ["PASS", "DIVERGED", "BLOCKED", "DIVERGED"]
    assert not failed


def test_json_has_no_numbers_that_json_has_not(failed: RunResult) -> None:
    text = json.dumps(to_json(failed), allow_nan=False)
    tap = json.loads(text)["stages"][1]["taps"][1]
    assert (tap["relative"], tap["values"]["torch"], tap["verdict"]) == ("inf", "nan", "DIVERGED")
    assert json.loads(text)["schema_version"] == 1


def test_junit_counts_what_there_is(failed: RunResult) -> None:
    suites = ET.fromstring(ET.tostring(to_junit(failed)))
    assert {key: suites.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "2", "errors": "1", "skipped": "1",
    }  # fmt: skip
    rungs = [case.get("name") for case in suites.iter("testcase")]
    assert rungs == ["weights", "forward", "forward: b|<x>", "backward", "loss"]


def test_markdown_says_the_verdict_first(failed: RunResult) -> None:
    lines = to_markdown(failed).splitlines()
    assert "DIVERGED" in lines[0] and "1 of 4" in lines[0]
    assert any("blocked" in line.lower() or "BLOCKED" in line for line in lines)
    assert "**First own divergence:**" in lines
    assert all(line.count("|") - line.count("\\|") == 7 for line in lines if line.startswith("| "))


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--tol", "1e-9", "--arbiter", "never"], 1)])
def test_a_run_writes_its_report(tmp_path: Path, options: list[str], code: int) -> None:
    folder = tmp_path / "deep" / "report"
    arguments = ["forward", "--base", "4", "--size", "64x128", "--report", str(folder), *options]
    result = CliRunner().invoke(align, arguments)
    assert result.exit_code == code, result.output
    report = json.loads((folder / "report.json").read_text())
    assert report["verdict"] == ("DIVERGED" if code else "PASS")
    assert len(report["stages"][0]["taps"]) == 31
    assert ET.parse(folder / "junit.xml").getroot().get("tests") is not None
    assert report["verdict"] in (folder / "summary.md").read_text().splitlines()[0]
    assert f'{report["verdict"]}</h1>' in (folder / "report.html").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["schedule", "--base", "4", "--size", "64x128", "--report", str(tmp_path / "file" / "x")]
    result = CliRunner().invoke(align, arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output
