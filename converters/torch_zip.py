"""torch's zip container (torch >= 1.6): one folder with data.pkl, version, byteorder and data/<key>.

The zip's own directory is read here and not by ``zipfile``: entries must be stored as they are, so their
bytes can be viewed in place, and everything that two readers could understand differently is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_values import settle
from stdc_parity.converters.pickle_vm import load
from stdc_parity.converters.pieces import Progress
from stdc_parity.converters.torch_pickle import TORCH, Storage, storage_of

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_CHUNK = 16 << 20
_PACKED = {0: "", 8: "compressed"}


@dataclass(frozen=True)
class Entry:
    """One file of the zip: ``size`` bytes at ``start``; the header before them is at ``header``.

    ``packed`` says why it can not be read as it lies, or is ""; deflated, it holds ``unpacked`` bytes.
    """

    name: str
    header: int
    start: int
    size: int
    crc: int
    packed: str
    unpacked: int


def read_torch_zip(
    data: memoryview, entries: dict[str, Entry], used: Progress = lambda _size: None
) -> tuple[object, str]:
    """The object in a torch zip of these entries, its tensors as views of ``data``, and the format's version.

    Checksums of everything that is used are verified; ``used`` is told the size of each piece that was summed,
    so that pages can be let go. Raises CheckpointError for all that is broken, unsafe or unsupported.
    """
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    folder = pickles[0].partition("/")[0] if len(pickles) == 1 else None
    if folder is None:
        raise _not_torch(entries)
    if f"{folder}/constants.pkl" in entries or any(n.startswith(f"{folder}/code/") for n in entries):
        raise CheckpointError(
            "this is a TorchScript archive: a program, not a state dict",
            "Save its weights alone: torch.save(torch.jit.load(path).state_dict(), new_path).",
        )

    def content(name: str) -> memoryview:
        if name not in entries:
            raise CheckpointError(f"the zip has no entry {shown(name)}, which its pickle refers to")
        return checked_content(data, entries[name], used)

    def text(name: str, default: str) -> str:
        return shown(bytes(content(name)[:20]).decode("latin1").strip()) if name in entries else default

    order = text(f"{folder}/byteorder", "little")
    if order != "little":
        raise CheckpointError(
            f"the checkpoint was written on a {order}-endian machine",
            "Load it there with torch and save it again on a little-endian one.",
        )
    version = text(f"{folder}/version", "?")
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        tag, kind, key, _location, numel = pid
        if tag != "storage" or type(key) is not str:
            raise ValueError
        if key not in storages:
            name = f"{folder}/data/{key}"
            storages[key] = storage_of(kind, numel, _once(lambda: content(name)))
        return storages[key]

    root, _end = load(content(f"{folder}/data.pkl"), 0, TORCH, persistent)
    return settle(root, len(data)), version


def _once(make: Callable[[], memoryview]) -> Callable[[], memoryview]:
    kept: list[memoryview] = []

    def get() -> memoryview:
        if not kept:
            kept.append(make())
        return kept[0]

    return get


def _not_torch(entries: dict[str, Entry]) -> CheckpointError:
    names = list(entries)
    note = None
    inner = [n for n in names if n.endswith((".pth", ".pt", ".tar", ".pdparams", ".pkl", ".safetensors"))]
    if inner:
        note = f"It holds {shown(inner[0])}: unpack it (unzip) and convert that file."
    return CheckpointError("this zip is no torch checkpoint: it has no single data.pkl", note)


def checked_content(data: memoryview, entry: Entry, used: Progress) -> memoryview:
    """The bytes of ``entry``, after their checksum was found right."""
    if entry.packed:
        raise CheckpointError(
            f"the zip entry {shown(entry.name)} is {entry.packed}, which torch never does",
            "Was the checkpoint packed again? Unpack and repack it with zip -0, or load it and torch.save it.",
        )
    content = data[entry.start : entry.start + entry.size]
    crc = 0
    for start in range(0, entry.size, _CHUNK):
        piece = content[start : start + _CHUNK]
        crc = zlib.crc32(piece, crc)
        used(len(piece))
    if crc != entry.crc:
        raise CheckpointError(
            f"the zip entry {shown(entry.name)} is damaged: its checksum is {crc:08x}, not {entry.crc:08x}",
            "Download or copy the file again.",
        )
    return content


def read_directory(data: memoryview) -> dict[str, Entry]:
    """The entries of a zip by name; raises CheckpointError unless it is plain, whole and unambiguous."""
    try:
        return _read_directory(data)
    except (struct.error, OverflowError):  # a record outside the file
        raise CheckpointError("the zip's directory is damaged", "Download or copy the file again.") from None


def _read_directory(data: memoryview) -> dict[str, Entry]:
    count, size, start = _find_directory(data)
    entries: dict[str, Entry] = {}
    at = start
    for _ in range(count):
        entry, at = _read_entry(data, at)
        if entry.name in entries:
            raise CheckpointError(f"the zip has the entry {shown(entry.name)} twice")
        entries[entry.name] = entry
    if at != start + size:
        raise CheckpointError("the zip's directory is not as long as it says")
    end = 0
    for entry in sorted(entries.values(), key=lambda e: e.header):
        if entry.header < end:
            raise CheckpointError(f"the zip entry {shown(entry.name)} overlaps another one")
        end = entry.start + entry.size
    if end > start:
        raise CheckpointError("the zip's entries overlap its directory")
    return entries


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """Number of entries, size and offset of the central directory."""
    tail_start = max(0, len(data) - _END.size - 65535)
    tail = bytes(data[tail_start:])
    found = tail.rfind(b"PK\5\6")
    if found < 0:
        raise CheckpointError(
            "the zip has no directory at its end", "It is truncated: download or copy it again."
        )
    end = tail_start + found
    _, disk, _, _, count, size, start, comment = _END.unpack_from(data, end)
    if end + _END.size + comment != len(data):
        raise CheckpointError("the zip has bytes behind its end")
    if end >= _LOCATOR.size and bytes(data[end - _LOCATOR.size :][:4]) == b"PK\6\7":
        _, _, end, _ = _LOCATOR.unpack_from(data, end - _LOCATOR.size)
        mark, _, _, _, disk, _, _, count, size, start = _END64.unpack_from(data, end)
        if mark != b"PK\6\6":
            raise CheckpointError("the zip's directory is damaged")
    if disk not in (0, 0xFFFF) or start + size != end:
        raise CheckpointError("the zip has bytes before its start, or is one part of several")
    return count, size, start


def _read_entry(data: memoryview, at: int) -> tuple[Entry, int]:
    """The entry whose directory record is at ``at``, and where the next one is."""
    fields = _CENTRAL.unpack_from(data, at)
    mark, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment = fields[:13]
    header = fields[16]
    if mark != b"PK\1\2":
        raise CheckpointError("the zip's directory is damaged")
    at += _CENTRAL.size
    raw_name = bytes(data[at : at + n_name])
    name = raw_name.decode("utf-8", "backslashreplace")
    extra = data[at + n_name : at + n_name + n_extra]
    size, packed, header = _wide(extra, size, packed, header)
    problem = "encrypted" if flags & 0x2041 else _PACKED.get(method, "packed in a rare way")
    if not problem and size != packed:
        raise CheckpointError(f"the zip entry {shown(name)} has two sizes")
    local = _LOCAL.unpack_from(data, header)
    start = header + _LOCAL.size + local[9] + local[10]
    if local[0] != b"PK\3\4" or data[header + _LOCAL.size : header + _LOCAL.size + local[9]] != raw_name:
        raise CheckpointError(f"the zip entry {shown(name)} is not where the directory says")
    if start + packed > len(data):
        raise CheckpointError(f"the zip entry {shown(name)} reaches beyond the file's end")
    return Entry(name, header, start, packed, crc, problem, size), at + n_name + n_extra + n_comment


def _wide(extra: memoryview, *values: int) -> list[int]:
    """``values`` with those that are full (0xffffffff) taken from the zip64 field of ``extra``."""
    wide: list[int] = []
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = list(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
        at += 4 + length
    return [wide.pop(0) if value == 0xFFFFFFFF and wide else value for value in values]
