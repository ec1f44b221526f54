"""Collecting the taps of one side while its code runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from stdc_parity.align.framework import Array, Framework
from stdc_parity.align.record import Record, Tap, TapKind


class Recorder:
    """Collects taps in execution order; equal arrays are kept once (an output is often another's input).

    `seen` is called with the name of each: a worker process tells its caller what it is at.
    """

    seen: ClassVar[staticmethod[[str], None]] = staticmethod(lambda name: None)

    def __init__(self, framework: Framework) -> None:
        """Start empty."""
        self.framework = framework
        self.taps: list[Tap] = []
        self.arrays: dict[str, Array] = {}
        self._calls: dict[str, int] = {}
        self._kept: dict[bytes, Array] = {}

    def call_name(self, path: str) -> str:
        """A name for this call of the module at `path`: the path, with #2 for its second call, and so on."""
        self._calls[path] = self._calls.get(path, 0) + 1
        return path if self._calls[path] == 1 else f"{path}#{self._calls[path]}"

    def add(
        self, name: str, kind: TapKind, path: str, type_name: str, value: object, *, share: bool = False
    ) -> None:
        """Keep the tensors of `value`: one, or those in a tuple, list or dict (`name[0]`, `name[key]`)."""
        for suffix, tensor in tensors_in(value, self.framework):
            array = self.framework.to_array(tensor)
            if share:
                digest = hashlib.blake2b(
                    array.data, digest_size=16, key=str(array.shape).encode()[:64]
                ).digest()
                array = self._kept.setdefault(digest, array)
            self.add_array(name + suffix, kind, array, path, type_name)

    def add_array(self, name: str, kind: TapKind, array: Array, path: str = "", type_name: str = "") -> None:
        """Keep one array."""
        self.taps.append(Tap(name, kind, path, type_name))
        self.arrays[name] = np.asarray(array)
        self.seen(name)

    def record(self, stage: str) -> Record:
        """What was collected, as the record of a stage."""
        return Record(self.framework.SIDE, stage, self.taps, self.arrays)


def tensors_in(value: object, framework: Framework) -> Iterator[tuple[str, Any]]:
    """The tensors of a nested result with their places in it: ("", t), ("[0]", t), ("[name]", t)."""
    if framework.is_tensor(value):
        yield "", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ((f"[{key}]{suffix}", tensor) for suffix, tensor in tensors_in(item, framework))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from ((f"[{i}]{suffix}", tensor) for suffix, tensor in tensors_in(item, framework))
