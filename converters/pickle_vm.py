"""A pickle machine that cannot run anything.

Python's own unpickler calls whatever a file names. This one interprets the opcodes itself and knows only
the callables of the table it is given, all of them ours and harmless. Any other name is refused before
anything is made of it. Byte strings come out as slices of the buffer, so reading a pickle that holds
gigabytes of arrays touches only its opcodes.

Beyond safety it is bounded: no opcode allocates more than a few machine words beside its own operand, the
numbers of opcodes and of remembered values and the size of integers are limited, only flat keys are
hashed, and nothing here recurses.

Protocols 0 to 5, without what no checkpoint uses (protocol 0's STRING and PERSID, classic instances, the
extension registry, out-of-band buffers).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from stdc_parity.converters.pickle_machine import Global, Inert, Machine, Opaque, Table, Unsupported

__all__ = ["Global", "Inert", "Opaque", "Table", "Unsupported", "load"]

_U2, _U4, _I4, _U8, _F8 = (struct.Struct(code).unpack_from for code in ("<H", "<I", "<i", "<Q", ">d"))


def load(
    data: memoryview,
    start: int,
    table: Table,
    persistent: Callable[[object], object] | None = None,
) -> tuple[object, int]:
    """Interpret the pickle at ``data[start:]``; return its object and the offset behind its STOP.

    ``persistent`` gives the object for a persistent id (without it they are refused). Raises
    CheckpointError for a name outside ``table``, a truncated or malformed pickle, or one over the limits.
    """
    return Machine(data, start, table, persistent).run(OPCODES)


def _push(make: Callable[[], object]) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(make())


def _number(reader: Any, size: int) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(m.unpack(reader, size))


def _data(reader: Any, size: int) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(m.slice(m.unpack(reader, size)))


def _text(reader: Any, size: int) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(m.decoded(m.slice(m.unpack(reader, size))))


def _old_text(reader: Any, size: int) -> Callable[[Machine], None]:
    """A Python 2 ``str``: text if it can be, else bytes (numpy's data)."""

    def step(m: Machine) -> None:
        raw = m.slice(m.unpack(reader, size))
        try:
            m.stack.append(str(raw, "utf-8"))
        except UnicodeDecodeError:
            m.stack.append(raw)

    return step


def _tuple(size: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        stack = m.stack
        if len(stack) < size:
            m.fail("makes a tuple of values that are not there")
        stack[-size:] = [tuple(stack[-size:])]

    return step


def _protocol(m: Machine) -> None:
    version = m.byte()
    if version > 5:
        m.fail(f"says it is of protocol {version}, which does not exist")


def _short_text(m: Machine) -> None:
    size = m.byte()
    m.stack.append(m.decoded(m.slice(size)))


def _small_integer(m: Machine) -> None:
    m.stack.append(m.data[m.pos])
    m.pos += 1


def _short_put(m: Machine) -> None:
    m.put(m.data[m.pos])
    m.pos += 1


def _short_get(m: Machine) -> None:
    m.get(m.data[m.pos])
    m.pos += 1


def _mark(m: Machine) -> None:
    m.outer.append(m.stack)
    m.stack = []


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.items()


def _integer_line(m: Machine) -> None:
    line = m.line()
    if line in (b"00", b"01"):
        m.stack.append(line == b"01")
    else:
        m.number(int, line)


def _unicode_line(m: Machine) -> None:
    try:
        m.stack.append(m.line().decode("raw-unicode-escape"))
    except UnicodeError:
        m.fail("has malformed text")


def _index_line(m: Machine) -> int:
    m.number(int, m.line())
    return int(m.stack.pop())


def _named(m: Machine) -> None:
    module, name = m.decoded(m.line()), m.decoded(m.line())
    m.find(module, name)


def _named_by_stack(m: Machine) -> None:
    name = m.stack.pop()
    m.find(m.stack.pop(), name)


def _call(m: Machine) -> None:
    arguments = m.stack.pop()
    m.call(m.stack.pop(), arguments)


def _call_with_keywords(m: Machine) -> None:
    keywords = m.stack.pop()
    if keywords != {}:
        m.fail("makes an object with keyword arguments")
    _call(m)


def _push_items(m: Machine, make: Callable[[list[Any]], object]) -> None:
    values = m.items()
    m.stack.append(make(values))


def _dict_of_items(m: Machine) -> None:
    values = m.items()
    m.stack.append({})
    m.set_items(values)


def _set_item(m: Machine) -> None:
    value = m.stack.pop()
    m.set_items([m.stack.pop(), value])


def _extension(m: Machine) -> None:
    m.fail("uses the extension registry; nothing was executed", "No honest checkpoint needs it.")


def _out_of_band(m: Machine) -> None:
    m.fail("keeps its data in buffers outside the file", "Write it without buffer_callback.")


OPCODES: dict[int, Callable[[Machine], Any]] = {
    0x80: _protocol,
    0x95: lambda m: m.slice(8),  # FRAME: only a hint to readers of streams
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): lambda m: m.items(),
    ord("2"): lambda m: m.stack.append(m.stack[-1]),
    # constants and numbers
    ord("N"): _push(lambda: None),
    0x88: _push(lambda: True),
    0x89: _push(lambda: False),
    ord("K"): _small_integer,
    ord("M"): _number(_U2, 2),
    ord("J"): _number(_I4, 4),
    0x8A: lambda m: m.integer(m.byte()),
    0x8B: lambda m: m.integer(m.unpack(_U4, 4)),
    ord("G"): _number(_F8, 8),
    ord("I"): _integer_line,
    ord("L"): lambda m: m.number(int, m.line().rstrip(b"L")),
    ord("F"): lambda m: m.number(float, m.line()),
    # text and bytes
    ord("V"): _unicode_line,
    0x8C: _short_text,
    ord("X"): _text(_U4, 4),
    0x8D: _text(_U8, 8),
    ord("U"): _old_text(lambda data, at: (data[at],), 1),
    ord("T"): _old_text(_U4, 4),
    ord("C"): _data(lambda data, at: (data[at],), 1),
    ord("B"): _data(_U4, 4),
    0x8E: _data(_U8, 8),
    0x96: _data(_U8, 8),
    # containers
    ord("}"): _push(dict),
    ord("]"): _push(list),
    ord(")"): _push(tuple),
    0x8F: _push(list),  # a set is read as the list of its elements, which need not be hashed then
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): lambda m: _push_items(m, tuple),
    ord("l"): lambda m: _push_items(m, list),
    0x91: lambda m: _push_items(m, list),
    ord("d"): _dict_of_items,
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.items()),
    ord("a"): lambda m: m.extend([m.stack.pop()]),
    ord("e"): lambda m: m.extend(m.items()),
    0x90: lambda m: m.extend(m.items()),
    # memo
    ord("q"): _short_put,
    ord("r"): lambda m: m.put(m.unpack(_U4, 4)),
    ord("p"): lambda m: m.put(_index_line(m)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): _short_get,
    ord("j"): lambda m: m.get(m.unpack(_U4, 4)),
    ord("g"): lambda m: m.get(_index_line(m)),
    # objects
    ord("c"): _named,
    0x93: _named_by_stack,
    ord("R"): _call,
    0x81: _call,  # NEWOBJ
    0x92: _call_with_keywords,
    ord("b"): lambda m: m.set_state(),
    ord("Q"): lambda m: m.by_persistent_id(),
    0x82: _extension,
    0x83: _extension,
    0x84: _extension,
    0x97: _out_of_band,
    0x98: lambda m: None,  # READONLY_BUFFER: ours are read-only anyway
}
