"""The safetensors container: a JSON header of names, dtypes, shapes and offsets, then the tensors' bytes.

Read and written here and not by the library of that name: its readers for numpy copy every tensor and its
writer joins all of them in memory, where checkpoints may be larger than that; and of two tensors of one name
it keeps the last. The tests hold both directions against it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_machine import Unsupported
from stdc_parity.converters.pickle_values import Array, bfloat16, checked_shape, empty, from_bytes
from stdc_parity.converters.pieces import Progress, Write, write_array

MAX_HEADER = 32 << 20
"""Most bytes of a header, some 300,000 tensors. The format itself allows 100,000,000."""

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip
"""The format's name of a dtype -> numpy's."""

OTHER_DTYPES = ("F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")
"""Dtypes of the format that are not converted."""

_DAMAGED = "the safetensors header is damaged"
_CUT = "It is truncated: download or copy it again."
_METADATA = "__metadata__"
BATCHES = "stdc_parity num_batches_tracked"


@dataclass(frozen=True)
class _Place:
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors(data: memoryview) -> tuple[dict[str, object], dict[str, str]]:
    """The tensors, views of ``data`` in the header's order, and the metadata.

    Tensors of a dtype that is not converted are ``Unsupported``. Raises CheckpointError unless the header
    is plain and the tensors fill the file without gap or overlap.
    """
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER:
        raise CheckpointError(f"the safetensors header is {size:,} bytes long, more than {MAX_HEADER:,}")
    if 8 + size > len(data):
        raise CheckpointError("the file ends inside the safetensors header", _CUT)
    header = parse_json(data[8 : 8 + size], _DAMAGED)
    metadata = header.pop(_METADATA, {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise CheckpointError(f"{_DAMAGED}: its metadata are not text by name")
    places = [_place(name, facts) for name, facts in header.items()]
    content = data[8 + size :]
    _check_places(places, len(content))
    return {place.name: _view(place, content) for place in places}, metadata


def parse_json(raw: memoryview, damaged: str) -> dict[str, Any]:
    """A JSON object without repeated names; raises CheckpointError that begins with ``damaged``."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{damaged}: it has the name {shown(twice)} twice")
        return found

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    try:
        text = bytes(raw).decode("utf-8")
        found = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{damaged}: it is no plain JSON") from None
    if type(found) is not dict:
        raise CheckpointError(f"{damaged}: it is no JSON object")
    return found


def metadata_of(format: str, batches: Mapping[str, int] | None) -> dict[str, str]:
    """What is written beside tensors: whose they are ("pt", "np"), and a batch norm's counters by name."""
    return {"format": format} | ({BATCHES: json.dumps(batches, separators=(",", ":"))} if batches else {})


def batches_of(metadata: Mapping[str, str]) -> dict[str, int]:
    """The counters that ``metadata_of`` put there; raises CheckpointError if they are damaged."""
    damaged = "the counters of batches beside the tensors are damaged"
    found = parse_json(memoryview(metadata.get(BATCHES, "{}").encode(errors="replace")), damaged)
    if not all(type(count) is int for count in found.values()):
        raise CheckpointError(damaged)
    return found


def _place(name: str, facts: object) -> _Place:
    try:
        if type(facts) is not dict or len(facts) != 3:
            raise ValueError
        dtype, shape, (start, end) = facts["dtype"], checked_shape(facts["shape"]), facts["data_offsets"]
        if type(start) is not int or type(end) is not int or type(dtype) is not str:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{_DAMAGED} at {shown(name)}") from None
    if dtype in DTYPES and 0 <= start <= end:
        itemsize = 2 if dtype == "BF16" else np.dtype(DTYPES[dtype]).itemsize
        if math.prod(shape) * itemsize != end - start:
            raise CheckpointError(
                f"{shown(name)}: a tensor of shape {shown(shape)} and dtype {dtype} has {end - start:,} bytes of data"
            )
    elif dtype not in (*DTYPES, *OTHER_DTYPES):
        raise CheckpointError(f"{shown(name)}: {shown(dtype, 20)} is no dtype of safetensors")
    return _Place(name, dtype, shape, start, end)


def _check_places(places: Iterable[_Place], size: int) -> None:
    """Raise CheckpointError unless the places fill ``size`` bytes, each byte once."""
    at = 0
    for place in sorted(places, key=lambda p: (p.start, p.end)):
        if not 0 <= place.start <= place.end:
            raise CheckpointError(f"{shown(place.name)}: its data end before they begin")
        if place.start != at:
            what = "overlap those of another tensor" if place.start < at else "leave a gap before them"
            raise CheckpointError(f"{shown(place.name)}: its data {what}")
        if place.end > size:
            missing = f"{place.end - size:,} bytes"
            raise CheckpointError(f"{shown(place.name)}: its data reach {missing} beyond the file's end", _CUT)
        at = place.end
    if at != size:
        raise CheckpointError(f"the file has {size - at:,} bytes that belong to no tensor")


def _view(place: _Place, content: memoryview) -> object:
    if place.dtype not in DTYPES:
        return Unsupported(f"a tensor of dtype {place.dtype}")
    dtype = bfloat16() if place.dtype == "BF16" else np.dtype(DTYPES[place.dtype])
    if place.start == place.end:
        return empty(place.shape, dtype)
    return from_bytes(content[place.start : place.end], dtype).reshape(place.shape)


def write_safetensors(
    write: Write,
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``tensors``: the header in their order, their data by falling size of element, so all are aligned.

    The bytes depend on names, order, shapes, dtypes, values and metadata alone. Raises CheckpointError for a
    dtype that the format does not have, or a name that is its own.
    """
    codes = {name: code for code, name in DTYPES.items()}
    starts, end = {}, 0
    laid_out = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    for name in laid_out:
        starts[name] = end
        end += tensors[name].nbytes
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    for name, array in tensors.items():
        if array.dtype.name not in codes or name == _METADATA:
            what = f"dtype {array.dtype.name}" if name != _METADATA else "tensor of this name"
            raise CheckpointError(f"{shown(name)}: safetensors has no {what}")
        offsets = (starts[name], starts[name] + array.nbytes)
        header[name] = {"dtype": codes[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    write(len(head).to_bytes(8, "little") + head)
    for name in laid_out:
        write_array(write, tensors[name], progress)
