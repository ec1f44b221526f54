"""Checkpoint files: what container a file is, told by its first bytes, and reading and writing each.

``read_container`` gives a checkpoint's object with numpy arrays where its tensors were. The arrays view
the file, so only the bytes that are used are read.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stdc_parity.converters.atomic import Follow, atomic_write, not_followed
from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.mapped import Mapped
from stdc_parity.converters.pickle_values import Array
from stdc_parity.converters.pieces import Progress, no_progress
from stdc_parity.converters.sniffing import (
    MXNET,
    NPZ,
    ONNX,
    PADDLE_PICKLE,
    SAFETENSORS,
    SHARDS,
    TORCH_LEGACY,
    TORCH_TAR,
    TORCH_ZIP,
    is_gzip,
    is_tar,
    sniff_bytes,
)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Contents:
    """A checkpoint that was read.

    ``root`` is the object it holds: nested dicts and lists with read-only numpy arrays (views of the file),
    numbers and text; ``Opaque`` for other objects and ``Unsupported`` for tensors that are not read.
    ``member`` is its name in the archive at ``path``, "" if that is none.
    ``batches`` are the norms' counters that ``write_paddle`` put beside the tensors, by PyTorch name.
    """

    path: Path
    container: str
    version: str
    size: int
    member: str
    root: object = field(repr=False)
    batches: Mapping[str, int] = field(repr=False)
    mapped: Mapped = field(repr=False)

    @property
    def framework(self) -> Literal["torch", "paddle"]:
        """Whose container it is; of those that are nobody's, PyTorch's unless the file says otherwise."""
        return "paddle" if self.container == PADDLE_PICKLE else "torch"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was read from, ``path`` first."""
        return tuple(self.mapped.paths)


def sniff(path: PathLike) -> str:
    """The container of the file at ``path``, by its bytes; raises CheckpointError if it is none we read."""
    with _named_errors(path):
        return sniff_bytes(_open(Mapped(), path, None)[0])


def _open(mapped: Mapped, path: PathLike, member: str | None) -> tuple[memoryview, str]:
    data = mapped.open(path)
    if is_gzip(data) or is_tar(data) or member is not None:
        from stdc_parity.converters.archives import unwrap

        return unwrap(data, mapped, member)
    return data, ""


def read_container(
    path: PathLike, *, member: str | None = None, progress: Progress = no_progress
) -> Contents:
    """Read the checkpoint at ``path``, or the one in the archive there (``member`` names one of several).

    Nothing in it is executed or extracted. ``progress`` is told the bytes that were checked. Raises
    CheckpointError, naming the file, if it is unreadable, broken, unsafe or not a container that is read,
    UsageError if ``member`` is not there.
    """
    with _named_errors(path):
        mapped = Mapped(progress)
        data, inside = _open(mapped, path, member)
        container = sniff_bytes(data)
        root, version, batches = _READERS[container](data, mapped)
        size = sum(file.stat().st_size for file in mapped.paths)
        return Contents(Path(path), container, version, size, inside, root, batches, mapped)


Found = tuple[object, str, Mapping[str, int]]
"""A checkpoint's object, its container's version in words, and the counters of batches in it."""


def _read_torch_zip(data: memoryview, mapped: Mapped) -> Found:
    from stdc_parity.converters.torch_zip import read_directory, read_torch_zip

    return *read_torch_zip(data, read_directory(data), mapped.used), {}


def _read_torch_legacy(data: memoryview, _mapped: Mapped) -> Found:
    from stdc_parity.converters.torch_legacy import read_torch_legacy

    return *read_torch_legacy(data), {}


def _read_torch_tar(data: memoryview, _mapped: Mapped) -> Found:
    from stdc_parity.converters.torch_legacy import read_torch_tar

    return *read_torch_tar(data), {}


def _read_paddle_pickle(data: memoryview, _mapped: Mapped) -> Found:
    from stdc_parity.converters.paddle_pickle import read_paddle_pickle

    return read_paddle_pickle(data)


def _read_npz(data: memoryview, mapped: Mapped) -> Found:
    from stdc_parity.converters.npz_file import read_npz
    from stdc_parity.converters.torch_zip import read_directory

    arrays = read_npz(data, read_directory(data), mapped)
    return arrays, f"{len(arrays)} arrays", {}


def _read_safetensors(data: memoryview, _mapped: Mapped) -> Found:
    from stdc_parity.converters.safetensors_file import batches_of, read_safetensors

    tensors, metadata = read_safetensors(data)
    return tensors, f"format {shown(metadata.get('format', 'not said'))}", batches_of(metadata)


