"""What stdc-align says of each port bug, for docs/catalogue.md: where it is seen first, how large it is, and why.

    python benchmarks/catalogue.py [--missing] [ID]...          # -> docs/catalogue.json
    python -m stdc_parity.fixtures.portbugs.document            # -> docs/catalogue.md, docs/catalogue.zh-CN.md

Each bug is planted by itself as `stdc-align selftest` does it, some seconds for each. With ids, or with --missing
those without figures, only these are measured; the others' figures stay, and those of entries that are gone go.
A run that is broken off keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stdc_parity.align import selftest
from stdc_parity.align.compare import SIDES
from stdc_parity.align.result import Comparison, Diagnosis, RunResult
from stdc_parity.align.sides import default_threads, open_sides
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES
from stdc_parity.fixtures.portbugs.entry import Entry

FIGURES = Path(__file__).parent.parent / "docs" / "catalogue.json"


def describe(result: RunResult) -> Mapping[str, str]:
    """What the first rung that fails says: `stage`, `place`, `size` or what is wrong beyond it, `cause` and more."""
    stage = next((stage for stage in result.stages if not stage), None)
    if stage is None:
        return {}
    facts = {"stage": stage.stage, "place": selftest.places(stage)[0]}
    if stage.failures:
        return facts | {"why": stage.failures[0].message.splitlines()[0]}
    first = stage.first
    if first is not None:
        facts |= describe_size(first)
    diagnosis = next((diagnosis for diagnosis in stage.diagnoses if diagnosis), None)
    return facts | (describe_cause(diagnosis) if diagnosis is not None else {})


def describe_size(first: Comparison) -> Mapping[str, str]:
    """How far apart the two sides are at `first`, as a fraction of its scale, or why it cannot be said."""
    return {"why": first.why} if first.why else {"size": f"{first.relative:.1e}"}


def describe_cause(diagnosis: Diagnosis) -> Mapping[str, str]:
    """The stated cause with its fix, and the difference with and without it."""
    figures = {"before": f"{diagnosis.before:.1e}", "after": f"{diagnosis.after:.1e}"}
    return {"cause": diagnosis.cause, "fix": diagnosis.fix, **figures}


def measure(entries: Sequence[Entry], said: dict[str, Any]) -> None:
    """Put what is said of `entries` into `said`, and under "sides" the frameworks' versions."""
    with open_sides(SIDES, default_threads()) as processes:
        for number, entry in enumerate(entries):
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {len(entries)}: {entry.id}\x1b[K", end="", file=sys.stderr, flush=True)
            result = selftest.plant(processes, [entry])
            said["entries"][entry.id] = describe(result)
            facts = next((stage.facts for stage in result.stages if stage.facts), {})
            said["sides"] |= {side: facts[side][side] for side in facts}


def main() -> None:
    """Measure what the command line names, all without any, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--missing", action="store_true", help="only those that have no figures")
    options = parser.parse_args()
    said = json.loads(FIGURES.read_bytes()) if FIGURES.exists() else {"sides": {}, "entries": {}}
    said["entries"] = {name: facts for name, facts in said["entries"].items() if name in ENTRIES}
    bugs = [entry for entry in selftest.chosen(options.ids) if not entry.harmless]
    try:
        measure([entry for entry in bugs if not options.missing or entry.id not in said["entries"]], said)
    finally:
        with atomic_write(FIGURES, force=True) as file:
            file.write((json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
