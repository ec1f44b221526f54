"""Own or inherited: which modules are wrong by themselves.

Every module of one side was replayed on the inputs that the reference side's module had, so what differs
is its own doing. Of nested modules the innermost is to blame: a block is, only if all of its parts are
right and its own code is not. Where there are no modules, a rung's table of what follows from what tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from stdc_parity.align.judge import failing
from stdc_parity.align.pair import Follows
from stdc_parity.align.result import Comparison, badness


def blame(isolated: Sequence[Comparison]) -> list[Comparison]:
    """The innermost modules that differ on equal inputs, in execution order; a module is listed once, by
    its worst tap.
    """
    bad = failing(isolated)
    paths = {comparison.path for comparison in bad}
    guilty = [path for path in paths if not any(_inside(other, path) for other in paths)]
    worst = {path: max((c for c in bad if c.path == path), key=badness) for path in guilty}
    order = {comparison.path: i for i, comparison in reversed(list(enumerate(bad)))}
    return [worst[path] for path in sorted(guilty, key=order.__getitem__)]


def uncalled(comparisons: Sequence[Comparison], blamed: Sequence[Comparison]) -> list[Comparison]:
    """The modules that only one side calls, and that are in none of those to blame already."""
    guilty = {comparison.path for comparison in blamed}
    alone = {c.path: c for c in reversed(failing(comparisons)) if c.kind == "module" and len(c.paths) == 1}
    outer = guilty | alone.keys()
    return [
        c
        for path, c in reversed(alone.items())
        if path not in guilty and not any(_inside(path, other) for other in outer)
    ]


Itself = Callable[[Comparison, Sequence[Comparison]], bool]
"""Whether a tap that may follow from others that fail is wrong by itself too."""


def own(
    comparisons: Sequence[Comparison],
    follows: Follows,
    *,
    by_place: bool,
    itself: Itself = lambda comparison, bad: False,
) -> list[Comparison]:
    """What differs and does not follow from something before it that differs, by a rung's table.

    A row of `follows` has the taps that may follow and the taps that they follow from, both as regular
    expressions for the whole name. With `by_place` a place is listed once, by its first tap.
    """
    bad, found = failing(comparisons), dict[str, Comparison]()
    for number, comparison in enumerate(bad):
        sources = [source for taps, source in follows if re.fullmatch(taps, comparison.tap)]
        follows_one = any(re.fullmatch(source, c.tap) for source in sources for c in bad[:number])
        if not follows_one or itself(comparison, bad):
            found.setdefault(comparison.path if by_place else comparison.tap, comparison)
    places = dict.fromkeys(comparison.path if by_place else comparison.tap for comparison in comparisons)
    return [found[place] for place in places if place in found]


def _inside(path: str, outer: str) -> bool:
    """Whether `path` is a module within `outer`; "" and "network" are the whole network, "loss" is outside it."""
    if outer in ("", "network"):
        return path not in ("", "network", "loss") and not path.startswith("loss.")
    return path.startswith(f"{outer}.")
