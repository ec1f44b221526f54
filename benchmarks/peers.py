"""The corpus of port bugs through PaDiff, reprod_log and stdc-align: who finds what, and who names the place.

    python -m venv peers-env
    peers-env/bin/pip install torch==2.13.0 paddlepaddle==3.3.1 padiff reprod_log pyyaml pillow ml_dtypes rich
    python benchmarks/peers.py --python peers-env/bin/python [--selftest FILE] [--keep DIR] [ID]...

The peers have an environment of their own, as PaDiff changes both frameworks when it is imported; `peer_runs.py`
runs there, one process for each tool, and says how each is set up. With --selftest, what stdc-align finds is read
from the file that `stdc-align selftest --json FILE` wrote; with --keep, what the peers answered is kept, and a run
that was broken off goes on. Prints Markdown; docs/peers.md explains it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdc_parity.align import selftest
from stdc_parity.align.compare import SIDES, Judging
from stdc_parity.align.judge import Tolerance
from stdc_parity.align.ladder import RUNGS
from stdc_parity.align.run import climb
from stdc_parity.align.sides import default_threads, open_sides
from stdc_parity.align.spec import RunSpec
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES
from stdc_parity.fixtures.portbugs.entry import Entry

OURS = "stdc-align"
MEANS: Mapping[str, Mapping[str, str]] = {
    "padiff": {
        "weights": "eval",
        "forward": "eval",
        "forward-train": "train",
        "loss": "backward",
        "backward": "backward",
        "optimizer": "steps",
        "schedule": "steps",
        "train": "steps",
    },
    "reprod_log": {name: name for name in RUNGS},
}
"""The check of a tool that would see a bug of a rung; a rung that is missing is one that it has no means for."""

PEER_SETTINGS = {
    "PADIFF_API_CHECK": "OFF",
    "PADIFF_CUDA_MEMORY": "OFF",
    "PADIFF_PATH_LOG": "ON",
    "OMP_NUM_THREADS": "1",
}
"""Layers and no functions (comparing those too, PaDiff found as many bugs and named fewer); no CUDA; dotted paths."""


@dataclass(frozen=True)
class Outcome:
    """What a tool made of an entry; what it could not run it has not found. `wide`: only float64 shows it."""

    found: bool = False
    named: bool = False
    ran: bool = True
    wide: bool = False
    crashed: bool = False


@dataclass(frozen=True)
class Answers:
    """What became of the entries in a tool's hands: its versions, its limits by pair and check, its outcomes."""

    versions: Mapping[str, str]
    limits: Mapping[str, Mapping[str, Mapping[str, float]]]
    outcomes: Mapping[str, Outcome]


def run_peer(python: str, tool: str, ids: Sequence[str], file: Path) -> Answers:
    """Run a tool on the entries that `file` has no answers for; it takes them up, so a run can be continued.

    An entry that takes the process down is noted, and the rest runs in a new one.
    """
    asked = [name for name in ids if ENTRIES[name].harmless or ENTRIES[name].stage in MEANS[tool]]
    print(f"{tool}: {len(asked)} entries, answers in {file}", file=sys.stderr)
    crashed: list[str] = []
    while True:
        facts, alarms = read_answers(file)
        left = [name for name in asked if name not in alarms and name not in crashed]
        if not left:
            break
        converse(python, {"tool": tool, "ids": left, "tolerances": facts.get("tolerances")}, file)
        facts, now = read_answers(file)
        if "tolerances" not in facts:
            sys.exit(f"{tool} did not get as far as the first entry")
        crashed += [name for name in left if name not in now][:1]
    limits = facts["tolerances"]
    outcomes = {name: judge(tool, ENTRIES[name], alarms[name], limits) for name in asked if name in alarms}
    unable = {name: Outcome(ran=False, crashed=name in crashed) for name in ids if name not in outcomes}
    return Answers(facts["versions"], limits, outcomes | unable)


