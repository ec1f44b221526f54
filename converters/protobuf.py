"""The wire format of protocol buffers, as far as reading a message's fields in place needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stdc_parity.converters.errors import CheckpointError

MAX_FIELDS = 2_000_000
"""Most fields of one file that are looked at, a few seconds' worth."""

Value = int | memoryview


@dataclass
class Message:
    """Part of a file that is a message. ``fields`` gives (number, value): a number, or the bytes of the rest.

    Raises CheckpointError that says ``damaged`` for what is no message.
    """

    data: memoryview
    damaged: str
    left: list[int]

    def fields(self) -> Iterator[tuple[int, Value]]:
        """Every field in its order."""
        data, at = self.data, 0
        while at < len(data):
            self.left[0] -= 1
            if self.left[0] < 0:
                raise CheckpointError(f"{self.damaged}: it has more than {MAX_FIELDS:,} parts")
            tag, at = self.varint(at)
            kind, size = tag & 7, 0
            if kind == 0:
                number, at = self.varint(at)
                yield tag >> 3, number
                continue
            if kind == 2:
                size, at = self.varint(at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            if kind not in (1, 2, 5) or at + size > len(data) or tag < 8:
                raise CheckpointError(self.damaged)
            yield tag >> 3, data[at : at + size]
            at += size

    def varint(self, at: int) -> tuple[int, int]:
        """The number that begins at ``at``, and where the next byte is."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(self.data):
                break
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (1 << 64) - 1, at
        raise CheckpointError(self.damaged)

    def inside(self, part: Value) -> Message:
        """The message that a field's value is."""
        if isinstance(part, int):
            raise CheckpointError(self.damaged)
        return Message(part, self.damaged, self.left)

    def text(self, part: Value) -> str:
        """The text that a field's value is."""
        if isinstance(part, int):
            raise CheckpointError(self.damaged)
        try:
            return str(part, "utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(self.damaged) from None

    def varints(self, part: Value) -> list[int]:
        """One number, or the packed numbers that a field's value is; those of 64 bits are signed."""
        if isinstance(part, int):
            return [_signed(part)]
        packed, numbers, at = self.inside(part), [], 0
        while at < len(part):
            self.left[0] -= 1
            if self.left[0] < 0:
                raise CheckpointError(f"{self.damaged}: it has more than {MAX_FIELDS:,} parts")
            number, at = packed.varint(at)
            numbers.append(_signed(number))
        return numbers


def message(data: memoryview, damaged: str) -> Message:
    """The message that a whole file is."""
    return Message(data, damaged, [MAX_FIELDS])


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
