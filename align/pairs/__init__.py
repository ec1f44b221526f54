"""The pairs that come with the toolkit: one file a family of networks, listed in FAMILIES."""

from __future__ import annotations

from types import ModuleType

from stdc_parity.align.pair import Pair
from stdc_parity.align.pairs import dilated, icnet, resnet, stdc, subjects
from stdc_parity.converters.architecture import Architecture
from stdc_parity.converters.errors import UsageError

FAMILIES: tuple[ModuleType, ...] = (stdc, icnet, resnet, dilated, subjects)
DEFAULT = "stdc2-seg"


def names() -> tuple[str, ...]:
    """The names of all pairs that people align; the subjects of port bugs are not among them."""
    return tuple(name for family in FAMILIES if family is not subjects for name in family.NAMES)


def timed_names() -> tuple[str, ...]:
    """The names of the pairs whose latency is measured unless others are asked for."""
    return stdc.TIMED


def family_of(name: str) -> ModuleType:
    """The family of the pair called `name`. Raises UsageError for an unknown name."""
    for family in FAMILIES:
        if name in family.NAMES:
            return family
    raise UsageError(f"--pair {name}: there is no such pair", note=f"There are: {', '.join(names())}.")


def find_pair(name: str, architecture: Architecture | None = None, base: int = 64) -> Pair:
    """The pair called `name`; the numbers that a name leaves open come from `architecture`, a checkpoint's.

    `base` is the width of the network when there is no checkpoint. Raises UsageError for an unknown name.
    """
    pair: Pair = family_of(name).pair(name, architecture, base)
    return pair
