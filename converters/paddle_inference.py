"""Paddle's inference parameters (.pdiparams): told from other files, and described, but not converted.

paddle.jit.save writes the tensors one behind the other in the order of the program's variables; names are in
the program alone. Each is: version (uint32, 0), level of detail (uint64, 0 for plain tensors), version again,
the size of a description (int32), that (TensorDesc of framework.proto: data_type is 1, dims 2), and the data.
"""

from __future__ import annotations

import math
import struct

from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.protobuf import message

_HEAD = struct.Struct("<IQIi")
_SIZES = {
    0: ("bool", 1), 1: ("int16", 2), 2: ("int32", 4), 3: ("int64", 8), 4: ("float16", 2), 5: ("float32", 4),
    6: ("float64", 8), 20: ("uint8", 1), 21: ("int8", 1), 22: ("bfloat16", 2),
}  # fmt: skip
"""VarType.Type of framework.proto -> dtype and bytes of an element."""
_MAX_TENSORS = 100_000
_MAX_DESCRIPTION = 1000


def describe(data: memoryview) -> str | None:
    """`145 tensors, 0.3 MB of float32`, or None if this is no file of inference parameters."""
    at, count, size = 0, 0, 0
    dtypes: list[str] = []
    try:
        while at < len(data) and count < _MAX_TENSORS:
            at, dtype, length = _skip_tensor(data, at)
            if at > len(data):
                return f"{count:,} whole tensors, and the next one is cut off" if count else None
            count, size = count + 1, size + length
            if dtype not in dtypes:
                dtypes.append(dtype)
    except (CheckpointError, struct.error, KeyError, ValueError):
        return f"{count:,} tensors and something else behind them" if count else None
    more = "more than " if at < len(data) else ""
    return f"{more}{count:,} tensors, {size / 1e6:.1f} MB of {', '.join(dtypes)}"


def _skip_tensor(data: memoryview, at: int) -> tuple[int, str, int]:
    """Where the tensor at ``at`` ends, its dtype, and the bytes of its elements; raises what ``describe`` catches."""
    version, level, again, length = _HEAD.unpack_from(data, at)
    at += _HEAD.size
    if version or level or again or not 0 < length <= _MAX_DESCRIPTION:
        raise ValueError
    description = message(data[at : at + length], "damaged")
    shape: list[int] = []
    kind = None
    for number, value in description.fields():
        if number == 1:
            kind = value
        elif number == 2:
            shape += description.varints(value)
    if not isinstance(kind, int) or min(shape, default=0) < 0:
        raise ValueError
    dtype, itemsize = _SIZES[kind]
    size = math.prod(shape) * itemsize
    return at + length + size, dtype, size
