"""Getting the same weights into both networks of a pair of one's own, and telling each module which is its twin.

Both sides say what they are made of; here, without a framework, their tensors are paired by name (those of modules
that the pair's `names` call otherwise included), and each side gets a record of what to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from stdc_parity.align.carry_rules import choose_rules, module_names, moved, special_rules, tensor_names
from stdc_parity.align.framework import Array
from stdc_parity.align.own_floors import floors_of
from stdc_parity.align.pair import Floor, Pair
from stdc_parity.align.record import Record, hash_arrays, load_record, save_record, stages_of
from stdc_parity.align.renamed import rename
from stdc_parity.align.result import Failure
from stdc_parity.align.sides import Worker
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.convert import open_state_dict
from stdc_parity.converters.errors import UsageError, shown
from stdc_parity.converters.rules import Rules

INITIAL, GIVEN = "initial", "given"
"""The records of a network's own initialisation, and of what a side is to load, with its table as facts."""

MOST = 8
"""Names that a message lists."""

DEPTH = 2
"""How deep the modules are, below the network, whose outputs are its stages."""


@dataclass(frozen=True)
class Table:
    """What one side's network is made of: its modules' types by path, and of each tensor by its own name the PyTorch
    name, the kind and the shape. `derived` is what rules are derived from."""

    side: Side
    modules: Mapping[str, str]
    tensors: Mapping[str, tuple[str, str, tuple[int, ...]]]
    derived: Mapping[str, Any]

    @staticmethod
    def from_json(side: Side, data: Mapping[str, Any]) -> Table:
        """The table that a worker wrote."""
        tensors = {own: (name, kind, tuple(shape)) for own, (name, kind, shape) in data["tensors"].items()}
        return Table(side, dict(data["modules"]), tensors, data.get("derived") or {})


@dataclass(frozen=True)
class Carried:
    """What each side is to load, by its own names; the hash of the weights, and the twins' names on Paddle's side:
    of modules that are called otherwise, and of tensors (the PyTorch name, and whether it lies transposed). `special`
    are rules of tensors that are several on the other side, or lie otherwise."""

    given: Mapping[Side, Mapping[str, Array]]
    sha256: str
    modules: Mapping[str, str]
    tensors: Mapping[str, tuple[str, bool]]
    special: Sequence[Mapping[str, Any]] = ()


def prepare(processes: Mapping[Side, Worker], spec: RunSpec, pair: Pair, folder: Path) -> Pair:
    """Have the sides build their networks, give them the same weights, and return the pair with its stages.

    With one side's process alone, the other side's table and weights must be among the records in `folder`.
    Raises UsageError if a side's code fails, if no tensor of one side goes with one of the other, and for weights
    that do not fit.
    """
    tables = _tables(processes, spec, folder)
    carried = _carry(spec, pair, tables, _weights(processes, spec, tables, folder))
    stages, floors = _stages(tables, pair, carried.modules), pair.floors or _floors(processes, spec)
    for side, process in processes.items():
        save_record(Record(side, GIVEN, (), carried.given[side], _facts(tables[side], floors)), folder)
        renamed = side == "paddle"
        process.ask({
            "do": "own-setup", "spec": spec.to_json(), "given": str(folder),
            "sha256": carried.sha256, "stages": stages, "special": list(carried.special),
            "modules": carried.modules if renamed else {}, "tensors": carried.tensors if renamed else {},
        })  # fmt: skip
    for side, process in processes.items():
        _check(side, process.answer())
    names = {torch: paddle for paddle, torch in carried.modules.items()}
    return replace(pair, stages=tuple(stages), floors=floors, names=names)


def _floors(processes: Mapping[Side, Worker], spec: RunSpec) -> list[Floor]:
    """The frameworks' own differences that the network meets, by what torch's side calls."""
    if "torch" not in processes:
        return []
    processes["torch"].ask({"do": "own-calls", "spec": spec.to_json()})
    answer = processes["torch"].answer()
    return [] if isinstance(answer, Failure) else floors_of([(name, path) for name, path in answer["calls"]])


