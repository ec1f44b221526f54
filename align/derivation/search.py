"""Finding the pairs with which both sides compute the same, and how surely each of them is told from the others.

A run of Paddle's side with candidate pairs is held against one of PyTorch's, call by call: a layer that is given
what another layer of PyTorch's is given is that one. Where inputs do not tell (branches of one input, tensors that no
module shows), orders are tried. Nothing is kept that another candidate would do as well, unless it is marked so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from time import monotonic

from stdc_parity.align.derivation.calls import AGREE, DIFFER, Run, apart, gap_of
from stdc_parity.align.derivation.pairing import Pair, Pairing, fits, with_axes
from stdc_parity.align.derivation.units import TENSOR, Unit

MAX_PERMUTED = 4
"""Units of one look that are tried in all their orders (24 of 4); of more, two are swapped at a time."""
MAX_COMBINATIONS = 256
"""Combinations of orders that are tried at once, where none alone shows progress."""
MAX_RUNS = 600
MAX_SECONDS = 240

RunPaddle = Callable[[Sequence[Pair]], Run]


@dataclass(frozen=True)
class Fault:
    """The first call of Paddle's side that does not do what PyTorch's does: its number, module, and whether its
    `inputs` were other ones already."""

    number: int
    path: str
    inputs: bool
    gap: float


class Search:
    """The search of one mode; `pairing` changes as it goes. `kept` are modules whose pairs it may not touch."""

    def __init__(
        self, pairing: Pairing, reference: Run, run: RunPaddle, kept: frozenset[str] = frozenset(), tol: float = AGREE
    ) -> None:
        """Run Paddle's side once with the pairs as they are."""
        self.pairing, self.reference, self._paddle, self.kept, self.tol = pairing, reference, run, kept, tol
        self.runs, self._start = 0, monotonic()
        self.moved: set[str] = set()
        self.run = self._try(pairing.pairs)

    @property
    def gap(self) -> float:
        """How far the outputs of both sides are apart, relative to each output's largest value."""
        return self._gap(self.run)

    @property
    def holds(self) -> bool:
        """Whether the outputs agree."""
        return self.gap <= self.tol

    def solve(self) -> bool:
        """Change pairs until the outputs agree, or nothing helps; whether they agree."""
        while not self.holds and not self.run.failed and not self.is_over:
            fault = self.fault()
            if not (fault and fault.inputs and self._follow_inputs(fault)) and not self._try_orders(fault):
                break
        return self.holds

    def fault(self) -> Fault | None:
        """The first call that differs, None if no call shows it."""
        return self._fault(self.run, self.pairing.pairs)

    @property
    def is_over(self) -> bool:
        """Whether it has tried enough."""
        return self.runs >= MAX_RUNS or monotonic() - self._start > MAX_SECONDS

    def _try(self, pairs: Sequence[Pair]) -> Run:
        self.runs += 1
        return self._paddle(pairs)

    def _gap(self, run: Run) -> float:
        return float("inf") if run.failed else gap_of(self.reference.outputs, run.outputs)

    def _fault(self, run: Run, pairs: Sequence[Pair]) -> Fault | None:
        partner = {pair.paddle.module: pair.torch for pair in pairs if pair.paddle.module}
        unpaired = {unit.module for unit in self.pairing.paddle
                    if unit.module and any(fits(each, unit) for each in self.pairing.torch)}  # fmt: skip
        count: dict[str, int] = {}
        for number, call in enumerate(run.calls):
            k = count[call.path] = count.get(call.path, -1) + 1
            if call.path in unpaired:
                return Fault(number, call.path, True, float("inf"))
            theirs = self.reference.by_path.get(partner[call.path].module, ()) if call.path in partner else ()
            if k >= len(theirs):
                continue
            for inputs, a, b in ((True, theirs[k].inputs, call.inputs), (False, theirs[k].outputs, call.outputs)):
                gap = apart(a, b)
                if gap is not None and gap > self.tol:
                    return Fault(number, call.path, inputs, gap)
        return None

    def _progress(self, run: Run, pairs: Sequence[Pair]) -> float:
        """How many calls agree before the first that does not; more than all if the outputs agree."""
        if run.failed:
            return -1.0
        fault = self._fault(run, pairs)
        return float("inf") if self._gap(run) <= self.tol else len(run.calls) if fault is None else fault.number

    def _follow_inputs(self, fault: Fault) -> bool:
        """Give the module of the fault the unit that is given the same; whether there is one, and it helps."""
        given = self.run.calls[fault.number].inputs
        k = sum(call.path == fault.path for call in self.run.calls[: fault.number])
        index = next((i for i, p in enumerate(self.pairing.pairs) if p.paddle.module == fault.path), None)
        paddle = next((u for u in self.pairing.paddle if u.module == fault.path), None)
        if index is not None:
            paddle = self.pairing.pairs[index].paddle
        if paddle is None or paddle.module in self.kept:
            return False
        before = self._progress(self.run, self.pairing.pairs)
        for unit in self._candidates(paddle):
            theirs = self.reference.by_path.get(unit.module, ())
            gap = apart(theirs[k].inputs, given) if k < len(theirs) else None
            if gap is None or gap > self.tol:
                continue
            pairs, left = self._given(paddle, index, unit)
            run = self._try(pairs)
            if self._progress(run, pairs) > before:
                self._accept(pairs, run, left)
                return True
        return False

    def _candidates(self, paddle: Unit) -> Iterator[Unit]:
        """PyTorch's units that a unit of Paddle's might be instead of its own: those left, then those of others."""
        yield from (unit for unit in self.pairing.torch if unit.module and fits(unit, paddle))
        for pair in self.pairing.pairs:
            free = pair.torch.module and pair.paddle.module not in self.kept and pair.paddle is not paddle
            if free and fits(pair.torch, paddle):
                yield pair.torch

    def _given(self, paddle: Unit, index: int | None, unit: Unit) -> tuple[list[Pair], list[Unit]]:
        """The pairs with `unit` given to `paddle`, and PyTorch's units that are left then."""
        pairs, left = list(self.pairing.pairs), list(self.pairing.torch)
        other = next((i for i, pair in enumerate(pairs) if pair.torch is unit), None)
        former = None if index is None else pairs[index].torch
        new = with_axes(Pair(unit, paddle, "probe"))
        if index is None:
            pairs.append(new)
        else:
            pairs[index] = new
        if other is None:
            left.remove(unit)
            left += [] if former is None else [former]
        elif former is not None and fits(former, pairs[other].paddle):
            pairs[other] = with_axes(Pair(former, pairs[other].paddle, "probe"))
        else:
            del pairs[other]
            left += [] if former is None else [former]
        return pairs, left

    def _accept(self, pairs: list[Pair], run: Run, left: list[Unit] | None = None) -> None:
        before = {id(pair.paddle): pair for pair in self.pairing.pairs}
        for pair in pairs:
            former = before.get(id(pair.paddle))
            if former is None or former.torch is not pair.torch or former.axes != pair.axes:
                self.moved.add(pair.paddle.path)
        self.pairing.pairs[:] = pairs
        if left is not None:
            taken = {id(pair.paddle) for pair in pairs}
            lost = [p.paddle for p in before.values() if id(p.paddle) not in taken]
            self.pairing.paddle[:] = [u for u in [*self.pairing.paddle, *lost] if id(u) not in taken]
            self.pairing.torch[:] = left
        self.run = run

    def _try_orders(self, fault: Fault | None) -> bool:
        """Try other orders of units that nothing tells apart; take what gets furthest, and say if anything helped."""
        here = self._progress(self.run, self.pairing.pairs)
        best: tuple[float, list[Pair], Run] | None = None
        for choice in list(self._choices(fault)):
            for pairs in choice:
                if self.is_over:
                    return False
                run = self._try(pairs)
                reached = self._progress(run, pairs)
                if reached > here and (best is None or reached > best[0]):
                    best = reached, pairs, run
            if best is not None:
                self._accept(best[1], best[2])
                return True
        return self._try_combinations(here)

    def _try_combinations(self, here: float) -> bool:
        """All orders of everything at once, if they are few: first of what its path does not settle."""
        pairs = self.pairing.pairs
        turns = [(i, [pair.axes, *pair.others]) for i, pair in enumerate(pairs)
                 if pair.others and pair.paddle.module not in self.kept]  # fmt: skip
        groups = list(self._groups(None))
        unnamed = [[i for i in group if pairs[i].settled != "path"] for group in groups]
        for chosen in ([group for group in unnamed if len(group) > 1], groups):
            count = math.prod(math.factorial(len(group)) for group in chosen)
            few = count * math.prod(len(orders) for _, orders in turns) <= MAX_COMBINATIONS
            if few and self._try_product(here, chosen, turns):
                return True
        return False

    def _try_product(
        self, here: float, groups: Sequence[Sequence[int]], turns: Sequence[tuple[int, Sequence[tuple[int, ...]]]]
    ) -> bool:
        """Try every order of every group with every order of the axes; whether one gets further."""
        for axes in product(*(orders for _, orders in turns)):
            for orders in product(*(permutations(group) for group in groups)):
                if self.is_over:
                    return False
                pairs = list(self.pairing.pairs)
                for (i, _), each in zip(turns, axes, strict=True):
                    pairs = turned(pairs, i, each)
                for group, order in zip(groups, orders, strict=True):
                    pairs = _permuted(pairs, group, order)
                run = self._try(pairs)
                if self._progress(run, pairs) > here:
                    self._accept(pairs, run)
                    return True
        return False

    def _choices(self, fault: Fault | None) -> Iterator[list[list[Pair]]]:
        """Kinds of changes, the likeliest first: axes of single tensors, orders of what has one input, then swaps."""
        pairs = self.pairing.pairs
        for i, pair in enumerate(pairs):
            if pair.others and pair.paddle.module not in self.kept:
                yield [turned(pairs, i, axes) for axes in pair.others]
        for group in self._groups(fault):
            if len(group) <= MAX_PERMUTED:
                yield [_permuted(pairs, group, order) for order in permutations(group) if order != tuple(group)]
            else:
                yield [swapped(pairs, i, j) for i in group for j in group if i < j]

    def _groups(self, fault: Fault | None) -> Iterator[list[int]]:
        """Pairs that might have been mixed up, by their places: of one look, and given the same or shown by no call.

        With a fault only what was called before it; first those that were not settled by their paths.
        """
        seen = {call.path for call in (self.run.calls if fault is None else self.run.calls[: fault.number + 1])}
        found: list[list[int]] = []
        for i, pair in enumerate(self.pairing.pairs):
            called = pair.paddle.module
            if called in self.kept or (called and called in self.run.by_path and called not in seen):
                continue
            for group in found:
                if self._alike(pair, self.pairing.pairs[group[0]]):
                    group.append(i)
                    break
            else:
                found.append([i])
        several = [group for group in found if len(group) > 1]
        if fault is not None and not fault.inputs:  # a module that does not do the same with the same
            several = [group for group in several if any(self._may_cause(fault, i) for i in group)]
        yield from sorted(several, key=lambda group: all(self.pairing.pairs[i].settled == "path" for i in group))

    def _may_cause(self, fault: Fault, i: int) -> bool:
        module = self.pairing.pairs[i].paddle.module
        return module == fault.path or module not in self.run.by_path

    def _alike(self, a: Pair, b: Pair) -> bool:
        """Whether two pairs might have been mixed up, as far as their looks and inputs tell."""
        if not (fits(a.torch, b.paddle) and fits(b.torch, a.paddle)):
            return False
        gap = self.inputs_apart(a.torch, b.torch)
        return gap is None or gap <= DIFFER

    def inputs_apart(self, a: Unit, b: Unit) -> float | None:
        """How far what two of PyTorch's units are given is apart; None if calls do not show it."""
        ours, theirs = (self.reference.by_path.get(unit.module, ()) if unit.module else () for unit in (a, b))
        gaps = [apart(x.inputs, y.inputs) for x, y in zip(ours, theirs, strict=False)]
        known = [gap for gap in gaps if gap is not None]
        return max(known) if known else None

    def gap_with(self, pairs: Sequence[Pair]) -> float:
        """How far the outputs are apart with other pairs, in a run of its own; NaN if too many were tried."""
        return float("nan") if self.is_over else self._gap(self._try(pairs))

    def is_called(self, pair: Pair) -> bool:
        """Whether a call of either side's module shows the pair."""
        return pair.torch.module in self.reference.by_path or pair.paddle.module in self.run.by_path