def _read_shards(data: memoryview, mapped: Mapped) -> Found:
    from stdc_parity.converters.shards import read_shards

    tensors, batches = read_shards(data, mapped)
    return tensors, f"{len(mapped.paths) - 1} shards", batches


def _read_onnx(data: memoryview, mapped: Mapped) -> Found:
    from stdc_parity.converters.onnx_file import read_onnx

    return *read_onnx(data, mapped), {}


def _read_mxnet(data: memoryview, _mapped: Mapped) -> Found:
    from stdc_parity.converters.mxnet_file import read_mxnet

    return *read_mxnet(data), {}


_READERS: Mapping[str, Callable[[memoryview, Mapped], Found]] = {
    TORCH_ZIP: _read_torch_zip,
    TORCH_LEGACY: _read_torch_legacy,
    TORCH_TAR: _read_torch_tar,
    PADDLE_PICKLE: _read_paddle_pickle,
    SAFETENSORS: _read_safetensors,
    SHARDS: _read_shards,
    NPZ: _read_npz,
    ONNX: _read_onnx,
    MXNET: _read_mxnet,
}


def write_paddle(
    path: PathLike,
    tensors: Mapping[str, Array],
    *,
    force: bool = False,
    source: PathLike | None = None,
    batches: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    follow: Follow = not_followed,
) -> None:
    """Write ``tensors`` as a .pdparams for ``paddle.load``, atomically.

    ``batches`` go behind the end of what ``paddle.load`` reads. ``progress`` is told the size of each
    piece written, ``follow`` of the file. Raises UsageError if ``path`` may not be written (see ``atomic_write``) and
    CheckpointError for a dtype that Paddle does not have.
    """
    from stdc_parity.converters.paddle_pickle import write_paddle_pickle

    with atomic_write(path, force=force, source=source, follow=follow) as file:
        write_paddle_pickle(file.write, tensors, batches, progress)


def write_torch(
    path: PathLike,
    tensors: Mapping[str, Array],
    *,
    force: bool = False,
    source: PathLike | None = None,
    wrap: str | None = None,
    progress: Progress | None = None,
    follow: Follow = not_followed,
) -> None:
    """Write ``tensors`` as an OrderedDict for ``torch.load(weights_only=True)``, atomically.

    ``wrap`` puts it under that key of a dict, as in ``{"state_dict": ...}``.
    Arrays that are the same memory become tensors that share a storage. Raises as ``write_paddle`` does.
    """
    from stdc_parity.converters.torch_write import write_torch_zip

    state = OrderedDict(tensors)
    with atomic_write(path, force=force, source=source, follow=follow) as file:
        write_torch_zip(file.write, state if wrap is None else {wrap: state}, progress)


def write_safetensors(
    path: PathLike,
    tensors: Mapping[str, Array],
    *,
    force: bool = False,
    source: PathLike | None = None,
    format: str = "pt",
    batches: Mapping[str, int] | None = None,
    shard_size: int | None = None,
    progress: Progress | None = None,
    follow: Follow = not_followed,
) -> list[Path]:
    """Write ``tensors`` as .safetensors, atomically; gives the files that were written, ``path`` or an index first.

    ``format`` and ``batches`` go into the metadata. With a ``shard_size`` in bytes, tensors that need more are
    spread over files named after ``path``, with an index beside them. Raises as ``write_paddle`` does.
    """
    from stdc_parity.converters.safetensors_file import metadata_of, write_safetensors
    from stdc_parity.converters.shards import split_shards, write_shards

    metadata = metadata_of(format, batches)
    shards = split_shards(tensors, shard_size)
    if len(shards) > 1:
        return write_shards(Path(path), shards, metadata, force, source, progress, follow)
    with atomic_write(path, force=force, source=source, follow=follow) as file:
        write_safetensors(file.write, tensors, metadata, progress)
    return [Path(path)]


def write_npz(
    path: PathLike,
    tensors: Mapping[str, Array],
    *,
    force: bool = False,
    source: PathLike | None = None,
    progress: Progress | None = None,
    follow: Follow = not_followed,
) -> None:
    """Write ``tensors`` as .npz for ``numpy.load``, atomically. Raises as ``write_paddle`` does."""
    from stdc_parity.converters.npz_file import write_npz

    with atomic_write(path, force=force, source=source, follow=follow) as file:
        write_npz(file.write, tensors, progress)


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
