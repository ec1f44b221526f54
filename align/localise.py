"""Own or inherited: which modules are wrong by themselves.

Every module of one side was replayed on the inputs that the reference side's module had, so what differs
is its own doing. Of nested modules the innermost is to blame: a block is, only if all of its parts are
right and its own code is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from stdc_parity.align.judge import failing
from stdc_parity.align.result import Comparison, badness


def blame(isolated: Sequence[Comparison]) -> list[Comparison]:
    """The innermost modules that differ on equal inputs, in execution order; a module is listed once, by
    its worst tap.
    """
    bad = failing(isolated)
    paths = {_path(comparison) for comparison in bad}
    guilty = [path for path in paths if not any(_inside(other, path) for other in paths)]
    worst = {path: max((c for c in bad if _path(c) == path), key=badness) for path in guilty}
    order = {_path(comparison): i for i, comparison in reversed(list(enumerate(bad)))}
    return [worst[path] for path in sorted(guilty, key=order.__getitem__)]


def _path(comparison: Comparison) -> str:
    return next(iter(comparison.paths.values()))


def _inside(path: str, outer: str) -> bool:
    """Whether `path` is a module within `outer`; "" and "network" are the whole network, "loss" is outside it."""
    if outer in ("", "network"):
        return path not in ("", "network", "loss") and not path.startswith("loss.")
    return path.startswith(f"{outer}.")