def read_answers(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The versions and tolerances that peer_runs.py has written, and its alarm or None for each entry."""
    facts: dict[str, Any] = {}
    alarms: dict[str, Any] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        answer = json.loads(line)
        if "finding" in answer:
            alarms[answer["finding"]["id"]] = answer["finding"]["alarm"]
        else:
            facts |= answer
    return facts, alarms


def converse(python: str, request: Mapping[str, Any], file: Path) -> None:
    """Have peer_runs.py answer a request, line by line to the end of `file`, until it is done or its process dies."""
    import stdc_parity.align

    with tempfile.TemporaryDirectory() as folder, file.open("a") as out:
        Path(folder, "stdc_parity").symlink_to(Path(stdc_parity.align.__file__).resolve().parents[1])
        process = subprocess.run(
            [python, str(Path(__file__).with_name("peer_runs.py"))],
            input=json.dumps(request),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | PEER_SETTINGS | {"PYTHONPATH": folder, "PYTHONSAFEPATH": "1"},
        )
    if process.returncode:
        print(f"{request['tool']}: {process.stderr[-2000:]}", file=sys.stderr)


def judge(tool: str, entry: Entry, alarm: Mapping[str, Any] | None, limits: Mapping[str, Any]) -> Outcome:
    """An alarm held against the entry. Without one, a check that the clean pair does not pass has not run."""
    if alarm is None:
        checks = {check.partition(" ")[0] for check in limits[entry.subject]}
        return Outcome(ran=entry.harmless or MEANS[tool][entry.stage] in checks)
    named = any(is_named(entry, place) for place in alarm["places"])
    return Outcome(found=True, named=named, wide=" " in alarm["phase"])


def is_named(entry: Entry, place: str) -> bool:
    """Whether a peer's place is the entry's, or lies in it, or is the module that holds the entry's parameter."""
    inside = place.startswith(f"{entry.where}.")
    holder = entry.stage == "weights" and place == entry.where.rpartition(".")[0]
    return place == entry.where or inside or holder


def run_ours(ids: Sequence[str], file: Path | None) -> Answers:
    """The self-test's findings, from its file if there is one. The place must be the entry's, nothing less."""
    if file is not None:
        data = json.loads(file.read_text())["findings"]
        findings = [selftest.Finding(**row) for row in data if row["id"] in ids]
    else:
        findings = list(selftest.run(ids).findings)
    return Answers({}, {}, {f.id: Outcome(f.found, f.right_place) for f in findings})


def clean_alarms(subjects: Sequence[str]) -> list[str]:
    """The pairs that stdc-align reports without a bug in them."""
    bad = []
    with open_sides(SIDES, default_threads()) as processes:
        for subject in subjects:
            spec = RunSpec(subject, selftest.SIZE, base=selftest.BASE, batch=2)
            if not all(climb(processes, list(RUNGS), spec, Judging(Tolerance(), "always")).stages):
                bad.append(subject)
    return bad


def print_table(ids: Sequence[str], tools: Mapping[str, Answers]) -> None:
    """A row for each rung, the bugs together, and the look-alikes."""
    heads = [f"{tool} {what}" for tool in tools for what in ("found", "named", "cannot run")]
    print("| rung | bugs | " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * (1 + len(heads)))
    rows = {rung: [n for n in ids if ENTRIES[n].stage == rung] for rung in RUNGS}
    rows["**all**"] = [n for n in ids if not ENTRIES[n].harmless]
    for title, names in rows.items():
        cells = []
        for answers in tools.values():
            outcomes = [answers.outcomes[name] for name in names]
            found, named = sum(o.found for o in outcomes), sum(o.named for o in outcomes)
            cells += [str(found), str(named), str(sum(not o.ran for o in outcomes) or "")]
        if names:
            print(f"| {title} | {len(names)} | " + " | ".join(cells) + " |")
    harmless = [n for n in ids if ENTRIES[n].harmless]
    alarms = [f"{sum(answers.outcomes[n].found for n in harmless)} false | | " for answers in tools.values()]
    print(f"| *look-alikes* | {len(harmless)} | " + "| ".join(alarms) + "|")


def print_limits(tool: str, answers: Answers) -> None:
    """The span of a tool's limits over the pairs for each check, and the checks that no clean pair passes."""
    spans: dict[str, list[float]] = {}
    for checks in answers.limits.values():
        for check, kinds in checks.items():
            for kind, limit in kinds.items():
                spans.setdefault(f"{check} {kind}".strip(), []).append(limit)
    figures = [
        f"{name} {min(values):.0e} … {max(values):.0e}" for name, values in spans.items() if max(values)
    ]
    exact = [name for name, values in spans.items() if not max(values)]
    print(
        f"\n{tool}'s tolerances, by check, from the pair that needs the least to that which needs the most:"
    )
    print("; ".join(figures) + (f"; 0 for {', '.join(exact)}." if exact else "."))


def print_names(tool: str, ids: Sequence[str], answers: Answers) -> None:
    """What a tool missed, reported wrongly, or crashed on."""
    outcomes = {name: answers.outcomes[name] for name in ids}
    lists = {
        "missed": [n for n, o in outcomes.items() if o.ran and not o.found and not ENTRIES[n].harmless],
        "false alarms": [n for n, o in outcomes.items() if o.found and ENTRIES[n].harmless],
        "found in float64 only": [n for n, o in outcomes.items() if o.wide and not ENTRIES[n].harmless],
        "process crashed": [n for n, o in outcomes.items() if o.crashed],
    }
    for title, names in lists.items():
        if names:
            print(f"- {tool}, {title}: {', '.join(names)}")


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--python", required=True, help="the Python of an environment that has the peers")
    parser.add_argument("--selftest", type=Path, help="findings of an earlier stdc-align selftest --json")
    parser.add_argument(
        "--keep", type=Path, help="folder of the peers' answers: what it has is not asked again"
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="entries of the corpus (all)")
    options = parser.parse_args()
    ids = [entry.id for entry in selftest.chosen(options.ids)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        peers = {tool: run_peer(options.python, tool, ids, folder / f"{tool}.jsonl") for tool in MEANS}
    ours = run_ours(ids, options.selftest)
    subjects = list(dict.fromkeys(ENTRIES[name].subject for name in ids))
    bad = clean_alarms(subjects)
    print_table(ids, peers | {OURS: ours})
    for tool, answers in peers.items():
        print_limits(tool, answers)
    print(f"\n{OURS} on the {len(subjects)} clean pairs: {', '.join(bad) or 'no alarm'}.\n")
    for tool, answers in (peers | {OURS: ours}).items():
        print_names(tool, ids, answers)
    versions = {k: v for answers in peers.values() for k, v in answers.versions.items()}
    print(
        f"\n{datetime.date.today()}: {', '.join(f'{name} {version}' for name, version in versions.items())}"
    )


if __name__ == "__main__":
    main()
