"""Hashes of files and tensors, computed in threads beside the other work: hashlib lets other threads run.

numpy is imported when the first tensor comes, so that the source is hashed while numpy loads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stdc_parity.converters.pickle_values import Array
    from stdc_parity.converters.pieces import Progress

CHUNK = 4 << 20
"""Bytes of a file hashed at a time: enough that threads seldom wait for each other."""

_POLL = 0.002
"""Seconds after which a file that grows is looked at again."""

FileAccount = dict[str, Any]


class _Task(Thread):
    """Work in a thread, whose result or error ``result`` gives."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)  # so that it never keeps the process of a failed conversion alive
        self.work = work
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Do it."""
        try:
            self.value = self.work()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        """Wait for it."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.value


class Hashing:
    """Hashes that are being computed: of ``source``, of what else was read and planned once ``begin`` is told,
    and of target files while they are written."""

    def __init__(self, source: Path) -> None:
        # What is no file is for the reader to refuse; opening a pipe would wait for a writer.
        self._source = _Task(lambda: hash_file(source)) if source.is_file() else None
        self._targets: dict[Path, _Task] = {}

    def begin(self, further: Sequence[Path], tensors: Mapping[Hashable, Array], used: Progress) -> None:
        """Hash the ``further`` files of the source, and tensors; ``used`` is told the bytes of these."""
        self._further = _Task(lambda: [hash_file(path) for path in further])
        self._tensors = _Task(lambda: {key: sha256(tensor, used) for key, tensor in tensors.items()})

    @contextmanager
    def follow(self, written: Path, path: Path) -> Iterator[None]:
        """Hash what is written to the file ``written``, which becomes ``path``, until the block ends."""
        file, ended = written.open("rb", buffering=0), Event()
        self._targets[path] = _Task(lambda: _hash_growing(file, path, ended))
        try:
            yield
        finally:
            ended.set()

    def sources(self) -> list[FileAccount]:
        """Names, sizes and hashes of the source's files, the one that was named first."""
        first = [] if self._source is None else [self._source.result()]
        return [*first, *self._further.result()]

    def tensors(self) -> dict[Hashable, str]:
        """The hashes of the tensors."""
        return dict(self._tensors.result())

    def target(self, path: Path) -> FileAccount:
        """Name, size and hash of a file that was followed."""
        account: FileAccount = self._targets[path].result()
        return account


def sha256(tensor: Array, used: Progress) -> str:
    """The hash of a tensor's values: its C-ordered little-endian bytes, without shape or dtype."""
    from stdc_parity.converters.pieces import array_pieces

    digest = hashlib.sha256()
    for piece in array_pieces(tensor):
        digest.update(piece)
        used(len(piece))
    return digest.hexdigest()


def hash_file(path: Path) -> FileAccount:
    """Name, size and sha256 of a file."""
    ended = Event()
    ended.set()
    return _hash_growing(path.open("rb", buffering=0), path, ended)


def _hash_growing(file: FileIO, path: Path, ended: Event) -> FileAccount:
    """Hash an open file up to its end, once ``ended`` says that it will not grow any more; closes it."""
    digest, chunk, total = hashlib.sha256(), memoryview(bytearray(CHUNK)), 0
    with file:
        while True:
            last = ended.is_set()
            size = file.readinto(chunk)
            digest.update(chunk[:size])
            total += size
            if size < CHUNK and not last:
                ended.wait(_POLL)
            elif size == 0:
                return {"name": path.name, "bytes": total, "sha256": digest.hexdigest()}
