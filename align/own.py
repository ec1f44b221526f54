"""Pairs of one's own: what the command line or a pair file says of two implementations, as a `Pair`.

No framework is imported here: the implementations are named as text, and found in their sides' processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from stdc_parity.align import places
from stdc_parity.align.framework import Array
from stdc_parity.align.inputs import Input, nest, places_of, read_input
from stdc_parity.align.pair import Case, LossPart, Pair, Place, Recipe, Text
from stdc_parity.align.spec import Own, RunSpec
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.errors import UsageError

SIDES: tuple[Side, Side] = ("torch", "paddle")
SUFFIX = ".py"


def choose_own(pair: str | None, options: Mapping[str, Any]) -> Own | None:
    """What the options of a command say of a pair of one's own; None if it is one of ours.

    Raises UsageError for options that do not belong together.
    """
    given = {name: value for name, value in options.items() if value}
    if pair is not None and pair.endswith(SUFFIX):
        beside = ("torch_path", "paddle_path", "rules")
        wrong = [f"--{name.replace('_', '-')}" for name in given if name not in beside]
        if wrong:
            raise UsageError(f"--pair {pair} is a file that says all of it: leave out {', '.join(wrong)}")
        if not Path(pair).is_file():
            raise UsageError(f"--pair {pair}: there is no such file")
        real: dict[str, Any] = {name: _real(str(value)) for name, value in given.items()}
        return Own(file=os.path.realpath(pair), **real)
    if not given:
        return None
    if pair is not None:
        raise UsageError(f"--pair {pair} is a pair of ours", "Leave it out for --torch BUILD --paddle BUILD.")
    for needed in ("torch", "paddle", "inputs"):
        if needed not in given:
            option = "--input" if needed == "inputs" else f"--{needed}"
            raise UsageError(
                f"{option} is missing", "stdc-align forward --torch BUILD --paddle BUILD --input 1x3x224x224"
            )
    losses = (options["loss_torch"] or "", options["loss_paddle"] or "")
    if bool(losses[0]) != bool(losses[1]):
        raise UsageError("--loss-torch and --loss-paddle belong together")
    if options["target"] and not losses[0]:
        raise UsageError("--target is what a loss is given: say --loss-torch and --loss-paddle too")
    arguments = tuple(options[name] or "" for name in ("args", "torch_args", "paddle_args"))
    return Own(
        torch=_build(options["torch"]),
        paddle=_build(options["paddle"]),
        inputs=tuple(options["inputs"]),
        torch_path=_real(options["torch_path"] or ""),
        paddle_path=_real(options["paddle_path"] or ""),
        arguments=(arguments[0], arguments[1], arguments[2]),
        losses=(_build(losses[0]), _build(losses[1])),
        target=tuple(options["target"]),
        rules=_real(options["rules"] or ""),
    )


def _real(path: str) -> str:
    return os.path.realpath(path) if path else ""


def _build(build: str) -> str:
    """A BUILD with the whole path of its file, if it is one."""
    file, colon, name = build.rpartition(":")
    where, name = (file, name) if colon else (build, "")
    return f"{_real(where) if where.endswith(SUFFIX) else where}{colon}{name}"


def name_of(own: Own) -> str:
    """What a run's pair is called for people."""
    return Path(own.file).stem if own.file else f"{_short(own.torch)} | {_short(own.paddle)}"


def _short(build: str) -> str:
    file, colon, name = build.rpartition(":")
    return f"{Path(file).name}{colon}{name}" if file.endswith(SUFFIX) else build


@cache
def own_pair(own: Own) -> Pair:
    """The pair that is meant, its inputs and target drawn from what their lines say.

    Raises UsageError for what cannot be read, with the place in a pair file that fails.
    """
    return _drawn(_from_file(own) if own.file else _from_options(own))


def _from_options(own: Own) -> Pair:
    losses = dict(zip(SIDES, own.losses, strict=True))
    recipe = Recipe(loss=LossPart(losses), target=own.target) if all(own.losses) else None
    return Pair(
        name=name_of(own),
        builders={"torch": own.torch, "paddle": own.paddle},
        inputs=own.inputs,
        recipe=recipe,
        paths=_paths(own),
        rules=own.rules,
    )


def _paths(own: Own) -> dict[Side, str]:
    given: dict[Side, str] = {"torch": own.torch_path, "paddle": own.paddle_path}
    return {side: path for side, path in given.items() if path}


