"""Rules files: reading them strictly, and writing them for people to review, a line for each tensor."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from stdc_parity.converters.architecture import Side
from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.pickle_values import checked_shape
from stdc_parity.converters.rules import (
    DTYPES,
    FORMAT,
    OpenRule,
    Rules,
    Settled,
    TensorRule,
    Transform,
    check_rules,
    dtype_of,
    fits,
    turned_shape,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 64 << 20
"""A rule has some 200 bytes, so this is room for 300,000 tensors."""
MAX_SHOWN = 20


def load_rules(path: Path) -> Rules:
    """The rules in a TOML file. Raises CheckpointError that names everything that is wrong with it."""
    name = f"--rules {shown(str(path))}"
    try:
        if not path.is_file():
            what = "this is no file" if path.exists() else "the file does not exist"
            raise CheckpointError(f"{name}: {what}")
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{name}: rules of more than {MAX_BYTES:,} bytes are not read")
        content = path.read_bytes()
        data = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{name}: {shown(error.strerror or error)}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, NUL in the path, brackets without end
        raise CheckpointError(f"{name} is no TOML file: {shown(error)}") from None
    rules, problems = read_rules(data, shown(path.name), hashlib.sha256(content).hexdigest())
    if problems:
        lines = [f"  {line}" for line in problems[:MAX_SHOWN]]
        lines += [f"  … and {len(problems) - MAX_SHOWN:,} more"] if len(problems) > MAX_SHOWN else []
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise CheckpointError("\n".join([f"{name}: {count}:", *lines]), "docs/rules.md explains the fields.")
    return rules


def read_rules(data: Mapping[str, Any], origin: str, sha256: str = "") -> tuple[Rules, list[str]]:
    """The rules in a TOML document, and what is wrong with them; without problems they hold together."""
    problems = [f"{shown(key)}: there is no such field" for key in data.keys() - {"format", "tensors", "open"}]
    if type(data.get("format")) is not int or data["format"] != FORMAT:
        return Rules(()), [f"it has to say format = {FORMAT}", *problems]
    lists = {key: data.get(key, []) for key in ("tensors", "open")}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            return Rules(()), [f"{key} has to be a list of tables", *problems]
    tensors: list[TensorRule] = []
    for number, entry in enumerate(lists["tensors"], 1):
        rule, wrong = _tensor_rule(entry)
        where = f"tensor {number} ({shown(entry.get('torch', entry.get('paddle', 'without a name')), 60)})"
        problems += [f"{where}: {line}" for line in wrong]
        tensors += [] if rule is None else [rule]
    opened: list[OpenRule] = []
    for number, entry in enumerate(lists["open"], 1):
        if _is_open(entry):
            opened.append(OpenRule(tuple(entry.get("torch", ())), tuple(entry.get("paddle", ())), entry["why"]))
        else:
            problems.append(f"open {number}: it has to have torch and paddle, lists of names, and why, a text")
    rules = Rules(tuple(tensors), tuple(opened), origin, sha256)
    return rules, problems or list(check_rules(rules))


def _is_open(entry: Mapping[str, Any]) -> bool:
    names = [entry.get(side, []) for side in ("torch", "paddle")]
    lists = all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in names)
    is_said = isinstance(entry.get("why"), str) and not entry.keys() - {"torch", "paddle", "why"}
    return lists and any(names) and is_said


def _tensor_rule(entry: Mapping[str, Any]) -> tuple[TensorRule | None, list[str]]:
    """The rule in a table, with its values of the right types, and what is wrong with it by itself."""
    known = {field.name for field in fields(TensorRule)}
    wrong = [f"there is no field {shown(name, 40)}" for name in entry if name not in known]
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name in known:
            found = _value(name, value)
            wrong += [f"{name} has to be {_FORMS[name]}"] if found is None else []
            values[name] = found
    if "settled" not in entry:
        wrong.append(f"it lacks settled: {', '.join(get_args(Settled))}")
    if wrong:
        return None, wrong
    rule = TensorRule(**values)
    return rule, list(_contradictions(rule))


_TEXT, _SHAPE, _ROWS = "a text", "a list of sizes", "[first, end], two row numbers"
_FORMS: Mapping[str, str] = {
    **dict.fromkeys(("torch", "paddle", "torch_alias", "paddle_alias"), "a name"),
    **dict.fromkeys(("reason", "evidence"), _TEXT),
    **dict.fromkeys(("torch_shape", "paddle_shape"), _SHAPE),
    **dict.fromkeys(("torch_rows", "paddle_rows"), _ROWS),
    "axes": "a list of axes, each once",
    "transform": f"one of {', '.join(get_args(Transform))}",
    "settled": f"one of {', '.join(get_args(Settled))}",
    "dtype": f"one of {', '.join(DTYPES)}",
    "value": "a number",
    "exact": "true or false",
    "optional": "true or false",
}


def _value(name: str, value: object) -> Any:
    """A field's value as the rule has it, None if it is none."""
    form = _FORMS[name]
    if form in (_SHAPE, _ROWS) or name == "axes":
        try:
            numbers = checked_shape(value)
        except ValueError:
            return None
        if name == "axes" and sorted(numbers) != list(range(len(numbers))):
            return None
        return None if form == _ROWS and (len(numbers) != 2 or numbers[0] >= numbers[1]) else numbers
    if name == "value":
        return value if isinstance(value, int | float) else None
    if name in ("exact", "optional"):
        return value if isinstance(value, bool) else None
    if not isinstance(value, str) or (form == "a name" and not value):
        return None
    choices = {"transform": get_args(Transform), "settled": get_args(Settled), "dtype": DTYPES}.get(name)
    return value if choices is None or value in choices else None


