"""Pairing two networks' units: by path and type, else by type and shape, else in the order of execution.

What is paired in order is a candidate that a run has to confirm (`search.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

from stdc_parity.align.derivation.units import (
    COUNTER,
    TENSOR,
    Part,
    Unit,
    as_linears,
    as_rows,
    as_tensors,
)
from stdc_parity.converters.rules import Settled

MAX_AXES = 4
"""Tensors of more axes than this are not tried in all orders of them (4 give at most 24)."""


@dataclass(frozen=True)
class Pair:
    """Two units that are taken for one, how that was settled, and what speaks for it.

    `axes` is how a tensor that no layer's type explains lies in Paddle, as an order of PyTorch's axes (empty: as it
    is); `others` are the orders that its shapes allow besides.
    """

    torch: Unit
    paddle: Unit
    settled: Settled
    evidence: str = ""
    axes: tuple[int, ...] = ()
    others: tuple[tuple[int, ...], ...] = ()


@dataclass
class Pairing:
    """The pairs, and the units of each side that are left."""

    pairs: list[Pair] = field(default_factory=list)
    torch: list[Unit] = field(default_factory=list)
    paddle: list[Unit] = field(default_factory=list)

    def take(self, torch: Unit, paddle: Unit, settled: Settled, evidence: str = "") -> None:
        """Pair two units that are left."""
        self.torch.remove(torch)
        self.paddle.remove(paddle)
        self.pairs.append(with_axes(Pair(torch, paddle, settled, evidence)))


def pair_units(torch: Sequence[Unit], paddle: Sequence[Unit]) -> Pairing:
    """Pair the units of two networks; each side's come in the order of their execution (else of registration)."""
    found = Pairing([], [u for u in torch if not u.is_alias], [u for u in paddle if not u.is_alias])
    _by_path(found)
    _by_signature(found, lambda unit: unit.signature)
    _by_signature(found, lambda unit: unit.core)
    _second_names(found, [u for u in torch if u.is_alias], [u for u in paddle if u.is_alias])
    found.torch = [each for unit in found.torch for each in _pieces(unit, found.paddle)]
    found.paddle = [each for unit in found.paddle for each in _pieces(unit, found.torch)]
    _by_path(found)
    _packed(found)
    _by_signature(found, lambda unit: unit.signature)
    _by_signature(found, lambda unit: unit.core)
    for side in (found.torch, found.paddle):
        side[:] = [each for unit in side for each in as_tensors(unit)]
    _by_path(found)
    _by_signature(found, lambda unit: unit.signature)
    _by_signature(found, lambda unit: unit.core)
    return found


def _by_path(found: Pairing) -> None:
    theirs = {unit.path: unit for unit in found.paddle}
    wrapped = _wrapper(found.torch, found.paddle), _wrapper(found.paddle, found.torch)
    for unit in list(found.torch):
        path = unit.path.removeprefix(wrapped[1]) if wrapped[1] else wrapped[0] + unit.path
        other = theirs.get(path)
        if other is not None and fits(unit, other):
            what = wrapped[0] or wrapped[1]
            found.take(unit, other, "path", f"all of one side is in {what}" if what else "")


def _wrapper(inner: Sequence[Unit], outer: Sequence[Unit]) -> str:
    """What stands before each path of one side on the other one, if that has all of its modules in one; else ""."""
    first = {unit.path.partition(".")[0] for unit in outer}
    if len(first) != 1 or len(inner) < 2:
        return ""
    prefix = f"{first.pop()}."
    paths = {unit.path for unit in outer}
    if {unit.path for unit in inner} & paths:
        return ""
    return prefix if sum(prefix + unit.path in paths for unit in inner) * 2 > len(inner) else ""


def _by_signature(found: Pairing, key: Callable[[Unit], Hashable]) -> None:
    """Pair what no other unit looks like by its type; as many of one look on both sides, in order."""
    groups: dict[Hashable, tuple[list[Unit], list[Unit]]] = {}
    for i, units in enumerate((found.torch, found.paddle)):
        for unit in units:
            groups.setdefault(key(unit), ([], []))[i].append(unit)
    for ours, theirs in groups.values():
        if len(ours) == len(theirs) and all(fits(a, b) for a, b in zip(ours, theirs, strict=True)):
            for a, b in zip(ours, theirs, strict=True):
                found.take(a, b, "type" if len(ours) == 1 else "order")


