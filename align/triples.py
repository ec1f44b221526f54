"""Three port bugs at once: are all of them named, when none of them follows from another?"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stdc_parity.align.compare import SIDES
from stdc_parity.align.result import RunResult
from stdc_parity.align.selftest import places, plant
from stdc_parity.align.sides import SideProcess, default_threads, open_sides
from stdc_parity.align.spec import Side
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.errors import UsageError
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES
from stdc_parity.fixtures.portbugs.entry import Entry

NEEDED = 0.9
"""The share of triples of which all three must be named."""

ALONE = ("weights",)
"""Rungs of which a triple has one entry at most: their bugs change many tensors, often the same ones."""

COVERING = (
    "scale-before-flip", "flip-before-jitter", "validation-resized", "scale-uniform", "scale-list", "crop-pads",
)  # fmt: skip
"""Bugs that bring code of their own from the right module, under which another one of their rung has no effect."""


@dataclass(frozen=True)
class Triple:
    """Three bugs that were planted together, which of them were named, and what else was: `rung: place`."""

    ids: Sequence[str]
    named: Sequence[bool]
    besides: Sequence[str]

    def __bool__(self) -> bool:
        """Whether all of them were named."""
        return all(self.named)


@dataclass(frozen=True)
class Tally:
    """The triples, and whether enough of them were named."""

    triples: Sequence[Triple]

    @property
    def share(self) -> float:
        """The share of the triples of which all three were named."""
        return sum(map(bool, self.triples)) / max(1, len(self.triples))

    def __bool__(self) -> bool:
        """Whether that is as many as it must be."""
        return self.share >= NEEDED


def run(count: int, seed: int = 0, progress: Callable[[str], None] = lambda line: None) -> Tally:
    """Draw `count` triples, plant each and climb the whole ladder, as `all` does with its defaults."""
    drawn, triples = draw(seed), list[Triple]()
    with open_sides(SIDES, default_threads()) as processes:
        while len(triples) < count:
            entries = next(drawn)
            progress(f"{len(triples) + 1} of {count}: {', '.join(entry.id for entry in entries)}")
            triple = plant_three(processes, entries)
            triples += [triple] if triple is not None else []
    return Tally(triples)


def plant_three(processes: Mapping[Side, SideProcess], entries: Sequence[Entry]) -> Triple | None:
    """What becomes of entries of one subject that are planted together; None if they replace the same thing."""
    try:
        return judge(entries, plant(processes, entries, stop_early=False))
    except UsageError:
        return None


def draw(seed: int) -> Iterator[list[Entry]]:
    """Random triples of entries of one subject, without end; each entry is as likely to be the first.

    No two of them are at one place or inside one another.
    """
    random_ = random.Random(f"triples/{seed}")
    bugs = [entry for entry in ENTRIES.values() if not entry.harmless and not entry.where.endswith("failed")]
    while True:
        first = random_.choice(bugs)
        others = [entry for entry in bugs if entry.subject == first.subject and entry is not first]
        if len(others) < 2:
            continue
        triple = [first, *random_.sample(others, 2)]
        if all(independent(a, b) for i, a in enumerate(triple) for b in triple[:i]):
            yield triple


def independent(a: Entry, b: Entry) -> bool:
    """Whether two bugs can be told apart: other places, none within the other, none under the other."""
    if a.stage == b.stage and (a.stage in ALONE or a.id in COVERING or b.id in COVERING):
        return False
    networks = ("forward", "forward-train", "backward")
    if a.stage not in networks or b.stage not in networks:
        return (a.stage, a.where) != (b.stage, b.where)
    return "network" not in (a.where, b.where) and not _overlap(a.where, b.where)


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def judge(entries: Sequence[Entry], result: RunResult) -> Triple:
    """Hold what a run named against what the entries say: the rung and the place of each."""
    named = [(stage.stage, place) for stage in result.stages if not stage for place in places(stage)]
    wanted = [(entry.stage, entry.where) for entry in entries]
    besides = [f"{stage}: {place}" for stage, place in named if (stage, place) not in wanted]
    return Triple([entry.id for entry in entries], [each in named for each in wanted], besides)


def describe(tally: Tally) -> Iterator[str]:
    """The tally for people: what was missed first, the share last."""
    for triple in tally.triples:
        if not triple:
            yield " + ".join(triple.ids)
            for id, found in zip(triple.ids, triple.named, strict=True):
                if not found:
                    yield f"  MISSED  {id}: expected at {ENTRIES[id].stage}, {ENTRIES[id].where}"
            yield f"  named besides: {'; '.join(triple.besides[:8]) or 'nothing'}"
    besides = sorted(len(triple.besides) for triple in tally.triples)
    single = sum(sum(triple.named) for triple in tally.triples) / max(1, 3 * len(tally.triples))
    yield (
        f"{len(tally.triples)} triples: all three named in {tally.share:.0%}, {single:.1%} of the bugs; "
        f"named besides: {besides[len(besides) // 2] if besides else 0} in the median"
    )


def write_json(tally: Tally, path: Path) -> None:
    """Write the triples to `path` in one step."""
    data = {"share": tally.share, "triples": [asdict(triple) for triple in tally.triples]}
    with atomic_write(path, force=True) as file:
        file.write((json.dumps(data, indent=1) + "\n").encode())
