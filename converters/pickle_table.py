"""The harmless names that checkpoints hold beside their tensors: Python's containers, and numpy.

Every entry is an inert stand-in of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stdc_parity.converters.errors import shown
from stdc_parity.converters.pickle_machine import Global, Opaque, Table, checked_key, refusal
from stdc_parity.converters.pickle_values import NumpyArray, NumpyDtype, as_bytes, from_bytes, native


def _opaque(name: str) -> Global:
    return Global(name, lambda *args: Opaque(name, args))


def _sequence(kind: Callable[[Any], object]) -> Callable[..., object]:
    def make(values: object = ()) -> object:
        if not isinstance(values, list | tuple):
            raise TypeError
        return kind(values)

    return make


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    items = pairs.items() if type(pairs) is dict else pairs
    return {checked_key(key): value for key, value in items}


def _default_dict(_factory: object = None, pairs: Any = ()) -> dict[Any, Any]:
    return _dict(pairs)


def _bytes(data: Any = b"", encoding: str = "latin1") -> object:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError
    return data.encode("latin1") if isinstance(data, str) else as_bytes(data)


def _scalar(kind: type) -> Callable[..., object]:
    def make(*args: object) -> object:
        if len(args) > 2 or not all(type(a) in (int, float, bool) for a in args):
            raise TypeError
        return kind(*args)

    return make


def _numpy_scalar(dtype: NumpyDtype, data: object = b"") -> object:
    kind = dtype.resolve()
    if kind is None:
        return Opaque("numpy scalar", (data,))
    (value,) = native(from_bytes(as_bytes(data), kind))
    return value


def _array_of_buffer(data: object, dtype: NumpyDtype, shape: object, order: object = "C") -> NumpyArray:
    array = NumpyArray()
    array.build((shape, dtype, order == "F", data))
    return array


def _method_of(cls: object, name: object) -> object:
    """``getattr(HistoryBuffer, "min")``, in mmengine's checkpoints. No attribute is looked up."""
    if type(cls) is Global and cls.name.startswith("mmengine.") and type(name) is str:
        return Opaque(f"{cls.name}.{shown(name)}")
    raise refusal("builtins", "getattr")


def _make_of(cls: Global, *args: object) -> object:
    return cls.make(*args)


_OPAQUE = (
    *("argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "decimal.Decimal", "ml_dtypes.bfloat16"),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *(f"numpy.random._pickle.__{name}_ctor" for name in ("randomstate", "bit_generator", "generator")),
    *("numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64"),
    *(f"numpy.{name}" for name in np.sctypeDict if isinstance(name, str)),
    "mmengine.logging.history_buffer.HistoryBuffer",
)
_DICTS = (
    *("collections.OrderedDict", "collections.Counter", "easydict.EasyDict", "addict.addict.Dict"),
    *("yacs.config.CfgNode", "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict"),
)

_BUILTINS: dict[str, Callable[..., object]] = {
    "list": _sequence(list),
    "tuple": _sequence(tuple),
    "set": _sequence(list),
    "frozenset": _sequence(list),
    "dict": _dict,
    "bytes": _bytes,
    "bytearray": _bytes,
    "int": _scalar(int),
    "long": _scalar(int),
    "float": _scalar(float),
    "bool": _scalar(bool),
    "complex": _scalar(complex),
    "slice": lambda *args: Opaque("slice", args),
    "range": lambda *args: Opaque("range", args),
    "xrange": lambda *args: Opaque("range", args),
    "str": lambda *args: Opaque("str", args),
    "object": lambda *args: Opaque("object", args),
    "getattr": _method_of,
}


def plain_table() -> dict[tuple[str, str], Global]:
    """Names of Python and numpy that are harmless here."""
    functions: dict[str, Callable[..., object]] = {
        "collections.defaultdict": _default_dict,
        "_codecs.encode": _bytes,
        "copyreg._reconstructor": lambda cls, _base, _state: cls.make(),
        "copy_reg._reconstructor": lambda cls, _base, _state: cls.make(),
        "copyreg.__newobj__": _make_of,
        "numpy.dtype": NumpyDtype,
        "numpy.ndarray": NumpyArray,
    }
    for package in ("numpy.core", "numpy._core"):
        functions[f"{package}.multiarray._reconstruct"] = NumpyArray
        functions[f"{package}.multiarray.scalar"] = _numpy_scalar
        functions[f"{package}.numeric._frombuffer"] = _array_of_buffer
    for module in ("builtins", "__builtin__"):
        functions |= {f"{module}.{name}": make for name, make in _BUILTINS.items()}
    names = [Global(name, make) for name, make in functions.items()]
    names += [_opaque(name) for name in _OPAQUE]
    names += [Global(name, _dict) for name in _DICTS]
    return table_of(names)


def table_of(names: list[Global]) -> dict[tuple[str, str], Global]:
    """The lookup of ``names`` by module and name."""
    table = {}
    for entry in names:
        module, _, name = entry.name.rpartition(".")
        table[module, name] = entry
    return table


PLAIN: Table = plain_table()
