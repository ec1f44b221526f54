"""Writing pickles opcode by opcode: arrays stream to the file, and no name of a class is left to chance."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from stdc_parity.converters.pickle_values import Array
from stdc_parity.converters.pieces import Write


class PickleWriter:
    """One pickle, written through ``write``; ``leaf`` writes what an array becomes.

    Takes dicts, OrderedDicts, lists, tuples, text, numbers, booleans, None and numpy arrays.
    """

    def __init__(self, write: Write, protocol: int, leaf: Callable[[PickleWriter, Array], None]) -> None:
        self.write = write
        self.protocol = protocol
        self.leaf = leaf
        self.memo: dict[Hashable, int] = {}

    def dump(self, value: object) -> None:
        """Write a whole pickle of ``value``."""
        self.write(bytes((0x80, self.protocol)))
        self.value(value)
        self.write(b".")

    def value(self, value: Any) -> None:
        """Write the opcodes that push ``value``; raises TypeError for a type that is not written."""
        if isinstance(value, np.ndarray):
            self.leaf(self, value)
        elif isinstance(value, dict):
            self._dict(value)
        elif isinstance(value, tuple):
            self.tuple(*value)
        elif isinstance(value, list):
            self.write(b"](")
            for item in value:
                self.value(item)
            self.write(b"e")
        elif value is None or isinstance(value, bool):
            self.write({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            self.write(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self._text(value)
        else:
            raise TypeError(f"cannot write a {type(value).__name__} into a checkpoint")

    def _dict(self, value: dict[Any, Any]) -> None:
        if isinstance(value, OrderedDict):
            self.named("collections", "OrderedDict")
            self.write(b")R(")
        else:
            self.write(b"}(")
        for key, item in value.items():
            self.value(key)
            self.value(item)
        self.write(b"u")

    def tuple(self, *values: object) -> None:
        """Push a tuple."""
        if len(values) > 3:
            self.write(b"(")
        for value in values:
            self.value(value)
        self.write((b")", b"\x85", b"\x86", b"\x87")[len(values)] if len(values) <= 3 else b"t")

    def _integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.write(bytes((0x4B, value)))
        elif -(2**31) <= value < 2**31:
            self.write(b"J" + struct.pack("<i", value))
        else:
            size = value.bit_length() // 8 + 1
            self.write(bytes((0x8A, size)) + value.to_bytes(size, "little", signed=True))

    def _text(self, value: str) -> None:
        raw = value.encode("utf-8")
        self.write(b"X" + struct.pack("<I", len(raw)) + raw)

    def bytes_header(self, size: int) -> None:
        """Announce ``size`` bytes, which the caller writes next (protocol 3 or later)."""
        if size < 256:
            self.write(bytes((0x43, size)))
        elif size < 2**32:
            self.write(b"B" + struct.pack("<I", size))
        else:
            self.write(b"\x8e" + struct.pack("<Q", size))

    def once(self, name: Hashable, push: Callable[[], object]) -> None:
        """Push a value that may occur again: made by ``push`` the first time, then remembered."""
        if name in self.memo:
            self.write(b"j" + struct.pack("<I", self.memo[name]))
            return
        push()
        number = self.memo[name] = len(self.memo)
        self.write(b"r" + struct.pack("<I", number))

    def named(self, module: str, name: str) -> None:
        """Push a global."""
        self.once((module, name), lambda: self.write(f"c{module}\n{name}\n".encode()))
