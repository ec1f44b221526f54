"""Tensors that hold another tensor's values: where each comes from, and the rule behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison

INDEX = re.compile(r"(?<=\.)\d+(?=\.)")


def sources(failing: Sequence[Comparison], reference: Record, other: Record) -> dict[str, str]:
    """For each failing tensor, the name under which the reference has exactly its values, if it has.

    Of several names the one that has most parts in common counts. Values that nothing tells apart (all 0, all 1)
    have no source.
    """
    names: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for tap in reference.taps:
        if tap.kind == "tensor" and is_telling(reference.arrays[tap.name]):
            names.setdefault(_key(reference.arrays[tap.name]), []).append(tap.name)
    found = {}
    for name in (c.tap for c in failing if c.tap in other.arrays):
        same = names.get(_key(other.arrays[name]), [])
        if same and is_telling(other.arrays[name]):
            found[name] = max(same, key=lambda source: _common(name, source))
    return found


def is_telling(a: Array) -> bool:
    """Whether an array's values are its own: not all the same, and not only zeros and ones."""
    values = np.unique(a)
    return len(values) > 1 and not np.isin(values, (-1.0, 0.0, 1.0)).all()


def _key(a: Array) -> tuple[tuple[int, ...], bytes]:
    return a.shape, np.ascontiguousarray(a).tobytes()


def _common(name: str, source: str) -> int:
    return sum(x == y for x, y in zip(name.split("."), source.split("."), strict=False))


def describe_source(
    name: str, elsewhere: Mapping[str, str], reference: Record, other: Record
) -> tuple[str, str]:
    """Why `name` holds the values of `elsewhere[name]`, and what to do: a rule, if one is behind it."""
    source = elsewhere[name]
    holds = f"{name} holds what the reference has in {source}"
    count = f"; {len(elsewhere)} tensors are misplaced" if len(elsewhere) > 1 else ""
    indices = _indices(elsewhere)
    if indices and _sorted_as_text(indices, other):
        return (
            f"{holds}: names were sorted as text, where 10 comes before 2, and paired by their place{count}.",
            "Pair tensors by name, not by their order in a list.",
        )
    if len(indices) > 1 and len({b - a for a, b in indices}) == 1:
        by = next(b - a for a, b in indices)
        return (
            f"{holds}: block N holds block N{by:+d}'s tensors{count}. A slice of torch's Sequential keeps its "
            "indices, Paddle's counts from 0, so aliases by index name another block.",
            "Load features.N only and drop the aliases.",
        )
    if elsewhere.get(source) == name:
        a, b = _difference(name, source)
        return (
            f"{holds}, and the other way round: {a} and {b} are exchanged{count}.",
            f"Load {a} into {a} and {b} into {b}.",
        )
    return f"{holds}, the tensor of another layer{count}.", f"Load {name} from the checkpoint's own {name}."


def _indices(elsewhere: Mapping[str, str]) -> set[tuple[int, int]]:
    """The pairs of the indices in which all misplaced names differ from their sources; empty if not only there."""
    pairs = set()
    for name, source in elsewhere.items():
        if INDEX.sub("#", name) != INDEX.sub("#", source):
            return set()
        changed = [
            (int(a), int(b))
            for a, b in zip(INDEX.findall(name), INDEX.findall(source), strict=True)
            if a != b
        ]
        if len(changed) != 1:
            return set()
        pairs.update(changed)
    return pairs


def _sorted_as_text(indices: set[tuple[int, int]], other: Record) -> bool:
    """Whether each index holds what a list of the indices, sorted as text, has at its place."""
    most = max(max(pair) for pair in indices)
    present = [int(i) for tap in other.taps for i in INDEX.findall(tap.name)]
    for count in {most + 1, max(present) + 1}:
        order = [int(text) for text in sorted(map(str, range(count)))]
        if all(a < count and order[a] == b for a, b in indices):
            return True
    return False


def _difference(name: str, source: str) -> tuple[str, str]:
    """The one part in which two names differ; the names themselves if it is more than one."""
    a, b = name.split("."), source.split(".")
    changed = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
    return changed[0] if len(changed) == 1 and len(a) == len(b) else (name, source)
