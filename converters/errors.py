"""What can go wrong, in one family of exceptions.

An error states the fact in ``message`` and the way out in ``note``. The command line prints both and
exits with the class's ``exit_code`` (DESIGN.md section 4); nothing a user can cause ends in a traceback.
"""

from __future__ import annotations


class ParityError(Exception):
    """Base class: ``message`` states the fact, ``note`` (or None) says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, note: str | None = None) -> None:
        super().__init__(message, note)
        self.message = message
        self.note = note

    def __str__(self) -> str:
        return self.message if self.note is None else f"{self.message}\nNote: {self.note}"


class UsageError(ParityError):
    """The command asks for something that cannot be done, such as overwriting a file without --force."""

    exit_code = 2


class CheckpointError(ParityError):
    """The input is unreadable, broken or unsafe."""

    exit_code = 3


class MissingFramework(ParityError):
    """The command needs a framework that cannot be imported here."""

    exit_code = 4


def shown(value: object, limit: int = 120) -> str:
    """``value`` as printable text for a message: control characters escaped, clipped to ``limit`` characters.

    Checkpoints hold text from strangers; nothing of it may move a terminal's cursor or flood a log.
    """
    text = value if isinstance(value, str) else str(value)
    clipped = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clipped)
