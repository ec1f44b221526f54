"""Plans by rules: what becomes of every key of a checkpoint whose network no layout knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stdc_parity.converters.architecture import Architecture, Side
from stdc_parity.converters.entries import Entry, Rule, is_count, same_bytes
from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.layout import Layout
from stdc_parity.converters.mapped import unpacked_limit
from stdc_parity.converters.plan import MAX_PROBLEMS_SHOWN, Plan
from stdc_parity.converters.rules import Rules, TensorRule, dtype_of, part_shape
from stdc_parity.converters.statedict import Array, StateDict

COUNTER = ".num_batches_tracked"
"""What the name of a batch norm's counter ends in: any value may be dropped, as Paddle's files keep it beside."""


def side_of(rules: Rules, tensors: Mapping[str, Array], default: Side) -> Side:
    """Whose names these are: the side that has rules for more of them, with their shapes; `default` if both do."""
    torch, paddle = _known(rules, "torch", tensors), _known(rules, "paddle", tensors)
    return default if torch == paddle else "torch" if torch > paddle else "paddle"


def _known(rules: Rules, side: Side, tensors: Mapping[str, Array]) -> tuple[int, int]:
    shapes = {rule.name(side): rule.shape(side) for rule in rules.tensors}
    held = rules.names(side) & tensors.keys()
    return len(held), sum(tensors[name].shape == shapes.get(name) for name in held)


def plan_rules(rules: Rules, state: StateDict, side: Side, to: Side) -> Plan:
    """Decide what becomes of every key of `state`, which has `side`'s names, on the side `to` (or on its own).

    Raises UsageError if anything is open, CheckpointError that lists every problem.
    """
    refuse_open(rules)
    task = _Task(rules, state.tensors, side, to)
    entries = list(_same_side(task) if side == to else _across(task))
    known = rules.names(side)
    task.problems.extend(f"{shown(name)}: unexpected, {rules.origin} has no rule for it"
                         for name in state.tensors if name not in known)  # fmt: skip
    if task.problems:
        raise _all_problems(task)
    dropped = state.dropped.items()
    entries += [Entry(name, None, "drop", f"not a tensor: {what}", None, None) for name, what in dropped]
    facts = {"rules_sha256": rules.sha256}
    architecture = Architecture(rules.origin, facts, {}, {}, frozenset(), frozenset())
    return Plan(_names_of(side), _names_of(to), architecture, False, tuple(entries))


def refuse_open(rules: Rules) -> None:
    """Raise UsageError that lists what is open, if anything is."""
    if not rules.open:
        return
    lines = [f"  {_side(each.torch)} <-> {_side(each.paddle)}: {shown(each.why)}" for each in rules.open]
    count = len(lines)
    lines[MAX_PROBLEMS_SHOWN:] = [f"  … and {count - MAX_PROBLEMS_SHOWN} more"] if count > MAX_PROBLEMS_SHOWN else []
    raise UsageError(
        "\n".join([f"{rules.origin} leaves {count} thing{'s' if count != 1 else ''} open:", *lines]),
        'Move each into tensors with settled = "hand" once you know (docs/rules.md). Nothing was written.',
    )


def _side(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:4])) + (", …" if len(names) > 4 else "") if names else "nothing"


def _names_of(side: Side) -> Layout:
    return Layout(f"{side} names", side, "the names of a rules file", ())


@dataclass(frozen=True)
class _Task:
    rules: Rules
    tensors: Mapping[str, Array]
    side: Side
    to: Side
    problems: list[str] = field(default_factory=list)

    def fits(self, rule: TensorRule) -> bool:
        """Whether the source has the rule's tensor, in its shape; else that is a problem."""
        name, shape = rule.name(self.side), rule.shape(self.side)
        if name is None:
            return False
        if name not in self.tensors:
            self.problems.append(f"{shown(name)}: missing, {self.rules.origin} needs {shape}")
            return False
        found = self.tensors[name].shape
        if found != shape:
            turned = " (in the other framework's order?)" if found == shape[::-1] else ""
            self.problems.append(f"{shown(name)}: checkpoint has {found}, {self.rules.origin} needs {shape}{turned}")
        return found == shape

    def same_values(self, rule: TensorRule) -> bool:
        """Whether a second name has the values of the first; else that is a problem."""
        name, alias = rule.name(self.side) or "", rule.alias(self.side)
        if alias not in self.tensors or same_bytes(self.tensors[name], self.tensors[alias]):
            return True
        self.problems.append(f"{shown(name)} is another name of {shown(alias)}, but their values differ")
        return False