def _contradictions(rule: TensorRule) -> Iterator[str]:
    """What of one rule does not fit the rest of it."""
    sides: tuple[Side, ...] = ("torch", "paddle")
    for side in sides:
        has_shape = (rule.torch_shape if side == "torch" else rule.paddle_shape) is not None
        if (rule.name(side) is None) == has_shape:
            yield f"{side}_shape goes with {side}: it has one of the two"
        if rule.name(side) is None and (rule.alias(side) or rule.rows(side)):
            yield f"{side}_rows and {side}_alias go with {side}, which it lacks"
        rows = rule.rows(side)
        whole = rule.shape(side) if side == "torch" else turned_shape(rule, rule.shape(side), back=True)
        if rows is not None and (not whole or rows[1] > whole[0]):
            yield f"{side}_rows end at {rows[1]}, beyond the tensor"
    if (rule.transform == "permute") != bool(rule.axes):
        yield 'axes go with transform = "permute"'
    if rule.torch is None or rule.paddle is None:
        yield from _contradictions_of_one_side(rule)
    elif rule.value is not None or rule.dtype or rule.exact or rule.optional:
        yield "value, dtype, exact and optional are for a tensor that one side lacks"
    elif not fits(rule):
        yield f"{rule.transform} does not make {rule.paddle_shape} of {rule.torch_shape}" + (
            " with these rows" if rule.torch_rows or rule.paddle_rows else ""
        )


def _contradictions_of_one_side(rule: TensorRule) -> Iterator[str]:
    if rule.torch is None and rule.paddle is None:
        yield "it names no tensor"
    if rule.transform != "copy" or rule.torch_rows or rule.paddle_rows:
        yield "transform and rows are for a tensor that both sides have"
    if not rule.reason and not (rule.torch_alias or rule.paddle_alias):
        yield "only one side has it: a reason is missing"
    if rule.exact and rule.value is None:
        yield "exact goes with value"
    if rule.optional and (rule.value is not None or rule.torch_alias or rule.paddle_alias):
        yield "optional goes without value and alias"
    if rule.value is not None and not _is_in(rule.value, rule.dtype or "float32"):
        yield f"value {shown(rule.value, 30)} is no {rule.dtype or 'float32'}"


def _is_in(value: float, dtype: str) -> bool:
    """Whether a dtype has the number."""
    if dtype in ("float16", "bfloat16", "float32", "float64"):
        with np.errstate(over="ignore"):
            try:
                wide = float(value)
            except OverflowError:
                return False
            return not math.isfinite(wide) or bool(np.isfinite(np.float64(wide).astype(dtype_of(dtype))))
    if dtype == "bool":
        return value in (0, 1)
    bounds = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and int(bounds.min) <= value <= int(bounds.max)


def rules_text(rules: Rules, about: Sequence[str] = ()) -> str:
    """A rules file, with the lines of `about` as comments before all."""
    lines = [f"# {line}".rstrip() for text in about for line in (text.splitlines() or [""])]
    lines += [f"format = {FORMAT}", "tensors = ["]
    lines += [f"  {{ {', '.join(_fields(rule))} }}," for rule in rules.tensors]
    lines += ["]", "open = ["]
    for each in rules.open:
        lines.append(f"  {{ torch = {_toml(each.torch)}, paddle = {_toml(each.paddle)}, why = {_toml(each.why)} }},")
    return "\n".join([*lines, "]", ""])


def _fields(rule: TensorRule) -> Iterator[str]:
    """A rule's fields that say something, in their order."""
    nothing = TensorRule()
    for field in fields(TensorRule):
        value = getattr(rule, field.name)
        if field.name == "settled" or value != getattr(nothing, field.name):
            yield f"{field.name} = {_toml(value)}"


def _toml(value: object) -> str:
    """A text, number, or list of them in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for surrogates, which no TOML can hold, and DEL, which it wants escaped
        text = value.encode("utf-8", "replace").decode("utf-8")
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)
