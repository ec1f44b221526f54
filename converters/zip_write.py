"""Writing a zip of stored entries in one pass: torch's container and numpy's .npz."""

from __future__ import annotations

import struct
import zlib

from stdc_parity.converters.pickle_values import Array
from stdc_parity.converters.pieces import PIECE, Progress, Write, array_pieces

_ALIGNMENT = 64
_FULL = 0xFFFFFFFF
_DATE = 0x21  # 1 January 1980, so that equal tensors give equal files
_UTF8 = 0x800


class ZipWriter:
    """A zip whose entries' data begin at multiples of 64 bytes, written through ``write``; then ``close`` it."""

    def __init__(self, write: Write) -> None:
        self.write = write
        self.at = 0
        self.directory: list[bytes] = []

    def add(self, name: str, content: bytes) -> None:
        """Add an entry of a few bytes."""
        self._begin(name, len(content), zlib.crc32(content))
        self._put(content)

    def add_array(self, name: str, array: Array, progress: Progress | None = None, head: bytes = b"") -> None:
        """Add an entry that holds ``head`` and the elements of ``array``."""
        # The sum comes before the data, so a large array that is no plain view of memory is copied twice.
        pieces = list(array_pieces(array)) if array.flags.c_contiguous or array.nbytes <= PIECE else None
        crc = zlib.crc32(head)
        for piece in pieces or array_pieces(array):
            crc = zlib.crc32(piece, crc)
        self._begin(name, len(head) + array.nbytes, crc)
        self._put(head)
        for piece in pieces or array_pieces(array):
            self.write(piece)
            if progress is not None:
                progress(len(piece))
        self.at += array.nbytes

    def _begin(self, name: str, size: int, crc: int) -> None:
        raw = name.encode()
        wide = struct.pack("<2H2Q", 1, 16, size, size) if size >= _FULL else b""
        small = min(size, _FULL)
        flags = 0 if name.isascii() else _UTF8
        padding = -(self.at + 30 + len(raw) + len(wide) + 4) % _ALIGNMENT
        extra = wide + struct.pack("<2s1H", b"FB", padding) + b"Z" * padding
        self.directory.append(_directory_record(raw, size, crc, self.at, flags))
        self._put(
            struct.pack("<4s5H", b"PK\3\4", 45 if wide else 20, flags, 0, 0, _DATE)
            + struct.pack("<3L2H", crc, small, small, len(raw), len(extra))
            + raw
            + extra
        )

    def close(self) -> None:
        """Write the directory."""
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


def _directory_record(raw: bytes, size: int, crc: int, header: int, flags: int) -> bytes:
    wide = [value for value in (size, size, header) if value >= _FULL]
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    version = 45 if wide else 20
    small, place = min(size, _FULL), min(header, _FULL)
    return (
        struct.pack("<4s6H3L", b"PK\1\2", version, version, flags, 0, 0, _DATE, crc, small, small)
        + struct.pack("<5H2L", len(raw), len(extra), 0, 0, 0, 0, place)
        + raw
        + extra
    )
