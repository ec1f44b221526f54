"""Checkpoint files: what container a file is, told by its first bytes, and reading and writing each.

``read_container`` gives a checkpoint's object with numpy arrays where its tensors were. The arrays view
the file, so only the bytes that are used are read.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_values import Array
from stdc_parity.converters.pickle_write import Progress

TORCH_ZIP = "torch zip"
TORCH_LEGACY = "torch legacy"
TORCH_TAR = "torch tar"
PADDLE_PICKLE = "paddle pickle"

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Contents:
    """A checkpoint that was read.

    ``root`` is the object it holds: nested dicts and lists with read-only numpy arrays (views of the file),
    numbers and text; ``Opaque`` for other objects and ``Unsupported`` for tensors that are not read.
    ``batches`` are the norms' counters that ``write_paddle`` put beside the tensors, by PyTorch name.
    """

    path: Path
    container: str
    version: str
    size: int
    root: object = field(repr=False)
    batches: Mapping[str, int] = field(repr=False)
    mapping: mmap.mmap = field(repr=False)

    @property
    def framework(self) -> Literal["torch", "paddle"]:
        """Whose container it is."""
        return "paddle" if self.container == PADDLE_PICKLE else "torch"

    def release(self) -> None:
        """Let go of the memory that arrays were paged into; they are read again when they are used."""
        _release(self.mapping)


def sniff(path: PathLike) -> str:
    """The container of the file at ``path``, by its bytes; raises CheckpointError if it is none we read."""
    with _named_errors(path):
        mapping = _map(path)
        return _sniff(memoryview(mapping))


def read_container(path: PathLike) -> Contents:
    """Read the checkpoint at ``path``.

    Nothing in it is executed. Raises CheckpointError, naming the file, if it is unreadable, broken, unsafe
    or not a container that is read.
    """
    with _named_errors(path):
        mapping = _map(path)
        data = memoryview(mapping)
        container = _sniff(data)
        batches: Mapping[str, int] = {}
        if container == PADDLE_PICKLE:
            from stdc_parity.converters.paddle_pickle import read_paddle_pickle

            root, version, batches = read_paddle_pickle(data)
        else:
            root, version = _read_torch(container, data, mapping)
        return Contents(Path(path), container, version, len(data), root, batches, mapping)


def _read_torch(container: str, data: memoryview, mapping: mmap.mmap) -> tuple[object, str]:
    if container == TORCH_ZIP:
        from stdc_parity.converters.torch_zip import read_torch_zip

        return read_torch_zip(data, lambda: _release(mapping))
    from stdc_parity.converters.torch_legacy import read_torch_legacy, read_torch_tar

    return read_torch_legacy(data) if container == TORCH_LEGACY else read_torch_tar(data)


def write_paddle(
    path: PathLike,
    tensors: Mapping[str, Array],
    *,
    force: bool = False,
    source: PathLike | None = None,
    batches: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``tensors`` as a .pdparams for ``paddle.load``, atomically.

    ``batches`` go behind the end of what ``paddle.load`` reads. ``progress`` is told the size of each
    piece written. Raises UsageError if ``path`` may not be written (see ``atomic_write``) and
    CheckpointError for a dtype that Paddle does not have.
    """
    from stdc_parity.converters.paddle_pickle import write_paddle_pickle

    with atomic_write(path, force=force, source=source) as file:
        write_paddle_pickle(file.write, tensors, batches, progress)


