"""Why a sample or a batch differs: what a transform, a label map or a loader did to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from stdc_parity.align.diagnosis.batches import explain_batches
from stdc_parity.align.diagnosis.elementwise import factors
from stdc_parity.align.diagnosis.jpeg import jpeg_relations
from stdc_parity.align.diagnosis.labels import label_relations
from stdc_parity.align.diagnosis.pixels import crop_relations, normalisations, recoloured, resized, scales
from stdc_parity.align.diagnosis.rearranged import rearrangements
from stdc_parity.align.diagnosis.relations import Relation, explain, same_bits
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

TAP = re.compile(r"(train\[(\d+)(?:, epoch (\d+))?\]) (\w+)\.(image|label)")
PLACES = 5


@dataclass(frozen=True)
class Step:
    """One traced array on both sides, with what its transform was given (on the reference side)."""

    tap: str
    sample: str
    index: int
    epoch: int
    name: str
    what: str
    reference: Array
    other: Array
    before: Array | None
    same_input: bool


def explain_data(failing: Sequence[Comparison], reference: Record, other: Record) -> list[Diagnosis]:
    """A diagnosis for each transform that differs by itself, or, if none does, for each loader that does."""
    names = {c.tap for c in failing}
    reordered = _other_order(failing, reference, other)
    if reordered is not None:
        return [reordered]
    steps = list(_steps(reference, other))
    wrong: dict[str, list[Step]] = {}
    for step in steps:
        if step.tap in names and step.same_input:
            wrong.setdefault(step.name, []).append(step)
    if wrong or any(TAP.fullmatch(name) for name in names):
        return [_explain_step(own, steps, other) for own in list(wrong.values())[:PLACES]]
    return explain_batches(failing, reference, other)[:PLACES]


def _other_order(failing: Sequence[Comparison], reference: Record, other: Record) -> Diagnosis | None:
    """A fact: the transforms have another order."""
    orders = []
    for record in (reference, other):
        found = [match for match in map(TAP.fullmatch, (tap.name for tap in record.taps)) if match]
        orders.append(list(dict.fromkeys(match[4] for match in found if match[1] == found[0][1])))
    a, b = orders
    if a == b or sorted(a) != sorted(b):
        return None
    shown = [", ".join(order[1:-1]) for order in orders]
    place = next((c.tap for c in failing), "")
    cause = f"The list of transforms has another order: {shown[1]}, so each draws other random numbers."
    return Diagnosis(place, cause, shown[0])


def _steps(reference: Record, other: Record) -> Iterator[Step]:
    """Every traced array that both sides have."""
    last: dict[tuple[str, str], str] = {}
    unequal: set[str] = set()
    for tap in reference.taps:
        found = TAP.fullmatch(tap.name)
        if not found or tap.name not in other.arrays:
            continue
        sample, name, what = found[1], found[4], found[5]
        a, b = reference.arrays[tap.name], other.arrays[tap.name]
        before = last.get((sample, what))
        clean = f"{sample} {name}" not in unequal and sample not in unequal
        same = clean and (before is None or same_bits(reference.arrays[before], other.arrays[before]))
        given = reference.arrays[before] if before is not None else None
        yield Step(tap.name, sample, int(found[2]), int(found[3] or 0), name, what, a, b, given, same)
        last[sample, what] = tap.name
        if what == "label" and any(
            not same_bits(reference.arrays[n], other.arrays[n]) for n in _pair(tap.name)
        ):
            unequal.add(sample)


def _pair(label: str) -> tuple[str, str]:
    return label, label.removesuffix("label") + "image"


def _explain_step(own: Sequence[Step], steps: Sequence[Step], other: Record) -> Diagnosis:
    """Why a transform gives something else, given the same: `own` are its samples that do."""
    first = own[0]
    alike = [s for s in own if s.what == first.what and s.reference.ndim == first.reference.ndim]
    return explain(first.tap, _relations(first, alike, steps, other), [(s.reference, s.other) for s in alike])


def _relations(first: Step, own: Sequence[Step], steps: Sequence[Step], other: Record) -> Iterator[Relation]:
    a, b, before = first.reference, first.other, first.before
    named = f"{first.name}'s {first.what}"
    peers = [s for s in steps if s.name == first.name and s.what == first.what and s.tap != first.tap]
    if a.dtype != b.dtype and a.shape == b.shape:
        cause = f"{named} has the dtype {b.dtype}, the reference's is {a.dtype}, with the same values."
        cast = partial(np.ndarray.astype, dtype=a.dtype)
        yield Relation("its dtype", cause, f".astype('{a.dtype}')", cast, certain=True)
    yield from _another_epoch(first, named, other)
    yield from _mirrors(first, own, peers, named)
    pairs = [(s.before, s.reference, s.other) for s in own if s.before is not None]
    if first.what == "label" and pairs:
        yield from label_relations(named, pairs)
    if before is not None:
        yield _relation(
            "the transform left out",
            f"{first.name} leaves the {first.what} as it was: the transform is left out.",
            f"Apply {first.name} to the {first.what} too.",
            before,
        )
    yield from _another_sample(first, peers, named)
    yield from _channels(named, a, b)
    everywhere = [(s.before, s.reference, s.other) for s in peers if s.before is not None and s.same_input]
    if pairs:
        yield from normalisations(named, pairs)
        yield from resized(named, pairs)
        yield from scales(named, [*pairs, *everywhere])
        yield from crop_relations(named, pairs, everywhere, first.what)
        yield from recoloured(named, pairs, everywhere)
    yield from rearrangements(named, a, b)
    yield from jpeg_relations(named, a, b)
    yield from factors(named, a, b)


def _relation(tried: str, cause: str, fix: str, given: Array) -> Relation:
    """A relation that says what the other side's array is."""
    return Relation(tried, cause, fix, lambda _: given, forward=True, exact=True)


