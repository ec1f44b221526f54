"""torch's containers before 1.6: the legacy one (0.1.10 to 1.5), and the tar before that.

Legacy: three small pickles (magic, protocol, facts of the machine), the object's pickle, the list of
storage keys, then for each key its number of elements (int64) and its data. The object comes before its
data, so its tensors are made when everything was read.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Any, cast

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_machine import checked_key
from stdc_parity.converters.pickle_table import PLAIN
from stdc_parity.converters.pickle_values import settle
from stdc_parity.converters.pickle_vm import load
from stdc_parity.converters.tar_read import tar_members
from stdc_parity.converters.torch_pickle import TORCH, Storage, storage_of, tensor_of

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_MAGIC_BYTES = MAGIC.to_bytes(10, "little")
_CUT = "It is truncated: download or copy it again."


def is_legacy(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (32 bytes do) is in the legacy container."""
    return head[:1] == b"\x80" and _MAGIC_BYTES in head[:32]


def read_torch_legacy(data: memoryview) -> tuple[object, str]:
    """The object in a legacy file, its tensors as views of ``data``, and the format's version.

    Raises CheckpointError for all that is broken, unsafe or unsupported.
    """
    magic, at = load(data, 0, PLAIN)
    version, at = load(data, at, PLAIN)
    if magic != MAGIC or version != PROTOCOL:
        known = version if type(version) is int else "?"
        raise CheckpointError(f"the legacy torch file is of the unknown protocol {shown(known)}")
    machine, at = load(data, at, PLAIN)
    _check_byte_order(machine)
    storages = _Storages()
    root, at = load(data, at, TORCH, storages.persistent)
    keys, at = load(data, at, PLAIN)
    storages.place(data, keys, at)
    return settle(root, len(data)), str(PROTOCOL)


def _check_byte_order(machine: object) -> None:
    little = machine.get("little_endian") if isinstance(machine, dict) else None
    if little is not True:
        raise CheckpointError(
            "the checkpoint was written on a big-endian machine",
            "Load it there with torch and save it again on a little-endian one.",
        )


class _Storages:
    """Storages by key: named by the pickle first, found in the file afterwards."""

    def __init__(self) -> None:
        self.roots: dict[str, Storage] = {}
        self.views: dict[str, Storage] = {}
        self.data: dict[str, memoryview] = {}

    def persistent(self, pid: Any) -> Storage:
        tag, kind, key, _location, numel, view = pid
        if tag != "storage" or type(key) is not str:
            raise ValueError
        if key not in self.roots:
            self.roots[key] = storage_of(kind, numel, lambda: self.data[key])
        root = self.roots[key]
        if view is None:
            return root
        name, offset, size = view
        if type(name) is not str or type(offset) is not int or type(size) is not int:
            raise ValueError
        if name not in self.views:
            self.views[name] = root.view(offset, size)
        return self.views[name]

    def place(self, data: memoryview, keys: object, at: int) -> None:
        """Find each storage's data from ``at`` on (as torch does, whatever follows them is ignored)."""
        if not isinstance(keys, list) or not all(type(key) is str for key in keys):
            raise CheckpointError("the legacy torch file has no list of its storages")
        for key in keys:
            if key not in self.roots or key in self.data:
                raise CheckpointError(f"the legacy torch file lists the storage {shown(key)} wrongly")
            self.data[key], at = _sized(data, at, self.roots[key])
        missing = [key for key in self.roots if key not in self.data]
        if missing:
            raise CheckpointError(f"the legacy torch file lacks the storage {shown(missing[0])}")


def _sized(data: memoryview, at: int, storage: Storage) -> tuple[memoryview, int]:
    """The data of ``storage``, which begin at ``at`` with their number of elements."""
    if at + 8 > len(data):
        raise CheckpointError("the file ends before its last storage", _CUT)
    (numel,) = struct.unpack_from("<q", data, at)
    if numel * storage.itemsize != storage.size:
        raise CheckpointError(
            f"a storage declares {storage.size // storage.itemsize:,} elements and has {numel:,}"
        )
    start, end = at + 8, at + 8 + storage.size
    if end > len(data):
        raise CheckpointError(
            f"the file ends inside a storage: {end - len(data):,} of {storage.size:,} bytes are missing", _CUT
        )
    return data[start:end], end


# --- the tar of torch 0.1.0 to 0.1.9 -----------------------------------------------------------------------


def read_torch_tar(data: memoryview) -> tuple[object, str]:
    """The object in a tar that torch 0.1 wrote: members ``storages``, ``tensors`` and ``pickle``.

    Raises CheckpointError for all that is broken, unsafe or unsupported.
    """
    members = tar_members(data)
    try:
        tensors = _tar_tensors(members["tensors"], _tar_storages(members["storages"]))
    except (KeyError, TypeError, ValueError, struct.error):
        raise CheckpointError("the torch tar's storages or tensors are damaged") from None
    root, _end = load(members["pickle"], 0, TORCH, lambda pid: tensors[int(cast(int, pid))])
    return settle(root, len(data)), "0.1"


def _tar_storages(data: memoryview) -> dict[object, Storage]:
    storages: dict[object, Storage] = {}
    count, at = load(data, 0, TORCH)
    for _ in range(cast(int, count)):
        entry, at = load(data, at, TORCH)
        key, _location, kind = cast(tuple[Any, Any, Any], entry)
        (numel,) = struct.unpack_from("<q", data, at)
        storage = storage_of(kind, numel, _nothing)
        content, at = _sized(data, at, storage)
        storage.load = partial(_same, content)
        storages[checked_key(key)] = storage
    views, _end = load(data, at, TORCH)
    for key, root_key, offset, numel in cast(list[Any], views):
        storages[checked_key(key)] = storages[checked_key(root_key)].view(offset, numel)
    return storages


def _nothing() -> memoryview:
    return memoryview(b"")


def _same(content: memoryview) -> memoryview:
    return content


def _tar_tensors(data: memoryview, storages: dict[object, Storage]) -> dict[object, object]:
    tensors: dict[object, object] = {}
    count, at = load(data, 0, TORCH)
    for _ in range(cast(int, count)):
        entry, at = load(data, at, TORCH)
        key, storage_key, _kind = cast(tuple[Any, Any, Any], entry)
        (ndim,) = struct.unpack_from("<i", data, at)
        if not 0 <= ndim <= 32:
            raise ValueError
        numbers = struct.unpack_from(f"<{2 * ndim + 1}q", data, at + 8)
        at += 8 + 8 * (2 * ndim + 1)
        tensors[checked_key(key)] = tensor_of(
            storages[checked_key(storage_key)], numbers[-1], numbers[:ndim], numbers[ndim:-1]
        )
    return tensors
