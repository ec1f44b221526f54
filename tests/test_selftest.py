"""The self-test on a few entries of every rung: found, named at the right place, and silent where it must be."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from stdc_parity.align import selftest
from stdc_parity.cli import align
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES

SOME = [
    "pool-exclusive", "norm-eps-weak", "heads-swapped", "norm-momentum-weak", "norm-variance-biased",
    "arm-gate-detached", "linear-not-transposed", "bgr", "ok-arm-adaptive-pool", "ok-ffm-factored",
    "ohem-few-labels", "laplacian-weak", "bce-gradient-at-zero", "momentum-weak", "adam-epsilon-weak",
    "step-after-update", "metric-one-pixel-exchanged", "labels-of-last-batch",
]  # fmt: skip


def test_entries_are_complete() -> None:
    for entry in ENTRIES.values():
        assert entry.what and entry.seen and entry.subject, entry.id
        assert bool(entry.stage and entry.where and entry.fix) != entry.harmless, entry.id


def test_every_entry_has_its_code_and_its_setting() -> None:
    from stdc_parity.fixtures.portbugs import paddle_bugs, torch_bugs

    assert paddle_bugs.BUGS.keys() | torch_bugs.BUGS.keys() == ENTRIES.keys()
    assert {entry.setting for entry in ENTRIES.values()} - {""} == torch_bugs.SETTINGS.keys()


def test_the_entry_itself_would_pass_for_a_diagnosis() -> None:
    late = ("loss", "optimizer", "schedule", "metric", "train")
    for entry in (entry for entry in ENTRIES.values() if entry.stage in late):
        assert re.search(entry.diagnosis, f"{entry.what} {entry.cause} {entry.fix}"), entry.id


def test_a_few_of_every_rung_are_found_and_named() -> None:
    score = selftest.run(SOME)
    assert [f.id for f in score.findings if not f.harmless and not f.right_place] == []
    assert score.false_alarms == []
    by_records = [f for f in score.findings if ENTRIES[f.id].stage in ("weights", "data")]
    assert by_records and all(f.right_cause for f in by_records)


def test_a_score_that_is_not_good_enough_fails() -> None:
    missed = selftest.Finding("bgr", False, False, "", "", False, False)
    alarm = selftest.Finding("ok-ffm-factored", True, True, "forward", "ffm", False, False)
    assert not selftest.Score([missed])
    assert not selftest.Score([alarm])
    assert "MISSED" in "\n".join(selftest.describe(selftest.Score([missed])))


@pytest.mark.parametrize("command", [["selftest", "nope"], ["forward", "--plant", "nope"]])
def test_an_unknown_bug_is_a_usage_error(command: list[str]) -> None:
    result = CliRunner().invoke(align, command)
    assert result.exit_code == 2 and "no " in result.output


def test_the_list_names_every_entry() -> None:
    result = CliRunner().invoke(align, ["selftest", "--list"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == list(ENTRIES)


def test_every_measured_divergence_has_an_entry() -> None:
    """`measured.json` lists what was measured of the two frameworks apart from our ladder, and who stands for it."""
    file = Path(selftest.__file__).parents[1] / "fixtures" / "portbugs" / "measured.json"
    measured = json.loads(file.read_text(encoding="utf-8"))
    assert (sum(row["identical"] for row in measured.values()), len(measured)) == (59, 154)
    for name, row in measured.items():
        entries = [ENTRIES[id] for id in row["entries"]]
        assert all(entry.harmless is row["identical"] for entry in entries), name
    without = [name for name, row in measured.items() if not row["entries"]]
    assert without == ["bn_stats_in_parameters"]  # about a list of parameters: nothing is computed otherwise
