"""What pickles leave behind, made into plain values: numpy's dtypes and arrays, and ``settle``.

``settle`` gives numpy arrays where arrays or tensors were; dicts, lists, tuples, numbers and text as they
are; ``Opaque`` for objects that are only data to us, ``Unsupported`` for tensors that are not read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_machine import Global, Inert, Opaque, Unsupported

Array = NDArray[Any]

MAX_DEPTH = 100
MAX_VALUES = 2_000_000  # of the whole tree: values that appear in several places count each time
MAX_EXPANSION = 64 << 20  # bytes of arrays, beyond the file's own size, that are more than views of storages
_DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))


class Deferred(Inert):
    """An array to be: ``settle`` replaces it by what ``make`` gives."""

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made: object = None

    def cost(self) -> int:
        """Bytes that making it may read or copy, beyond its share of a storage."""
        raise NotImplementedError

    def make(self) -> object:
        """The array, or Unsupported; raises CheckpointError if there is none."""
        raise NotImplementedError


class NumpyDtype(Inert):
    """``numpy.dtype(code)`` with the byte order that its state brings."""

    __slots__ = ("code", "order", "plain")

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        if not isinstance(code, Global | str):
            raise TypeError
        self.code = code if isinstance(code, str) else _code_of(code)
        self.order = "="
        self.plain = True

    def build(self, state: Any) -> None:
        """Take the byte order; note whether it is a dtype of parts."""
        order, subtype, names, fields = state[1:5]
        if order not in ("<", ">", "=", "|"):
            raise ValueError
        self.order = order
        self.plain = subtype is None and names is None and fields is None

    def resolve(self) -> np.dtype[Any] | None:
        """The numpy dtype, or None if it is not one of numbers or booleans."""
        if not self.plain:
            return None
        if self.code == "bfloat16" and self.order != ">":
            return bfloat16()
        return np.dtype(self.order + self.code) if self.code in _DTYPES else None


def _code_of(cls: Global) -> str:
    """`f4` for `numpy.float32`; the bare name for a class that numpy itself does not have."""
    name = cls.name.rpartition(".")[2]
    return np.dtype(name).str[1:] if name in np.sctypeDict else name


class NumpyArray(Deferred):
    """An array as numpy pickles it: made empty, then given its state."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self, *_empty: object) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = ()
        self.dtype: NumpyDtype | None = None
        self.fortran = False
        self.data: object = b""

    def build(self, state: Any) -> None:
        """Take (version, shape, dtype, whether Fortran order, data)."""
        shape, self.dtype, self.fortran, self.data = state[-4:]
        self.shape = checked_shape(shape)
        if type(self.dtype) is not NumpyDtype:
            raise TypeError

    def cost(self) -> int:
        """The size of its data: honest arrays have data of their own."""
        return len(self.data) if isinstance(self.data, str | bytes | memoryview) else 0

    def make(self) -> object:
        """The array, a view of the file if it can be; Unsupported if it is not of numbers."""
        if self.dtype is None:
            raise CheckpointError("the numpy array has no content")
        dtype = self.dtype.resolve()
        if dtype is None:
            return Unsupported(f"a numpy array of dtype {shown(self.dtype.code, 20)}")
        data = as_bytes(self.data)
        if data.nbytes != math.prod(self.shape) * dtype.itemsize:
            raise CheckpointError(
                f"the numpy array of shape {shown_shape(self.shape)} and dtype {dtype.name} has "
                f"{data.nbytes:,} bytes of data"
            )
        if data.nbytes == 0:
            return empty(self.shape, dtype)
        flat = native(from_bytes(data, dtype))
        return flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)


def checked_shape(shape: object) -> tuple[int, ...]:
    """``shape`` if it is a tuple or list of at most 32 sizes of 0 or more; raises ValueError."""
    sizes = checked_integers(shape)
    if not all(0 <= n < 2**62 for n in sizes):
        raise ValueError
    return sizes


def checked_integers(values: object) -> tuple[int, ...]:
    """``values`` if it is a tuple or list of at most 32 integers; raises ValueError."""
    if not isinstance(values, tuple | list) or len(values) > 32 or not all(type(n) is int for n in values):
        raise ValueError
    return tuple(values)


def shown_shape(shape: tuple[int, ...]) -> str:
    """``shape`` for a message."""
    return shown(str(shape))


def as_bytes(data: object) -> memoryview:
    """Bytes, a slice of the file, or text that a Python 2 ``str`` of bytes happened to be, as a buffer."""
    if isinstance(data, str):
        data = data.encode("utf-8")
    if not isinstance(data, bytes | memoryview):
        raise CheckpointError("the data of a numpy array are not bytes")
    return memoryview(data)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array without elements; raises CheckpointError if its other sizes are absurd."""
    try:
        return np.empty(shape, dtype)
    except ValueError:
        raise CheckpointError(f"an empty tensor declares the shape {shown_shape(shape)}") from None


def from_bytes(data: memoryview, dtype: np.dtype[Any]) -> Array:
    """``data`` as a flat array without a copy (but for booleans that are neither 0 nor 1)."""
    return booleans(np.frombuffer(data, np.uint8)) if dtype == np.bool_ else np.frombuffer(data, dtype)


def booleans(raw: NDArray[np.uint8]) -> Array:
    """Bytes as booleans, of which numpy wants only 0 and 1."""
    return raw.view(np.bool_) if raw.max() <= 1 else raw != 0


def native(array: Array) -> Array:
    """``array`` in this machine's byte order (a copy only if it is not)."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def bfloat16() -> np.dtype[Any]:
    """The bfloat16 dtype (imported only by files that have one)."""
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def settle(root: object, size: int) -> object:
    """``root``, from a file of ``size`` bytes, with its arrays made; dicts and lists are changed in place.

    Raises CheckpointError, naming the place, if a tensor cannot be made, if the values contain themselves,
    nest deeper than MAX_DEPTH or unfold to more than MAX_VALUES, or if the arrays are much larger than the file.
    """
    settler = _Settler(size + MAX_EXPANSION)
    try:
        return settler.settle(root)
    except CheckpointError as error:
        place = " / ".join(shown(part) for part in settler.path)
        raise CheckpointError(f"{place}: {error.message}" if place else error.message, error.note) from None


class _Settler:
    def __init__(self, budget: int) -> None:
        self.path: list[object] = []
        self.left = MAX_VALUES
        self.budget = budget

    def settle(self, value: Any) -> object:
        kind = type(value)
        self.left -= 1
        if self.left < 0:
            raise CheckpointError(f"the values unfold to more than {MAX_VALUES:,}")
        if isinstance(value, Deferred):
            if value.made is None:
                self.budget -= value.cost()
                if self.budget < 0:
                    raise CheckpointError("the tensors declare far more elements than the file has")
                value.made = value.make()
            return value.made
        if kind is dict:
            self._each(value, value.items())
        elif kind is list:
            self._each(value, enumerate(value))
        elif kind is tuple:
            parts = list(value)
            self._each(parts, enumerate(value))
            return tuple(parts)
        elif kind is Opaque:
            value.args, value.state = self._pair(value)
        return value

    def _each(self, target: Any, items: Any) -> None:
        if len(self.path) >= MAX_DEPTH:
            del self.path[3:]
            raise CheckpointError("the values nest too deeply, or contain themselves")
        for key, value in items:
            self.path.append(key)
            target[key] = self.settle(value)
            self.path.pop()

    def _pair(self, value: Opaque) -> Any:
        parts = [value.args, value.state]
        self._each(parts, enumerate((value.args, value.state)))
        return parts
