"""Writing torch's containers, zip and legacy, from numpy arrays.

Arrays that are the same memory share one storage, as tied weights do in torch. The bytes written depend on
names, order, shapes, dtypes, values and sharing alone.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.pickle_values import Array
from stdc_parity.converters.pickle_write import PickleWriter, Progress, Write, array_bytes, write_chunks
from stdc_parity.converters.torch_legacy import MAGIC, PROTOCOL
from stdc_parity.converters.torch_pickle import STORAGES

_CLASSES = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
_WITHOUT_CLASS = ("uint16", "uint32", "uint64")
_ALIGNMENT = 64
_FULL = 0xFFFFFFFF
_DATE = 0x21  # 1 January 1980, so that equal tensors give equal files


class _Tensors:
    """Pickles arrays as torch tensors and collects the storages they need."""

    def __init__(self, *, legacy: bool) -> None:
        self.legacy = legacy
        self.storages: list[Array] = []
        self.numbers: dict[object, int] = {}

    def write(self, pickle: PickleWriter, array: Array) -> None:
        """Push the call that rebuilds ``array``; raises CheckpointError for a dtype torch does not have."""
        name = array.dtype.name
        untyped = name in _WITHOUT_CLASS
        if not untyped and name not in _CLASSES:
            raise CheckpointError(f"torch has no dtype {name}")
        pickle.named("torch._utils", "_rebuild_tensor_v3" if untyped else "_rebuild_tensor_v2")
        pickle.write(b"((")
        pickle.once("storage", lambda: pickle.value("storage"))
        pickle.named(*(("torch.storage", "UntypedStorage") if untyped else ("torch", _CLASSES[name])))
        pickle.value(str(self._number(array)))
        pickle.once("cpu", lambda: pickle.value("cpu"))
        pickle.value(array.nbytes if untyped else array.size)
        if self.legacy:
            pickle.value(None)  # no view of another storage
        pickle.write(b"tQK\0")
        pickle.tuple(*array.shape)
        pickle.tuple(*_strides(array.shape))
        pickle.value(False)  # requires_grad
        pickle.named("collections", "OrderedDict")
        pickle.write(b")R")  # no backward hooks
        if untyped:
            pickle.named("torch", name)
        pickle.write(b"tR")

    def _number(self, array: Array) -> int:
        """The number of the storage that holds ``array``: an earlier one if it is the same memory."""
        layout = array.nbytes if array.flags.c_contiguous else (array.shape, array.strides)
        same = (array.__array_interface__["data"][0], array.dtype, layout) if array.size else object()
        if same not in self.numbers:
            self.numbers[same] = len(self.storages)
            self.storages.append(array)
        return self.numbers[same]


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()


def write_torch_zip(write: Write, root: object, progress: Progress | None = None) -> None:
    """Write ``root`` (nested dicts, lists, numbers, text, arrays) as torch.save does today.

    ``torch.load(weights_only=True)`` reads it; storages are aligned to 64 bytes. ``write`` takes bytes in
    order. Raises CheckpointError for a dtype that torch does not have.
    """
    tensors = _Tensors(legacy=False)
    pickled = bytearray()
    PickleWriter(pickled.extend, 2, tensors.write).dump(root)
    archive = _Zip(write, progress)
    archive.add("archive/data.pkl", memoryview(pickled))
    archive.add("archive/byteorder", memoryview(b"little"))
    for number, array in enumerate(tensors.storages):
        archive.add(f"archive/data/{number}", array_bytes(array))
    archive.add("archive/version", memoryview(b"3\n"))
    archive.close()


class _Zip:
    """A zip of stored entries, written in one pass."""

    def __init__(self, write: Write, progress: Progress | None) -> None:
        self.write = write
        self.progress = progress
        self.at = 0
        self.directory: list[bytes] = []

    def add(self, name: str, content: memoryview) -> None:
        raw, size, crc = name.encode(), len(content), zlib.crc32(content)
        wide = struct.pack("<2H2Q", 1, 16, size, size) if size >= _FULL else b""
        small = min(size, _FULL)
        padding = -(self.at + 30 + len(raw) + len(wide) + 4) % _ALIGNMENT
        extra = wide + struct.pack("<2s1H", b"FB", padding) + b"Z" * padding
        self.directory.append(_directory_record(raw, size, crc, self.at))
        self._put(
            struct.pack("<4s5H", b"PK\3\4", 45 if wide else 20, 0, 0, 0, _DATE)
            + struct.pack("<3L2H", crc, small, small, len(raw), len(extra))
            + raw
            + extra
        )
        write_chunks(self.write, content, self.progress)
        self.at += size

    def close(self) -> None:
        start, count = self.at, len(self.directory)
        self._put(b"".join(self.directory))
        size = self.at - start
        if start >= _FULL or count >= 0xFFFF or size >= _FULL:
            end = self.at
            self._put(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start))
            self._put(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        few = min(count, 0xFFFF)
        self._put(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, few, few, min(size, _FULL), min(start, _FULL), 0))

    def _put(self, data: bytes) -> None:
        self.write(data)
        self.at += len(data)


def _directory_record(raw: bytes, size: int, crc: int, header: int) -> bytes:
    wide = [value for value in (size, size, header) if value >= _FULL]
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    version = 45 if wide else 20
    small, place = min(size, _FULL), min(header, _FULL)
    return (
        struct.pack("<4s6H3L", b"PK\1\2", version, version, 0, 0, 0, _DATE, crc, small, small)
        + struct.pack("<5H2L", len(raw), len(extra), 0, 0, 0, 0, place)
        + raw
        + extra
    )


def write_torch_legacy(write: Write, root: Any, progress: Progress | None = None) -> None:
    """Write ``root`` as torch.save did before 1.6, in the container of the official STDC checkpoints.

    Takes and raises what ``write_torch_zip`` does, but for unsigned integers wider than 8 bits, which that
    container cannot hold.
    """
    tensors = _Tensors(legacy=True)
    pickled = bytearray()
    PickleWriter(pickled.extend, 2, tensors.write).dump(root)

    def dump(value: object) -> None:
        PickleWriter(write, 2, tensors.write).dump(value)

    dump(MAGIC)
    dump(PROTOCOL)
    dump(
        {
            "protocol_version": PROTOCOL,
            "little_endian": True,
            "type_sizes": {"short": 2, "int": 4, "long": 4},
        }
    )
    write(pickled)
    dump([str(number) for number in range(len(tensors.storages))])
    for array in tensors.storages:
        write(struct.pack("<q", array.size))
        write_chunks(write, array_bytes(array), progress)
