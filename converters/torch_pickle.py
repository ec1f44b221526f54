"""What torch's pickles are made of: storages, tensors that view them, dtypes.

A tensor becomes a numpy array that views its storage's bytes in the file. Whether it lies inside its
storage is checked in exact integers before the view is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_table import PLAIN, table_of
from stdc_parity.converters.pickle_values import (
    Array,
    Deferred,
    bfloat16,
    booleans,
    checked_integers,
    checked_shape,
    empty,
    shown_shape,
)
from stdc_parity.converters.pickle_vm import Global, Inert, Opaque, Table, Unsupported

# torch's name of a dtype -> numpy's, for the dtypes that state dicts hold
DTYPES = {
    "float16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "float32": "float32",
    "float": "float32",
    "float64": "float64",
    "double": "float64",
    "int8": "int8",
    "int16": "int16",
    "short": "int16",
    "int32": "int32",
    "int": "int32",
    "int64": "int64",
    "long": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
}
STORAGES = {
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_OTHER_DTYPES = (
    *("complex32", "chalf", "complex64", "cfloat", "complex128", "cdouble"),
    *("qint8", "quint8", "qint32", "quint4x2", "quint2x4", "bits8", "bits16"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "float4_e2m1fn_x2",
)
_OTHER_STORAGES = {  # dtypes that are not read, and the bytes of an element
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
    "QUInt4x2Storage": ("quint4x2", 1),
    "QUInt2x4Storage": ("quint2x4", 1),
}
_OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_wrapper_subclass": "a wrapper of tensors",
    "_rebuild_device_tensor_from_numpy": "a tensor of a device without storages",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of a device without storages",
    "_rebuild_xla_tensor": "a tensor of a device without storages",
}


class Storage(Inert):
    """The bytes that tensors view: ``numel`` elements from byte ``start`` on in what ``load`` gives.

    ``dtype`` is torch's name for the elements, of ``itemsize`` bytes each.
    """

    __slots__ = ("dtype", "itemsize", "load", "size", "start")

    def __init__(
        self, dtype: str, itemsize: int, numel: int, load: Callable[[], memoryview], start: int = 0
    ) -> None:
        self.dtype = dtype
        self.itemsize = itemsize
        self.size = numel * itemsize
        self.load = load
        self.start = start

    def view(self, offset: int, numel: int) -> Storage:
        """The storage of ``numel`` elements from ``offset`` on; raises CheckpointError if they are outside."""
        if min(offset, numel) < 0 or (offset + numel) * self.itemsize > self.size:
            raise CheckpointError("a storage's view reaches outside it")
        start = self.start + offset * self.itemsize
        return Storage(self.dtype, self.itemsize, numel, self.load, start)

    def data(self) -> memoryview:
        """The storage's bytes; raises CheckpointError if the file has fewer."""
        data = self.load()
        if self.start + self.size > data.nbytes:
            raise CheckpointError(f"its storage has {data.nbytes:,} of {self.start + self.size:,} bytes")
        return data[self.start : self.start + self.size]


