"""The pickle machine's parts: what it can make, its state, and the steps its opcodes are made of.

``pickle_vm`` has the opcodes and the entry point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from stdc_parity.converters.errors import CheckpointError, shown

MAX_OPCODES = 6_000_000  # a checkpoint of 100,000 tensors needs four million
MAX_MEMO = 2_000_000
MAX_COPIES = 1_000_000
MAX_INTEGER_BYTES = 256
MAX_LINE = 1 << 16


class Global:
    """A name that pickles may use: ``make(*args)`` is what calling it gives. ``value`` is for its owner."""

    __slots__ = ("make", "name", "value")

    def __init__(self, name: str, make: Callable[..., object], value: Any = None) -> None:
        self.name = name
        self.make = make
        self.value = value

    def __repr__(self) -> str:
        return self.name


class Inert:
    """Something a pickle makes and may give a state to (BUILD)."""

    __slots__ = ()

    def build(self, state: object) -> None:
        """Take the state; raise TypeError or ValueError if it makes no sense."""


class Opaque(Inert):
    """An object of a class we know by name and never make: its arguments and its state, as data."""

    __slots__ = ("args", "kind", "state")

    def __init__(self, kind: str, args: tuple[object, ...] = (), state: object = None) -> None:
        self.kind = kind
        self.args = args
        self.state = state

    def build(self, state: object) -> None:
        """Keep the state."""
        self.state = state

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class Unsupported(Inert):
    """A tensor that is not read, and why. An error only for one who needs it."""

    __slots__ = ("unsupported",)

    def __init__(self, reason: str) -> None:
        self.unsupported = reason

    def __repr__(self) -> str:
        return f"<{self.unsupported}>"


Table = Mapping[tuple[str, str], Global]

_SIZED = frozenset((str, bytes, memoryview, list, tuple, dict))
_FLAT = frozenset((float, bool, bytes, type(None), Global))  # beside str and int, keys that hash at once


class Machine:
    """The state of one run: a buffer and a position in it, a stack cut by marks, a memo."""

    __slots__ = ("data", "left", "memo", "outer", "persistent", "pos", "stack", "table")

    def __init__(
        self,
        data: memoryview,
        start: int,
        table: Table,
        persistent: Callable[[object], object] | None,
    ) -> None:
        self.data = data
        self.pos = start
        self.table = table
        self.persistent = persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}
        self.left = len(data) + MAX_COPIES  # bytes and values that functions may be called with

    def run(self, opcodes: Mapping[int, Callable[[Machine], object]]) -> tuple[object, int]:
        """Interpret up to STOP; return the object and the offset behind it."""
        data, left = self.data, MAX_OPCODES
        try:
            while True:
                opcode = data[self.pos]
                self.pos += 1
                if opcode == 0x2E:  # STOP
                    if self.outer or len(self.stack) != 1:
                        self.fail("ends with a value too many or too few")
                    return self.stack[0], self.pos
                opcodes[opcode](self)
                left -= 1
                if not left:
                    self.fail(f"has more than {MAX_OPCODES:,} opcodes")
        except IndexError:
            if self.pos >= len(data):
                raise self.truncated() from None
            self.fail("takes a value from an empty stack")
        except KeyError:
            self.fail(f"has an opcode no checkpoint uses (0x{opcode:02x})")
        except (RecursionError, MemoryError):
            self.fail("nests too deeply or needs too much memory")

    def fail(self, fact: str, note: str | None = None) -> NoReturn:
        """Refuse the pickle."""
        raise CheckpointError(f"the pickle {fact} (at byte {self.pos:,})", note)

    def truncated(self) -> CheckpointError:
        """The error for a pickle that the file ends in."""
        return CheckpointError(
            f"the file ends inside a pickle (at byte {len(self.data):,})",
            "It is truncated: download or copy it again.",
        )

    def slice(self, size: int) -> memoryview:
        """The next ``size`` bytes, as a view."""
        start, end = self.pos, self.pos + size
        if end > len(self.data):
            raise self.truncated()
        self.pos = end
        return self.data[start:end]

    def line(self) -> bytes:
        """The text up to the next newline."""
        text = bytes(self.data[self.pos : self.pos + 256])
        end = text.find(b"\n")
        if end < 0:
            text = bytes(self.data[self.pos : self.pos + MAX_LINE])
            end = text.find(b"\n")
        if end < 0:
            if len(text) < MAX_LINE:
                raise self.truncated()
            self.fail("has an endless line of text")
        self.pos += end + 1
        return text[:end]

    def decoded(self, text: bytes | memoryview) -> str:
        """``text`` as UTF-8."""
        try:
            return str(text, "utf-8")
        except UnicodeDecodeError:
            self.fail("has text that is not UTF-8")

    def items(self) -> list[Any]:
        """The values above the last MARK; the stack is again what it was below it."""
        if not self.outer:
            self.fail("takes values up to a mark that is not there")
        values = self.stack
        self.stack = self.outer.pop()
        return values

    def find(self, module: object, name: object) -> None:
        """Push what the table has for a name."""
        found = self.table.get((module, name)) if type(module) is type(name) is str else None
        if found is None:
            raise refusal(module, name)
        self.stack.append(found)

    def call(self, function: object, args: object) -> None:
        """Push what a function of the table makes of ``args``."""
        if type(function) is not Global or type(args) is not tuple:
            self.fail("calls something that is not a function")
        self.left -= sum(len(arg) for arg in args if type(arg) in _SIZED)
        if self.left < 0:
            self.fail("copies its values again and again")
        self.stack.append(self.guarded(f"calls {function.name} with", function.make, args))

    def by_persistent_id(self) -> None:
        """Replace a persistent id by what it stands for."""
        if self.persistent is None:
            self.fail("refers to data outside itself")
        self.stack.append(self.guarded("refers to data by", self.persistent, (self.stack.pop(),)))

    def guarded(self, what: str, function: Callable[..., object], args: tuple[object, ...]) -> object:
        """Call one of our own functions with arguments that may be anything."""
        try:
            return function(*args)
        except CheckpointError:
            raise
        except Exception:  # whatever hostile arguments bring about
            self.fail(f"{shown(what)} arguments that make no sense")

    def set_items(self, values: list[Any]) -> None:
        """Put keys and values, in turns, into the dict on the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            self.fail("sets items of something that is not a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value

    def extend(self, values: list[Any]) -> None:
        """Add ``values`` to the list on the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            self.fail("adds to something that is not a list")
        target.extend(values)

    def set_state(self) -> None:
        """Give the state on the stack to the object below it."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is dict:
            return  # attributes of an OrderedDict: a torch state dict's _metadata
        if not isinstance(target, Inert):
            self.fail("gives a state to something that has none")
        self.guarded(f"gives {target!r} a state of", target.build, (state,))

    def integer(self, size: int) -> None:
        """Push an integer of ``size`` bytes."""
        if size > MAX_INTEGER_BYTES:
            self.fail(f"has an integer of {size:,} bytes")
        self.stack.append(int.from_bytes(self.slice(size), "little", signed=True))

    def number(self, kind: Callable[[bytes], object], text: bytes) -> None:
        """Push the number that ``text`` is."""
        try:
            if len(text) > 3 * MAX_INTEGER_BYTES:
                raise ValueError
            self.stack.append(kind(text))
        except (ValueError, OverflowError):
            self.fail("has text where a number is due")

    def get(self, index: int) -> None:
        """Push a remembered value."""
        if index not in self.memo:
            self.fail("refers to a value it has not made")
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        """Remember the value on the stack."""
        self.memo[index] = self.stack[-1]
        if len(self.memo) > MAX_MEMO:
            self.fail(f"remembers more than {MAX_MEMO:,} values")

    def byte(self) -> int:
        """The next byte."""
        value = self.data[self.pos]
        self.pos += 1
        return value

    def unpack(self, reader: Callable[[memoryview, int], tuple[Any, ...]], size: int) -> Any:
        """The next value of a fixed size."""
        if self.pos + size > len(self.data):
            raise self.truncated()
        (value,) = reader(self.data, self.pos)
        self.pos += size
        return value


def checked_key(key: Any) -> object:
    """``key``, if hashing it is cheap: text, bytes, a number of 64 bits, a name, or a tuple of such."""
    kind = type(key)
    if kind is str or (kind is int and -(2**63) <= key < 2**64) or kind in _FLAT:
        return key
    if kind is memoryview and len(key) <= 1024:
        return bytes(key)
    if kind is tuple and len(key) <= 16 and not any(type(part) is tuple for part in key):
        return tuple(checked_key(part) for part in key)
    raise CheckpointError(f"the pickle uses a {shown(kind.__name__)} as a key")


_DANGEROUS = frozenset(
    (
        *("os", "posix", "nt", "sys", "subprocess", "builtins", "__builtin__", "importlib", "runpy"),
        *("shutil", "socket", "commands", "pty", "code", "operator", "functools", "ctypes", "pickle"),
        *("webbrowser", "marshal", "types", "inspect", "pip", "urllib", "http", "asyncio"),
    )
)


def refusal(module: object, name: object) -> CheckpointError:
    """The error for a name outside the table, with a note for what it probably is."""
    if type(module) is not str or type(name) is not str:
        return CheckpointError("the pickle names a function without text; nothing was executed")
    fact = f"refused to load {shown(module)}.{shown(name)}; nothing was executed"
    root = module.partition(".")[0]
    if root in _DANGEROUS:
        note = "No honest checkpoint needs it. Treat the file, and where it came from, as hostile."
    elif (module, name) == ("torch.storage", "_load_from_bytes"):
        note = "Its tensors were written with pickle.dump; write them with torch.save."
    elif root in ("torchvision", "timm", "__main__", "models", "model") or module.startswith("torch.nn."):
        note = (
            "This is a pickled model, not a state dict. Where it can be loaded, save its weights alone: "
            "torch.save(model.state_dict(), path)."
        )
    else:
        note = (
            "It is a class that is not known here. Where the file can be loaded and is trusted, save its "
            "weights alone, e.g. torch.save(checkpoint['state_dict'], path)."
        )
    return CheckpointError(fact, note)
