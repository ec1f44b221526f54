"""Trials: what was changed to explain a difference, how far apart the sides are then, and what may be said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stdc_parity.align.result import Diagnosis

MAX_TRIED = 40


@dataclass(frozen=True)
class Trial:
    """One explanation that was put to the test.

    `name` is short, for the list of what was tried. `cause` says what is wrong, `change` what was changed
    ("exclusive=False"), `fix` the line to write. `after` is the difference that remains, as a fraction of
    scale, and `agrees` whether that is within the noise floor.
    """

    name: str
    cause: str
    change: str
    fix: str
    after: float
    agrees: bool


Tier = Callable[[], Iterable[Trial]]


def decide(before: float, tiers: Sequence[Tier]) -> Diagnosis:
    """Try tier after tier until one has an explanation that holds.

    Of explanations of one tier that hold all with the same fix the first is taken; with different fixes none
    is, and the diagnosis says so.
    """
    tried: list[str] = []
    for tier in tiers:
        trials = list(tier())
        holding = [trial for trial in trials if trial.agrees and trial.after < before]
        if holding and len({trial.fix for trial in holding}) == 1:
            best = min(holding, key=lambda trial: trial.after)
            return Diagnosis(best.cause, best.fix, before, best.after, change=best.change)
        if holding:
            names = " or ".join(dict.fromkeys(trial.change or trial.name for trial in holding))
            return Diagnosis("", "", before, before, (f"not decided: {names} explain it equally",))
        tried += [trial.name for trial in trials]
    return Diagnosis("", "", before, before, tuple(dict.fromkeys(tried))[:MAX_TRIED])
