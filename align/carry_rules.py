"""Weights by rules, for pairs of one's own whose tensors' names differ: from a file, or derived from both tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stdc_parity.align.derivation.mapping import derive_rules
from stdc_parity.align.derivation.table import Table
from stdc_parity.align.framework import Array
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.rules import Rules, TensorRule
from stdc_parity.converters.rules_file import load_rules
from stdc_parity.converters.rules_plan import apply_rules, part_of


def choose_rules(file: str, tables: Mapping[Side, Any]) -> Rules | None:
    """The rules of a file, or what the tables (as JSON) of both sides tell; None without a file or both tables.

    Nothing is guessed: what only a run could settle is left out, and `stdc-convert derive` settles it.
    """
    if file:
        return load_rules(Path(file))
    if any(not tables.get(side) for side in ("torch", "paddle")):
        return None
    return derive_rules(Table.from_json(tables["torch"]), Table.from_json(tables["paddle"]))


def moved(rules: Rules, tensors: Mapping[str, Array], side: Side, to: Side) -> dict[str, Array]:
    """What `tensors`, by `side`'s names, are on the side `to`: those that have a rule and its shape."""
    known = [
        rule
        for rule in rules.tensors
        if rule.torch and rule.paddle and (name := rule.name(side)) in tensors
        and tensors[name or ""].shape == rule.shape(side)
    ]  # fmt: skip
    return apply_rules(replace(rules, tensors=tuple(known), open=()), tensors, side, to, {})


def tensor_names(rules: Rules) -> dict[str, tuple[str, bool]]:
    """Torch's name of each of Paddle's tensors that is one of torch's, and whether it lies transposed."""
    return {
        rule.paddle: (rule.torch, rule.transform == "transpose")
        for rule in rules.tensors
        if rule.torch and rule.paddle and not is_special(rule)
    }


def is_special(rule: TensorRule) -> bool:
    """Whether a tensor is no whole one on the other side, or lies in another way than transposed."""
    return bool(rule.torch_rows or rule.paddle_rows) or rule.transform in ("permute", "reshape")


def special_rules(rules: Rules) -> list[dict[str, Any]]:
    """The special rules as JSON objects."""
    return [asdict(rule) for rule in rules.tensors if rule.torch and rule.paddle and is_special(rule)]


def read_special(data: Sequence[Mapping[str, Any]]) -> list[TensorRule]:
    """What `special_rules` wrote."""
    made: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in each.items()} for each in data
    ]
    return [TensorRule(**each) for each in made]


def parts(rules: Sequence[TensorRule], arrays: Mapping[str, Array], side: Side) -> dict[str, Array]:
    """The parts that special rules are about, as PyTorch has them, by the name of the tensor that is split."""
    found = {}
    for rule in rules:
        name = rule.name(side)
        if name in arrays:
            rows = rule.torch_rows or rule.paddle_rows
            label = f"{rule.torch}{f' rows {rows[0]}-{rows[1]}' if rows else ''} ({rule.paddle})"
            found[label] = part_of(arrays[name or ""], rule, side)
    return found


def module_names(rules: Rules) -> dict[str, str]:
    """Torch's path of each of Paddle's modules that is called otherwise, by whose tensors go with whose.

    Where all tensors below a module go to one place, it is that module's name; those inside follow.
    """
    targets: dict[str, set[str]] = {}
    for rule in rules.tensors:
        if rule.torch and rule.paddle and not is_special(rule):
            theirs, ours = rule.paddle.split(".")[:-1], rule.torch.split(".")[:-1]
            while theirs and ours:
                targets.setdefault(".".join(theirs), set()).add(".".join(ours))
                if theirs[-1] != ours[-1]:
                    break
                theirs, ours = theirs[:-1], ours[:-1]
    return {theirs: next(iter(ours)) for theirs, ours in targets.items() if len(ours) == 1 and {theirs} != ours}
