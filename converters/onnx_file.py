"""The initialisers of an ONNX model: tensors by name. Of the graph only what gives them second names is looked at.

Read here and not by the onnx package, which would be one more thing to install and which holds the whole
model in memory twice; the numbers of fields are those of onnx.proto3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.mapped import Mapped
from stdc_parity.converters.pickle_machine import Unsupported
from stdc_parity.converters.pickle_values import bfloat16, checked_shape, empty, from_bytes, shown_shape
from stdc_parity.converters.protobuf import Message, message

_MODEL = {1: "ir", 2: "producer", 3: "producer version", 7: "graph", 8: "opset"}
_NODE, _INITIALISER, _SPARSE = 1, 5, 15  # of a graph

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
"""TensorProto.DataType -> numpy's name."""
OTHER_DTYPES = {
    8: "string", 14: "complex64", 15: "complex128", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2",
    20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2",
}  # fmt: skip
_TYPED = {
    4: ("float32",), 10: ("float64",), 7: ("int64",), 11: ("uint64", "uint32"),
    5: ("int32", "int16", "int8", "uint16", "uint8", "bool", "float16", "bfloat16"),
}  # fmt: skip
"""The field of a tensor's elements, if they are not raw -> the dtypes that may be there."""

_DAMAGED = "this looks like an ONNX model, but it is damaged"


@dataclass
class _Tensor:
    """The fields of a TensorProto."""

    name: str = ""
    dtype: int = 0
    shape: list[int] = field(default_factory=list)
    raw: memoryview | None = None
    typed: dict[int, list[Any]] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    location: int = 0


def read_onnx(data: memoryview, mapped: Mapped) -> tuple[dict[str, object], str]:
    """The initialisers by name, views of ``data`` or of the files beside the model, and the model's versions.

    Raises CheckpointError for a damaged model, two initialisers of one name, and external data elsewhere
    than in the model's folder. Sparse ones and those of unusual dtypes are ``Unsupported``.
    """
    model = message(data, _DAMAGED)
    facts: dict[str, Any] = {}
    graphs = []
    for number, value in model.fields():
        if number == 7:
            graphs.append(model.inside(value))
        elif number == 8:
            facts.update(_opset(model.inside(value)))
        elif number in _MODEL:
            facts[_MODEL[number]] = value if isinstance(value, int) else model.text(value)
    if len(graphs) != 1:
        raise CheckpointError(f"{_DAMAGED}: it has {len(graphs)} graphs")
    tensors: dict[str, object] = {}
    second_names: list[tuple[str, str]] = []
    files = _Files(mapped)
    for number, value in graphs[0].fields():
        if number == _INITIALISER:
            tensor = _read_tensor(graphs[0].inside(value))
            if not tensor.name or tensor.name in tensors:
                what = "two initialisers" if tensor.name else "an initialiser without a name"
                raise CheckpointError(f"the ONNX model has {what} {shown(tensor.name)}".rstrip())
            try:
                tensors[tensor.name] = _array(tensor, files)
            except CheckpointError as error:
                raise CheckpointError(f"{shown(tensor.name)}: {error.message}", error.note) from None
        elif number == _SPARSE:
            tensors[f"sparse initialiser {len(tensors)}"] = Unsupported("a sparse tensor")
        elif number == _NODE:
            second_names += _second_name(graphs[0].inside(value))
    for name, first in second_names:
        if first in tensors:
            tensors.setdefault(name, tensors[first])
    maker = f"{facts.get('producer', '')} {facts.get('producer version', '')}".strip()
    version = f"IR {facts.get('ir', '?')}, opset {facts.get('opset', '?')}"
    return tensors, version + (f", made by {shown(maker, 40)}" if maker else "")


def _opset(entry: Message) -> dict[str, Any]:
    """The version of ONNX's own operators, if the entry is theirs."""
    fields = dict(entry.fields())
    return {} if fields.get(1) else {"opset": fields.get(2, "?")}


def _second_name(node: Message) -> list[tuple[str, str]]:
    """(output, input) of an Identity: of equal tensors torch's exporter keeps one, and these for the others."""
    fields = list(node.fields())
    if not any(number == 4 and node.text(value) == "Identity" for number, value in fields):
        return []
    names = {number: node.text(value) for number, value in fields if number in (1, 2)}
    return [(names[2], names[1])] if len(names) == 2 else []