def _second_names(found: Pairing, torch: Iterable[Unit], paddle: Iterable[Unit]) -> None:
    """A layer that is a second name on one side and one of its own on the other, under the same path."""
    ours, theirs = {u.path: u for u in torch}, {u.path: u for u in paddle}
    for unit in [u for u in found.torch if u.path in theirs and fits(u, theirs[u.path])]:
        found.paddle.append(theirs[unit.path])
        found.take(unit, theirs[unit.path], "path")
    for unit in [u for u in found.paddle if u.path in ours and fits(ours[u.path], u)]:
        found.torch.append(ours[unit.path])
        found.take(ours[unit.path], unit, "path")


def _pieces(unit: Unit, others: Sequence[Unit]) -> list[Unit]:
    """An attention without a counterpart as its linear layers; anything else as it is."""
    return as_linears(unit) if unit.kind == "attention" else [unit]


def _packed(found: Pairing) -> None:
    """Split a linear layer whose rows are several layers of the other side, such as a packed qkv, if numbers fit."""
    for ours, theirs in ((found.torch, found.paddle), (found.paddle, found.torch)):
        for unit in [u for u in ours if u.kind == "linear" and "weight" in u.parts and not u.parts["weight"].rows]:
            small = [u for u in theirs if u.kind == "linear" and _is_part(u, unit)]
            if not small:
                continue
            peers = [u for u in ours if u.signature == small[0].signature]
            count = unit.parts["weight"].form[0] // small[0].parts["weight"].form[0]
            if {u.signature for u in small} == {small[0].signature} and count + len(peers) == len(small):
                rows = as_rows(unit, count)
                ours[:] = [each for u in ours for each in (rows if u is unit else [u])]


def _is_part(small: Unit, unit: Unit) -> bool:
    """Whether a linear layer may be some of another's rows: both take as much, and have a bias or not."""
    if "weight" not in small.parts or small.parts.keys() != unit.parts.keys() or small.parts["weight"].rows:
        return False
    rows, columns = small.parts["weight"].form
    whole = unit.parts["weight"].form
    return columns == whole[1] and rows < whole[0] and whole[0] % rows == 0


def fits(torch: Unit, paddle: Unit) -> bool:
    """Whether two units may be one: of one kind, and what both have has one form."""
    if torch.kind != paddle.kind or torch.core != paddle.core:
        return False
    shared = torch.parts.keys() & paddle.parts.keys() - {COUNTER}
    if torch.kind == TENSOR:
        return orders(torch.parts["value"], paddle.parts["value"]) is not None
    return bool(shared) and all(torch.parts[role].form == paddle.parts[role].form for role in shared)


def orders(torch: Part, paddle: Part) -> list[tuple[int, ...]] | None:
    """The orders of PyTorch's axes in which a tensor may lie in Paddle, the likeliest first; None if there is none.

    One if the layers' types say it. An order that only moves axes of size 1 is no other order.
    """
    if torch.fixed and paddle.fixed:  # a Linear may be a convolution of size 1, not turned
        same = torch.form == paddle.form or (paddle.turn == "copy" and _squeezed(torch) == _squeezed(paddle))
        return [()] if same else None
    target = paddle.form if paddle.fixed else paddle.shape
    if len(torch.form) != len(target):
        return [()] if _squeezed(torch) == tuple(n for n in target if n != 1) else None
    if len(target) > MAX_AXES:
        return [()] if torch.form == target else None
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for axes in permutations(range(len(target))):
        if tuple(torch.form[axis] for axis in axes) == target:
            found.setdefault(tuple(axis for axis in axes if torch.form[axis] != 1), axes)
    identity = tuple(range(len(target)))
    ordered = sorted(found.values(), key=lambda axes: axes != identity)
    return [() if axes == identity else axes for axes in ordered] or None


def _squeezed(part: Part) -> tuple[int, ...]:
    return tuple(n for n in part.form if n != 1)


def with_axes(pair: Pair) -> Pair:
    """A pair with the order of its tensor's axes, and the others that its shapes allow."""
    if pair.torch.kind != TENSOR:
        return pair
    first, *others = orders(pair.torch.parts["value"], pair.paddle.parts["value"]) or [()]
    return replace(pair, axes=first, others=tuple(others))

