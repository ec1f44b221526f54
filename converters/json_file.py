"""Accounts of a command as JSON, a line for every row, so that large ones stay readable and quick to write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stdc_parity.converters.atomic import atomic_write, check_target


def write_json(account: Mapping[str, Any], path: Path, *, sources: Iterable[Path]) -> None:
    """Write an account, over an older file but never over one of `sources`.

    Raises UsageError if `path` is one of them or cannot be written.
    """
    for source in sources:
        check_target(path, force=True, source=source)
    with atomic_write(path, force=True) as file:
        file.write(_json_lines(account).encode(errors="backslashreplace"))


def _json_lines(account: Mapping[str, Any]) -> str:
    lines = []
    for key, value in account.items():
        is_table = isinstance(value, list) and value and isinstance(value[0], dict)
        rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in value) if is_table else ""
        text = f"[\n  {rows}\n ]" if rows else json.dumps(value, ensure_ascii=False)
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
