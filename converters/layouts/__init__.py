"""The layouts that are known: every file of this folder is one, and has its table as `LAYOUT`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from stdc_parity.converters.architecture import Side
from stdc_parity.converters.errors import UsageError, shown
from stdc_parity.converters.layout import Layout
from stdc_parity.converters.statedict import Restructure

TWINS: Mapping[Side, str] = {"torch": "official", "paddle": "paddle"}
"""The layouts of the two twins: what a framework's conversions are from and to if nothing else is said."""


@cache
def all_layouts() -> Mapping[str, Layout]:
    """Every layout by its name, in the alphabetical order of their files."""
    files = sorted(module.name for module in iter_modules(__path__))
    known = [import_module(f"{__name__}.{file}").LAYOUT for file in files]
    return {layout.name: layout for layout in known}


def get_layout(name: str) -> Layout:
    """The layout called `name`. Raises UsageError if there is none."""
    known = all_layouts()
    if name not in known:
        lines = ", ".join(f"{layout.name} ({layout.title})" for layout in known.values() if not layout.container)
        raise UsageError(f"--to-layout {shown(name)}: there is no such layout", note=f"There are: {lines}.")
    return known[name]


def structure_of(container: str) -> Restructure | None:
    """What gives the tensors of a container's files the names of its layout, None if there is nothing to do."""
    return next((each.structured for each in all_layouts().values() if container == each.container), None)


def twin_layout(side: Side) -> Layout:
    """The layout of that side's twin."""
    return all_layouts()[TWINS[side]]
