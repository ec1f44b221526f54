"""Why a loader's batches differ although every sample is the same: their order, their number, their labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from stdc_parity.align.diagnosis.labels import apply_map, id_map
from stdc_parity.align.diagnosis.relations import distance, same_bits
from stdc_parity.align.diagnosis.resampling import which_way
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

TAP = re.compile(r"(.+) batch (\d+) (images|labels)")
FOUND = 0.75
"""The share of a loader's items that must be found among the reference's for it to be the same items reordered."""

IDS = 6
"""How many ids a map must be seen on, half of them with results of their own."""


def explain_batches(failing: Sequence[Comparison], reference: Record, other: Record) -> list[Diagnosis]:
    """A diagnosis for each loader whose batches differ."""
    places: dict[str, str] = {}
    for comparison in failing:
        found = TAP.fullmatch(comparison.tap)
        loader = found[1] if found else comparison.tap.removesuffix(" batches")
        places.setdefault(loader, comparison.tap)
    return [_explain(loader, place, failing, reference, other) for loader, place in places.items()]


def _explain(
    loader: str, place: str, failing: Sequence[Comparison], reference: Record, other: Record
) -> Diagnosis:
    tried = ("the number of batches", "their size", "their order", "labels mapped twice")
    for diagnosis in (
        _counted(loader, place, reference, other),
        _shrunk(loader, place, reference, other),
        _reordered(loader, place, reference, other),
        _mapped_twice(loader, place, reference, other),
    ):
        if diagnosis is not None:
            return diagnosis
    return Diagnosis(place, tried=tried)


def items(record: Record, loader: str, what: str) -> list[Array]:
    """The loader's samples in their order, batch after batch."""
    found = [(TAP.fullmatch(tap.name), tap.name) for tap in record.taps]
    names = [name for match, name in found if match and match[1] == loader and match[3] == what]
    return [item for name in names for item in record.arrays[name]]


def _counted(loader: str, place: str, reference: Record, other: Record) -> Diagnosis | None:
    """One side has the last, incomplete batch of an otherwise equal list."""
    a, b = (items(record, loader, "images") for record in (reference, other))
    shorter, longer = sorted((a, b), key=len)
    if len(a) == len(b) or not all(same_bits(x, y) for x, y in zip(shorter, longer, strict=False)):
        return None
    size = max(len(array) for name, array in reference.arrays.items() if name.startswith(f"{loader} batch "))
    rest = len(longer) - len(shorter)
    if rest >= size or len(shorter) % size:
        return None
    kept = len(b) > len(a)
    doing = "keeps" if kept else "drops (leaves out)"
    cause = (
        f"The loader of {loader} {doing} the incomplete last batch, of {rest}, where the reference "
        f"{'drops' if kept else 'keeps'} it; all batches before it are equal."
    )
    return Diagnosis(place, cause, "drop_last=True" if kept else "drop_last=False", 1.0, 0.0)


def _shrunk(loader: str, place: str, reference: Record, other: Record) -> Diagnosis | None:
    """Images of another size, labels that are the reference's resized."""
    a, b = (items(record, loader, "labels") for record in (reference, other))
    if not a or len(a) != len(b) or a[0].shape == b[0].shape:
        return None
    ways = {which_way(x[0].astype(np.uint8), y[0].astype(np.uint8)) for x, y in zip(a, b, strict=True)}
    if len(ways) != 1 or "" in ways:
        return None
    sizes = " instead of ".join(f"{side[0].shape[-2]}x{side[0].shape[-1]}" for side in (b, a))
    cause = (
        f"The loader of {loader} gives resized samples, {sizes}: labels are the reference's by {ways.pop()}."
    )
    return Diagnosis(
        place, cause, "No transforms for validation: evaluate the labels at full size.", 1.0, 0.0
    )


def _reordered(loader: str, place: str, reference: Record, other: Record) -> Diagnosis | None:
    """The same samples in another order; in a later epoch perhaps that of the first."""
    a, b = (items(record, loader, "images") for record in (reference, other))
    known = {_key(item): i for i, item in enumerate(a)}
    drawn = [known.get(_key(item), -1) for item in b]
    found = [i for i in drawn if i >= 0]
    if len(set(found)) < len(found) or len(found) < max(2, FOUND * len(b)) or found == sorted(found):
        return None
    shown = ", ".join(map(str, drawn[:6]))
    before = distance(np.stack(a[: len(b)]), np.stack(b[: len(a)])) if a[0].shape == b[0].shape else 1.0
    epoch = re.search(r"epoch (\d+)", loader)
    if epoch and int(epoch[1]) > 0 and _same_order(loader, epoch[1], reference, other):
        cause = f"The loader of {loader} has the order of epoch 0 again: the sampler is not told the epoch."
        return Diagnosis(place, cause, "sampler.set_epoch(epoch)", before, 0.0)
    cause = (
        f"The loader of {loader} gives the same samples in another order (the reference's places {shown}, …): "
        "each framework's sampler shuffles by its own generator."
    )
    return Diagnosis(place, cause, "Hand both loaders the same list of batches.", before, 0.0)


def _same_order(loader: str, epoch: str, reference: Record, other: Record) -> bool:
    """Whether the samples that were traced come at the places of epoch 0, and on the reference side do not."""
    first = loader.replace(f"epoch {epoch}", "epoch 0")
    b = _places(other, first, ""), _places(other, loader, f", epoch {epoch}")
    a = _places(reference, first, ""), _places(reference, loader, f", epoch {epoch}")
    return len(b[0]) > 1 and b[0] == b[1] and a[0] != a[1]


def _places(record: Record, loader: str, when: str) -> Mapping[int, int]:
    """Where in a loader's list the traced samples are, by their index."""
    keys = {_key(item): place for place, item in enumerate(items(record, loader, "images"))}
    traces = dict(_traces(record, when))
    return {index: keys[key] for index, key in traces.items() if key in keys}


def _traces(record: Record, when: str) -> Iterator[tuple[int, bytes]]:
    for name, array in record.arrays.items():
        found = re.fullmatch(rf"train\[(\d+){re.escape(when)}\] final\.image", name)
        if found:
            yield int(found[1]), _key(array)


def _key(array: Array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _mapped_twice(loader: str, place: str, reference: Record, other: Record) -> Diagnosis | None:
    """Labels to which the map of ids, as the traces show it, was applied once more."""
    a, b = (items(record, loader, "labels") for record in (reference, other))
    table: dict[int, int] = {}
    for name, before in reference.arrays.items():
        if re.fullmatch(r"train\[.*\] crop\.label", name):
            after = reference.arrays[name.replace("crop", "final")]
            if before.size == after.size:
                table |= id_map(before.reshape(after.shape), after) or {}
    if not table or [x.shape for x in a] != [y.shape for y in b] or all(map(same_bits, a, b)):
        return None
    results = [table[int(value)] for value in np.unique(np.stack(a)) if int(value) in table]
    if len(results) < IDS or len(set(results)) < IDS // 2:
        return None
    known = [np.isin(x, list(table)) for x in a]
    if not all(np.array_equal(apply_map(table, x)[k], y[k]) for x, y, k in zip(a, b, known, strict=True)):
        return None
    cause = f"The labels of {loader} are mapped twice: train ids are taken for label ids and mapped again."
    before_it = distance(np.stack(a), np.stack(b))
    return Diagnosis(
        place, cause, "Map labelIds files only: label_ids=False for a list of train ids.", before_it, 0.0
    )
