"""What own networks are called with, in one line each: `[NAME:]SHAPE[:DTYPE][:LOW..HIGH]`.

    1x3x224x224             a batch of normal values, float32, as the next positional argument
    x:1x3x224x224           the same as the keyword argument `x`
    ids:2x16:int64:0..99    whole numbers from 0 to 99
    1x3x64x64:0..1          uniform values from 0 to 1
    mask:2x16:bool          true or false
    batch.image:1x3x8x8     `image` in a dict that is the keyword argument `batch`
    0.image:1x3x8x8         `image` in a dict that is the first positional argument
    t:scalar:int64:0..9     a tensor without dimensions

Floating-point values take the dtype of the run. Both sides get the same values, drawn from the seed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.converters.errors import UsageError

_LINE = re.compile(
    r"(?:(?P<name>[A-Za-z_0-9]\w*(?:\.\w+)*):)?(?P<shape>\d+(?:x\d+)*|scalar)"
    r"(?::(?P<dtype>[a-z]+\d*))?(?::(?P<low>-?[\d.e+-]+?)\.\.(?P<high>-?[\d.e+-]+))?"
)
DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
LARGEST = 1 << 28
"""Elements of an input, so that a slip of the finger is a message."""


@dataclass(frozen=True)
class Input:
    """One tensor: its place (argument by name or number, then keys of dicts; "" for the next positional one), shape,
    dtype, and bounds, of which the upper one belongs to whole numbers."""

    place: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    bounds: tuple[float, float] | None = None

    def draw(self, seed: int, number: int) -> Array:
        """Seeded values; those of floating-point types are float32."""
        random = np.random.default_rng([seed, 11, number, zlib.crc32(self.place.encode())])
        if self.dtype == "bool":
            return random.random(self.shape) < 0.5
        if self.dtype.startswith("float"):
            if self.bounds is None:
                return np.asarray(random.standard_normal(self.shape, np.float32))
            return np.asarray(random.uniform(*self.bounds, self.shape), np.float32)
        low, high = self.bounds or (0, 1)
        return random.integers(int(low), int(high) + 1, self.shape).astype(self.dtype)


def read_input(text: str, option: str = "--input") -> Input:
    """The input of a line. Raises UsageError that says what is wrong with it."""
    found = _LINE.fullmatch(text.strip())
    if found is None or (found["dtype"] or "float32") not in DTYPES:
        raise UsageError(
            f"{option} {text}: it is no [NAME:]SHAPE[:DTYPE][:LOW..HIGH]",
            f"Such as 1x3x224x224 or ids:2x16:int64:0..99; dtypes are {', '.join(DTYPES)}.",
        )
    try:
        bounds = (float(found["low"]), float(found["high"])) if found["low"] else None
    except ValueError:
        raise UsageError(f"{option} {text}: {found['low']}..{found['high']} are no numbers") from None
    if bounds is not None and bounds[0] > bounds[1]:
        raise UsageError(f"{option} {text}: its lower bound is above the upper one")
    shape = () if found["shape"] == "scalar" else tuple(map(int, found["shape"].split("x")))
    if np.prod(shape, dtype=object) > LARGEST:
        raise UsageError(f"{option} {text}: more than {LARGEST:,} values")
    return Input(found["name"] or "", shape, found["dtype"] or "float32", bounds)


def places_of(inputs: Sequence[Input]) -> tuple[str, ...]:
    """Where each tensor goes: an argument's number or name, then keys. Raises UsageError if two go to one place."""
    places, positional = [], 0
    for each in inputs:
        places.append(each.place or str(positional))
        positional += not each.place
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise UsageError(f"two inputs are for {twice!r}", "Give each a name, or none: NAME:SHAPE.")
    return tuple(places)


def arrange(places: Sequence[str], values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments that values at `places` make; without places they are positional."""
    if not places:
        return list(values), {}
    tree: dict[str, Any] = {}
    for place, value in zip(places, values, strict=True):
        *keys, last = place.split(".")
        inner = tree
        for key in keys:
            inner = inner.setdefault(key, {})
        inner[last] = value
    numbers = sorted((key for key in tree if key.isdecimal()), key=int)
    return [tree[key] for key in numbers], {key: value for key, value in tree.items() if not key.isdecimal()}


def nest(suffixed: Mapping[str, Any]) -> Any:
    """The value whose parts have these places in it, as `recorder.tensors_in` names them: "", "[0][name]", ….

    Keys that are the numbers from 0 on make a list.
    """
    if "" in suffixed:
        return suffixed[""]
    parts: dict[str, dict[str, Any]] = {}
    for suffix, value in suffixed.items():
        key, _, rest = suffix[1:].partition("]")
        parts.setdefault(key, {})[rest] = value
    built = {key: nest(inner) for key, inner in parts.items()}
    order = [str(i) for i in range(len(built))]
    return [built[key] for key in order] if built.keys() == set(order) else built
