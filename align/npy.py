"""Dictionaries of arrays in .npy files, as reprod_log saves them, read without numpy's unpickler."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from stdc_parity.align.record import Record, Tap
from stdc_parity.align.spec import Side
from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_table import PLAIN
from stdc_parity.converters.pickle_values import settle
from stdc_parity.converters.pickle_vm import load

MAGIC = b"\x93NUMPY"


def read_npy_record(path: Path, side: Side) -> Record:
    """The arrays of a .npy file by name: a dict of arrays, or one plain array.

    Nothing in the file is executed. Raises CheckpointError if it is something else.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            file.seek(len(MAGIC))
            version = tuple(file.read(2))
            if data[: len(MAGIC)] != MAGIC or version not in ((1, 0), (2, 0)):
                raise CheckpointError(f"{shown(str(path))} is not a .npy file")
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(file)
            start = file.tell()
    except OSError as error:
        raise CheckpointError(f"{shown(str(path))}: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{shown(str(path))}: {shown(str(error))}") from None
    if not dtype.hasobject:
        try:
            array = np.ndarray(shape, dtype, data, start, order="F" if fortran else "C")
        except (TypeError, ValueError):
            raise CheckpointError(f"{shown(str(path))} is cut short") from None
        arrays = {"array": array}
    else:
        arrays = _pickled(path, memoryview(data), start)
    return Record(side, "npy", [Tap(name, "output", name, "") for name in arrays], arrays)


def _pickled(path: Path, data: memoryview, start: int) -> dict[str, np.ndarray]:
    """The dict in a 0-d object array, which numpy pickles as an array of objects."""
    root, _ = load(data, start, PLAIN)
    items = getattr(root, "data", None)
    if isinstance(items, list) and len(items) == 1:
        root = items[0]
    found = settle(root, len(data))
    if not isinstance(found, dict):
        raise CheckpointError(f"{shown(str(path))} holds {type(found).__name__}, not a dict of arrays")
    arrays = {}
    for name, value in found.items():
        if isinstance(value, bool | int | float | np.generic):
            value = np.asarray(value)
        if not isinstance(value, np.ndarray):
            raise CheckpointError(f"{shown(str(path))}: {shown(name)} is not an array")
        arrays[shown(name)] = value
    return arrays
