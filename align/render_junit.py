"""A run as JUnit XML: a test case for every rung, and one for every tap that differs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from stdc_parity.align.render_terminal import describe_again, describe_block, describe_failure
from stdc_parity.align.result import RunResult, StageResult, Verdict
from stdc_parity.converters.atomic import atomic_write

MAX_TAPS = 100
"""Failing taps listed for a rung; CI systems choke on thousands."""


def to_junit(result: RunResult) -> ET.Element:
    """The run as a `testsuites` element with one suite for each rung."""
    suites = ET.Element("testsuites", name=f"stdc-align {result.spec.pair}")
    for stage in result.stages:
        suites.append(_suite(stage, result))
    cases = [case for suite in suites for case in suite.iter("testcase")]
    suites.set("tests", str(len(cases)))
    suites.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suites.set("errors", str(sum(case.find("error") is not None for case in cases)))
    suites.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    return suites


def write_junit(result: RunResult, path: Path) -> None:
    """Write the run to `path` in one step, over an older file."""
    tree = to_junit(result)
    ET.indent(tree)
    with atomic_write(path, force=True) as file:
        file.write(ET.tostring(tree, encoding="utf-8", xml_declaration=True) + b"\n")


def _suite(stage: StageResult, result: RunResult) -> ET.Element:
    bad = [c for c in stage.comparisons if not c]
    seconds = f"{max(stage.seconds.values(), default=0.0):.3f}"
    suite = ET.Element("testsuite", name=stage.stage, time=seconds)
    rung = ET.SubElement(suite, "testcase", classname=result.spec.pair, name=stage.stage, time=seconds)
    if stage.verdict is Verdict.BLOCKED:
        ET.SubElement(rung, "skipped", message=describe_block(stage))
    for failure in stage.failures:
        ET.SubElement(
            rung, "error", message=_clean(f"the {failure.side} side failed: {failure.message}")
        ).text = _clean(failure.note)
    if stage.verdict is Verdict.DIVERGED and not stage.failures:
        lines = [line for c in stage.blamed[:MAX_TAPS] for line in describe_failure(c)]
        blamed = "\n".join([*lines, *describe_again(stage)])
        message = f"{len(bad)} of {len(stage.comparisons)} taps differ"
        ET.SubElement(rung, "failure", message=message).text = _clean(blamed)
    for comparison in bad[:MAX_TAPS]:
        name = f"{stage.stage}: {comparison.tap}"
        case = ET.SubElement(
            suite, "testcase", classname=f"{result.spec.pair}.{stage.stage}", name=_clean(name)
        )
        lines = list(describe_failure(comparison))
        message = comparison.why or f"{comparison.relative:.3g} of scale"
        ET.SubElement(case, "failure", message=_clean(message)).text = _clean("\n".join(lines))
    suite.set("tests", str(len(list(suite))))
    suite.set("failures", str(sum(case.find("failure") is not None for case in suite)))
    suite.set("errors", str(sum(case.find("error") is not None for case in suite)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in suite)))
    return suite


def _clean(text: str) -> str:
    """`text` without the control characters that XML cannot hold."""
    return "".join(c if c in "\n\t" or ord(c) >= 32 else "�" for c in text)
