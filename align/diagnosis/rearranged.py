"""Relations between arrays that hold the same numbers in other places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations, permutations

import numpy as np

from stdc_parity.align.diagnosis.relations import Relation, nothing
from stdc_parity.align.framework import Array

MOST_AXES = 4
"""Axes of arrays whose orders are all tried: 24 of them."""

TRIED = "the same numbers in other places: transposed, mirrored, rolled, reshaped, an axis permuted"


def rearrangements(name: str, a: Array, b: Array) -> Iterator[Relation]:
    """What may have moved the numbers of `a` to their places in `b`, simple changes first.

    `name` is what messages call `b`. Without the same numbers in both there is nothing but a remark that it
    was tried.
    """
    if not same_numbers(a, b):
        yield nothing(TRIED)
        return
    yield from _transposed(name, a, b)
    yield from _mirrored(name, b)
    yield from _rolled(name, a, b)
    yield from _axis_permuted(name, a, b)
    yield from _reshaped(name, a, b)


def same_numbers(a: Array, b: Array) -> bool:
    """Whether both hold the same numbers, equally often."""
    return a.size == b.size and bool(np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None)))


def _transposed(name: str, a: Array, b: Array) -> Iterator[Relation]:
    for order in _orders(b.ndim):
        if tuple(b.shape[axis] for axis in order) == a.shape:
            how = (
                "transposed"
                if b.ndim == 2
                else f"transposed: its axes are those of .transpose{_inverse(order)}"
            )
            cause = f"{name} is {how}; the reference has the same numbers in the axes' own order."
            yield Relation(TRIED, cause, f".transpose{order}", partial(np.transpose, axes=order), exact=True)


def _mirrored(name: str, b: Array) -> Iterator[Relation]:
    for count in range(1, min(b.ndim, MOST_AXES) + 1):
        for axes in combinations(range(b.ndim), count):
            cut = ", ".join("::-1" if axis in axes else ":" for axis in range(b.ndim))
            along = " and ".join(map(str, axes))
            cause = f"{name} is reversed along axis {along}."
            yield Relation(TRIED, cause, f"[{cut}]", partial(np.flip, axis=axes), exact=True)


def _rolled(name: str, a: Array, b: Array) -> Iterator[Relation]:
    if a.shape != b.shape:
        return
    for axis in range(b.ndim):
        rows_a, rows_b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
        by = next((k for k in range(1, len(rows_a)) if np.array_equal(rows_a[0], rows_b[k])), 0)
        if by:
            steps = by if 2 * by <= len(rows_a) else by - len(rows_a)
            cause = f"{name} is shifted by {steps} along axis {axis}."
            fix = f"np.roll(…, {-steps}, axis={axis})"
            yield Relation(TRIED, cause, fix, partial(np.roll, shift=-steps, axis=axis), exact=True)


def _axis_permuted(name: str, a: Array, b: Array) -> Iterator[Relation]:
    if a.shape != b.shape:
        return
    for axis in range(b.ndim):
        order = find_order(np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0))
        if order is not None:
            cause = f"{name}: {describe_order(order)} along axis {axis}."
            fix = f"np.take(…, {list(np.argsort(order))}, axis={axis})"
            yield Relation(
                TRIED, cause, fix, partial(np.take, indices=np.argsort(order), axis=axis), exact=True
            )


def find_order(a: Sequence[Array] | Array, b: Sequence[Array] | Array) -> list[int] | None:
    """Which item of `a` each item of `b` is, None if they are not the same distinct items."""
    places = {np.ascontiguousarray(item).tobytes(): i for i, item in enumerate(a)}
    order = [places.get(np.ascontiguousarray(item).tobytes(), -1) for item in b]
    return order if len(places) == len(a) and sorted(order) == list(range(len(a))) else None


def describe_order(order: Sequence[int]) -> str:
    """A permutation in words."""
    moved = [i for i, source in enumerate(order) if source != i]
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} are exchanged"
    shown = ", ".join(f"{i} is the reference's {order[i]}" for i in moved[:6])
    return f"in another order ({shown}{', …' if len(moved) > 6 else ''})"


def _reshaped(name: str, a: Array, b: Array) -> Iterator[Relation]:
    for order in _orders(a.ndim):
        moved = tuple(a.shape[axis] for axis in order)
        cause = (
            f"{name} was stored with the axes in the order {order}, of shape {moved}, and reshaped "
            "where it should be transposed: reshape keeps the order of the numbers, not the axes."
        )
        yield Relation(
            TRIED,
            cause,
            f".reshape{moved}.transpose{_inverse(order)}",
            partial(_unshape, moved, _inverse(order)),
            exact=True,
        )


def _unshape(shape: tuple[int, ...], order: tuple[int, ...], b: Array) -> Array:
    return np.asarray(np.ascontiguousarray(b).reshape(shape).transpose(order))


def _orders(axes: int) -> Iterator[tuple[int, ...]]:
    """The orders of that many axes but their own, those that exchange two of them first."""
    if axes > MOST_AXES:
        return
    own = tuple(range(axes))
    yield from sorted(
        (order for order in permutations(own) if order != own),
        key=lambda order: sum(i != axis for i, axis in enumerate(order)),
    )


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(order))
