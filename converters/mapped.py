"""The files that a checkpoint's arrays view: mapped into memory, and read from disk as they are used."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pieces import Progress, no_progress

RELEASE = 64 << 20
"""Bytes that may stay in memory after they were read."""
KEEP = 16 << 20
"""Bytes made here that are kept in memory and not in a file."""
MAX_RATIO = 20
"""How many times larger than the file its unpacked content may be (weights shrink by a tenth)."""
MAX_SLACK = 64 << 20
"""Bytes that it may be larger in any case."""


def unpacked_limit(size: int) -> int:
    """The most bytes that a compressed file of ``size`` may hold: more is a bomb."""
    return MAX_RATIO * size + MAX_SLACK


class Mapped:
    """What is open of one checkpoint: its file, and those that it is spread over or was unpacked into.

    ``alone`` says that the checkpoint was in an archive, so that no files stand beside it. ``watch`` is told how
    many bytes were ``used``.
    """

    def __init__(self, watch: Progress = no_progress) -> None:
        self.watch = watch
        self.alone = False
        self.paths: list[Path] = []
        self.mappings: list[mmap.mmap] = []
        self._used = 0

    def open(self, path: str | os.PathLike[str]) -> memoryview:
        """The bytes of the file at ``path``; raises CheckpointError if it is none or cannot be read."""
        mapping = _map(path)
        self.paths.append(Path(path))
        self.mappings.append(mapping)
        return memoryview(mapping)

    def folder(self) -> Path:
        """Where a checkpoint's further files are; raises CheckpointError for one in an archive."""
        if self.alone:
            raise CheckpointError("the checkpoint is in several files, and in an archive", "Unpack it first.")
        return self.paths[0].parent

    def unpack(self, chunks: Iterable[bytes | memoryview]) -> memoryview:
        """What ``chunks`` give, kept in a temporary file without a name, so that it need not fit into memory."""
        import tempfile

        try:
            with tempfile.TemporaryFile() as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                if file.tell() == 0:
                    return memoryview(b"")
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            reason = shown(error.strerror or str(error))
            raise CheckpointError(f"it cannot be unpacked: {reason}", "TMPDIR names the folder for that.") from None
        self.mappings.append(mapping)
        return memoryview(mapping)

    def keep(self, chunks: Iterable[bytes | memoryview], size: int) -> memoryview:
        """What ``chunks`` give, ``size`` bytes: in memory if they are few, else as ``unpack`` does."""
        return memoryview(b"".join(chunks)) if size <= KEEP else self.unpack(chunks)

    def used(self, size: int) -> None:
        """Note that ``size`` bytes were read, and let go of them when there are many."""
        self.watch(size)
        self.passed(size)

    def passed(self, size: int) -> None:
        """``used`` for work beside that which is watched."""
        self._used += size
        if self._used >= RELEASE:
            self._used = 0
            self.release()

    def release(self) -> None:
        """Let go of the memory that arrays were paged into, if it can be much; they are read again when used."""
        if hasattr(mmap, "MADV_DONTNEED") and sum(map(len, self.mappings)) > RELEASE:
            for mapping in self.mappings:
                mapping.madvise(mmap.MADV_DONTNEED)


def _map(path: str | os.PathLike[str]) -> mmap.mmap:
    try:
        mode = Path(path).stat().st_mode  # before opening it: opening a pipe would wait for a writer
        if stat.S_ISDIR(mode):
            raise CheckpointError("this is a folder, not a checkpoint", "Name the file in it.")
        if not stat.S_ISREG(mode):
            raise CheckpointError("this is a pipe or a device, not a file", "Save it to a file first.")
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        index = Path(f"{os.fspath(path)}.index.json")  # of shards, which have its name with numbers
        note = f"It is in shards: name {shown(index.name)}." if index.exists() else None
        raise CheckpointError("the file does not exist", note) from None
    except OSError as error:
        raise CheckpointError(f"the file cannot be read: {shown(error.strerror or str(error))}") from None
    except ValueError as error:  # mmap of an empty file; a NUL in the path
        fact = "the file is empty" if "empty" in str(error) else "this is no name of a file"
        raise CheckpointError(fact, "Download or copy it again.") from None
