"""The directory of a tar: its plain files by name, as views. Names are text and never paths here.

Read here and not by ``tarfile``: some of its releases take quadratic time over a hostile header (CVE-2024-6232),
and all that is needed is where each file's bytes are.
"""

from __future__ import annotations

from stdc_parity.converters.errors import CheckpointError, shown

MAX_MEMBERS = 10_000
CUT = "It is truncated: download or copy it again."

_BLOCK = 512
_MAX_NAME = 1 << 16
_WITHOUT_DATA = b"123456"  # links, devices, folders, pipes


def tar_members(data: memoryview) -> dict[str, memoryview]:
    """The plain files of a tar by name, as views; links, devices and files with holes are left out.

    Names are text and never paths here. Raises CheckpointError for a damaged tar, and for one name twice.
    """
    members: dict[str, memoryview] = {}
    at, count, name, size = 0, 0, "", -1
    while at + _BLOCK <= len(data) and (data[at] != 0 or any(data[at : at + _BLOCK])):
        header = bytes(data[at : at + _BLOCK])
        _check_sum(header)
        kind, start = header[156:157], at + _BLOCK
        length = size if size >= 0 else _number(header[124:136])
        if kind in _WITHOUT_DATA:
            length = 0
        if start + length > len(data):
            raise CheckpointError("the file ends inside a tar's member", CUT)
        content = data[start : start + length]
        at = start + (length + _BLOCK - 1) // _BLOCK * _BLOCK
        count += 1
        if count > 4 * MAX_MEMBERS or len(members) > MAX_MEMBERS:
            raise CheckpointError(f"the tar holds more than {MAX_MEMBERS:,} files")
        if kind == b"L":
            name = _text(bytes(content[:_MAX_NAME]))
        elif kind == b"x":
            name, size = _extended(bytes(content[:_MAX_NAME]), name)
        elif kind not in b"gK":
            name = name or _name(header)
            if kind in (b"0", b"\0", b"7") and name and not name.endswith("/"):
                if name in members:
                    raise CheckpointError(f"the tar has the file {shown(name)} twice")
                members[name] = content
            name, size = "", -1
    return members


def _extended(records: bytes, name: str) -> tuple[str, int]:
    """The name and size (-1 if it is not said) of the next member that a pax header gives."""
    at, size = 0, -1
    while at < len(records):
        digits, space, _ = records[at : at + 12].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            raise CheckpointError("the tar is damaged")
        record = records[at + len(digits) + 1 : at + int(digits)]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            size = int(value) if value.isdigit() and len(value) < 20 else _number(b"x")
        elif key.startswith(b"GNU.sparse"):
            raise CheckpointError("the tar has a file with holes", "Pack it again without tar's --sparse.")
        at += int(digits)
    return name, size


def _check_sum(header: bytes) -> None:
    if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
        raise CheckpointError("the tar is damaged", "Download or copy it again.")


def _number(field: bytes) -> int:
    """An octal number, or one of 95 bits as GNU tar writes sizes of 8 GiB and more."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip(b" ") or b"0"
    if not all(digit in b"01234567" for digit in digits):
        raise CheckpointError("the tar is damaged", "Download or copy it again.")
    return int(digits, 8)


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "backslashreplace")
