"""Another dtype for floating-point tensors, if the user asks for it, and what that loses."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stdc_parity.converters.errors import shown
from stdc_parity.converters.mapped import Mapped
from stdc_parity.converters.pickle_values import Array, bfloat16
from stdc_parity.converters.pieces import array_pieces, memory_of

DTYPES = ("float16", "bfloat16", "float32")
_MAX_NAMED = 5
_AT_ONCE = 1 << 18
"""Values rounded at a time: their errors in float64 stay in the processor's cache."""


@dataclass
class Loss:
    """What rounding to `dtype` changed, over `tensors` tensors.

    `absolute` is the worst |a - b| and `relative` the worst |a - b| / |a| of finite values that stay finite
    (1 for those that become 0), each with the name of its tensor. `overflowed` counts the finite values that
    became Inf, `vanished` those other than 0 that became 0, by tensor.
    """

    dtype: str
    tensors: int = 0
    absolute: float = 0.0
    absolute_in: str = ""
    relative: float = 0.0
    relative_in: str = ""
    overflowed: dict[str, int] = field(default_factory=dict)
    vanished: dict[str, int] = field(default_factory=dict)

    def account(self) -> dict[str, Any]:
        """The loss as plain values, for the certificate."""
        return asdict(self)

    def describe(self) -> str:
        """The loss in a line."""
        line = f"{self.tensors} tensors rounded to {self.dtype}: worst relative error {self.relative:.1e}"
        line += f" ({shown(self.relative_in)})" if self.relative else ""
        line += f", worst absolute error {self.absolute:.1e}"
        line += f" ({shown(self.absolute_in)})" if self.absolute else ""
        for counts, what in ((self.overflowed, "OVERFLOWED to Inf"), (self.vanished, "became 0")):
            if counts:
                names = [f"{shown(name)} ({count:,})" for name, count in list(counts.items())[:_MAX_NAMED]]
                more = ", …" if len(counts) > _MAX_NAMED else ""
                total = sum(counts.values())
                line += f"; {total:,} value{'s' if total > 1 else ''} {what}: {', '.join(names)}{more}"
        return line + "."


def cast_tensors(tensors: Mapping[str, Array], dtype: str, mapped: Mapped) -> tuple[dict[str, Array], Loss]:
    """`tensors` with all floating-point ones as `dtype` ("float16", "bfloat16", "float32"), and the loss.

    Integers and booleans stay; arrays of the same memory stay shared. Large results are kept in a temporary
    file of `mapped`.
    """
    target = bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    loss = Loss(dtype)
    keys = {name: memory_of(array) for name, array in tensors.items() if _is_cast(array, target)}
    firsts: dict[Hashable, str] = {}
    for name, key in keys.items():
        firsts.setdefault(key, name)
    names = list(firsts.values())
    size = sum(tensors[name].size for name in names) * target.itemsize
    chunks = (chunk for name in names for chunk in _cast(name, tensors[name], target, loss, mapped))
    data, at = mapped.keep(chunks, size), 0
    made: dict[Hashable, Array] = {}
    for name in names:
        end = at + tensors[name].size * target.itemsize
        made[keys[name]] = np.frombuffer(data[at:end], target).reshape(tensors[name].shape)
        at = end
    loss.tensors = len(keys)
    return {name: made[keys[name]] if name in keys else array for name, array in tensors.items()}, loss


def _is_cast(array: Array, target: np.dtype[Any]) -> bool:
    return (array.dtype.kind == "f" or array.dtype.name == "bfloat16") and array.dtype != target


def _cast(name: str, array: Array, target: np.dtype[Any], loss: Loss, mapped: Mapped) -> Iterator[memoryview]:
    for piece in array_pieces(array):
        values = np.frombuffer(piece, array.dtype.newbyteorder("="))
        for start in range(0, len(values), _AT_ONCE):
            before = values[start : start + _AT_ONCE]
            with np.errstate(all="ignore"):
                after = before.astype(target)
                _note(name, before, after, loss)
            yield after.view(np.uint8).data
        mapped.used(len(piece))


def _note(name: str, before: Array, after: Array, loss: Loss) -> None:
    """Add a piece's loss, computed in float64, to `loss`."""
    exact, rounded = before.astype(np.float64), after.astype(np.float64)
    finite = np.isfinite(exact)
    overflowed = int(np.count_nonzero(finite & np.isinf(rounded)))
    vanished = int(np.count_nonzero((rounded == 0) & (exact != 0)))
    if overflowed:
        loss.overflowed[name] = loss.overflowed.get(name, 0) + overflowed
    if vanished:
        loss.vanished[name] = loss.vanished.get(name, 0) + vanished
    error = np.abs(exact - rounded)
    error[~np.isfinite(error)] = 0
    worst = float(error.max(initial=0.0))
    if worst > loss.absolute:
        loss.absolute, loss.absolute_in = worst, name
    error /= np.abs(exact)
    worst = float(np.max(error, initial=0.0, where=finite & (exact != 0)))
    if worst > loss.relative and math.isfinite(worst):
        loss.relative, loss.relative_in = worst, name
