"""A run of Paddle's side with certain pairs, held against one of PyTorch's call by call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from stdc_parity.align.derivation.calls import Call, Figures, Run, apart, gap_of
from stdc_parity.align.derivation.pairing import Pair, fits
from stdc_parity.align.derivation.units import Unit


@dataclass(frozen=True)
class Fault:
    """A call of Paddle's side that does not do what PyTorch's does: its number among all calls, its module and the
    number of calls of that before it, and whether its `inputs` are other ones already."""

    number: int
    path: str
    before: int
    inputs: bool
    gap: float


@dataclass(frozen=True)
class Comparison:
    """Both sides' runs, the pairs of Paddle's and PyTorch's units that it had, and PyTorch's that are `left`.

    `kept` are Paddle's modules whose pairs are settled, `tol` is how far tensors may be apart to be taken for equal.
    """

    reference: Run
    run: Run
    pairs: Sequence[Pair]
    left: Sequence[Unit]
    unpaired: Sequence[Unit]
    kept: frozenset[str]
    tol: float

    @cached_property
    def gap(self) -> float:
        """How far the outputs of both sides are apart, relative to each output's largest value."""
        return float("inf") if self.run.failed else gap_of(self.reference.outputs, self.run.outputs)

    @property
    def holds(self) -> bool:
        """Whether the outputs agree."""
        return self.gap <= self.tol

    @cached_property
    def progress(self) -> tuple[bool, int]:
        """Whether the outputs agree, and how many inputs and outputs of calls do, with any unit's for an input."""
        if self.run.failed:
            return False, -1
        count = 0
        for call, before in numbered(self.run.calls):
            inputs, outputs = self._gaps(call, before) or (None, None)
            if inputs is not None and inputs <= self.tol:
                count += 2 + (outputs is not None and outputs <= self.tol)
            else:
                count += self._is_given_to_another(call, before)
        return self.holds, count

    def fault(self, passed: Set[str] = frozenset()) -> Fault | None:
        """The first call that differs, but for modules that were `passed`; None if no call shows it."""
        open_paths = {unit.module for unit in self.unpaired if unit.module and any(self.candidates(unit))}
        for number, (call, before) in enumerate(numbered(self.run.calls)):
            if call.path in passed:
                continue
            gaps = self._gaps(call, before)
            if call.path in open_paths or (gaps is None and self._is_given_to_another(call, before)):
                return Fault(number, call.path, before, True, float("inf"))
            for inputs, gap in zip((True, False), gaps or (), strict=False):
                if gap is not None and gap > self.tol:
                    return Fault(number, call.path, before, inputs, gap)
        return None

    def candidates(self, paddle: Unit) -> Iterator[Unit]:
        """PyTorch's units that a unit of Paddle's might be instead of its own: those left, then those of others."""
        yield from (unit for unit in self.left if unit.module and fits(unit, paddle))
        for pair in self.pairs:
            free = pair.torch.module and pair.paddle.module not in self.kept and pair.paddle is not paddle
            if free and fits(pair.torch, paddle):
                yield pair.torch

    def is_given(self, unit: Unit, before: int, inputs: Sequence[Figures]) -> bool:
        """Whether the call of one of PyTorch's units with so many `before` it has these inputs."""
        theirs = self.reference.by_path.get(unit.module, ())
        gap = apart(theirs[before].inputs, inputs) if before < len(theirs) else None
        return gap is not None and gap <= self.tol

    @cached_property
    def _partners(self) -> dict[str, Pair]:
        return {pair.paddle.module: pair for pair in self.pairs if pair.paddle.module}

    def _gaps(self, call: Call, before: int) -> tuple[float | None, float | None] | None:
        """How far the inputs and outputs of a call are from those of its pair; None if that has no such call."""
        pair = self._partners.get(call.path)
        theirs = self.reference.by_path.get(pair.torch.module, ()) if pair is not None and pair.torch.module else ()
        if before >= len(theirs):
            return None
        return apart(theirs[before].inputs, call.inputs), apart(theirs[before].outputs, call.outputs)

    def _is_given_to_another(self, call: Call, before: int) -> bool:
        """Whether a call's input is that of another unit of PyTorch's that might be the called one."""
        pair = self._partners.get(call.path)
        units = () if pair is None else self.candidates(pair.paddle)
        return any(self.is_given(unit, before, call.inputs) for unit in units)


def numbered(calls: Sequence[Call]) -> Iterator[tuple[Call, int]]:
    """Each call, and how many of the same module came before it."""
    count: dict[str, int] = {}
    for call in calls:
        yield call, count.setdefault(call.path, 0)
        count[call.path] += 1
