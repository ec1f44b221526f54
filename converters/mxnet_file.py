"""MXNet's .params: a list of arrays and a list of their names, as `NDArray::Save` and `Load` of its
src/ndarray/ndarray.cc write and read them (Apache MXNet 1.0 to 1.9, and what they read of older files).

All numbers are little-endian. The file is u64 0x112, u64 0, u64 number of arrays, the arrays, u64 number of names,
and each name as u64 length and bytes. An array is u32 magic, its shape, i32 device type, i32 device number, i32
dtype, and its elements. The magic tells how the shape is written:

- 0xF993FACA (version 3, numpy's shapes): i32 storage type 0, i32 number of axes (-1: no array), i64 sizes;
- 0xF993FAC9 (version 2): i32 storage type, then as version 1; sparse arrays have more, see `_skip_sparse`;
- 0xF993FAC8 (version 1): u32 number of axes (0: no array, and nothing follows), i64 sizes;
- any other number is that of the axes itself (before version 1), and u32 sizes follow.
"""

from __future__ import annotations

import math
import struct
from collections import Counter

import numpy as np

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_machine import Unsupported
from stdc_parity.converters.pickle_values import bfloat16, empty, from_bytes, shown_shape

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
VERSIONS = {V1: "1", V2: "2", V3: "3"}

DTYPES = {
    0: "float32", 1: "float64", 2: "float16", 3: "uint8", 4: "int32", 5: "int8", 6: "int64", 7: "bool",
    8: "int16", 9: "uint16", 10: "uint32", 11: "uint64", 12: "bfloat16",
}  # fmt: skip
"""`TypeFlag` of MXNet's 3rdparty/mshadow/mshadow/base.h."""

SPARSE = {1: ("a row-sparse array", 1), 2: ("a CSR array", 2)}
"""Storage types besides the dense 0, with the number of index arrays that each one has (ndarray.h)."""

DEVICES = (1, 2, 3, 5)
"""`DeviceType` of include/mxnet/base.h: CPU, GPU, pinned and shared memory."""

MAX_AXES = 32
MAX_NAME = 4096
_CUT = "It is truncated: download or copy it again."


class _Reader:
    """Numbers and bytes one after another; raises CheckpointError where the file ends too early."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        """How many bytes follow."""
        return len(self.data) - self.at

    def bytes(self, size: int, what: str) -> memoryview:
        """The next `size` bytes."""
        if size > self.left:
            raise CheckpointError(f"{what} reaches {size - self.left:,} bytes beyond the file's end", _CUT)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str, what: str) -> int:
        """The next integer, of struct's `code`."""
        (number,) = struct.unpack(f"<{code}", self.bytes(struct.calcsize(f"<{code}"), what))
        return int(number)


def read_mxnet(data: memoryview) -> tuple[dict[str, object], str]:
    """The arrays by name, views of `data`, and the versions of their format in words.

    Sparse arrays, and arrays without a shape, are ``Unsupported``. Raises CheckpointError for what is broken, and
    for a list without names.
    """
    reader = _Reader(data)
    reader.bytes(8, "the header")
    if reader.number("Q", "the header") != 0:
        raise CheckpointError("the header of the MXNet file is damaged: its reserved bytes are not zeros")
    count = reader.number("Q", "the header")
    if count > reader.left // 4:
        raise CheckpointError(f"the MXNet file declares {count:,} arrays and has {reader.left:,} bytes", _CUT)
    versions: Counter[str] = Counter()
    arrays = [_read_array(reader, i, versions) for i in range(count)]
    names = _read_names(reader, count)
    if reader.left:
        raise CheckpointError(f"the MXNet file has {reader.left:,} bytes behind its end")
    found = dict(zip(names, arrays, strict=True))
    if len(found) != count:
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise CheckpointError(f"the MXNet file has the name {shown(twice)} twice")
    return found, f"{count} arrays of version {' and '.join(sorted(versions)) or '-'}"