def _facts(table: Table, floors: Sequence[Floor]) -> dict[str, object]:
    tensors = {own: list(of) for own, of in table.tensors.items()}
    made = {"modules": dict(table.modules), "tensors": tensors, "derived": dict(table.derived)}
    return {**made, "floors": [astuple(floor) for floor in floors]}


def recorded_floors(folder: Path) -> list[Floor]:
    """The floors of a pair of one's own whose torch side was recorded in `folder`."""
    if GIVEN not in stages_of(folder, "torch"):
        return []
    facts: Any = load_record(folder, "torch", GIVEN).facts
    return [Floor(*each) for each in facts.get("floors", ())]


def _tables(processes: Mapping[Side, Worker], spec: RunSpec, folder: Path) -> dict[Side, Table]:
    """Both sides' tables, one of them from its record if only the other side is here."""
    for process in processes.values():
        process.ask({"do": "own-table", "spec": spec.to_json()})
    answers, mistakes = {}, []
    for side, process in processes.items():  # all of them, so that no answer is left over
        try:
            answers[side] = _check(side, process.answer())
        except UsageError as error:
            mistakes.append(error)
    if mistakes:
        raise UsageError("\n".join(error.message for error in mistakes), mistakes[0].note)
    tables = {side: Table.from_json(side, answer["table"]) for side, answer in answers.items()}
    for side in _sides():
        if side not in tables and GIVEN in stages_of(folder, side):
            tables[side] = Table.from_json(side, load_record(folder, side, GIVEN).facts)
    return tables


def _sides() -> tuple[Side, Side]:
    return "torch", "paddle"


def _check(side: Side, answer: dict[str, Any] | Failure) -> dict[str, Any]:
    """The answer. Raises UsageError for a process that ended while it built its network."""
    if isinstance(answer, Failure):
        raise UsageError(f"the {side} side could not be built: {answer.message}", answer.note or None)
    return answer


def _weights(
    processes: Mapping[Side, Worker], spec: RunSpec, tables: Mapping[Side, Table], folder: Path
) -> tuple[Side, Mapping[str, Array]]:
    """Tensors by the names of one side: those of a checkpoint, or torch's own initialisation."""
    if spec.weights is not None:
        _, state, side = open_state_dict(spec.weights, spec.key)
        known = {each: len(state.tensors.keys() & table.tensors.keys()) for each, table in tables.items()}
        if len(set(known.values())) > 1:
            side = max(known, key=lambda each: known[each])
        return side, state.tensors
    if "torch" in processes:
        processes["torch"].ask({"do": "own-initial", "spec": spec.to_json(), "run": str(folder)})
        _check("torch", processes["torch"].answer())
    elif "torch" not in tables:
        raise UsageError(
            "the torch side's weights are not here, so that Paddle's cannot start from the same",
            "Say --weights FILE, or record the torch side first and bring its record along.",
        )
    return "torch", load_record(folder, "torch", INITIAL).arrays


def _carry(
    spec: RunSpec, pair: Pair, tables: Mapping[Side, Table], weights: tuple[Side, Mapping[str, Array]]
) -> Carried:
    """What each side is to load, tensors paired by name."""
    side, tensors = weights
    if len(tables) == 1:  # one side alone, with a file of weights
        (here, table) = next(iter(tables.items()))
        return Carried({here: _of_file(spec, here, table, side, tensors, pair)}, hash_arrays(tensors), {}, {})
    back = {paddle: torch for torch, paddle in pair.names.items()}
    other: Side = "paddle" if side == "torch" else "torch"
    _check_file(spec, tables[side], tensors)
    mine = {own: tensors[own] for own in tables[side].tensors if own in tensors}
    theirs = _by_name(tables, mine, side, back)
    if not pair.rules and len(theirs) == len(_named(tables[other])) == len(_named(tables[side])):
        return Carried(_both(side, mine, theirs), hash_arrays(tensors), back, {})
    rules = choose_rules(pair.rules, {each: table.derived for each, table in tables.items()})
    found = moved(rules, mine, side, other) if rules is not None else {}
    shapes = {own: shape for own, (_, _, shape) in tables[other].tensors.items()}
    theirs |= {own: array for own, array in found.items() if own not in theirs and shapes.get(own) == array.shape}
    if pair.rules:
        theirs |= {own: array for own, array in found.items() if shapes.get(own) == array.shape}
    if tables["torch"].tensors and tables["paddle"].tensors and not theirs:
        raise UsageError(
            _nothing_fits(tables),
            "Pair.names says which module is which; stdc-convert derive makes a rules file for --rules.",
        )
    known = rules if rules is not None else Rules(())
    modules = module_names(known) | back
    return Carried(
        _both(side, mine, theirs), hash_arrays(tensors), modules, tensor_names(known), special_rules(known)
    )


