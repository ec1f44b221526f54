"""numpy's .npz: a zip of one .npy an array, stored or deflated. Arrays of objects are pickles, and are refused."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.mapped import Mapped, unpacked_limit
from stdc_parity.converters.pickle_machine import Unsupported
from stdc_parity.converters.pickle_values import Array, checked_shape, empty, from_bytes, native
from stdc_parity.converters.pieces import Progress, Write
from stdc_parity.converters.torch_zip import Entry, checked_content
from stdc_parity.converters.zip_write import ZipWriter

_MAX_NPY_HEADER = 4096
_CHUNK = 4 << 20


def is_npz(entries: Mapping[str, Entry]) -> bool:
    """Whether a zip with these entries is an .npz."""
    return bool(entries) and all(name.endswith(".npy") for name in entries)


def read_npz(data: memoryview, entries: Mapping[str, Entry], mapped: Mapped) -> dict[str, object]:
    """The arrays of an .npz by name, views of ``data`` if stored, and of a temporary file if deflated.

    Checksums are verified. Raises CheckpointError for what is broken or unsafe; structured arrays, text and
    complex numbers are ``Unsupported``.
    """
    deflated = [entry for entry in entries.values() if entry.packed == "compressed"]
    allowed = unpacked_limit(len(data))
    if sum(entry.unpacked for entry in deflated) > allowed:
        raise CheckpointError(
            f"the zip unpacks to more than {allowed:,} bytes, which no weights do",
            "If you trust it, load it with numpy and save it with numpy.savez.",
        )
    contents: dict[str, memoryview] = {}
    if deflated:
        unpacked = mapped.unpack(chunk for entry in deflated for chunk in _inflate(data, entry))
        at = 0
        for entry in deflated:
            contents[entry.name] = unpacked[at : at + entry.unpacked]
            at += entry.unpacked
    tensors = {}
    for name, entry in entries.items():
        content = contents[name] if name in contents else checked_content(data, entry, mapped.used)
        try:
            tensors[name.removesuffix(".npy")] = _read_npy(content)
        except CheckpointError as error:
            raise CheckpointError(f"{shown(name)}: {error.message}", error.note) from None
    return tensors


def _inflate(data: memoryview, entry: Entry) -> Iterator[bytes]:
    """What a deflated entry holds, after which its size and checksum were found right."""
    inflater, packed = zlib.decompressobj(-15), data[entry.start : entry.start + entry.size]
    size = crc = 0
    try:
        for start in range(0, len(packed), _CHUNK):
            pending: Any = packed[start : start + _CHUNK]
            while pending and size <= entry.unpacked:
                chunk = inflater.decompress(pending, _CHUNK)
                pending = inflater.unconsumed_tail
                crc, size = zlib.crc32(chunk, crc), size + len(chunk)
                yield chunk
    except zlib.error:
        size = -1
    if size != entry.unpacked or crc != entry.crc or not inflater.eof:
        raise CheckpointError(f"the zip entry {shown(entry.name)} is damaged", "Download or copy the file again.")


def _read_npy(content: memoryview) -> object:
    shape, fortran, dtype, start = _npy_header(content)
    if dtype.hasobject:
        raise CheckpointError(
            "it is an array of Python objects, a pickle, which is not opened",
            "Save plain arrays: numpy.savez(path, **{name: array, ...}).",
        )
    if dtype.kind not in "biuf" or dtype.subdtype is not None or dtype.itemsize > 8:
        hint = " (bfloat16? numpy cannot say so in this format)" if dtype.str[1:] == "V2" else ""
        return Unsupported(f"a numpy array of dtype {shown(dtype.name, 40)}{hint}")
    values = content[start:]
    if math.prod(shape) * dtype.itemsize != len(values):
        raise CheckpointError(
            f"the array of shape {shown(shape)} and dtype {dtype.name} has {len(values):,} bytes of data"
        )
    if not len(values):
        return empty(shape, dtype)
    flat = native(from_bytes(values, dtype))
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _npy_header(content: memoryview) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran order, dtype, and where the data begin: numpy parses it, not as Python code."""
    head = io.BytesIO(content[: _MAX_NPY_HEADER + 16])
    readers: Mapping[tuple[int, int], Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        with warnings.catch_warnings():  # about files of Python 2, which are read
            warnings.simplefilter("ignore")
            read = readers[np.lib.format.read_magic(head)]
            shape, fortran, dtype = read(head, max_header_size=_MAX_NPY_HEADER)
        return checked_shape(shape), bool(fortran), dtype, head.tell()
    except (ValueError, KeyError, TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        raise CheckpointError("it is no .npy of version 1 or 2, or its header is damaged") from None


def write_npz(write: Write, tensors: Mapping[str, Array], progress: Progress | None = None) -> None:
    """Write ``tensors`` as numpy.savez does, for ``numpy.load``.

    The bytes depend on names, order, shapes, dtypes and values alone. Raises CheckpointError for bfloat16,
    which the format has no name for.
    """
    for name, array in tensors.items():
        if array.dtype.kind not in "biuf":
            raise CheckpointError(
                f"{shown(name)}: .npz has no dtype {array.dtype.name}",
                "Choose a .safetensors target, or --dtype float32.",
            )
    archive = ZipWriter(write)
    for name, array in tensors.items():
        head = io.BytesIO()
        facts = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(head, facts)
        archive.add_array(f"{name}.npy", array, progress, head.getvalue())
    archive.close()
