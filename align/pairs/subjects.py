"""Small twin networks that hold one kind of layer each: what port bugs are put into."""

from __future__ import annotations

from stdc_parity.align.pair import Pair
from stdc_parity.converters.architecture import Architecture

NAMES: tuple[str, ...] = ()


def pair(name: str, architecture: Architecture | None = None, base: int = 64) -> Pair:
    """The pair called `name`; `architecture` and `base` mean nothing to it."""
    raise KeyError(name)
