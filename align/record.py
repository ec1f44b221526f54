"""Records: the taps of one side with the facts of the run, on disk as RUN/<side>/<stage>.safetensors + run.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from stdc_parity.align.framework import Array
from stdc_parity.converters.architecture import Side

TapKind = Literal["output", "module", "input", "buffer"]


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
    taps = json.dumps([asdict(tap) for tap in record.taps])
    # safetensors ignores strides and writes the buffer as it lies
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    save_file(arrays, folder / f"{record.stage}.safetensors", metadata={"taps": taps})
    facts = _read_facts(folder) | {record.stage: dict(record.facts)}
    (folder / "run.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_record(run: Path, side: Side, stage: str) -> Record:
    """Read a record back. Raises FileNotFoundError if the side did not record the stage."""
    path = run / side / f"{stage}.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    taps = tuple(Tap(**tap) for tap in json.loads(header["__metadata__"]["taps"]))
    return Record(side, stage, taps, load_file(path), _read_facts(path.parent).get(stage, {}))


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
