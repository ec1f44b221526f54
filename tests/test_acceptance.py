"""Baselines and waivers: what is accepted, for how long, and that every rendering says so."""

import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from stdc_parity.align.baseline import hold_against, load_baseline
from stdc_parity.align.render_csv import to_csv
from stdc_parity.align.render_json import to_json, write_json
from stdc_parity.align.render_junit import to_junit
from stdc_parity.align.render_markdown import to_markdown
from stdc_parity.align.render_terminal import render
from stdc_parity.align.result import Arbitration, Comparison, Failure, RunResult, StageResult, Verdict
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.waivers import account_for, apply_waivers, load_waivers
from stdc_parity.cli import align
from stdc_parity.converters.errors import CheckpointError, UsageError

TODAY = date(2026, 6, 1)
WAIVER = """
[[waiver]]
tap = "{tap}"
stage = "{stage}"
reason = "odd sizes, issue 12"
owner = "ann@example.org"
expires = {expires}
"""


def tap(name: str, relative: float = 1e-7, verdict: Verdict = Verdict.PASS, **fields: Any) -> Comparison:
    sides = {"torch": name, "paddle": name}
    return Comparison(name, "module", sides, sides, verdict, (2,), "float32", relative, 1.0, relative, (0,),
                      {"torch": 1.0, "paddle": 1.0}, **fields)  # fmt: skip


def run(*taps: Comparison, stage: str = "forward", **fields: Any) -> RunResult:
    return RunResult(RunSpec("stdc2-seg", (64, 128)), "seeded", (), [StageResult(stage, taps, "tol", **fields)])


def waivers(tmp_path: Path, *, name: str = "b", stage: str = "forward", expires: str = "2026-06-01") -> Any:
    file = tmp_path / "waivers.toml"
    file.write_text(WAIVER.format(tap=name, stage=stage, expires=expires))
    return load_waivers(file, TODAY)


def renderings(result: RunResult) -> Iterator[str]:
    console = Console(file=io.StringIO(), width=300)
    render(result, console)
    yield console.file.getvalue()  # type: ignore[attr-defined]
    yield to_markdown(result)
    yield ET.tostring(to_junit(result), encoding="unicode")
    yield json.dumps(to_json(result))


BAD = tap("b", 0.5, Verdict.DIVERGED)


@pytest.mark.parametrize(
    ("given", "state", "holds"),
    [
        ({}, "used", True),
        ({"name": "*"}, "used", True),
        ({"stage": "*"}, "used", True),
        ({"stage": "forward*"}, "used", True),
        ({"expires": "2026-05-31"}, "expired", False),
        ({"name": "B"}, "unmatched", False),
        ({"name": "."}, "unmatched", False),  # no regular expression
        ({"name": "a"}, "unmatched", False),  # it agrees
        ({"stage": "backward"}, "not asked", False),
    ],
)
def test_what_becomes_of_a_waiver(tmp_path: Path, given: dict[str, str], state: str, holds: bool) -> None:
    given_waivers = waivers(tmp_path, **given)
    plain = run(tap("a"), BAD, blamed=[BAD])
    stage = apply_waivers(plain.stages[0], given_waivers)
    result = replace(plain, stages=[stage], waivers=account_for(given_waivers, [stage]))
    assert [use.state for use in result.waivers] == [state]
    assert bool(result) is holds and bool(stage) is holds
    assert result.verdict is (Verdict.WAIVED if holds else Verdict.DIVERGED)
    for text in renderings(result):
        assert "odd sizes, issue 12" in text and "ann@example.org" in text
        assert state in text.lower() or {"used": "waived (1 tap)", "not asked": "without its rung"}[state] in text
    assert ("odd sizes" in to_csv(result)) is holds


def test_a_waiver_that_is_out_of_order_fails_a_run_that_agrees(tmp_path: Path) -> None:
    good = run(tap("a"))
    result = replace(good, waivers=account_for(waivers(tmp_path), good.stages))
    assert good and not result and result.verdict is Verdict.PASS
    assert to_markdown(result).startswith("# ❌ PASS: stdc2-seg, 1 of 1 rungs hold, but 1 waiver out of order")
    assert to_junit(result).get("failures") == "1"
    assert "The run fails" in next(renderings(result))


def test_a_crash_and_what_is_not_waived_still_fail(tmp_path: Path) -> None:
    given = waivers(tmp_path)
    stage = apply_waivers(run(BAD, tap("c", 1.0, Verdict.DIVERGED)).stages[0], given)
    assert [c.verdict for c in stage.comparisons] == [Verdict.WAIVED, Verdict.DIVERGED] and not stage
    crashed = apply_waivers(replace(stage, failures=[Failure("paddle", "it crashed")]), given)
    assert not crashed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[waiver]]\n", "lacks expires; it lacks owner"),
        (WAIVER.format(tap="a", stage="forward", expires='"2026-06-01"'), "without quotes"),
        (WAIVER.format(tap="a", stage="forward", expires="2026-06-01T00:00:00"), "without quotes"),
        (WAIVER.format(tap=" ", stage="forward", expires="2026-06-01"), "tap has to be text"),
        (WAIVER.format(tap="a", stage="forward", expires="2026-06-01") + "tol = 1\n", "tol, which means nothing"),
        ("[waiver]\n", "nothing else"),
        ("waivers = []\n", "nothing else"),
        ("= 1", "no TOML"),
        ("\udcff", "no TOML"),
        (None, "No such file"),
    ],
)
def test_a_file_of_waivers_that_says_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "waivers.toml"
    if text is not None:
        file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=message):
        load_waivers(file, TODAY)


