"""Finding the pairs with which both sides compute the same, and how surely each of them is told from the others.

A run of Paddle's side with candidate pairs is held against one of PyTorch's, call by call: a layer that is given
what another layer of PyTorch's is given is that one. Where inputs do not tell (branches of one input, tensors that no
module shows), orders are tried. Nothing is kept that another candidate would do as well, unless it is marked so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from time import monotonic

from stdc_parity.align.derivation.calls import AGREE, DIFFER, Run, apart
from stdc_parity.align.derivation.comparison import Comparison, Fault
from stdc_parity.align.derivation.pairing import Pair, Pairing, fits, with_axes
from stdc_parity.align.derivation.units import TENSOR, Unit

MAX_PERMUTED = 4
"""Units of one look that are tried in all their orders (24 of 4); of more, two are swapped at a time."""
MAX_COMBINATIONS = 256
"""Combinations of orders that are tried at once, where none alone shows progress."""
MAX_RUNS = 600
MAX_SECONDS = 240

RunPaddle = Callable[[Sequence[Pair]], Run]


class Search:
    """The search of one mode; `pairing` changes as it goes. `kept` are modules whose pairs it may not touch.

    `current` is the comparison of both sides' runs with the pairs as they are, `moved` the paths of Paddle's units
    that were paired otherwise than at the start.
    """

    def __init__(
        self, pairing: Pairing, reference: Run, run: RunPaddle, kept: frozenset[str] = frozenset(), tol: float = AGREE
    ) -> None:
        """Run Paddle's side once with the pairs as they are."""
        self.pairing, self.reference, self._paddle, self.kept, self.tol = pairing, reference, run, kept, tol
        self.runs, self._start = 0, monotonic()
        self.moved: set[str] = set()
        self.current = self._try(list(pairing.pairs))

    def solve(self) -> bool:
        """Change pairs until the outputs agree, or nothing helps; whether they agree."""
        while not self.current.holds and not self.current.run.failed and not self.is_over:
            fault = self.current.fault()
            if not (fault and fault.inputs and self._follow_inputs(fault)) and not self._try_orders(fault):
                break
        if self.current.holds:
            self._refine()
        return self.current.holds

    def _refine(self) -> None:
        """Follow the inputs of what no output depends on, too: of layers whose names are swapped, for instance."""
        passed: set[str] = set()
        while (fault := self.current.fault(passed)) is not None and not self.is_over:
            if not (fault.inputs and self._follow_inputs(fault)):
                passed.add(fault.path)

    @property
    def is_over(self) -> bool:
        """Whether it has tried enough."""
        return self.runs >= MAX_RUNS or monotonic() - self._start > MAX_SECONDS

    def _try(self, pairs: Sequence[Pair], left: Sequence[Unit] | None = None) -> Comparison:
        self.runs += 1
        left = self.pairing.torch if left is None else left
        run = self._paddle(pairs)
        return Comparison(self.reference, run, pairs, left, self.pairing.paddle, self.kept, self.tol)

    def _follow_inputs(self, fault: Fault) -> bool:
        """Give the module of the fault the unit that is given the same; whether there is one, and it helps."""
        given = self.current.run.calls[fault.number].inputs
        index = next((i for i, p in enumerate(self.pairing.pairs) if p.paddle.module == fault.path), None)
        paddle = next((u for u in self.pairing.paddle if u.module == fault.path), None)
        if index is not None:
            paddle = self.pairing.pairs[index].paddle
        if paddle is None or paddle.module in self.kept:
            return False
        for unit in self.current.candidates(paddle):
            if self.current.is_given(unit, fault.before, given):
                found = self._try(*self._given(paddle, index, unit))
                if found.progress > self.current.progress:
                    self._accept(found)
                    return True
        return False

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

    def _accept(self, found: Comparison) -> None:
        """Make the pairs of a comparison those of the search."""
        before = {id(pair.paddle): pair for pair in self.pairing.pairs}
        for pair in found.pairs:
            former = before.get(id(pair.paddle))
            if former is None or former.torch is not pair.torch or former.axes != pair.axes:
                self.moved.add(pair.paddle.path)
        taken = {id(pair.paddle) for pair in found.pairs}
        lost = [pair.paddle for pair in before.values() if id(pair.paddle) not in taken]
        self.pairing.paddle[:] = [u for u in [*self.pairing.paddle, *lost] if id(u) not in taken]
        self.pairing.torch[:] = list(found.left)
        self.pairing.pairs[:] = list(found.pairs)
        self.current = replace(found, unpaired=self.pairing.paddle)

    def _try_orders(self, fault: Fault | None) -> bool:
        """Try other orders of units that nothing tells apart; take what gets furthest, and say if anything helped."""
        for choice in list(self._choices(fault)):
            best = self.current
            for pairs in choice:
                if self.is_over:
                    return False
                found = self._try(pairs)
                best = found if found.progress > best.progress else best
            if best is not self.current:
                self._accept(best)
                return True
        return self._try_combinations(fault)

    def _try_combinations(self, fault: Fault | None) -> bool:
        """All orders of several things at once, as many as give few combinations: first axes, then what its path
        does not settle, then the rest."""
        pairs = self.pairing.pairs
        turns = [(i, [pair.axes, *pair.others]) for i, pair in enumerate(pairs)
                 if pair.others and pair.paddle.module not in self.kept]  # fmt: skip
        groups = list(self._groups(fault))
        unnamed = [[i for i in group if pairs[i].settled != "path"] for group in groups]
        for chosen in ([group for group in unnamed if len(group) > 1], groups):
            count, few = math.prod(len(orders) for _, orders in turns), []
            for group in sorted(chosen, key=len):
                if count * math.factorial(len(group)) <= MAX_COMBINATIONS:
                    count *= math.factorial(len(group))
                    few.append(group)
            if count <= MAX_COMBINATIONS and self._try_product(few, turns):
                return True
        return False

    def _try_product(
        self, groups: Sequence[Sequence[int]], turns: Sequence[tuple[int, Sequence[tuple[int, ...]]]]
    ) -> bool:
        """Try every order of every group with every order of the axes; whether one gets further."""
        for axes in product(*(orders for _, orders in turns)):
            for orders in product(*(permutations(group) for group in groups)):
                if self.is_over:
                    return False
                pairs = list(self.pairing.pairs)
                for group, order in zip(groups, orders, strict=True):
                    pairs = _permuted(pairs, group, order)
                for (i, _), each in zip(turns, axes, strict=True):
                    pairs = turned(pairs, i, each)
                found = self._try(pairs)
                if found.progress > self.current.progress:
                    self._accept(found)
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
        run = self.current.run
        seen = {call.path for call in (run.calls if fault is None else run.calls[: fault.number + 1])}
        found: list[list[int]] = []
        for i, pair in enumerate(self.pairing.pairs):
            called = pair.paddle.module
            if called in self.kept or (called and called in run.by_path and called not in seen):
                continue
            for group in found:
                if self._alike(pair, self.pairing.pairs[group[0]]):
                    group.append(i)
                    break
            else:
                found.append([i])
        several = [group for group in found if len(group) > 1]
        yield from sorted(several, key=lambda group: self._likelihood(fault, group))

    def _likelihood(self, fault: Fault | None, group: Sequence[int]) -> tuple[bool, bool]:
        """What sorts groups: those that may make a module do another thing with the same, then unsettled ones."""
        pairs = [self.pairing.pairs[i] for i in group]
        own = fault is None or fault.inputs or any(
            pair.paddle.module == fault.path or pair.paddle.module not in self.current.run.by_path for pair in pairs
        )
        return not own, all(pair.settled == "path" for pair in pairs)

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
        return float("nan") if self.is_over else self._try(pairs).gap

    def is_called(self, pair: Pair) -> bool:
        """Whether a call of either side's module shows the pair."""
        return pair.torch.module in self.reference.by_path or pair.paddle.module in self.current.run.by_path


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