def _permuted(pairs: Sequence[Pair], indices: Sequence[int], order: Sequence[int]) -> list[Pair]:
    """The pairs with PyTorch's units at `indices` in another order."""
    changed = list(pairs)
    for i, j in zip(indices, order, strict=True):
        if i != j:
            changed[i] = with_axes(replace(pairs[i], torch=pairs[j].torch, settled="probe", evidence=""))
    return changed


def swapped(pairs: Sequence[Pair], i: int, j: int) -> list[Pair]:
    """The pairs with PyTorch's units at two places swapped."""
    return _permuted(pairs, (i, j), (j, i))


def _turned(pair: Pair, axes: tuple[int, ...]) -> Pair:
    """The pair with its tensor's axes in another order."""
    if axes == pair.axes:
        return pair
    others = tuple(each for each in (pair.axes, *pair.others) if each != axes)
    return replace(pair, axes=axes, others=others, settled="probe", evidence="")


def turned(pairs: Sequence[Pair], i: int, axes: tuple[int, ...]) -> list[Pair]:
    """The pairs with the tensor at one place lying in another order."""
    return [*pairs[:i], _turned(pairs[i], axes), *pairs[i + 1 :]]


def is_of_nobody(pair: Pair) -> bool:
    """Whether it is a tensor that no layer explains."""
    return pair.torch.kind == TENSOR
