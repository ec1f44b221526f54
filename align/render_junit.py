"""A run as JUnit XML: a test case for every rung, and one for every tap that differs.

The elements and attributes are those that Jenkins' and Surefire's schemas share. There are no times: those are
properties of a last suite, the environment, so that two files of the same run differ in it alone.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from stdc_parity.align.describe import describe_baseline, describe_change, describe_waiver
from stdc_parity.align.environment import describe_last_words, list_environment
from stdc_parity.align.majority import describe_majority
from stdc_parity.align.render_terminal import describe_again, describe_block, describe_cause, describe_failure
from stdc_parity.align.result import Comparison, RunResult, StageResult, Verdict
from stdc_parity.converters.atomic import atomic_write

MAX_TAPS = 100
"""Failing taps listed for a rung; CI systems choke on thousands."""


UNFIT = re.compile("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(result: RunResult) -> ET.Element:
    """The run as a `testsuites` element with one suite for each rung, and one without cases: the environment."""
    suites = ET.Element("testsuites", name=_clean(f"stdc-align {result.spec.pair}"))
    for stage in result.stages:
        suites.append(_counted(_suite(stage, result.spec.pair)))
    for suite in (_majority(result), _waivers(result), _baseline(result)):
        if len(suite):
            suites.append(_counted(suite))
    suites.append(_counted(_environment(result)))
    for what in ("tests", "failures", "errors"):
        suites.set(what, str(sum(int(suite.get(what, "0")) for suite in suites)))
    return suites


def write_junit(result: RunResult, path: Path) -> None:
    """Write the run to `path` in one step, over an older file."""
    tree = to_junit(result)
    ET.indent(tree)
    with atomic_write(path, force=True) as file:
        file.write(ET.tostring(tree, encoding="utf-8", xml_declaration=True) + b"\n")


def _suite(stage: StageResult, pair: str) -> ET.Element:
    suite = ET.Element("testsuite", name=stage.title)
    suite.append(_rung(stage, pair))
    for comparison in [c for c in stage.comparisons if not c][:MAX_TAPS]:
        case = _case(f"{pair}.{stage.title}", f"{stage.title}: {comparison.tap or '(the network)'}")
        message = comparison.why or f"{comparison.relative:.3g} of scale"
        _add(case, "failure", message, _describe(stage, comparison))
        suite.append(case)
    for comparison in [c for c in stage.comparisons if c.waiver is not None][:MAX_TAPS]:
        case = _case(f"{pair}.{stage.title}", f"{stage.title}: {comparison.tap}, waived")
        _add(case, "skipped", f"waived: {comparison.waiver.reason}" if comparison.waiver else "")
        suite.append(case)
    return suite


def _majority(result: RunResult) -> ET.Element:
    """A case that says which side is the odd one out, and fails if one is, or if there is no majority."""
    suite = ET.Element("testsuite", name="majority")
    if result.majority is not None:
        case, lines = _case("majority", " ".join(result.sides)), list(describe_majority(result))
        agree = not result.majority.votes and not result.majority.failed
        _add(case, "system-out" if agree else "failure", lines[0], lines)
        suite.append(case)
    return suite


def _waivers(result: RunResult) -> ET.Element:
    """A case for each waiver, which fails if the waiver has expired or is for nothing."""
    suite = ET.Element("testsuite", name="waivers")
    for number, use in enumerate(result.waivers, 1):
        case = _case("waivers", f"{number}: {use.waiver.stage}: {use.waiver.tap}")
        what = "system-out" if use else "failure"
        _add(case, what, describe_waiver(use))
        suite.append(case)
    return suite


def _baseline(result: RunResult) -> ET.Element:
    """A case for each change since the baseline, or one that holds."""
    suite = ET.Element("testsuite", name="baseline")
    lines = list(describe_baseline(result))
    if result.baseline is not None and not result.baseline.changes:
        case = _case("baseline", "no change")
        _add(case, "system-out", "\n".join(lines))
        suite.append(case)
    for change in result.baseline.changes[:MAX_TAPS] if result.baseline is not None else ():
        case = _case("baseline", f"{change.stage}: {change.tap or '(the rung)'} {change.what}")
        _add(case, "failure", describe_change(change), lines[:1])
        suite.append(case)
    return suite


def _rung(stage: StageResult, pair: str) -> ET.Element:
    case = _case(pair, stage.title)
    if stage.verdict is Verdict.BLOCKED:
        _add(case, "skipped", describe_block(stage))
    for failure in stage.failures:
        _add(case, "error", f"the {failure.side} side failed: {failure.message}")
    if stage.verdict is Verdict.DIVERGED and not stage.failures:
        bad = sum(not c for c in stage.comparisons)
        blamed = [line for c in stage.blamed[:MAX_TAPS] for line in (*_describe(stage, c), "")]
        message = f"{bad} of {len(stage.comparisons)} taps differ"
        _add(case, "failure", message, [*blamed, *stage.remarks, *describe_again(stage)])
    return case


def _describe(stage: StageResult, comparison: Comparison) -> list[str]:
    return [*describe_failure(comparison), *describe_cause(stage, comparison)]


def _environment(result: RunResult) -> ET.Element:
    suite = ET.Element("testsuite", name="environment")
    properties = ET.SubElement(suite, "properties")
    for name, value in list_environment(result):
        ET.SubElement(properties, "property", name=_clean(name), value=_clean(value))
    words = "\n".join(describe_last_words(result))
    if words:
        ET.SubElement(suite, "system-err").text = _clean(words)
    return suite


def _case(classname: str, name: str) -> ET.Element:
    return ET.Element("testcase", classname=_clean(classname), name=_clean(name))


def _add(case: ET.Element, what: str, message: str, lines: Sequence[str] = ()) -> None:
    if what == "system-out":
        ET.SubElement(case, what).text = _clean(message)
        return
    element = ET.SubElement(case, what, message=_clean(message))
    if what != "skipped":
        element.set("type", "parity")
    if lines:
        element.text = _clean("\n".join(lines))


def _counted(suite: ET.Element) -> ET.Element:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for what, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(what, str(sum(case.find(element) is not None for case in cases)))
    return suite


def _clean(text: str) -> str:
    """`text` without the characters that XML cannot hold: control characters, halves of surrogate pairs."""
    return UNFIT.sub("�", text)