def write_torch(
    path: PathLike,
    tensors: Mapping[str, Array],
    *,
    force: bool = False,
    source: PathLike | None = None,
    wrap: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``tensors`` as an OrderedDict for ``torch.load(weights_only=True)``, atomically.

    ``wrap`` puts it under that key of a dict, as in ``{"state_dict": ...}``.
    Arrays that are the same memory become tensors that share a storage. Raises as ``write_paddle`` does.
    """
    from stdc_parity.converters.torch_write import write_torch_zip

    state = OrderedDict(tensors)
    with atomic_write(path, force=force, source=source) as file:
        write_torch_zip(file.write, state if wrap is None else {wrap: state}, progress)


class _named_errors:
    """Puts the file's name before each CheckpointError's message."""

    def __init__(self, path: PathLike) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CheckpointError):
            name = shown(os.fspath(self.path))
            raise CheckpointError(f"{name}: {error.message}", error.note) from None


def _map(path: PathLike) -> mmap.mmap:
    """The file's bytes, read from disk as they are used."""
    try:
        mode = Path(path).stat().st_mode  # before opening it: opening a pipe would wait for a writer
        if stat.S_ISDIR(mode):
            raise CheckpointError("this is a folder, not a checkpoint", "Name the file in it.")
        if not stat.S_ISREG(mode):
            raise CheckpointError("this is a pipe or a device, not a file", "Save it to a file first.")
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise CheckpointError("the file does not exist") from None
    except OSError as error:
        raise CheckpointError(f"the file cannot be read: {shown(error.strerror or str(error))}") from None
    except ValueError as error:  # mmap of an empty file; a NUL in the path
        fact = "the file is empty" if "empty" in str(error) else "this is no name of a file"
        raise CheckpointError(fact, "Download or copy it again.") from None


def _release(mapping: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


_OTHERS = (
    (b"\x1f\x8b", "the file is compressed with gzip", "Unpack it first: tar xzf FILE, or gunzip FILE."),
    (b"BZh", "the file is compressed with bzip2", "Unpack it first: tar xjf FILE, or bunzip2 FILE."),
    (b"\xfd7zXZ", "the file is compressed with xz", "Unpack it first: tar xJf FILE, or unxz FILE."),
    (b"\x28\xb5\x2f\xfd", "the file is compressed with zstd", "Unpack it first: zstd -d FILE."),
    (b"7z\xbc\xaf", "this is a 7-Zip archive", "Unpack it first and convert the file inside."),
    (b"Rar!", "this is a RAR archive", "Unpack it first and convert the file inside."),
    (b"\x89HDF", "this is an HDF5 file (of Keras?), which is not read", None),
    (b"\x93NUMPY", "this is a single numpy array (.npy), not a checkpoint", None),
    (
        b"version https://git-lfs",
        "this is a git-lfs pointer: the few lines that stand for the file, not the file",
        "Fetch the file: git lfs pull.",
    ),
    (b"\x08", "this looks like an ONNX or Paddle inference model, which is not read", None),
    (
        bytes(8),
        "this looks like Paddle inference parameters (.pdiparams), which hold no names",
        "Convert the .pdparams that was saved in training.",
    ),
)


def _sniff(data: memoryview) -> str:
    from stdc_parity.converters.torch_legacy import is_legacy

    head = bytes(data[:4096])
    if head.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        return TORCH_ZIP
    if is_legacy(head):
        return TORCH_LEGACY
    if head[257:262] == b"ustar":
        return _sniff_tar(data)
    if head[:1] == b"\x80" and head[1:2] and head[1] <= 5:
        return PADDLE_PICKLE
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            "this is a web page, not a checkpoint: the server sent a page instead of the file",
            "Open the link in a browser, pass its warning or log-in, and download the file itself.",
        )
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        raise CheckpointError("this is a safetensors file, which is not read yet")
    for magic, fact, note in _OTHERS:
        if head.startswith(magic):
            raise CheckpointError(fact, note)
    raise CheckpointError(
        f"this is no checkpoint that is known here: it starts with {shown(repr(head[:16])[2:-1])}",
        "Known are files of torch.save (zip and legacy) and paddle.save.",
    )


def _sniff_tar(data: memoryview) -> str:
    from stdc_parity.converters.torch_legacy import tar_members

    members = tar_members(data)
    if {"pickle", "storages", "tensors"} <= set(members):
        return TORCH_TAR
    inside = f", which holds {shown(next(iter(members)))}" if members else ""
    raise CheckpointError(f"this is a real tar{inside}", "Unpack it first: tar xf FILE.")
