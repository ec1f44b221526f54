"""What a run leaves for CI: report.json, junit.xml, summary.md and taps.csv, of runs that hold and that do not."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from rich.console import Console

from stdc_parity.align.render_csv import to_csv
from stdc_parity.align.render_json import SCHEMA, to_json
from stdc_parity.align.render_junit import to_junit
from stdc_parity.align.render_markdown import LIMIT, to_markdown
from stdc_parity.align.render_terminal import render
from stdc_parity.align.result import (
    Arbitration,
    Comparison,
    Diagnosis,
    Failure,
    RunResult,
    StageResult,
    Verdict,
)
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
    assert "b (forward)" in junit and junit.count("<skipped") == 2
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
    assert {key: suites.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "5", "failures": "2", "errors": "1",
    }  # fmt: skip
    assert [suite.get("skipped") for suite in suites] == ["0", "0", "1", "0", "0"]
    rungs = [case.get("name") for case in suites.iter("testcase")]
    assert rungs == ["weights", "forward", "forward: b|<x>", "backward", "loss"]


def test_markdown_says_the_verdict_first(failed: RunResult) -> None:
    lines = to_markdown(failed).splitlines()
    assert "DIVERGED" in lines[0] and "1 of 4" in lines[0]
    assert any("blocked" in line.lower() or "BLOCKED" in line for line in lines)
    assert "**First own divergence:**" in lines
    table = lines[: lines.index("<!-- environment -->")]
    assert all(line.count("|") - line.count("\\|") == 7 for line in table if line.startswith("| "))


CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase", "system-out", "system-err"},
    "testcase": {"skipped", "error", "failure", "system-out", "system-err"},
    "properties": {"property"},
}
ATTRIBUTES = {  # required, optional: what Jenkins' junit-10.xsd and Surefire's schema both know
    "testsuites": ({"tests", "failures", "errors"}, {"name", "time"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped"}, {"time", "timestamp", "hostname"}),
    "testcase": ({"name", "classname"}, {"time"}),
    "failure": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "skipped": ({"message"}, set()),
    "property": ({"name", "value"}, set()),
    "properties": (set(), set()),
    "system-err": (set(), set()),
}


def check_junit(element: ET.Element) -> None:
    required, optional = ATTRIBUTES[element.tag]
    assert required <= set(element.keys()) <= required | optional, ET.tostring(element)
    for child in element:
        assert child.tag in CHILDREN.get(element.tag, set()), (element.tag, child.tag)
        check_junit(child)
    if element.tag == "testsuite":
        names = [case.get("name") for case in element.iter("testcase")]
        assert len(set(names)) == len(names)


def test_junit_is_what_ci_systems_read(failed: RunResult) -> None:
    check_junit(ET.fromstring(ET.tostring(to_junit(failed))))
    odd = replace(BAD, tap="\ud800 \x1b[31m \uffff", why="")
    stage = StageResult("forward", [odd], "tol", blamed=[odd])
    text = ET.tostring(to_junit(replace(failed, stages=[stage])), encoding="utf-8")
    check_junit(ET.fromstring(text))


def check_json(report: object) -> None:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(report)


def test_json_fits_its_schema_and_the_schema_refuses(failed: RunResult) -> None:
    arbitrated = replace(BAD, why="", arbiter=Arbitration(1e-13, 1e-9, {"torch": 1e-7, "paddle": 2e-7}))
    stage = StageResult("backward", [GOOD, arbitrated], "tol", diagnoses=[Diagnosis("b", "it is", "mend it", 1, 0)])
    report = to_json(replace(failed, stages=[*failed.stages, stage]))
    check_json(json.loads(json.dumps(report)))
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    for wrong in (
        {"schema_version": 2}, {"verdict": "GOOD"}, {"stages": [{}]}, {"extra": 1}, {"environment": {}},
        {"waivers": [{}]}, {"baseline": {"changes": []}},
        {"spec": report["spec"] | {"size": [1]}},
    ):  # fmt: skip
        assert not validator.is_valid(json.loads(json.dumps(report | wrong))), wrong


def test_csv_has_a_row_for_every_tap(failed: RunResult) -> None:
    arbitrated = replace(BAD, tap='c,"d"', why="", relative=0.25, error=1.23456789,
                         arbiter=Arbitration(1e-13, 1e-9, {"torch": 1e-7, "paddle": 2e-7}))  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(to_csv(replace(failed, stages=[
        *failed.stages, StageResult("backward", [arbitrated], "tol")
    ])))))  # fmt: skip
    assert [(row["stage"], row["tap"]) for row in rows] == [
        ("weights", "a"), ("forward", "a"), ("forward", "b|<x>"), ("backward", 'c,"d"'),
    ]  # fmt: skip
    assert rows[2]["relative"] == "inf" and rows[2]["paddle_path"] == ""
    last = rows[3]
    assert (last["error"], last["gap64"], last["paddle_noise"]) == ("1.235", "1e-13", "2e-07")
    assert (last["verdict"], last["shape"], last["torch_value"]) == ("DIVERGED", "2", "nan")


def test_the_cause_is_told(failed: RunResult) -> None:
    diagnosis = Diagnosis("b", "epsilon is 1e-3", "BatchNorm2D(epsilon=1e-5)", 0.25, 1e-14)
    stage = replace(failed.stages[1], diagnoses=[diagnosis])
    result = replace(failed, stages=[stage])
    for text in (to_markdown(result), "".join(to_junit(result).itertext())):
        assert "likely cause: epsilon is 1e-3" in text and "fix: BatchNorm2D(epsilon=1e-5)" in text


def test_markdown_fits_a_job_summary(failed: RunResult) -> None:
    long = replace(BAD, tap="`" * 2000, why="x" * 10**6)
    stages = [StageResult(f"rung {i}", [long] * 20, "tol", blamed=[long] * 20, remarks=["y" * 10**6])
              for i in range(100)]  # fmt: skip
    text = to_markdown(replace(failed, stages=stages))
    assert LIMIT / 20 < len(text.encode()) <= LIMIT < 2**20
    assert text.startswith("# ❌ DIVERGED") and "report.json has all" in text
    assert text.endswith("<!-- end of environment -->\n")
    fences = [line for line in text.splitlines() if re.fullmatch("`{3,}", line)]
    assert len(fences) % 2 == 0 and min(map(len, fences)) > 999


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--tol", "1e-9", "--arbiter", "never", "--no-isolate"], 1)])
def test_a_run_writes_its_report(tmp_path: Path, options: list[str], code: int) -> None:
    folder = tmp_path / "deep" / "report"
    arguments = ["forward", "--base", "4", "--size", "64x128", "--report", str(folder), *options]
    result = CliRunner().invoke(align, arguments)
    assert result.exit_code == code, result.output
    report = json.loads((folder / "report.json").read_text())
    check_json(report)
    assert report["verdict"] == ("DIVERGED" if code else "PASS") and report["holds"] == (not code)
    assert len(report["stages"][0]["taps"]) == 31
    check_junit(ET.parse(folder / "junit.xml").getroot())
    assert report["verdict"] in (folder / "summary.md").read_text().splitlines()[0]
    assert f'{report["verdict"]}</h1>' in (folder / "report.html").read_text(encoding="utf-8")
    with (folder / "taps.csv").open(newline="") as file:
        assert sum(row["verdict"] == report["verdict"] for row in csv.DictReader(file)) == 31


def test_two_records_that_are_compared_write_the_same_files(tmp_path: Path) -> None:
    options = ["--base", "4", "--size", "64x128", "--stage", "schedule"]
    for side in ("torch", "paddle"):
        recorded = CliRunner().invoke(align, ["record", str(tmp_path / "run"), "--side", side, *options])
        assert recorded.exit_code == 0, recorded.output
    compared = CliRunner().invoke(align, ["compare", str(tmp_path / "run"), "--report", str(tmp_path / "report")])
    assert compared.exit_code == 0, compared.output
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.json", "junit.xml", "summary.md", "taps.csv"} <= names
    check_json(json.loads((tmp_path / "report" / "report.json").read_text()))


def test_a_report_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["schedule", "--base", "4", "--size", "64x128", "--report", str(tmp_path / "file" / "x")]
    result = CliRunner().invoke(align, arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output


def without_environment(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a report, each without its marked block."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = json.loads(files["report.json"])
    assert list(report)[-1] == "environment" and report.pop("environment")
    suites = ET.fromstring(files["junit.xml"])
    assert suites[-1].get("name") == "environment"
    suites.remove(suites[-1])
    summary, marked, _ = files["summary.md"].partition(b"<!-- environment -->")
    assert marked
    text, marked, _ = files["report.json"].partition(b'\n "environment": ')
    text = text[:-1] + b"}"
    assert marked and json.loads(text) == report  # the block is the last, the rest as it was
    page, marked, rest = files["report.html"].partition(b"<!-- environment: ")
    page += rest.partition(b"<!-- end of environment -->")[2]
    assert marked and page.endswith(b"</html>\n")
    reduced = {"report.json": text, "junit.xml": ET.tostring(suites), "summary.md": summary, "report.html": page}
    return {**files, **reduced}


PLANTED = ["forward", "--plant", "norm-eps-wide", "--base", "4", "--size", "64x128"]


def test_two_reports_of_one_run_differ_in_their_environment_alone(tmp_path: Path) -> None:
    """A run that diverges, is arbitrated, taken apart and diagnosed: all that a report has is in it."""
    for name in ("first", "second"):
        result = CliRunner().invoke(align, [*PLANTED, "--report", str(tmp_path / name)])
        assert result.exit_code == 1, result.output
    first, second = (without_environment(tmp_path / name) for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert json.loads(first["report.json"])["stages"][0]["diagnoses"]


def test_figures_are_rounded() -> None:
    noisy = replace(GOOD, error=1.23456789e-7, scale=3.14159265358979, relative=3.9297512e-8,
                    values={"torch": 0.1234567891234})  # fmt: skip
    stages = [StageResult("forward", [noisy], "tol", {"torch": 0.123456})]
    report = to_json(RunResult(RunSpec("stdc2-seg", (64, 128)), "seeded", (), stages))
    tap = report["stages"][0]["taps"][0]
    assert (tap["error"], tap["relative"], tap["scale"]) == (1.235e-7, 3.93e-8, 3.14159265)
    assert tap["values"] == {"torch": 0.123456789}
