"""Comparing two checkpoints tensor by tensor, whatever framework, names and container each of them has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from stdc_parity.converters.architecture import Architecture
from stdc_parity.converters.closeness import Gap, gap_between, is_transpose
from stdc_parity.converters.opened import (
    COUNTER,
    Named,
    Opened,
    is_abn,
    layout_of,
    named_by_rules,
    officially_named,
    plainly_named,
    with_abn_rewritten,
    without_what_is_of_one_layout,
)
from stdc_parity.converters.pieces import Progress, no_progress
from stdc_parity.converters.rules import Rules
from stdc_parity.converters.sniffing import MXNET
from stdc_parity.converters.statedict import Array

Verdict = Literal["same", "close", "different", "shape", "dtype", "missing", "extra"]
VERDICTS: tuple[Verdict, ...] = ("missing", "extra", "shape", "dtype", "different", "close", "same")
"""Worst first: what A has and B lacks is missing, what B has beyond A is extra."""

CLOSE = 1e-5
"""What counts as close: max|a-b| <= CLOSE * max|a|, the tolerance that `stdc-align` starts from."""


@dataclass(frozen=True)
class Facts:
    """One side of a row: the tensor's name in its file, its shape and dtype there."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Row:
    """One tensor of two checkpoints, by the name that they share; a side is None where it lacks the tensor.

    `gap` is None for equal bits and where shapes differ.
    """

    name: str
    verdict: Verdict
    a: Facts | None
    b: Facts | None
    gap: Gap | None = None
    hint: str = ""


@dataclass(frozen=True)
class Diff:
    """Two checkpoints compared; true if they agree.

    `tol` is None if only equal bits agree, else close tensors agree too. `official` says whether both were
    recognised. `notes` are what a person should know of the comparison.
    """

    a: Opened
    b: Opened
    rows: tuple[Row, ...]
    tol: float | None
    official: bool
    notes: tuple[str, ...]

    def count(self, verdict: Verdict) -> int:
        """How many tensors have this verdict."""
        return self.counts[verdict]

    @property
    def counts(self) -> Counter[Verdict]:
        """How many tensors have each verdict."""
        return Counter(row.verdict for row in self.rows)

    def __bool__(self) -> bool:
        agreeing = {"same"} if self.tol is None else {"same", "close"}
        return all(row.verdict in agreeing for row in self.rows)


def diff(
    a: Opened, b: Opened, tol: float | None = None, progress: Progress = no_progress, rules: Rules | None = None
) -> Diff:
    """Compare every tensor; `progress` is told the bytes of `a` and `b` that were compared.

    With `rules`, which both were opened with, names are PyTorch's by them. Without, they are the official ones if
    both architectures are recognised, else the files' own with PyTorch's names for norm statistics. Raises
    CheckpointError if keys of one file collide under those.
    """
    if rules is None:
        named_a, named_b, notes = _named_alike(a, b)
    else:
        named_a, named_b, notes = named_by_rules(a, rules), named_by_rules(b, rules), []
    rows = tuple(_rows(a, b, named_a, named_b, CLOSE if tol is None else tol, progress))
    return Diff(a, b, rows, tol, _both_recognised(a, b), tuple(notes))


def _both_recognised(a: Opened, b: Opened) -> bool:
    return a.architecture is not None and b.architecture is not None


