"""Relations between label images: which id became which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from stdc_parity.align.diagnosis.relations import Relation, nothing
from stdc_parity.align.framework import Array

IGNORED = 255
FEW = 3
"""Ids whose fates may differ for the rest of a map to be called the same."""

PIXELS = 32
"""How often the ids that a relation is about must occur."""


Sides = tuple[Array, Array, Array]
"""A label image before a transform, after it on the reference side, after it on the other."""


def label_relations(named: str, samples: Sequence[Sides]) -> Iterator[Relation]:
    """What maps of ids may have done to the first sample; all samples together are the evidence."""
    before, a, b = samples[0]
    if a.dtype.kind not in "iu" or b.dtype.kind not in "iu" or a.shape != b.shape:
        yield nothing("a map of ids")
        return
    alike = [sides for sides in samples if len({side.size for side in sides}) == 1]
    if not alike:
        yield nothing("a map of ids")
        return
    every = [np.concatenate([sides[i].reshape(-1).astype(np.int64) for sides in alike]) for i in (0, 1, 2)]
    table = id_map(every[0], every[1])
    if table is not None and any(x != y for x, y in table.items()) and before.size == a.size:
        cause = f"{named} has the ids as they are in the file: they are not mapped to train ids."
        fix = "Map label ids to train ids (the others to 255), or read the labelTrainIds files."
        yield _says("a map of ids", cause, fix, before.reshape(a.shape))
    moved = id_map(every[1], every[2])
    if moved is not None:
        yield from _of_values(named, a, every[1], moved)
    wrong = id_map(every[0], every[2])
    if table is not None and wrong is not None and before.size == a.size:
        yield from _of_tables(named, before.reshape(a.shape), every[0], table, wrong)


def id_map(a: Array, b: Array) -> dict[int, int] | None:
    """The id in `b` that stands wherever `a` has one, by `a`'s id; None if it is not always the same."""
    pairs = np.unique(np.stack([a.reshape(-1), b.reshape(-1)]).astype(np.int64), axis=1)
    found = {int(x): int(y) for x, y in pairs.T}
    return found if len(found) == pairs.shape[1] else None


def apply_map(table: Mapping[int, int], a: Array) -> Array:
    """`a` with every id exchanged as the table says; ids that it lacks stay."""
    changed = a.astype(np.int64)
    for value, mapped in table.items():
        changed[a == value] = mapped
    return changed


def _of_values(named: str, a: Array, every: Array, moved: Mapping[int, int]) -> Iterator[Relation]:
    """Few of the reference's ids are others on the other side, wherever they occur."""
    changed = {x: y for x, y in moved.items() if x != y}
    count = int(np.isin(every, list(changed)).sum())
    if not 0 < len(changed) <= FEW or count < PIXELS:
        return
    x, y = next(iter(changed.items()))
    given = apply_map(changed, a)
    if set(changed) == {IGNORED}:
        what = "-1" if y == -1 else f"class {y}" if y < IGNORED else str(y)
        cause = (
            f"{named} has {what} wherever the reference has 255 (ignored), {count} pixels, and nowhere else."
        )
        fix = "Use 255 in the labels and as ignore_index on both sides."
        if 0 <= y < IGNORED:
            cause += f" Class {y} is a class that is trained: ids that are not trained must be ignored."
            fix = "Fill the table of ids with 255, not with zeros."
        yield _says("a map of ids", cause, fix, given)
        return
    if changed == {x: y, y: x}:
        cause = f"{named} has the classes {x} and {y} exchanged."
        yield _says("a map of ids", cause, f"{x} stays {x}, {y} stays {y}", given)


def _of_tables(
    named: str, given: Array, every: Array, right: Mapping[int, int], wrong: Mapping[int, int]
) -> Iterator[Relation]:
    """Both sides map ids, by tables that differ in few places."""
    differing = {value: (right[value], wrong[value]) for value in right if right[value] != wrong[value]}
    count = int(np.isin(every, list(differing)).sum())
    if not 0 < len(differing) <= FEW or count < PIXELS:
        return
    shown = "; ".join(f"label id {v} becomes {y}, not {x}" for v, (x, y) in differing.items())
    cause = (
        f"{named} is mapped by a table of ids with {len(differing)} other entries: {shown} ({count} pixels)."
    )
    fix = "; ".join(f"{v}: {x}" for v, (x, _) in differing.items())
    yield _says("a map of ids", cause, f"In the table of train ids: {fix}.", apply_map(wrong, given))


def _says(tried: str, cause: str, fix: str, given: Array) -> Relation:
    return Relation(tried, cause, fix, partial(_given, given=given), forward=True, certain=True)


def _given(_: Array, given: Array) -> Array:
    return given