def _both(side: Side, mine: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[Side, Mapping[str, Array]]:
    return {"torch": mine, "paddle": theirs} if side == "torch" else {"torch": theirs, "paddle": mine}


def _named(table: Table) -> list[str]:
    """The tensors of a side but for batch counters, which Paddle has none of."""
    return [own for own, (_, kind, _) in table.tensors.items() if kind != "norm.batches"]


def _by_name(
    tables: Mapping[Side, Table], mine: Mapping[str, Array], side: Side, back: Mapping[str, str]
) -> dict[str, Array]:
    """What the other side's tensors are that have a name and a shape of `side`'s."""

    def named(which: Side, name: str) -> str:
        return _renamed(name, back) if which == "paddle" else name

    official = {
        named(side, tables[side].tensors[own][0]): _turned(array, side, tables[side].tensors[own][1])
        for own, array in mine.items()
    }
    other: Side = "paddle" if side == "torch" else "torch"
    found = {}
    for own in _named(tables[other]):
        name, kind, shape = tables[other].tensors[own]
        array = official.get(named(other, name))
        if array is not None and _turned(array, other, kind).shape == shape:
            found[own] = _turned(array, other, kind)
    return found


def _of_file(
    spec: RunSpec, here: Side, table: Table, side: Side, tensors: Mapping[str, Array], pair: Pair
) -> dict[str, Array]:
    back = {paddle: torch for torch, paddle in pair.names.items()}
    if side == here:
        _check_file(spec, table, tensors)
        return {own: tensors[own] for own in table.tensors if own in tensors}
    found = {}
    for own, (name, kind, shape) in table.tensors.items():
        theirs = _renamed(name, back) if here == "paddle" else name
        array = tensors.get(theirs)
        if array is not None and _turned(array, here, kind).shape == shape:
            found[own] = _turned(array, here, kind)
    return found


def _turned(array: Array, side: Side, kind: str) -> Array:
    """An official array as `side` has it, and the other way round."""
    return array.T if side == "paddle" and kind == "linear" else array


def _renamed(name: str, back: Mapping[str, str]) -> str:
    path, dot, last = name.rpartition(".")
    return f"{rename(path, back)}{dot}{last}"


def _check_file(spec: RunSpec, table: Table, tensors: Mapping[str, Array]) -> None:
    """Raise UsageError for a checkpoint that is not the network's; batch counters may be missing."""
    if spec.weights is None:
        return
    wrong = [
        f"{shown(own)}: the network needs {shape}, the file has {tensors[own].shape if own in tensors else 'none'}"
        for own, (_, kind, shape) in table.tensors.items()
        if kind != "norm.batches" and (own not in tensors or tensors[own].shape != shape)
    ]
    wrong += [f"{shown(own)}: the network has none" for own in tensors if own not in table.tensors]
    if wrong:
        more = f"\n  … and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
        lines = "\n".join(f"  {line}" for line in wrong[:MOST])
        raise UsageError(f"--weights {spec.weights} does not fit the {table.side} network:\n{lines}{more}")


def _nothing_fits(tables: Mapping[Side, Table]) -> str:
    names = (f"{side} has {', '.join(map(shown, list(t.tensors)[:4]))}, …" for side, t in tables.items())
    return f"not one tensor has the same name on both sides: {'; '.join(names)}"


def _stages(tables: Mapping[Side, Table], pair: Pair, back: Mapping[str, str]) -> list[str]:
    """The paths, by torch's names, of the upper modules that both sides have: where the network is tapped."""
    if pair.stages:
        return list(pair.stages)
    paths = [[rename(path, back if side == "paddle" else {}) for path in t.modules] for side, t in tables.items()]
    return [path for path in paths[0] if path and path.count(".") < DEPTH and all(path in each for each in paths)]