def _same_side(task: _Task) -> Iterator[Entry]:
    """Every tensor that has a rule, under its own name."""
    for rule in _first_of_each(task.rules.tensors, task.side):
        if _may_lack(task, rule):
            continue
        if task.fits(rule):
            name, shape = rule.name(task.side), rule.shape(task.side)
            yield Entry(name, name, "copy", "", shape, shape, rule.torch or "")


def _may_lack(task: _Task, rule: TensorRule) -> bool:
    """Whether the source may lack the rule's tensor and does: a norm's counter, a second name, what is optional."""
    name = rule.name(task.side) or ""
    return name not in task.tensors and (name.endswith(COUNTER) or rule.optional or bool(rule.alias(task.side)))


def _first_of_each(rules: Iterable[TensorRule], side: Side) -> Iterator[TensorRule]:
    seen: set[str | None] = set()
    for rule in rules:
        if rule.name(side) is not None and rule.name(side) not in seen:
            seen.add(rule.name(side))
            yield rule


def _across(task: _Task) -> Iterator[Entry]:
    """What becomes of each tensor on the other side, and what of that side's is made up."""
    size = 0
    for rule in task.rules.tensors:
        here, there = rule.name(task.side), rule.name(task.to)
        if here is not None and there is not None:
            yield from _move(task, rule)
        elif here is not None:
            if not _may_lack(task, rule) and task.fits(rule):
                yield _drop(task, rule)
        elif there is not None and not rule.optional:
            yield _create(task, rule)
            size += 0 if rule.alias(task.to) else 8 * int(np.prod(rule.shape(task.to), dtype=object))
    if size > unpacked_limit(sum(tensor.nbytes for tensor in task.tensors.values())):
        task.problems.append(f"the tensors to create have {size:,} bytes, which no weights do")


def _move(task: _Task, rule: TensorRule) -> Iterator[Entry]:
    if not task.fits(rule):
        return
    if rule.alias(task.side) and not task.same_values(rule):
        return
    what: Rule = "pack" if rule.rows(task.to) else "split" if rule.rows(task.side) else rule.transform
    words = [f"its rows {a}-{b}" for a, b in filter(None, [rule.rows(task.side)])]
    words += [f"into the rows {a}-{b}" for a, b in filter(None, [rule.rows(task.to)])]
    words += [{"transpose": "transposed", "permute": f"axes {rule.axes}"}.get(rule.transform, "")]
    reason = "; ".join(filter(None, (", ".join(filter(None, words)) if what != "copy" else "", rule.reason)))
    shapes = rule.shape(task.side), rule.shape(task.to)
    yield Entry(rule.name(task.side), rule.name(task.to), what, reason, *shapes, rule.torch or "")


def _drop(task: _Task, rule: TensorRule) -> Entry:
    name, alias, reason = rule.name(task.side) or "", rule.alias(task.side), rule.reason
    if alias and task.same_values(rule):
        reason = f"alias of {alias}, equal bytes"
    elif name.endswith(COUNTER) and not (task.tensors[name].size == 1 and is_count(task.tensors[name])):
        task.problems.append(f"{shown(name)}: it is no number of batches")
    elif rule.exact and not np.all(task.tensors[name] == np.asarray(rule.value)):
        task.problems.append(f"{shown(name)}: it is not full of {rule.value:g}, so it cannot go: {shown(reason)}")
    return Entry(name, None, "drop", reason, rule.shape(task.side), None, rule.torch or "")


def _create(task: _Task, rule: TensorRule) -> Entry:
    name, alias = rule.name(task.to), rule.alias(task.to)
    if not alias and rule.value is None:
        task.problems.append(
            f"{shown(name)}: the source has no such tensor ({shown(rule.reason)}), and {task.rules.origin} no value"
        )
    reason = f"alias of {alias}" if alias else rule.reason
    return Entry(None, name, "create", reason, None, rule.shape(task.to), rule.torch or "", float(rule.value or 0))