def _named_alike(a: Opened, b: Opened) -> tuple[Named, Named, list[str]]:
    """The tensors of both under shared names, without what only one framework can hold."""
    if a.architecture is None or b.architecture is None:
        return plainly_named(a), plainly_named(b), []
    named, notes = _without_what_one_layout_lacks(a, b, a.architecture)
    abn = is_abn(a, a.architecture), is_abn(b, b.architecture)
    for i, (opened, architecture) in enumerate(((a, a.architecture), (b, b.architecture))):
        letter = "AB"[i]
        if abn[i] and not all(abn):
            named[i] = with_abn_rewritten(named[i], architecture)
            named[1 - i] = _without_counters(named[1 - i], {f"{norm}.{COUNTER}" for norm in architecture.abn_norms})
            notes.append(
                f"The head norms of {letter} are InPlaceABN's: compared as |weight| + 1e-5, and without counters."
            )
        whose = "MXNet" if opened.contents.container == MXNET else "Paddle" if opened.side == "paddle" else ""
        if whose and not named[i].counts_batches and named[1 - i].counts_batches:
            counted = len(named[1 - i].tensors)
            named[1 - i] = _without_counters(named[1 - i], named[1 - i].tensors)
            counted -= len(named[1 - i].tensors)
            notes.append(
                f"{letter} is {whose}'s, whose norms keep no counter: {counted} of {'BA'[i]} are left out."
            )
        if named[i].aliases:
            notes.append(f"{named[i].aliases} second names in {letter} have equal bytes and are left out.")
    return named[0], named[1], notes


def _without_what_one_layout_lacks(
    a: Opened, b: Opened, architecture: Architecture
) -> tuple[list[Named], list[str]]:
    """Both under official names, without what the other one's layout has no place for."""
    named, layouts = [officially_named(each, architecture) for each in (a, b)], [layout_of(a), layout_of(b)]
    notes: list[str] = []
    if layouts[0] is not layouts[1]:
        both = [without_what_is_of_one_layout(named[i], named[1 - i], layouts[1 - i], architecture) for i in (0, 1)]
        named = [each for each, _ in both]
        notes += [
            f"{gone} of {letter} have no place in the layout {layout.name} and are left out."
            for (_, gone), letter, layout in zip(both, "AB", layouts[::-1], strict=True)
            if gone
        ]
    return named, notes


def _without_counters(named: Named, names: Collection[str]) -> Named:
    """Without the counters of batches among `names`."""
    kept = {name for name in named.tensors if name not in names or not name.endswith(f".{COUNTER}")}
    tensors = {name: tensor for name, tensor in named.tensors.items() if name in kept}
    return Named(tensors, named.original, named.aliases)


def _rows(
    a: Opened, b: Opened, named_a: Named, named_b: Named, tol: float, progress: Progress
) -> Iterator[Row]:
    for name, tensor in named_a.tensors.items():
        other = named_b.tensors.get(name)
        facts = _facts(named_a, name, tensor)
        size = tensor.nbytes
        if other is None:
            yield Row(name, "missing", facts, None)
        else:
            size += other.nbytes
            yield _compared(name, tensor, other, facts, _facts(named_b, name, other), tol, a.side != b.side)
        progress(size)
        a.contents.mapped.passed(size)
        b.contents.mapped.passed(size)
    for name, tensor in named_b.tensors.items():
        if name not in named_a.tensors:
            yield Row(name, "extra", None, _facts(named_b, name, tensor))


def _facts(named: Named, name: str, tensor: Array) -> Facts:
    return Facts(named.original.get(name, name), tensor.shape, tensor.dtype.name)


def _compared(name: str, a: Array, b: Array, of_a: Facts, of_b: Facts, tol: float, sides_differ: bool) -> Row:
    transposed = sides_differ and a.shape != b.shape and is_transpose(a, b)
    if a.shape != b.shape:
        hint = "the same when transposed: a Linear weight?" if transposed else ""
        return Row(name, "shape", of_a, of_b, None, hint)
    gap = gap_between(a, b)
    if gap is None:
        return Row(name, "same", of_a, of_b)
    if a.dtype != b.dtype:
        return Row(name, "dtype", of_a, of_b, gap)
    if gap.worst <= tol * gap.scale:
        return Row(name, "close", of_a, of_b, gap, "equal values, other bits" if gap.worst == 0 else "")
    hint = "the same when transposed: a Linear weight?" if sides_differ and is_transpose(a, b) else ""
    return Row(name, "different", of_a, of_b, gap, hint)
