"""`stdc-convert derive`: the rules of two networks, written for people to review."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stdc_parity.align.derivation.prober import Derivation, Prober
from stdc_parity.align.own import name_of
from stdc_parity.align.pairs import find_pair
from stdc_parity.align.sides import default_threads, open_sides
from stdc_parity.align.spec import Own, RunSpec
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.atomic import atomic_write, check_target
from stdc_parity.converters.errors import shown
from stdc_parity.converters.rules_file import rules_text
from stdc_parity.converters.version import VERSION

SIDES: tuple[Side, ...] = ("torch", "paddle")
FLOAT32 = 1e-4
"""How far outputs may differ in float32, relative to each one's largest value; twins stay below 1e-5."""
SIZE, BATCH = (64, 128), 2
"""Of the images that a known pair is run with: small, and enough for norms over a batch."""


def spec_of(pair: str | None, own: Own | None, base: int, seed: int) -> RunSpec:
    """The run of a pair that is known, or of a user's own, that derives its rules."""
    if own is not None:
        return RunSpec(name_of(own), (0, 0), seed=seed, own=own, dtype="float64")
    assert pair is not None
    find_pair(pair, base=base)
    return RunSpec(pair, SIZE, batch=BATCH, exact_batch=True, seed=seed, base=base, dtype="float64")


def derive(
    spec: RunSpec, *, runs: bool, tol: float, threads: int | None, said: Callable[[str], None] = lambda text: None
) -> Derivation:
    """Derive the rules of the networks of `spec`, each in a process of its own; without a run if it `runs` nothing.

    Raises MissingFramework, and UsageError if a side's network cannot be built.
    """
    with open_sides(SIDES, threads or default_threads()) as processes, tempfile.TemporaryDirectory() as folder:
        said("both sides build their networks")
        workers = {side: processes[side] for side in SIDES}
        found = Prober(workers, spec, Path(folder), runs=runs, tol=tol, said=said).derive()
        if not runs or found.gap is not None:
            return found
        said("float32, as float64 cannot be run")
        narrow = replace(spec, dtype="float32")
        again = Prober(workers, narrow, Path(folder), tol=max(tol, FLOAT32), said=said).derive()
        return found if again.gap is None else replace(again, remarks=[*again.remarks, *found.remarks])


def write_derivation(found: Derivation, about: Sequence[str], target: Path, *, force: bool) -> None:
    """Write the rules with what is known of them as comments. Raises UsageError if `target` may not be written."""
    lines = [f"Written by stdc-parity {VERSION}: {' '.join(about)}", *describe(found)]
    with atomic_write(check_target(target, force=force), force=force) as file:
        file.write(rules_text(found.rules, [shown(line, 1000) for line in lines]).encode("utf-8"))


def describe(found: Derivation) -> Iterator[str]:
    """What was found, for people."""
    versions = (f"{side} {facts[side]}" for side, facts in found.facts.items() if isinstance(facts, Mapping))
    counts = Counter(rule.settled for rule in found.rules.tensors)
    settled = ", ".join(f"{count} by {how}" for how, count in counts.most_common())
    yield f"{', '.join(versions)}."
    yield f"{len(found.rules.tensors)} rules: {settled or 'none'}. {len(found.rules.open)} open."
    if found.gap is None:
        yield "Not proven by a run."
    elif found.holds:
        proven = "Proven: the" if found else "With what is open as it was tried, the"
        yield f"{proven} outputs of both sides agree to {found.gap:.1e} of scale with these rules ({found.dtype})."
    else:
        yield "NOT PROVEN: with these rules the two sides do not compute the same."
    yield from found.remarks


def open_lines(found: Derivation) -> Iterator[str]:
    """What is open, a line each."""
    for each in found.rules.open:
        sides = (", ".join(map(shown, names[:4])) + (", …" if len(names) > 4 else "") or "nothing"
                 for names in (each.torch, each.paddle))  # fmt: skip
        yield f"  open: {' <-> '.join(sides)}: {shown(each.why)}"
