"""What stdc-align says of each port bug, for docs/catalogue.md: where it is seen first, how large it is, and why.

    python benchmarks/catalogue.py [ID]...                      # -> docs/catalogue.json
    python -m stdc_parity.fixtures.portbugs.document            # -> docs/catalogue.md, docs/catalogue.zh-CN.md

Each bug is planted by itself as `stdc-align selftest` does it, some seconds for each. With ids, only these are
measured again; the others' figures stay, and those of entries that are gone go.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from stdc_parity.align import selftest
from stdc_parity.align.compare import SIDES
from stdc_parity.align.result import Comparison, Diagnosis, RunResult
from stdc_parity.align.sides import default_threads, open_sides
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES

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
    """How far apart the two sides are at `first`, as a fraction of the reference's scale, or why it cannot be said."""
    return {"why": first.why} if first.why else {"size": f"{first.relative:.1e}"}


def describe_cause(diagnosis: Diagnosis) -> Mapping[str, str]:
    """The stated cause with its fix, and the difference with and without it."""
    figures = {"before": f"{diagnosis.before:.1e}", "after": f"{diagnosis.after:.1e}"}
    return {"cause": diagnosis.cause, "fix": diagnosis.fix, **figures}


def main() -> None:
    """Measure what the command line names, all without any, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID")
    entries = [entry for entry in selftest.chosen(parser.parse_args().ids) if not entry.harmless]
    old = json.loads(FIGURES.read_bytes()) if FIGURES.exists() else {}
    figures = {name: said for name, said in old.items() if name in ENTRIES}
    with open_sides(SIDES, default_threads()) as processes:
        for number, entry in enumerate(entries):
            figures[entry.id] = dict(describe(selftest.plant(processes, [entry])))
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {len(entries)}: {entry.id}\x1b[K", end="", file=sys.stderr, flush=True)
    with atomic_write(FIGURES, force=True) as file:
        file.write((json.dumps(figures, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