def _another_epoch(first: Step, named: str, other: Record) -> Iterator[Relation]:
    """The other side does in every epoch what it did in the first."""
    earlier = other.arrays.get(first.tap.replace(f", epoch {first.epoch}", ""))
    if first.epoch and earlier is not None:
        cause = f"{named} is the same in epoch {first.epoch} as in epoch 0: the choices are seeded without the epoch."
        yield _relation(
            "the first epoch's choices", cause, "Seed the random choices by the epoch too.", earlier
        )


def _another_sample(first: Step, peers: Sequence[Step], named: str) -> Iterator[Relation]:
    """The other side has another index's sample here."""
    for peer in peers:
        if peer.epoch == first.epoch and peer.reference.shape == first.other.shape:
            indices = f"index {first.index} is the reference's index {peer.index}"
            cause = f"{named} of {indices}: the files come in another order."
            fix = "Sort the files by name: sorted(...), as os.listdir and glob promise no order."
            yield _relation("another sample", cause, fix, peer.reference)


def _mirrors(first: Step, own: Sequence[Step], peers: Sequence[Step], named: str) -> Iterator[Relation]:
    """Mirrored the other way, or for the other half of the draws."""
    before = first.before
    if before is None or before.shape != first.reference.shape or before.ndim < 2:
        return
    mirrored = [_is_mirrored(s) for s in (*own, *peers) if s.before is not None and s.same_input]
    turned = [(a, b) for a, b in mirrored if a is not None and b is not None]
    if len(turned) > 2 and all(a != b for a, b in turned):
        cause = (
            f"{first.name} mirrors exactly the samples that the reference leaves, in all of {len(turned)}: "
            "the comparison with the draw is turned round (inverted)."
        )
        given = before if same_bits(first.other, before) else before[:, ::-1]
        yield _relation("mirrored for the other draws", cause, "if random() > p: return sample", given)
    cause = f"{named} is mirrored top to bottom (upside down), the reference's left to right."
    yield _relation(
        "mirrored the other way",
        cause,
        "Mirror the columns: array[:, ::-1], cv2.flip(image, 1).",
        before[::-1],
    )


def _is_mirrored(step: Step) -> tuple[bool | None, bool | None]:
    """Whether each side's array is its input mirrored (False: as it was; None: neither, or nobody can tell)."""
    before = step.before
    assert before is not None
    if same_bits(before, before[:, ::-1]):
        return None, None
    sides = []
    for after in (step.reference, step.other):
        is_same, is_turned = same_bits(before, after), same_bits(before[:, ::-1], after)
        sides.append(is_turned if is_same or is_turned else None)
    return sides[0], sides[1]


def _channels(named: str, a: Array, b: Array) -> Iterator[Relation]:
    """Channels reversed, or at another axis."""
    if b.ndim != 3:
        return
    for axis in (2, 0):
        if b.shape[axis] == 3:
            cause = (
                f"{named} has its channels reversed: BGR, as OpenCV reads it, where the reference has RGB."
            )
            fix = "cv2.cvtColor(image, cv2.COLOR_BGR2RGB)"
            yield Relation("channels reversed", cause, fix, partial(np.flip, axis=axis), exact=True)
    if b.shape[2] == 3 and a.shape[0] == 3:
        cause = f"{named} keeps its channels last, (h, w, c); the reference has (c, h, w)."
        fix = "image.transpose(2, 0, 1)"
        yield Relation("channels last", cause, fix, lambda c: c.transpose(2, 0, 1), certain=True)