def _from_file(own: Own) -> Pair:
    """The one Pair that a file has, its paths relative to the file. The options' own go before."""
    folder = Path(own.file).parent
    module = places.find_module(own.file, "--pair")
    found = [value for value in vars(module).values() if isinstance(value, Pair)]
    if len(found) != 1:
        raise UsageError(
            f"--pair {own.file} has {len(found)} pairs, it must have one",
            "PAIR = Pair(name=…, builders={…}, inputs=…), from stdc_parity.align.pair (docs/bring-your-own.md).",
        )
    pair = found[0]
    if set(pair.builders) != set(SIDES):
        raise UsageError(f"--pair {own.file}: builders has {sorted(pair.builders)}, it must have torch and paddle")
    paths = {side: str((folder / path).resolve()) for side, path in pair.paths.items()} | _paths(own)
    rules = own.rules or (str((folder / pair.rules).resolve()) if pair.rules else "")
    recipe = pair.recipe
    if recipe is not None:
        parts = [(name, getattr(recipe, name)) for name in ("loss", "optimizer", "metric", "data")]
        moved = {name: replace(part, place=_from(folder, part.place)) for name, part in parts if part is not None}
        recipe = replace(recipe, **moved)
    return replace(pair, builders=_from(folder, pair.builders), paths=paths, rules=rules, recipe=recipe)


def _from(folder: Path, place: Place) -> Place:
    """A place whose files are relative to `folder`."""
    found: dict[Side, str] = {}
    for side, build in place.items():
        file, colon, name = build.rpartition(":")
        where, name = (file, name) if colon else (build, "")
        found[side] = f"{(folder / where).resolve()}{colon}{name}" if where.endswith(SUFFIX) else build
    return found


def _drawn(pair: Pair) -> Pair:
    """The pair with functions in the place of lines."""
    drawn = replace(pair, own=True)
    if pair.inputs is not None and not callable(pair.inputs):
        inputs = [read_input(line) for line in _lines(pair.inputs)]
        drawn = replace(drawn, inputs=_inputs(inputs), places=places_of(inputs))
    recipe = pair.recipe
    if recipe is not None and recipe.case is None and pair.inputs is not None:
        drawn = replace(drawn, recipe=replace(recipe, case=_case(drawn, recipe.target)))
    return drawn


def _lines(text: Text) -> Sequence[str]:
    return (text,) if isinstance(text, str) else text


def _inputs(inputs: Sequence[Input], first: int = 0) -> Callable[[RunSpec], tuple[Array, ...]]:
    return lambda spec: tuple(each.draw(spec.seed + 7919 * first, number) for number, each in enumerate(inputs))


def _case(pair: Pair, target: Text) -> Case:
    """Batches of the pair's inputs, with a target of its own: each from another seed."""
    wanted = [read_input(line, "--target") for line in _lines(target)]

    def draw(spec: RunSpec, first: int) -> tuple[tuple[Array, ...], Any]:
        seeded = replace(spec, seed=spec.seed + 7919 * first)
        assert callable(pair.inputs)
        arrays = [each.draw(seeded.seed, 100 + number) for number, each in enumerate(wanted)]
        return pair.inputs(seeded), _structure(wanted, arrays)

    return draw


def _structure(wanted: Sequence[Input], arrays: Sequence[Array]) -> Any:
    """One target as it is, several as a tuple, named ones as a dict."""
    if not wanted:
        return None
    if len(wanted) == 1 and not wanted[0].place:
        return arrays[0]
    if all(each.place for each in wanted):
        suffixes = ["".join(f"[{key}]" for key in each.place.split(".")) for each in wanted]
        return nest(dict(zip(suffixes, arrays, strict=True)))
    return tuple(arrays)


def own_place(build: str, pair: Pair, side: Side) -> tuple[str, str]:
    """The folder that a side's builder is imported from, and its `package.module:name`."""
    where, colon, name = build.rpartition(":")
    where, name = (where, name) if colon else (build, "build")
    if where.endswith(SUFFIX):
        root, where = places.package_of(Path(where))
        return str(root), f"{where}:{name}"
    return pair.paths.get(side, str(Path.cwd())), f"{where}:{name}"


def arguments_of(own: Own | None, pair: Pair, side: Side) -> dict[str, Any]:
    """What a side's builder is called with. Raises UsageError for options that are no JSON objects."""
    arguments = dict(pair.arguments)
    if own is not None:
        options = ("--args", "--torch-args", "--paddle-args")
        for option, text in zip(options, own.arguments, strict=True):
            if text and option in ("--args", f"--{side}-args"):
                arguments |= _json(option, text)
    return arguments


def _json(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: it is no JSON ({error})", """Such as '{"num_classes": 10}'.""") from None
    if not isinstance(value, dict):
        raise UsageError(f"{option} {text}: it is no JSON object", """Such as '{"num_classes": 10}'.""")
    return value
