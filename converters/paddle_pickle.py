"""Paddle's container: a plain pickle of a dict of numpy arrays (.pdparams, .pdopt).

Paddle has no uint16: an array of that dtype holds bfloat16 (``paddle.save`` writes and ``paddle.load``
reads it so).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_machine import refusal
from stdc_parity.converters.pickle_table import PLAIN
from stdc_parity.converters.pickle_values import Array, bfloat16, checked_shape, settle
from stdc_parity.converters.pickle_vm import Global, Table, load
from stdc_parity.converters.pickle_write import PickleWriter
from stdc_parity.converters.pieces import Progress, Write, write_array

NAME_TABLE = "StructuredToParameterName@@"
SPLIT_TABLE = "UnpackBigParamInfor@@"
BATCHES = "stdc_parity num_batches_tracked"
_BATCHES_START = b"\x80\4}(X" + len(BATCHES).to_bytes(4, "little") + BATCHES.encode()
_WRITABLE = {"bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64", "bfloat16"}


def _eval(code: object = None, names: Any = None) -> object:
    """``eval('data', {'data': array})``: how Paddle pickles a static graph's tensor. Nothing is evaluated."""
    if code == "data" and type(names) is dict and list(names) == ["data"]:
        return names["data"]
    raise refusal("builtins", "eval")


PADDLE: Table = {
    **PLAIN,
    ("builtins", "eval"): Global("builtins.eval", _eval),
    ("__builtin__", "eval"): Global("__builtin__.eval", _eval),
}


def read_paddle_pickle(data: memoryview) -> tuple[object, str, dict[str, int]]:
    """The object in a Paddle pickle with arrays that view ``data``, the protocol, and our own appendix.

    ``(name, array)`` pairs become the arrays, split parameters are joined, the name table is left out and
    uint16 becomes bfloat16. Raises CheckpointError for all that is broken or unsafe.
    """
    root, end = load(data, 0, PADDLE)
    root = _plain(settle(root, len(data)))
    if isinstance(root, dict):
        _join_split(root, len(data))
        root.pop(NAME_TABLE, None)
    protocol = data[1] if data[0] == 0x80 else 0
    return root, f"protocol {protocol}", _read_batches(data, end)


def _read_batches(data: memoryview, start: int) -> dict[str, int]:
    """The norms' counters that ``write_paddle_pickle`` put behind the pickle; {} if others wrote there."""
    behind = bytes(data[start : start + 64])
    if behind and _BATCHES_START.startswith(behind):
        raise CheckpointError(
            "the file ends inside the counters of batches", "It is truncated: download or copy it again."
        )
    if BATCHES.encode() not in behind:
        return {}
    appendix, _end = load(data, start, PLAIN)
    batches = appendix.get(BATCHES) if type(appendix) is dict else None
    if type(batches) is not dict or not all(type(k) is str and type(n) is int for k, n in batches.items()):
        raise CheckpointError("the counters of batches behind the tensors are damaged")
    return batches


def _plain(value: Any) -> Any:
    """``value`` with pairs replaced by their arrays and uint16 read as bfloat16."""
    if isinstance(value, np.ndarray):
        return value.view(bfloat16()) if value.dtype == np.uint16 else value
    if type(value) is dict:
        for key in value:
            value[key] = _plain(value[key])
    elif type(value) is list:
        value[:] = [_plain(item) for item in value]
    elif type(value) is tuple:
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], np.ndarray):
            return _plain(value[1])
        return tuple(_plain(item) for item in value)
    return value


def _join_split(root: dict[Any, Any], size: int) -> None:
    """Put together the parameters that protocols 2 and 3 hold in slices of less than 1 GiB.

    ``size`` is the file's, which the whole cannot exceed: one array may stand for many slices.
    """
    table = root.pop(SPLIT_TABLE, None)
    if table is None:
        return
    try:
        for name, info in table.items():
            parts = [root.pop(part) for part in info["slices"]]
            size -= sum(part.nbytes for part in parts)
            if size < 0:
                raise ValueError
            root[name] = np.concatenate(parts).reshape(checked_shape(info["OriginShape"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError("the table of split parameters does not fit the parameters") from None


def write_paddle_pickle(
    write: Write,
    tensors: Mapping[str, Array],
    batches: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``tensors`` as a Paddle state dict: protocol 4, readable under numpy 1 and numpy 2.

    ``batches`` (a PyTorch batch norm's counters, by name) go into a second pickle behind the first, where
    ``paddle.load`` and ``pickle.load`` never look.
    The bytes depend on names, order, shapes, dtypes and values alone; arrays go to ``write`` without a
    copy if they are contiguous. Raises CheckpointError for a dtype that Paddle does not have.
    """
    for name, array in tensors.items():
        if array.dtype.name not in _WRITABLE:
            raise CheckpointError(f"{shown(name)}: Paddle has no dtype {array.dtype.name}")

    def leaf(pickle: PickleWriter, array: Array) -> None:
        _write_array(pickle, array, progress)

    PickleWriter(write, 4, leaf).dump(dict(tensors))
    if batches:
        PickleWriter(write, 4, leaf).dump({BATCHES: dict(batches)})


def write_paddle_object(write: Write, root: dict[str, Any]) -> None:
    """Write nested dicts and lists of arrays, numbers and text (an optimizer's state) as ``paddle.save`` would.

    Raises CheckpointError for a dtype that Paddle does not have.
    """
    for name, value in root.items():
        if isinstance(value, np.ndarray) and value.dtype.name not in _WRITABLE:
            raise CheckpointError(f"{shown(name)}: Paddle has no dtype {value.dtype.name}")
    PickleWriter(write, 4, lambda pickle, array: _write_array(pickle, array, None)).dump(root)


def _write_array(pickle: PickleWriter, array: Array, progress: Progress | None) -> None:
    def empty_shape() -> None:
        pickle.tuple(0)

    def kind() -> None:
        pickle.write(b"C\1b")

    # numpy._core would do for numpy 2 alone; numpy.core is known to both.
    pickle.named("numpy.core.multiarray", "_reconstruct")
    pickle.named("numpy", "ndarray")
    pickle.once("empty shape", empty_shape)
    pickle.once("kind", kind)
    pickle.write(b"\x87R(K\1")
    pickle.tuple(*array.shape)
    _write_dtype(pickle, array)
    pickle.write(b"\x89")
    pickle.bytes_header(array.nbytes)
    write_array(pickle.write, array, progress)
    pickle.write(b"tb")


def _write_dtype(pickle: PickleWriter, array: Array) -> None:
    code = "u2" if array.dtype.name == "bfloat16" else array.dtype.str[1:]

    def push() -> None:
        pickle.named("numpy", "dtype")
        pickle.tuple(code, False, True)
        pickle.write(b"R")
        pickle.tuple(3, "|" if code[1] == "1" else "<", None, None, None, -1, -1, 0)
        pickle.write(b"b")

    pickle.once(code, push)
