"""Collecting the taps of one side while its code runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import numpy as np

from stdc_parity.align.framework import Array, Framework
from stdc_parity.align.inputs import nest
from stdc_parity.align.record import Record, Tap, TapKind

CONSTANTS = "constants"
"""The fact of a record that has what calls were given beside tensors, by the call's name and the place in it."""


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
        self.constants: dict[str, dict[str, Any]] = {}
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

    def add_inputs(self, name: str, path: str, type_name: str, given: Any) -> None:
        """Keep what the call called `name` is given: its tensors, and beside them plain constants."""
        self.add(f"{name} input", "input", path, type_name, given, share=True)
        constants = dict(constants_in(given, self.framework))
        if constants:
            self.constants[name] = constants

    def record(self, stage: str) -> Record:
        """What was collected, as the record of a stage."""
        facts = {CONSTANTS: self.constants} if self.constants else {}
        return Record(self.framework.SIDE, stage, self.taps, self.arrays, facts)


def constants_in(value: object, framework: Framework) -> Iterator[tuple[str, Any]]:
    """The plain constants of nested inputs (None, numbers, texts) with their places, as `tensors_in`."""
    if value is None or isinstance(value, bool | int | float | str):
        yield "", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ((f"[{key}]{suffix}", each) for suffix, each in constants_in(item, framework))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from ((f"[{i}]{suffix}", each) for suffix, each in constants_in(item, framework))


def inputs_of(calls: Record) -> dict[str, tuple[str, dict[str, Array]]]:
    """The path of each call in a record of calls, by its name, and its input tensors by their places."""
    found: dict[str, tuple[str, dict[str, Array]]] = {}
    for tap in calls.taps:
        name, separator, suffix = tap.name.rpartition(" input")
        if separator and tap.kind == "input":
            found.setdefault(name, (tap.path, {}))[1][suffix] = calls.arrays[tap.name]
    return found


def arguments_of(calls: Record, name: str, tensors: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments of a call in `calls`, with `tensors` at their places."""
    facts: Any = calls.facts.get(CONSTANTS, {})
    value = nest({**tensors, **facts.get(name, {})})
    if isinstance(value, list):
        return value, {}
    if not isinstance(value, dict):
        return [value], {}
    numbers = sorted((key for key in value if key.isdecimal()), key=int)
    return [value[key] for key in numbers], {key: each for key, each in value.items() if not key.isdecimal()}


def tensors_in(value: object, framework: Framework) -> Iterator[tuple[str, Any]]:
    """The tensors of a nested result with their places in it: ("", t), ("[0]", t), ("[name]", t).

    It may be made of mappings, lists, tuples and dataclasses; whatever else is in it is no tensor.
    """
    if framework.is_tensor(value):
        yield "", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ((f"[{key}]{suffix}", tensor) for suffix, tensor in tensors_in(item, framework))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in({each.name: getattr(value, each.name) for each in fields(value)}, framework)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from ((f"[{i}]{suffix}", tensor) for suffix, tensor in tensors_in(item, framework))