def noisy(name: str, relative: float, noise: float) -> Comparison:
    return tap(name, relative, Verdict.ROUNDING, arbiter=Arbitration(0, 1e-9, {"torch": noise, "paddle": noise}))


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (run(tap("a")), run(tap("a")), []),
        (run(tap("a", 1e-6)), run(tap("a", 0.99e-5)), []),
        (run(tap("a", 1e-6)), run(tap("a", 1.01e-5)), [("a", "grew")]),
        (run(tap("a", 1e-5)), run(tap("a", 1e-9)), []),
        (run(tap("a", 0.0)), run(tap("a", 1e-6)), []),  # within ten epsilons of float32
        (run(tap("a", 0.0)), run(tap("a", 2e-6)), [("a", "grew")]),
        (run(noisy("a", 1e-5, 1e-4)), run(noisy("a", 9e-4, 1e-4)), []),  # the noise is larger
        (run(noisy("a", 1e-5, 1e-6)), run(noisy("a", 9e-4, 1e-6)), [("a", "grew")]),
        (run(tap("a", 1e-6), stage="train"), run(tap("a", 1.0), stage="train"), []),  # held against its control
        (run(tap("a")), run(BAD), [("a", "vanished"), ("b", "appeared")]),
        (run(tap("b")), run(BAD), [("b", "fails now")]),
        (run(BAD), run(BAD), []),  # nothing new, but the run fails by itself
        (run(tap("a")), run(tap("a"), stage="loss"), [("", "vanished"), ("", "appeared")]),
        (run(tap("a")), run(failures=[Failure("torch", "x")]), [("", "fails now")]),
        (run(tap("a")), run(tap("a", 0.5, Verdict.WAIVED)), []),
        (run(tap("a", 1e-3, Verdict.WAIVED)), run(tap("a", 0.5, Verdict.WAIVED)), [("a", "grew")]),
        (run(blocked_by="weights"), run(tap("a")), []),
        (run(tap("a", float("inf"), Verdict.WAIVED)), run(tap("a", float("inf"), Verdict.WAIVED)), []),
    ],
)
def test_what_counts_as_a_change(
    tmp_path: Path, before: RunResult, after: RunResult, changes: list[tuple[str, str]]
) -> None:
    write_json(before, tmp_path / "report.json")
    result = hold_against(after, load_baseline(tmp_path / "report.json"), "report.json")
    assert result.baseline is not None
    assert [(change.tap, change.what) for change in result.baseline.changes] == changes
    assert bool(result) is (bool(after) and not changes)
    for text in renderings(result):
        assert "report.json" in text
        assert all(what in text for _, what in changes)


def test_the_factor_is_the_users(tmp_path: Path) -> None:
    write_json(run(tap("a", 1e-6)), tmp_path / "report.json")
    baseline = load_baseline(tmp_path / "report.json")
    assert hold_against(run(tap("a", 9e-5)), baseline, "it", 100)
    assert not hold_against(run(tap("a", 9e-5)), baseline, "it", 50)


def test_a_baseline_of_another_run_is_refused(tmp_path: Path) -> None:
    write_json(run(tap("a")), tmp_path / "report.json")
    other = replace(run(tap("a")), spec=RunSpec("stdc2-seg", (64, 256), weights="elsewhere/net.pth"))
    with pytest.raises(UsageError, match=r"size \[64, 128\] then, \[64, 256\] now$|size"):
        hold_against(other, load_baseline(tmp_path / "report.json"), "report.json")
    moved = replace(run(tap("a")), spec=RunSpec("stdc2-seg", (64, 128), weights="elsewhere/net.pth"))
    assert hold_against(moved, load_baseline(tmp_path / "report.json"), "report.json")


EMPTY_TAP = '{"schema_version": 1, "spec": {}, "stages": [{"stage": "x", "taps": [{}]}]}'


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 99}', "\0", EMPTY_TAP]
)
def test_a_baseline_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(CheckpointError, match="--baseline"):
        load_baseline(tmp_path / "report.json")


FORWARD = ["forward", "--base", "4", "--size", "64x128", "--arbiter", "never", "--no-isolate"]


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(align, [*FORWARD, *arguments])
    return result.exit_code, result.output


def test_the_command_takes_both(tmp_path: Path) -> None:
    code, _ = invoke("--report", str(tmp_path / "accepted"))
    assert code == 0
    accepted = str(tmp_path / "accepted" / "report.json")
    file = tmp_path / "waivers.toml"
    file.write_text(WAIVER.format(tap="*", stage="forward", expires="2999-12-31"))
    planted = ["--plant", "norm-eps-wide", "--report", str(tmp_path / "planted")]
    code, output = invoke("--baseline", accepted, *planted)
    assert code == 1 and "fails now" in output
    code, output = invoke("--waivers", str(file), "--baseline", accepted, *planted)
    assert code == 0 and "WAIVED" in output and "odd sizes" in output, output
    assert invoke("--waivers", str(tmp_path / "none"))[0] == 3
    assert invoke("--baseline", str(tmp_path / "none"))[0] == 3
    assert invoke("--baseline", str(file))[0] == 3
    assert invoke("--baseline", accepted, "--seed", "1")[0] == 2
