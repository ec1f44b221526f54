"""Checkpoints inside a tar, a gzip or both, found and read in place: nothing is extracted to where an archive says.

A tar's members are views of it. What gzip holds goes to a temporary file without a name, up to a bound; it is
read by zlib and not by Python's ``gzip``, which reads a name in its header byte by byte, however long it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.mapped import Mapped, unpacked_limit
from stdc_parity.converters.sniffing import SHARDS, is_gzip, is_tar, sniff_bytes
from stdc_parity.converters.tar_read import CUT, MAX_MEMBERS, tar_members

_IN, _OUT = 256 << 10, 4 << 20


def unwrap(data: memoryview, mapped: Mapped, member: str | None = None) -> tuple[memoryview, str]:
    """The checkpoint in an archive and its name there, or ``data`` and "" if they are no archive.

    ``member`` names one of several. Raises CheckpointError if there is none, several, or too much; UsageError
    when ``member`` is not there.
    """
    if is_gzip(data):
        data = mapped.unpack(_gunzip(data))
        mapped.alone = True
    if not is_tar(data) or _is_torch_tar(members := tar_members(data)):
        if member is not None:
            raise UsageError(f"--member {shown(member)}: the file is no tar")
        return data, ""
    mapped.alone = True
    return _choose(members, member)


def _is_torch_tar(members: Mapping[str, memoryview]) -> bool:
    return {"pickle", "storages", "tensors"} <= set(members)


def _choose(members: Mapping[str, memoryview], member: str | None) -> tuple[memoryview, str]:
    if member is not None:
        if member not in members:
            raise UsageError(f"--member {shown(member)}: no such file in the tar", f"It has {_listed(members)}.")
        return members[member], member
    found = [name for name, data in members.items() if _is_checkpoint(data)]
    if len(found) == 1:
        return members[found[0]], found[0]
    if found:
        several = f"{len(found)} checkpoints: {_listed(found)}"
        raise CheckpointError(f"the tar holds {several}", "Choose one: --member NAME.")
    raise CheckpointError(f"the tar holds no checkpoint that is read: {_listed(members) if members else 'no file'}")


def _is_checkpoint(data: memoryview) -> bool:
    try:
        return sniff_bytes(data) != SHARDS
    except CheckpointError:
        return False


def _listed(names: list[str] | Mapping[str, object]) -> str:
    return ", ".join(shown(name) for name in list(names)[:10]) + (", …" if len(names) > 10 else "")


def _gunzip(data: memoryview) -> Iterator[bytes]:
    """What the members of a gzip file hold; raises CheckpointError if that is too much, cut off or damaged."""
    allowed = unpacked_limit(len(data))
    left = allowed
    at, parts = 0, 0
    while at < len(data) and (at == 0 or data[at] != 0):  # zeros may fill up a tape's block
        inflater, parts = zlib.decompressobj(31), parts + 1
        while not inflater.eof:
            piece = data[at : at + _IN]
            try:
                out = inflater.decompress(piece, _OUT)
            except zlib.error:
                raise CheckpointError("the gzip data are damaged", "Download or copy the file again.") from None
            at += len(piece) - len(inflater.unconsumed_tail) - len(inflater.unused_data)
            left -= len(out)
            if not piece and not out and not inflater.eof:
                raise CheckpointError("the file ends inside its gzip data", CUT)
            if left < 0 or parts > MAX_MEMBERS + len(data) // 1000:
                raise CheckpointError(
                    f"the file unpacks to more than {allowed:,} bytes, which no weights do",
                    "If you trust it, unpack it with gunzip.",
                )
            yield out