def _all_problems(task: _Task) -> CheckpointError:
    lines = task.problems
    left = len(lines) - MAX_PROBLEMS_SHOWN
    shown_lines = [*lines[: MAX_PROBLEMS_SHOWN - 5], f"… {left} more …", *lines[-5:]] if left > 0 else lines
    return CheckpointError(
        f"{len(lines)} problem{'s' if len(lines) != 1 else ''} with the checkpoint by {task.rules.origin}:\n"
        + "\n".join(f"  {line}" for line in shown_lines),
        "Nothing was written. `stdc-convert inspect` shows what the file holds.",
    )


def apply_rules(
    rules: Rules, tensors: Mapping[str, Array], side: Side, to: Side, batches: Mapping[str, int]
) -> dict[str, Array]:
    """The target's tensors by name, in the rules' order: views of the source's where that can be.

    `tensors` are those of a plan without problems. `batches` gives the values of norms' counters by PyTorch's names.
    Raises CheckpointError if tensors that are one on the side `to` come out with different values.
    """
    if side == to:
        return {name: tensors[name] for rule in _first_of_each(rules.tensors, side)
                if (name := rule.name(side) or "") in tensors}  # fmt: skip
    dtype = _weights_dtype(tensors)
    parts: dict[str, list[TensorRule]] = {}
    for rule in rules.tensors:
        if (there := rule.name(to)) is not None and not rule.optional:
            parts.setdefault(there, []).append(rule)
    made = {name: _made(tensors, side, to, of) for name, of in parts.items() if of[0].name(side) is not None}
    result: dict[str, Array] = {}
    for name, of in parts.items():
        alias = of[0].alias(to)
        if name not in made:
            made[name] = made[alias] if alias in made else _created(of[0], to, dtype, batches)
        elif alias in made and not same_bytes(made[name], made[alias]):
            raise CheckpointError(
                f"{shown(name)} and {shown(alias)} are one tensor on the {to} side, and two different ones here"
            )
        result[name] = made.get(alias, made[name])
    return result


def _made(tensors: Mapping[str, Array], side: Side, to: Side, rules: Sequence[TensorRule]) -> Array:
    """One tensor of the target, of one or several of the source's."""
    if rules[0].rows(to) is None:
        (rule,) = rules
        part = part_of(tensors[rule.name(side) or ""], rule, side)
        return part if to == "torch" else _turned(part, rule)
    ordered = sorted(rules, key=lambda rule: rule.rows(to) or (0, 0))
    whole = np.concatenate([part_of(tensors[rule.name(side) or ""], rule, side) for rule in ordered])
    return whole if to == "torch" else _turned(whole, ordered[0])


def part_of(tensor: Array, rule: TensorRule, side: Side) -> Array:
    """What a rule moves, in PyTorch's layout."""
    rows = rule.rows(side)
    whole = _turned(tensor, rule, back=True) if side == "paddle" else tensor
    return whole if rows is None else whole[rows[0] : rows[1]]


def _turned(tensor: Array, rule: TensorRule, *, back: bool = False) -> Array:
    """Paddle's layout of what PyTorch has (`back`: the other way)."""
    turned: Array = tensor
    if rule.transform == "transpose":
        turned = tensor.T
    elif rule.transform == "permute":
        turned = tensor.transpose(np.argsort(rule.axes) if back else rule.axes)
    elif rule.transform == "reshape":
        turned = tensor.reshape((part_shape(rule, "torch") or ()) if back else rule.shape("paddle"))
    return turned


def _created(rule: TensorRule, to: Side, dtype: np.dtype[np.generic], batches: Mapping[str, int]) -> Array:
    if rule.torch is not None and rule.torch.endswith(COUNTER):
        return np.full(rule.shape(to), batches.get(rule.torch, rule.value or 0), np.int64)
    return np.full(rule.shape(to), rule.value, dtype_of(rule.dtype) if rule.dtype else dtype)


def _weights_dtype(tensors: Mapping[str, Array]) -> np.dtype[np.generic]:
    """The dtype of the first tensor that is of floating-point numbers, float32 if there is none."""
    return next((t.dtype for t in tensors.values() if t.dtype.kind not in "iub"), np.dtype(np.float32))
