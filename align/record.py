"""Records: the taps of one side with the facts of the run, on disk as RUN/<side>/<stage>.safetensors + run.json."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.converters.architecture import Side
from stdc_parity.converters.errors import CheckpointError

TapKind = Literal[
    "input", "output", "module", "buffer",  # forward
    "tensor", "sample", "loss", "target", "gradient",  # weights, data, loss, backward
    "parameter", "momentum", "setting", "rate",  # optimizer, schedule, train
    "count", "score", "prediction", "margin",  # metric
]  # fmt: skip

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip
"""safetensors' name of a dtype -> numpy's."""


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
    _write_safetensors(folder / f"{record.stage}.safetensors", arrays, metadata)
    facts = _read_facts(folder) | {record.stage: dict(record.facts)}
    (folder / "run.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_record(run: Path, side: Side, stage: str) -> Record:
    """Read a record back, its arrays as read-only views of the file.

    Raises CheckpointError if the side did not record the stage, or if the file is no record.
    """
    path = run / side / f"{stage}.safetensors"
    try:
        arrays, metadata = _read_safetensors(path)
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


def _write_safetensors(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write what safetensors.numpy.save_file would. That copies everything twice, half a second for a run."""
    codes = {name: code for code, name in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    names = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # so that every array is aligned
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        code, shape = codes[arrays[name].dtype.name], arrays[name].shape
        header[name] = {"dtype": code, "shape": shape, "data_offsets": (start, end)}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def _read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, which view it, and its metadata."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    first = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:first])
    metadata: dict[str, str] = header.pop("__metadata__")
    arrays: dict[str, Array] = {}
    for name, facts in header.items():
        start = first + facts["data_offsets"][0]
        arrays[name] = np.ndarray(facts["shape"], DTYPES[facts["dtype"]], data, start)
    return arrays, metadata


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
