"""Records: the taps of one side with the facts of the run, on disk as RUN/<side>/<stage>.safetensors + run.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.spec import Side
from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.mapped import Mapped
from stdc_parity.converters.safetensors_file import read_safetensors, write_safetensors

TapKind = Literal[
    "input", "output", "module", "buffer",  # forward
    "tensor", "sample", "loss", "target", "gradient",  # weights, data, loss, backward
    "parameter", "momentum", "setting", "rate",  # optimizer, schedule, train
    "count", "score", "prediction", "margin",  # metric
]  # fmt: skip


PLAIN = "plain"
"""The type of taps of a user's own loader or metric, which compute in whatever precision they like."""


@dataclass(frozen=True)
class Tap:
    """One named tensor of a record.

    `name` is unique in its record and pairs the two sides. `path` is the dotted path of the module that it
    belongs to ("" is the network itself), `type` that module's class on this side.
    """

    name: str
    kind: TapKind
    path: str
    type: str


@dataclass(frozen=True)
class Record:
    """What one side gave at one stage: taps in execution order, their arrays by name, and the facts."""

    side: Side
    stage: str
    taps: Sequence[Tap]
    arrays: Mapping[str, Array]
    facts: Mapping[str, object] = field(default_factory=dict)


def save_record(record: Record, run: Path) -> None:
    """Write `record` under `run`. The facts of all stages of a side share its run.json."""
    folder = run / record.side
    folder.mkdir(parents=True, exist_ok=True)
    kept: dict[int, str] = {}  # an output is often another module's input: such arrays are written once
    same = {
        name: kept[id(array)]
        for name, array in record.arrays.items()
        if kept.setdefault(id(array), name) != name
    }
    arrays = {name: array for name, array in record.arrays.items() if name not in same}
    metadata = {"taps": json.dumps([asdict(tap) for tap in record.taps]), "same": json.dumps(same)}
    with (folder / f"{record.stage}.safetensors").open("wb") as file:
        write_safetensors(file.write, arrays, metadata)
    facts = _read_facts(folder) | {record.stage: dict(record.facts)}
    written = folder / "run.json.new"  # in one step: the other side may be reading it
    written.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    written.replace(folder / "run.json")


def load_record(run: Path, side: Side, stage: str) -> Record:
    """Read a record back, its arrays as read-only views of the file.

    Raises CheckpointError if the side did not record the stage, or if the file is no record.
    """
    path = run / side / f"{stage}.safetensors"
    try:
        arrays, metadata = _read(path)
        arrays.update({name: arrays[kept] for name, kept in json.loads(metadata["same"]).items()})
        taps = tuple(Tap(**tap) for tap in json.loads(metadata["taps"]))
        facts = _read_facts(path.parent).get(stage, {})
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no record of stdc-align ({type(error).__name__})") from None
    if len(taps) != len({tap.name for tap in taps}) or any(tap.name not in arrays for tap in taps):
        raise CheckpointError(
            f"{path} is no record of stdc-align: its taps and tensors do not belong together"
        )
    return Record(side, stage, taps, arrays, facts)


def stages_of(run: Path, side: Side) -> list[str]:
    """The stages that `side` recorded under `run`, sorted by name."""
    return sorted(path.stem for path in (run / side).glob("*.safetensors"))


def _read(path: Path) -> tuple[dict[str, Array], Mapping[str, str]]:
    """The arrays of a file, which view it, and its metadata."""
    try:
        found, metadata = read_safetensors(Mapped().open(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.note) from None
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}, metadata


def _read_facts(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / "run.json"
    if not path.exists():
        return {}
    facts: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def hash_arrays(arrays: Mapping[str, Array]) -> str:
    """The sha256 of tensors by name: names, dtypes, shapes and C-ordered bytes, in sorted order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
