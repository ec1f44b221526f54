"""`stdc-convert derive`: the rules of two networks, written for people to review."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stdc_parity.align.derivation.prober import Derivation, Prober
from stdc_parity.align.framework import Array
from stdc_parity.align.pairs import find_pair
from stdc_parity.align.sides import default_threads, open_sides
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.atomic import atomic_write, check_target
from stdc_parity.converters.errors import UsageError, shown
from stdc_parity.converters.rules_file import rules_text
from stdc_parity.converters.version import VERSION
from stdc_parity.fixtures.images import seeded_image

SIDES: tuple[Side, ...] = ("torch", "paddle")
Jobs = Mapping[Side, Mapping[str, Any]]


def jobs_of_pair(
    name: str, base: int, size: tuple[int, int] | None, batch: int, seed: int
) -> tuple[Jobs, list[Array]]:
    """How each side of a known pair builds its network, and what both are called with."""
    pair = find_pair(name, base=base)
    method = "" if pair.method == "forward" else pair.method
    jobs = {side: {"builder": pair.builders[side], "arguments": dict(pair.arguments), "method": method}
            for side in SIDES}  # fmt: skip
    spec = RunSpec(name, size or pair.size, batch=batch, seed=seed, base=base)
    inputs = pair.inputs(spec) if callable(pair.inputs) else (seeded_image(spec.size, batch, seed),)
    return jobs, list(inputs)


def jobs_of_builders(builders: Mapping[Side, str], paths: Mapping[Side, Sequence[Path]]) -> Jobs:
    """How each side builds what `package.module:function` gives, found in the folders of `paths`."""
    folders = {side: [str(path.resolve()) for path in (*paths[side], Path())] for side in SIDES}
    return {side: {"builder": builders[side], "path": folders[side], "method": ""} for side in SIDES}


def draw_inputs(texts: Sequence[str], seed: int) -> list[Array] | None:
    """Seeded inputs for the texts of `--input`: `1x3x64x64` normal values, `2x9:int64<100` integers from 0 on.

    None if there are none. Raises UsageError for another text.
    """
    return [_drawn(text, [seed, i]) for i, text in enumerate(texts)] or None


def _drawn(text: str, seed: Sequence[int]) -> Array:
    shape, _, kind = text.partition(":")
    dtype, _, high = kind.partition("<")
    sizes = shape.split("x")
    good = all(n.isascii() and n.isdecimal() and 0 < int(n) < 1 << 24 for n in sizes)
    if not good or dtype not in ("", "float32", "int32", "int64") or (high and not high.isdecimal()):
        raise UsageError(f"--input {shown(text)}: this is no shape such as 1x3x224x224, or 2x9:int64<100")
    random = np.random.default_rng([*seed, 11])
    if dtype.startswith("int"):
        return random.integers(0, int(high or 2), tuple(map(int, sizes))).astype(dtype)
    return random.standard_normal(tuple(map(int, sizes)), np.float32)


def derive(
    jobs: Jobs, inputs: Sequence[Array] | None, *, seed: int, tol: float, threads: int | None,
    said: Callable[[str], None] = lambda text: None,
) -> Derivation:  # fmt: skip
    """Derive the rules of the networks that `jobs` build, each in a process of its own.

    Raises MissingFramework, and ParityError if a side's network cannot be built.
    """
    with open_sides(SIDES, threads or default_threads()) as processes, tempfile.TemporaryDirectory() as folder:
        said("both sides build their networks")
        workers = {side: processes[side] for side in SIDES}
        return Prober(workers, jobs, inputs, Path(folder), seed=seed, tol=tol, said=said).derive()


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
        yield f"{proven} outputs of both sides agree to {found.gap:.1e} of scale with these rules (float64)."
    else:
        yield "NOT PROVEN: with these rules the two sides do not compute the same."
    yield from found.remarks


def open_lines(found: Derivation) -> Iterator[str]:
    """What is open, a line each."""
    for each in found.rules.open:
        sides = (", ".join(map(shown, names[:4])) + (", …" if len(names) > 4 else "") or "nothing"
                 for names in (each.torch, each.paddle))  # fmt: skip
        yield f"  open: {' <-> '.join(sides)}: {shown(each.why)}"
