"""The case studies' pages show what the stored runs printed, and their script says what it needs."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "case_studies" / "run.py"
RESULTS = json.loads((ROOT / "docs" / "case-studies" / "results.json").read_text(encoding="utf-8"))
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "case-studies").glob("*.md")}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("case_studies_run", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_stored_runs(script, page):
    assert script.filled(PAGES[page], RESULTS) == PAGES[page]


def test_every_command_was_run_ended_as_it_should_and_is_shown(script):
    ends = {f"{command.port}/{command.name}": command.code for command in script.COMMANDS}
    assert {key: run["exit"] for key, run in RESULTS["runs"].items()} == ends
    shown = set(re.findall(r"<!-- run: (\S+) -->", "".join(PAGES.values())))
    assert shown == set(ends)
    assert not any(line.startswith("The ") and "side failed" in line for run in RESULTS["runs"].values()
                   for line in run["output"])  # fmt: skip


def test_the_index_names_the_versions_that_were_run():
    for name, version in RESULTS["versions"].items():
        assert version.split()[0] in PAGES["README.md"], name


@pytest.mark.parametrize(("options", "said"), [
    ("--only icnet-paddle", "icnet-paddle needs --icnet-pytorch"),
    ("--only icnet-paddle --icnet-pytorch . --icnet-paddle .", "there is no models/icnet.py"),
    ("--only stdcnet-paddle --stdc-seg nowhere", "--stdc-seg nowhere: there is no models/model_stages.py"),
])  # fmt: skip
def test_a_checkout_that_is_missing_is_one_message(script, options, said, capsys):
    with pytest.raises(SystemExit) as caught:
        script.main(options.split())
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_help_names_every_checkout(script, capsys):
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name in script.PROOF)
