"""Relations between arrays element by element: functions, factors, offsets, rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from stdc_parity.align.diagnosis.relations import Relation, numbers
from stdc_parity.align.framework import Array

EPSILONS = (1e-5, 1e-3, 1e-6, 1e-8, 1e-12, 0.0)
"""Usual epsilons of norms."""

KNOWN: Mapping[str, float] = {
    "255": 255.0, "1/255": 1 / 255, "256": 256.0, "255/256": 255 / 256, "256/255": 256 / 255, "-1": -1.0,
    "2": 2.0, "1/2": 0.5, "10": 10.0, "1/10": 0.1, "100": 100.0, "1/100": 0.01,
    "sqrt(2)": 2**0.5, "1/sqrt(2)": 0.5**0.5,
}  # fmt: skip
"""Factors that have a name wherever they appear."""

NAMED = 2e-6
"""How close to a named constant a fitted factor of float32 numbers lies."""


def functions(name: str) -> Iterator[Relation]:
    """Well-known functions that `name` may be of the reference's array, and roundings of it."""
    yield _forward(name, "float16", "was rounded to float16 (11 bits of a value)", _float16, exact=True)
    for rounded, how in ((_bfloat16_cut, "cut"), (_bfloat16_near, "rounded")):
        yield _forward(name, "bfloat16", f"was {how} to bfloat16 (8 bits of a value)", rounded, exact=True)
    yield _forward(name, "abs", "is the absolute value", np.abs)
    yield _forward(name, "sqrt", "is the square root", _sqrt)
    yield _forward(name, "square", "is the square", np.square)
    yield _forward(name, "1/x", "is the reciprocal", _reciprocal)
    for epsilon in EPSILONS:
        how = f"is 1 / sqrt(x + {epsilon:g})"
        yield _forward(name, "1/sqrt(x + epsilon)", how, partial(_inverse_root, epsilon=epsilon))
    yield _forward(name, "exp and log", "is the exponential", _exp)
    yield _forward(name, "exp and log", "is the logarithm", _log)


def factors(name: str, a: Array, b: Array, constants: Mapping[str, float] = KNOWN) -> Iterator[Relation]:
    """A constant factor or offset, or one for each place along an axis, fitted to the arrays.

    `constants` are factors that have a name.
    """
    if a.shape != b.shape or a.dtype.kind != "f" or a.size < 2:
        return
    x, y = numbers(a).reshape(-1), numbers(b).reshape(-1)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return
    factor = float(x @ y / (x @ x)) if x.any() else 0.0
    if factor:
        called = name_of(factor, constants)
        words = f"{called} ({factor:.7g})" if called else f"{factor:.7g}"
        yield Relation(
            "a constant factor",
            f"{name} is {words} times the reference's.",
            f"divide it by {called or f'{factor:.7g}'}",
            lambda other: other / factor,
            fitted=0 if called else 1,
        )
    offset = float(np.median(y - x))
    yield Relation(
        "a constant offset",
        f"{name} is the reference's plus {offset:.7g}.",
        f"subtract {offset:.7g}",
        lambda other: other - offset,
        fitted=1,
    )
    yield from _by_channel(name, a, b)


def name_of(factor: float, constants: Mapping[str, float]) -> str:
    """What a factor is called, "" if it has no name."""
    return next((n for n, value in constants.items() if abs(factor - value) <= NAMED * abs(value)), "")


def _by_channel(name: str, a: Array, b: Array) -> Iterator[Relation]:
    for axis in range(a.ndim):
        channels = a.shape[axis]
        x, y = (np.moveaxis(numbers(side), axis, 0).reshape(channels, -1) for side in (a, b))
        if x.shape[1] < 4 or channels == 1:
            continue
        dx = x - x.mean(1, keepdims=True)
        spread = (dx * dx).sum(1)
        if not spread.all():
            continue
        slope = (dx * y).sum(1) / spread
        offset = y.mean(1) - slope * x.mean(1)
        shape = [channels if i == axis else 1 for i in range(a.ndim)]
        yield Relation(
            "a factor and an offset for each channel",
            f"{name} has another factor and offset in each place of axis {axis}: "
            f"{_figures(slope)} times the reference's plus {_figures(offset)}.",
            "use the reference's figures",
            partial(_affine, slope=slope.reshape(shape), offset=offset.reshape(shape)),
            forward=True,
            fitted=2 * channels,
        )


def _figures(values: Array) -> str:
    shown = ", ".join(f"{value:.6g}" for value in values[:4])
    return f"({shown}{', …' if len(values) > 4 else ''})"


def _affine(a: Array, slope: Array, offset: Array) -> Array:
    changed: Array = numbers(a) * slope + offset
    return changed


def _forward(
    name: str, tried: str, how: str, change: Callable[[Array], Array], *, exact: bool = False
) -> Relation:
    return Relation(
        tried,
        f"{name} {how}{'' if exact else ' of the reference value'}.",
        f"load the value itself, not its {tried}" if not exact else "convert from the float32 values",
        lambda a: change(a) if a.dtype.kind == "f" else None,
        forward=True,
        exact=exact,
    )


def _float16(a: Array) -> Array:
    with np.errstate(over="ignore"):
        return a.astype(np.float16).astype(a.dtype)


def _bfloat16_cut(a: Array) -> Array:
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return np.asarray((bits & np.uint32(0xFFFF0000)).view(np.float32), a.dtype)


def _bfloat16_near(a: Array) -> Array:
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)
    return np.asarray(rounded.view(np.float32), a.dtype)


def _sqrt(a: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.sqrt(a)


def _reciprocal(a: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(1 / a)


def _inverse_root(a: Array, epsilon: float) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 / np.sqrt(a + epsilon))


def _exp(a: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(a)


def _log(a: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(a)
