"""What three or more sides say together: which one is the odd one out, tap by tap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from stdc_parity.align.result import Majority, RunResult, StageResult, Vote
from stdc_parity.align.sides import GRAPH_SIDES
from stdc_parity.align.spec import Side


def decide(sides: Sequence[Side], results: Sequence[StageResult], source: Side | None) -> Majority:
    """The votes on every tap that all sides have, from the results of every two of them."""
    verdicts: dict[str, dict[frozenset[Side], bool]] = {}
    for result in results:
        for comparison in result.comparisons:
            verdicts.setdefault(comparison.tap, {})[frozenset(result.sides)] = bool(comparison)
    every = [frozenset(two) for two in combinations(sides, 2)]
    votes = [
        _vote(tap, sides, {two for two in every if found[two]})
        for tap, found in verdicts.items()
        if found.keys() == set(every) and not all(found.values())
    ]
    failed = {failure.side for result in results for failure in result.failures}
    return Majority(tuple(sides), votes, source, tuple(side for side in sides if side in failed))


def _vote(tap: str, sides: Sequence[Side], agreeing: set[frozenset[Side]]) -> Vote:
    """The one group of more than half of the sides that all agree with each other, if there is one."""
    for size in range(len(sides) - 1, len(sides) // 2, -1):
        groups = [group for group in combinations(sides, size) if _agree(group, agreeing)]
        if len(groups) == 1:
            return Vote(tap, groups[0], tuple(side for side in sides if side not in groups[0]))
        if groups:
            break
    pairs = tuple((a, b) for a, b in combinations(sides, 2) if frozenset((a, b)) in agreeing)
    return Vote(tap, (), tuple(sides), pairs)


def _agree(group: Sequence[Side], agreeing: set[frozenset[Side]]) -> bool:
    return all(frozenset(two) in agreeing for two in combinations(group, 2))


def describe_majority(result: RunResult) -> Iterator[str]:
    """What the sides say together, a line each; every renderer uses this."""
    majority = result.majority
    if majority is None:
        return
    if majority.failed:
        yield f"The {' and '.join(majority.failed)} side failed, so there is no majority."
        return
    outcomes: dict[tuple[tuple[Side, ...], tuple[tuple[Side, Side], ...]], list[Vote]] = {}
    for vote in majority.votes:
        outcomes.setdefault((vote.agreeing, vote.pairs), []).append(vote)
    if not outcomes:
        yield f"All {len(majority.sides)} sides agree: {', '.join(majority.sides)}."
    for votes in outcomes.values():
        yield f"{describe_vote(votes[0])} at {_taps(votes)}."
    if any(vote.agreeing for vote in majority.votes):
        yield from _dependence(majority)


def describe_vote(vote: Vote) -> str:
    """Who is the odd one out at a tap, in words."""
    if vote.agreeing:
        word = "is the odd one out" if len(vote.odd) == 1 else "are the odd ones out"
        return f"{_listed(vote.odd)} {word} ({_listed(vote.agreeing)} agree)"
    if not vote.pairs:
        return f"No two of {', '.join(vote.odd)} agree"
    pairs = " and ".join(f"{a} with {b}" for a, b in vote.pairs)
    return f"No majority among {', '.join(vote.odd)} (only {pairs} agree)"


def _taps(votes: Sequence[Vote]) -> str:
    first = votes[0].tap or "(the network)"
    return first if len(votes) == 1 else f"{len(votes)} taps, first {first}"


def _dependence(majority: Majority) -> Iterator[str]:
    """A graph repeats the code that it was exported from: that they agree says nothing of the code."""
    source = majority.source
    agreeing = next(vote.agreeing for vote in majority.votes if vote.agreeing)
    graphs = [side for side in agreeing if side in GRAPH_SIDES]
    if source is not None and source in agreeing and graphs:
        yield (
            f"The graph was exported from {source}: it has {source}'s code with other kernels, so {source} and "
            f"{_listed(graphs)} are two witnesses of the kernels, and one of the code."
        )


def _listed(sides: Sequence[Side]) -> str:
    return " and ".join(sides) if len(sides) < 3 else f"{', '.join(sides[:-1])} and {sides[-1]}"
