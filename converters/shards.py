"""Checkpoints spread over several .safetensors files, with a JSON index that says which holds what.

The names are those of Hugging Face's libraries: ``x.safetensors.index.json`` and ``x-00001-of-00003.safetensors``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stdc_parity.converters.atomic import Follow, atomic_write, check_target, not_followed
from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.mapped import Mapped
from stdc_parity.converters.pickle_values import Array
from stdc_parity.converters.pieces import Progress
from stdc_parity.converters.safetensors_file import (
    MAX_HEADER,
    batches_of,
    parse_json,
    read_safetensors,
    write_safetensors,
)
from stdc_parity.converters.sniffing import is_safetensors

SUFFIX = ".safetensors"
MAX_SHARDS = 200
"""Most files that are written together: all are open, each with a buffer of 256 KiB, until the last is whole."""
MAX_SHARDS_READ = 1000


def read_shards(data: memoryview, mapped: Mapped) -> tuple[dict[str, object], dict[str, int]]:
    """The tensors of all files that the index ``data`` names, and the batch norms' counters in their metadata.

    The files stand beside the index (the first of ``mapped``). Raises CheckpointError for names of other
    folders, and unless index and files name the same tensors, each once.
    """
    damaged = "the index of shards is damaged"
    if len(data) > MAX_HEADER:
        raise CheckpointError(f"the index of shards is {len(data):,} bytes long, more than {MAX_HEADER:,}")
    places = parse_json(data, damaged).get("weight_map")
    if type(places) is not dict or not places or not all(type(file) is str for file in places.values()):
        raise CheckpointError(f"{damaged}: its weight_map does not give a file's name for each tensor")
    files = sorted(set(places.values()))
    if len(files) > MAX_SHARDS_READ:
        raise CheckpointError(f"the index names {len(files):,} shards, more than {MAX_SHARDS_READ:,}")
    folder = mapped.folder()
    tensors: dict[str, object] = {}
    batches: dict[str, int] = {}
    for file in files:
        if Path(file).name != file or "\\" in file or not file.endswith(SUFFIX):
            raise CheckpointError(f"the index names {shown(file)}, which is no {SUFFIX} file beside it")
        try:
            found, metadata = _read_shard(mapped.open(folder / file))
        except CheckpointError as error:
            raise CheckpointError(f"shard {shown(file)}: {error.message}", error.note) from None
        wrong = next((name for name in found if places.get(name) != file), None)
        if wrong is not None:
            raise CheckpointError(f"shard {shown(file)} holds {shown(wrong)}, which the index does not place there")
        tensors |= found
        batches |= batches_of(metadata)
    lost = next((name for name in places if name not in tensors), None)
    if lost is not None:
        raise CheckpointError(f"shard {shown(places[lost])} lacks {shown(lost)}, which the index places there")
    return {name: tensors[name] for name in places}, batches


def _read_shard(data: memoryview) -> tuple[dict[str, object], dict[str, str]]:
    if not is_safetensors(bytes(data[:9])):
        raise CheckpointError("it is no safetensors file")
    return read_safetensors(data)


def split_shards(tensors: Mapping[str, Array], size: int | None) -> list[dict[str, Array]]:
    """``tensors`` in their order, in parts of at most ``size`` bytes (or one tensor); one part without a size.

    Raises UsageError if that makes too many.
    """
    if size is None:
        return [dict(tensors)]
    parts: list[dict[str, Array]] = [{}]
    left = size
    for name, array in tensors.items():
        if array.nbytes > left and parts[-1]:
            parts.append({})
            left = size
        left -= array.nbytes
        parts[-1][name] = array
    if len(parts) > MAX_SHARDS:
        raise UsageError(f"--shard-size: {len(parts):,} shards are more than {MAX_SHARDS:,}", "Make it larger.")
    return parts


def write_shards(
    path: Path,
    shards: Sequence[Mapping[str, Array]],
    metadata: Mapping[str, str],
    force: bool,
    source: str | os.PathLike[str] | None,
    progress: Progress | None = None,
    follow: Follow = not_followed,
) -> list[Path]:
    """Write each of ``shards`` beside ``path`` and the index; gives the paths, the index first.

    All names appear after everything was written, the index last; with ``force`` an old index goes before
    the first of them, so that no index ever names a mixture. Raises UsageError as ``atomic_write`` does.
    """
    stem = path.name.removesuffix(SUFFIX)
    names = [f"{stem}-{number:05}-of-{len(shards):05}{SUFFIX}" for number in range(1, len(shards) + 1)]
    index = path.with_name(f"{stem}{SUFFIX}.index.json")
    paths = [index, *(path.with_name(name) for name in names)]
    for each in paths:
        check_target(each, force=force, source=source)
    weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
    total = sum(array.nbytes for shard in shards for array in shard.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1) + "\n"
    published: list[Path] = []

    @contextmanager
    def write(each: Path) -> Iterator[BinaryIO]:
        with atomic_write(each, force=force, source=source, follow=follow) as file:
            yield file
        published.append(each)

    try:
        with ExitStack() as files:  # which closes, and so publishes, the last one first
            files.enter_context(write(index)).write(text.encode())
            for each, shard in zip(paths[1:], shards, strict=True):
                facts = metadata if each is paths[1] else {"format": metadata["format"]}
                write_safetensors(files.enter_context(write(each)).write, shard, facts, progress)
            if force:
                index.unlink(missing_ok=True)
    except BaseException:
        for each in () if force else published:
            with suppress(OSError):
                each.unlink()
        raise
    return paths
