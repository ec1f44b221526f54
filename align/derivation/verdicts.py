"""How surely each pair is told from the others, once the outputs agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stdc_parity.align.derivation.calls import DIFFER, apart
from stdc_parity.align.derivation.pairing import Pair, fits
from stdc_parity.align.derivation.search import Search, is_of_nobody, swapped, turned
from stdc_parity.align.derivation.units import Unit

Verdict = tuple[Pair, str]
"""A pair, and why it is open ("" if it is not)."""


def judge_pairs(search: Search) -> list[Verdict]:
    """The pairs with what settled them, and the reasons for those that are open.

    A pair that its path or its type settled keeps that, unless the run moved it. What was only a candidate is
    settled by the run ("probe") if every other candidate would have shown, by the order of execution ("order") if
    swapping it with another one changes nothing that both compute, and open if the run does not reach it.
    """
    return [_judged(search, i, pair) for i, pair in enumerate(search.pairing.pairs)]


def _judged(search: Search, i: int, pair: Pair) -> Verdict:
    moved = pair.paddle.path in search.moved
    unsure = moved or pair.settled in ("order", "probe") or bool(pair.axes)
    unsure = unsure or (is_of_nobody(pair) and (bool(pair.others) or pair.settled != "path"))
    if not unsure or pair.paddle.module in search.kept:
        return pair, ""
    words, same = [], []
    for rival, gap, what in _rivals(search, i, pair):
        if gap != gap:
            return pair, f"{rival} in its place was not tried: there are too many candidates"
        if gap <= search.tol:
            same.append(rival)
        elif gap < DIFFER:
            return pair, f"{rival} in its place changes no more than {gap:.1e}: the run does not tell"
        else:
            words.append((gap, what))
    if same:
        return _indistinguishable(search, pair, same)
    if not words and is_of_nobody(pair):
        return _by_effect(search, pair)
    if not words:
        return pair, ""  # nothing else looks like it
    gap, what = min(words)
    evidence = f"agrees to {search.current.gap:.1e}; {what}"
    return replace(pair, settled="probe", evidence=evidence), ""


def _rivals(search: Search, i: int, pair: Pair) -> Iterator[tuple[str, float, str]]:
    """What else the pair might be: its name, how far apart that would be, and that in words."""
    for axes in pair.others:
        gap = search.gap_with(turned(search.pairing.pairs, i, axes))
        order = "as it is in PyTorch" if not axes else "transposed" if axes == (1, 0) else f"with axes {axes}"
        yield f"the tensor {order}", gap, f"{order}: {gap:.1e}"
    if pair.settled == "path" and pair.paddle.path not in search.moved:
        return
    for j, other in enumerate(search.pairing.pairs):
        if j != i and fits(other.torch, pair.paddle) and fits(pair.torch, other.paddle):
            told = _told_by_inputs(search, pair, other.torch)
            name = other.torch.path
            if told is not None:
                yield name, told, f"its input differs from that of {name} by {told:.1e}"
            elif other.paddle.module not in search.kept:
                gap = search.gap_with(swapped(search.pairing.pairs, i, j))
                yield name, gap, f"swapped with {name}: {gap:.1e}"
    for unit in search.pairing.torch:
        if fits(unit, pair.paddle):
            told = _told_by_inputs(search, pair, unit)
            if told is None:
                changed = [*search.pairing.pairs[:i], replace(pair, torch=unit), *search.pairing.pairs[i + 1 :]]
                told = search.gap_with(changed)
            yield unit.path, told, f"with {unit.path} instead: {told:.1e}"


def _told_by_inputs(search: Search, pair: Pair, rival: Unit) -> float | None:
    """How far the inputs of a pair and of a rival are apart, if they tell the two apart; else None."""
    ours = search.current.run.by_path.get(pair.paddle.module, ()) if pair.paddle.module else ()
    theirs = search.reference.by_path.get(pair.torch.module, ()) if pair.torch.module else ()
    if not ours or len(ours) != len(theirs):
        return None
    own = [apart(a.inputs, b.inputs) for a, b in zip(theirs, ours, strict=True)]
    if any(gap is None or gap > search.tol for gap in own):
        return None
    gap = search.inputs_apart(pair.torch, rival)
    return gap if gap is not None and gap > DIFFER else None


def _indistinguishable(search: Search, pair: Pair, same: list[str]) -> Verdict:
    """What a swap does not show: two branches that are added, for instance, or what the run never reaches."""
    others = ", ".join(same[:3]) + (", …" if len(same) > 3 else "")
    if any(name.startswith("the tensor ") for name in same):
        return pair, f"{others} gives the same outputs"
    if not (search.is_called(pair) or (is_of_nobody(pair) and _effect(search, pair) >= DIFFER)):
        return pair, f"swapping it with {others} changes nothing: the run does not reach it"
    gap = f"{search.current.gap:.1e}"
    evidence = f"indistinguishable: swapping it with {others} changes nothing ({gap}); paired in order"
    return replace(pair, settled="order", evidence=evidence), ""


def _effect(search: Search, pair: Pair) -> float:
    """How far the outputs are apart if Paddle's side keeps its own values instead of the pair's."""
    return search.gap_with([other for other in search.pairing.pairs if other is not pair])


def _by_effect(search: Search, pair: Pair) -> Verdict:
    """A tensor of nobody's that nothing else looks like: it has to have an effect."""
    gap = _effect(search, pair)
    if gap < DIFFER:
        return pair, f"nothing else has its shape, but the outputs do not depend on it (without it: {gap:.1e})"
    return replace(pair, settled="probe", evidence=f"agrees to {search.current.gap:.1e}; without it: {gap:.1e}"), ""
