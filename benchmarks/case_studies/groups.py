"""Parameters by upstream's groups, whatever groups a side's optimizer has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

GroupOf = Callable[[str], str]
"""The group that a parameter belongs to by its name: the same on both sides, whatever groups a side has."""


@dataclass(frozen=True)
class Group:
    """Parameters that upstream treats alike."""

    name: str
    names: tuple[str, ...]
    params: tuple[Any, ...]


def make_groups(named: Mapping[str, Any], group_of: GroupOf) -> tuple[Group, ...]:
    """The parameters by their groups, in order of first appearance."""
    members: dict[str, list[str]] = {}
    for name in named:
        members.setdefault(group_of(name), []).append(name)
    return tuple(Group(g, tuple(names), tuple(named[n] for n in names)) for g, names in members.items())