def _read_tensor(proto: Message) -> _Tensor:
    tensor = _Tensor()
    seen: set[int] = set()
    for number, value in proto.fields():
        if number in seen and number not in (1, 13, *_TYPED):
            raise CheckpointError(_DAMAGED)
        seen.add(number)
        if number == 1:
            tensor.shape += proto.varints(value)
        elif number in (2, 14):
            if not isinstance(value, int):
                raise CheckpointError(_DAMAGED)
            setattr(tensor, "dtype" if number == 2 else "location", value)
        elif number == 8:
            tensor.name = proto.text(value)
        elif number == 9:
            tensor.raw = proto.inside(value).data
        elif number in (4, 10):
            tensor.typed.setdefault(number, []).append(proto.inside(value).data)
        elif number in _TYPED:
            tensor.typed.setdefault(number, []).extend(proto.varints(value))
        elif number == 13:
            entry = proto.inside(value)
            pair = {n: entry.text(v) for n, v in entry.fields()}
            tensor.external[pair.get(1, "")] = pair.get(2, "")
    return tensor


def _array(tensor: _Tensor, files: _Files) -> object:
    if tensor.dtype not in DTYPES:
        return Unsupported(f"a tensor of dtype {OTHER_DTYPES.get(tensor.dtype, tensor.dtype)}")
    name = DTYPES[tensor.dtype]
    dtype = bfloat16() if name == "bfloat16" else np.dtype(name)
    try:
        shape = checked_shape(tensor.shape)
    except ValueError:
        raise CheckpointError(f"an initialiser of shape {shown(tensor.shape)}") from None
    size = math.prod(shape) * dtype.itemsize
    if tensor.location == 1:
        data = files.part(tensor.external, size)
    elif tensor.raw is not None or not tensor.typed:
        data = tensor.raw or memoryview(b"")
    else:
        data = _typed_bytes(tensor.typed, name, dtype)
    if len(data) != size:
        raise CheckpointError(
            f"an initialiser of shape {shown_shape(shape)} and dtype {name} has {len(data):,} bytes of data"
        )
    return from_bytes(data, dtype).reshape(shape) if size else empty(shape, dtype)


def _typed_bytes(typed: dict[int, list[Any]], name: str, dtype: np.dtype[Any]) -> memoryview:
    """The elements of a tensor that are not raw, as if they were."""
    ((number, values),) = list(typed.items())[:1]
    if len(typed) > 1 or name not in _TYPED[number] or (number in (4, 10) and len(values) > 1):
        raise CheckpointError("the initialiser's elements are not where its dtype belongs")
    if number in (4, 10):
        data: memoryview = values[0]
        return data
    bits = np.dtype(f"u{dtype.itemsize}") if name in ("bool", "float16", "bfloat16") else dtype
    try:
        unsigned = [value % (1 << 64) for value in values] if name == "uint64" else values
        return np.array(unsigned, bits).view(np.uint8).data
    except OverflowError:
        raise CheckpointError(f"the initialiser has elements outside {name}") from None


class _Files:
    """The files with external data, each opened once."""

    def __init__(self, mapped: Mapped) -> None:
        self.mapped = mapped
        self.opened: dict[str, memoryview] = {}

    def part(self, entry: dict[str, str], size: int) -> memoryview:
        """The bytes that ``entry`` (location, offset, length) describes, ``size`` of them if it does not say."""
        location = entry.get("location", "")
        if location not in self.opened:
            self.opened[location] = self._open(location)
        data = self.opened[location]
        offset, length = (entry.get(name, default) for name, default in (("offset", "0"), ("length", str(size))))
        if not all(n.isascii() and n.isdecimal() and len(n) < 20 for n in (offset, length)):
            raise CheckpointError("the place of its external data is no number")
        start, end = int(offset), int(offset) + int(length)
        if end > len(data):
            missing = f"{end - len(data):,} bytes"
            raise CheckpointError(f"its external data reach {missing} beyond the end of {shown(location)}")
        return data[start:end]

    def _open(self, location: str) -> memoryview:
        """The file at ``location`` below the model's folder, links in it followed no further than that."""
        folder = self.mapped.folder().resolve()
        parts = PurePosixPath(location)
        outside = parts.is_absolute() or ".." in parts.parts or PureWindowsPath(location).drive or "\\" in location
        try:
            path = (folder / parts).resolve()
        except (OSError, RuntimeError, ValueError):
            path = folder
        if not location or outside or "\0" in location or folder not in path.parents:
            raise CheckpointError(
                f"its external data are said to be in {shown(location)}, which is not in the model's folder",
                "No honest model needs that: treat the file as hostile.",
            )
        try:
            return self.mapped.open(Path(path))
        except CheckpointError as error:
            raise CheckpointError(f"external data {shown(location)}: {error.message}", error.note) from None