class Tensor(Deferred):
    """A view of a storage: offset, shape and strides in elements."""

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(
        self, storage: Storage, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.storage = storage
        self.dtype = numpy_dtype(dtype)
        self.offset = offset
        self.shape = shape
        self.strides = strides

    def cost(self) -> int:
        """Bytes by which it exceeds its storage (strides of 0), or all of it for booleans, which are checked."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return size if self.dtype == np.bool_ else max(0, size - self.storage.size)

    def make(self) -> Array:
        """The tensor as a read-only view of the file (a copy only for malformed booleans)."""
        itemsize = self.dtype.itemsize
        if math.prod(self.shape) == 0:
            return empty(self.shape, self.dtype)
        steps = [stride if n > 1 else 0 for n, stride in zip(self.shape, self.strides, strict=True)]
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, steps, strict=True))
        if (last + 1) * itemsize > self.storage.size:
            raise CheckpointError(
                f"the tensor of shape {shown_shape(self.shape)} and strides {shown_shape(self.strides)} at "
                f"offset {shown(self.offset)} reaches outside its storage of {self.storage.size:,} bytes"
            )
        kind = np.dtype(np.uint8) if self.dtype == np.bool_ else self.dtype
        strides = [step * itemsize if n > 1 else itemsize for n, step in zip(self.shape, steps, strict=True)]
        view: Array = np.ndarray(self.shape, kind, self.storage.data(), self.offset * itemsize, strides)
        return booleans(view) if self.dtype == np.bool_ else view


def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy's dtype of a name in ``DTYPES``' values."""
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def storage_of(kind: Any, numel: object, load: Callable[[], memoryview]) -> Storage:
    """The storage that a persistent id describes by its class and number of elements."""
    if type(kind) is not Global or not isinstance(kind.value, str) or type(numel) is not int or numel < 0:
        raise ValueError
    if kind.value in STORAGES:
        dtype = STORAGES[kind.value]
        return Storage(dtype, numpy_dtype(dtype).itemsize, numel, load)
    return Storage(*_OTHER_STORAGES[kind.value], numel, load)


def tensor_of(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None = None) -> object:
    """The view of ``storage`` (as ``dtype`` if given, else as what the storage holds)."""
    if type(storage) is not Storage:
        raise TypeError
    name = DTYPES.get(dtype or storage.dtype)
    if name is None:
        return Unsupported(f"a tensor of dtype {shown(dtype or storage.dtype)}")
    sizes, steps = checked_shape(shape), checked_integers(strides)
    if len(sizes) != len(steps) or type(offset) is not int:
        raise ValueError
    if offset < 0 or min(steps, default=0) < 0:
        raise CheckpointError("a tensor has a negative offset or stride")
    return Tensor(storage, name, offset, sizes, steps)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: object) -> object:
    """``more`` is requires_grad, backward_hooks and metadata, of which old torch wrote less."""
    if len(more) > 2 and more[2]:
        return Unsupported("a tensor with a lazy negation or conjugation")
    return tensor_of(storage, offset, shape, strides)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> object:
    """``more`` is requires_grad, backward_hooks, dtype and perhaps metadata."""
    dtype = more[2]
    if any(more[3:]):
        return Unsupported("a tensor with a lazy negation or conjugation")
    return tensor_of(storage, offset, shape, strides, dtype.value)


def _rebuild_from_type(function: Any, _type: object, args: Any, _state: object) -> object:
    if type(function) is not Global or not function.name.startswith("torch._utils."):
        raise TypeError
    return function.make(*args)


def _first(data: object, *_rest: object) -> object:
    return data


def _unsupported(what: str) -> Callable[..., object]:
    return lambda *_args: Unsupported(what)


def _size(sizes: object = ()) -> object:
    return checked_shape(sizes)


def torch_table() -> dict[tuple[str, str], Global]:
    """The names that torch's pickles hold, and the harmless ones of Python and numpy."""
    names = [
        Global("torch._utils._rebuild_tensor", _rebuild_tensor),
        Global("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
        Global("torch._utils._rebuild_tensor_v3", _rebuild_tensor_v3),
        Global("torch._utils._rebuild_parameter", _first),
        Global("torch._utils._rebuild_parameter_with_state", _first),
        Global("torch._tensor._rebuild_from_type_v2", _rebuild_from_type),
        Global("torch.tensor._rebuild_from_type", _rebuild_from_type),
        Global("torch.Size", _size),
    ]
    names += [Global(f"torch._utils.{name}", _unsupported(what)) for name, what in _OTHER_TENSORS.items()]
    for name in (*STORAGES, *_OTHER_STORAGES):
        for module in ("torch", "torch.cuda"):
            names.append(Global(f"{module}.{name}", _unsupported("a bare storage"), name))
            names.append(Global(f"{module}.{name[:-7]}Tensor", _unsupported("an old tensor"), name))
    names += [
        Global(f"torch.storage.{name}", _unsupported("a bare storage"), "UntypedStorage")
        for name in ("UntypedStorage", "_UntypedStorage")
    ]
    names += [Global(f"torch.{name}", _opaque(name), name) for name in (*DTYPES, *_OTHER_DTYPES)]
    names += [
        Global(name, _opaque(name))
        for name in (
            *("torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"),
            *("torch._tensor.Tensor", "torch.serialization._get_layout", "torch.strided"),
            *("torch.per_tensor_affine", "torch.per_channel_affine", "torch.sparse_coo", "torch.sparse_csr"),
        )
    ]
    return {**PLAIN, **table_of(names)}


def _opaque(name: str) -> Callable[..., object]:
    return lambda *args: Opaque(name, args)


TORCH: Table = torch_table()
