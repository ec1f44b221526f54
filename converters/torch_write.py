"""Writing torch's containers, zip and legacy, from numpy arrays.

Arrays that are the same memory share one storage, as tied weights do in torch. The bytes written depend on
names, order, shapes, dtypes, values and sharing alone.
"""

from __future__ import annotations

import struct
from typing import Any

from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.pickle_values import Array
from stdc_parity.converters.pickle_write import PickleWriter
from stdc_parity.converters.pieces import Progress, Write, write_array
from stdc_parity.converters.torch_legacy import MAGIC, PROTOCOL
from stdc_parity.converters.torch_pickle import STORAGES
from stdc_parity.converters.zip_write import ZipWriter

_CLASSES = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
_WITHOUT_CLASS = ("uint16", "uint32", "uint64")


class _Tensors:
    """Pickles arrays as torch tensors and collects the storages they need."""

    def __init__(self, *, legacy: bool) -> None:
        self.legacy = legacy
        self.storages: list[Array] = []
        self.numbers: dict[object, int] = {}

    def write(self, pickle: PickleWriter, array: Array) -> None:
        """Push the call that rebuilds ``array``; raises CheckpointError for a dtype torch does not have."""
        name = array.dtype.name
        untyped = name in _WITHOUT_CLASS
        if not untyped and name not in _CLASSES:
            raise CheckpointError(f"torch has no dtype {name}")
        pickle.named("torch._utils", "_rebuild_tensor_v3" if untyped else "_rebuild_tensor_v2")
        pickle.write(b"((")
        pickle.once("storage", lambda: pickle.value("storage"))
        pickle.named(*(("torch.storage", "UntypedStorage") if untyped else ("torch", _CLASSES[name])))
        pickle.value(str(self._number(array)))
        pickle.once("cpu", lambda: pickle.value("cpu"))
        pickle.value(array.nbytes if untyped else array.size)
        if self.legacy:
            pickle.value(None)  # no view of another storage
        pickle.write(b"tQK\0")
        pickle.tuple(*array.shape)
        pickle.tuple(*_strides(array.shape))
        pickle.value(False)  # requires_grad
        pickle.named("collections", "OrderedDict")
        pickle.write(b")R")  # no backward hooks
        if untyped:
            pickle.named("torch", name)
        pickle.write(b"tR")

    def _number(self, array: Array) -> int:
        """The number of the storage that holds ``array``: an earlier one if it is the same memory."""
        layout = array.nbytes if array.flags.c_contiguous else (array.shape, array.strides)
        same = (array.__array_interface__["data"][0], array.dtype, layout) if array.size else object()
        if same not in self.numbers:
            self.numbers[same] = len(self.storages)
            self.storages.append(array)
        return self.numbers[same]


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()


def write_torch_zip(write: Write, root: object, progress: Progress | None = None) -> None:
    """Write ``root`` (nested dicts, lists, numbers, text, arrays) as torch.save does today.

    ``torch.load(weights_only=True)`` reads it; storages are aligned to 64 bytes. ``write`` takes bytes in
    order. Raises CheckpointError for a dtype that torch does not have.
    """
    tensors = _Tensors(legacy=False)
    pickled = bytearray()
    PickleWriter(pickled.extend, 2, tensors.write).dump(root)
    archive = ZipWriter(write)
    archive.add("archive/data.pkl", bytes(pickled))
    archive.add("archive/byteorder", b"little")
    for number, array in enumerate(tensors.storages):
        archive.add_array(f"archive/data/{number}", array, progress)
    archive.add("archive/version", b"3\n")
    archive.close()


def write_torch_legacy(write: Write, root: Any, progress: Progress | None = None) -> None:
    """Write ``root`` as torch.save did before 1.6, in the container of the official STDC checkpoints.

    Takes and raises what ``write_torch_zip`` does, but for unsigned integers wider than 8 bits, which that
    container cannot hold.
    """
    tensors = _Tensors(legacy=True)
    pickled = bytearray()
    PickleWriter(pickled.extend, 2, tensors.write).dump(root)

    def dump(value: object) -> None:
        PickleWriter(write, 2, tensors.write).dump(value)

    dump(MAGIC)
    dump(PROTOCOL)
    dump(
        {
            "protocol_version": PROTOCOL,
            "little_endian": True,
            "type_sizes": {"short": 2, "int": 4, "long": 4},
        }
    )
    write(pickled)
    dump([str(number) for number in range(len(tensors.storages))])
    for array in tensors.storages:
        write(struct.pack("<q", array.size))
        write_array(write, array, progress)