def _read_names(reader: _Reader, count: int) -> list[str]:
    number = reader.number("Q", "the list of names")
    if number == 0 and count:
        raise CheckpointError(
            f"the MXNet file holds {count:,} arrays without names", "Save a dict: mx.nd.save(path, {name: array, …})."
        )
    if number != count:
        raise CheckpointError(f"the MXNet file has {count:,} arrays and {number:,} names")
    names = []
    for i in range(count):
        size = reader.number("Q", f"the length of name {i + 1}")
        if size > MAX_NAME:
            raise CheckpointError(f"name {i + 1} of the MXNet file is {size:,} bytes long, more than {MAX_NAME:,}")
        try:
            names.append(bytes(reader.bytes(size, f"name {i + 1}")).decode("utf-8"))
        except UnicodeDecodeError:
            raise CheckpointError(f"name {i + 1} of the MXNet file is no UTF-8") from None
    return names


def _read_array(reader: _Reader, number: int, versions: Counter[str]) -> object:
    what = f"array {number + 1} of the MXNet file"
    magic = reader.number("I", what)
    versions[VERSIONS.get(magic, "0")] += 1
    storage = reader.number("i", what) if magic in (V2, V3) else 0
    if storage in SPARSE and magic == V2:
        return _skip_sparse(reader, storage, what)
    if storage != 0:
        raise CheckpointError(f"{what} is damaged: {storage} is no storage type")
    shape = _read_shape(reader, magic, what)
    if shape is None:
        return Unsupported("an array without a shape")
    dtype = _read_dtype(reader, what)
    size = math.prod(shape) * dtype.itemsize
    content = reader.bytes(size, f"{what}, of shape {shown_shape(shape)} and dtype {dtype.name},")
    return from_bytes(content, dtype).reshape(shape) if size else empty(shape, dtype)


def _read_shape(reader: _Reader, magic: int, what: str) -> tuple[int, ...] | None:
    """The shape, None if the array has none and ends here."""
    if magic not in VERSIONS:
        axes = magic
    else:
        axes = reader.number("i", what)
    unknown = axes == -1 if magic == V3 else axes == 0
    if unknown:
        return None
    if not 0 <= axes <= MAX_AXES:
        raise CheckpointError(f"{what} is damaged: it has {axes:,} axes")
    code, size = ("q", 8) if magic in VERSIONS else ("I", 4)
    sizes = struct.unpack(f"<{axes}{code}", reader.bytes(axes * size, what))
    if magic == V3 and -1 in sizes:
        return None
    if not all(0 <= n < 1 << 62 for n in sizes):
        raise CheckpointError(f"{what} is damaged: it has the shape {shown_shape(sizes)}")
    return sizes


def _read_dtype(reader: _Reader, what: str) -> np.dtype[np.generic]:
    """The dtype, behind the device that the array was on."""
    device, _number, code = (reader.number("i", what) for _ in range(3))
    if device not in DEVICES:
        raise CheckpointError(f"{what} is damaged: {device} is no type of a device")
    return _dtype(code, what)


def _dtype(code: int, what: str) -> np.dtype[np.generic]:
    if code not in DTYPES:
        raise CheckpointError(f"{what} is damaged: {code} is no dtype of MXNet")
    return bfloat16() if DTYPES[code] == "bfloat16" else np.dtype(DTYPES[code])


def _skip_sparse(reader: _Reader, storage: int, what: str) -> Unsupported:
    """Pass over a sparse array: the shape of what it stores, its own, and after the dtype its indices' dtypes and
    shapes; then the elements, then the indices."""
    kind, indices = SPARSE[storage]
    stored = _read_shape(reader, V2, what)
    if _read_shape(reader, V2, what) is None:
        return Unsupported(kind)
    parts = [(_read_dtype(reader, what), stored)]
    for _ in range(indices):
        dtype = _dtype(reader.number("i", what), what)
        parts.append((dtype, _read_shape(reader, V2, what)))
    for dtype, shape in parts:
        reader.bytes(math.prod(shape or (0,)) * dtype.itemsize, what)
    return Unsupported(kind)
