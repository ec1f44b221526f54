"""Writing a file so that its name always holds the old bytes or all of the new ones.

The bytes go to a temporary file in the same folder, reach the disk (fsync), and then take the name in one
step: ``os.replace`` with ``force``, and without it ``os.link``, which fails if the name was taken meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from stdc_parity.converters.errors import UsageError, shown

_REASONS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file would be larger than is allowed",
}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}

Follow = Callable[[Path, Path], AbstractContextManager[None]]


def not_followed(_temporary: Path, _path: Path) -> AbstractContextManager[None]:
    """For a file that nobody watches."""
    return nullcontext()


@contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    source: str | os.PathLike[str] | None = None,
    follow: Follow = not_followed,
) -> Iterator[BinaryIO]:
    """Yield a binary file; when the block ends well, its bytes become ``path`` in one step.

    If the block raises (KeyboardInterrupt too) the temporary file goes and ``path`` is as it was. A
    ``path`` that is a symbolic link has its target replaced and stays a link. ``follow`` is entered with the
    temporary file and ``path`` while the bytes are written.

    Raises UsageError when ``path`` is a folder or no regular file, exists (without ``force``, even if it
    appears only while the block runs), is the file ``source`` under any name, or cannot be written.
    """
    target = check_target(path, force=force, source=source)
    try:
        descriptor, temporary = _create_beside(target)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 18) as file:
            with follow(temporary, Path(path)):
                yield file
                file.flush()
            os.fsync(file.fileno())
        _publish(temporary, target, path, force=force)
    except OSError as error:
        # An error that names another file is the reader's, not ours.
        if error.filename is None or str(error.filename) in (str(temporary), str(target)):
            raise _unwritable(path, error) from None
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(target.parent)


def check_target(
    path: str | os.PathLike[str], *, force: bool = False, source: str | os.PathLike[str] | None = None
) -> Path:
    """The file that writing ``path`` would make, or UsageError if it may not be written.

    Call it before a long computation; ``atomic_write`` calls it again.
    """
    name = shown(os.fspath(path))
    try:
        target = Path(path).resolve()  # so that a symbolic link stays one
        there = target.stat()
    except FileNotFoundError:
        return target
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        raise _unwritable(path, error) from None
    if stat.S_ISDIR(there.st_mode):
        raise UsageError(f"{name} is a folder, not a file.", "Give the output a file name inside it.")
    if not stat.S_ISREG(there.st_mode):
        raise UsageError(f"{name} is not a regular file, so it cannot be replaced in one step.")
    if source is not None and _same_file(there, source):
        raise UsageError(f"{name} is the source itself, which is never written over.", "Choose another name.")
    if not force:
        raise _exists(path)
    return target


def _same_file(there: os.stat_result, source: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samestat(there, Path(source).stat())
    except OSError:
        return False


def _create_beside(target: Path) -> tuple[int, Path]:
    """A new file in ``target``'s folder with the permissions an ordinary new file would get."""
    while True:
        temporary = target.with_name(f".{target.name[:80]}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            return os.open(temporary, flags, 0o666), temporary
        except FileExistsError:
            continue


def _publish(temporary: Path, target: Path, path: str | os.PathLike[str], *, force: bool) -> None:
    if force:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _publish_without_links(temporary, target, path)


def _publish_without_links(temporary: Path, target: Path, path: str | os.PathLike[str]) -> None:
    """For file systems without hard links (FAT, some mounts): reserve the name first, then replace it."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        raise _exists(path) from None
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Make the new name itself last through a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exists(path: str | os.PathLike[str]) -> UsageError:
    return UsageError(
        f"{shown(os.fspath(path))} exists already.", "Choose another name, or --force to replace it."
    )


def _unwritable(path: str | os.PathLike[str], error: Exception) -> UsageError:
    number = error.errno if isinstance(error, OSError) else None
    reason = _REASONS.get(number or 0) or getattr(error, "strerror", None) or str(error)
    return UsageError(f"{shown(os.fspath(path))} cannot be written: {shown(reason)}.")
