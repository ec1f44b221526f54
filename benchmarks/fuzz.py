"""Mutated checkpoints of every container through the reader: `python benchmarks/fuzz.py --count 20000`.

Each file is a good one with bytes changed, cut, repeated or swapped with another's. Reading, finding the state dict
and planning it must end in a checkpoint or in one of our errors: no traceback, nothing executed, nothing imported,
no hang, no memory beyond twice the file and a constant. A file that breaks this is kept, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import io
import json
import random
import resource
import signal
import struct
import sys
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from stdc_parity.converters import stdc
from stdc_parity.converters.convert import open_state_dict
from stdc_parity.converters.errors import ParityError
from stdc_parity.converters.report import inspect_lines
from stdc_parity.fixtures import hostile, mxnet_params
from stdc_parity.fixtures.weights import seeded_weights

SECONDS = 5
MEMORY = 128 << 20
"""Bytes of memory that reading one file may add to twice the file's size."""

SHARD = "fuzzed-00001-of-00001.safetensors"
"""The whole file that the indices of shards name."""

NEVER = {"torch", "paddle", "subprocess", "pickle", "runpy"}
"""Modules that no file may make us import."""

INTERESTING = [bytes(8), b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 3 + b"\x7f", b"\x80", b"PK\1\2", b"PK\3\4",
               b"PK\5\6", b"cos\nsystem\n", b"R", b"b", b"(", b"t", b"Q", b"h\0", b"2", b"0", b"."]  # fmt: skip


class TookTooLong(Exception):
    """A file was read for more than SECONDS."""


def good_seeds() -> dict[str, bytes]:
    """Good files of every container, small enough to mutate everywhere."""
    state = hostile.small_state()
    net = seeded_weights(stdc.architecture("stdcnet813", base=8, imagenet_head=False))
    of_a_net = {f"{name} of a network": data for name, data in hostile.good(net).items()}
    small = {
        "small zip": hostile.torch_zip(hostile.mapping({"w": hostile.tensor()})),
        "small legacy": hostile.torch_legacy(hostile.mapping({"w": hostile.tensor(view=b"N")})),
        "small pickle": hostile.pickled(hostile.mapping({"w": hostile.array()})),
    }
    index = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, SHARD)}).encode()
    params = {f"mxnet {i}": mxnet_params.params(state, i) for i in range(4)}
    rows = mxnet_params.row_sparse(np.ones((1, 2)), np.zeros(1, int), (3, 2))
    params["mxnet sparse"] = mxnet_params.params({"w": rows})
    more = {"torch tar": old_tar(), "shards": index, **params}
    return hostile.good(state) | of_a_net | small | hostile.other_containers(state) | more


def bad_seeds() -> dict[str, bytes]:
    """Files with attacks in them, which mutations might let through."""
    found = {}
    for name, value in hostile.attacks("CANARY").items():
        found[f"zip: {name}"] = hostile.torch_zip(hostile.mapping({"w": hostile.tensor(), "x": value}))
        found[f"pickle: {name}"] = hostile.pickled(hostile.mapping({"w": hostile.array(), "x": value}))
    return found


def old_tar() -> bytes:
    """The tar of torch 0.1, by hand."""
    pickle = lambda value: b"\x80\2" + value + b"."  # noqa: E731
    kind = b"ctorch\nFloatStorage\n"
    storages = pickle(b"K\1") + pickle(b"(K\x0a" + hostile.text("cpu") + kind + b"t")
    tensors = pickle(b"K\1") + pickle(b"(K\x14K\x0actorch\nFloatTensor\nt")
    members = {
        "storages": storages + struct.pack("<q", 4) + bytes(16) + pickle(b"]"),
        "tensors": tensors + struct.pack("<i4x2q2qq", 2, 2, 2, 2, 1, 0),
        "pickle": pickle(b"}" + hostile.text("w") + b"K\x14Qs"),
    }
    return hostile.tar_of(members)


def mutated(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """``content`` with a few mutations: half the time inside what a zip or gzip protects by a checksum."""
    if content.startswith(b"\x1f\x8b") and draw.randrange(2):
        return hostile.gzipped(mutated(gzip.decompress(content), others, draw))
    if content.startswith(b"PK") and draw.randrange(2):
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            entries = [(name, file.read(name)) for name in file.namelist()]
            method = file.infolist()[0].compress_type
        place = draw.choice([i for i, (_name, data) in enumerate(entries) if data])
        entries[place] = (entries[place][0], mutated(entries[place][1], others, draw))
        return hostile.zip_of(entries, method)
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at, length = draw.randrange(len(data) + 1), draw.choice((1, 2, 4, 8, 64))
        kind = draw.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + length] = draw.randbytes(length)
        elif kind == 2:
            data[at : at + length] = draw.choice(INTERESTING)
        elif kind == 3:
            data[at:at] = draw.choice(INTERESTING)
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length] * draw.choice((1, 2, 50))
        elif kind == 6:
            other = draw.choice(others)
            start = draw.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        elif kind == 7 and draw.randrange(4) == 0:
            del data[at:]
    return bytes(data)


def read(path: Path) -> str:
    """What became of a file: the name of our error, or "read". Anything else that is raised is a finding."""
    try:
        _contents, state, _side = open_state_dict(path)
        for tensor in state.tensors.values():
            tensor.tobytes()  # every byte of the file is there
        for line in inspect_lines(path, None, list_keys=True):
            assert line.isprintable(), line
    except ParityError as error:
        assert all(line.isprintable() for line in str(error).splitlines()), error
        return type(error).__name__
    return "read"


def fuzz(count: int, seed: int, folder: Path, say: Any = print) -> Counter[str]:
    """Read ``count`` mutated files; returns what became of them. A finding is printed and its file kept."""
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("error")
    good, bad = good_seeds(), bad_seeds()
    found = good | bad
    names, others = [*list(good) * 5, *bad], list(found.values())
    outcomes: Counter[str] = Counter()
    modules = set(sys.modules)
    path, canary = folder / "fuzzed.bin", Path("CANARY")
    (folder / SHARD).write_bytes(good["safetensors"])
    for number in range(count):
        draw = random.Random(seed * 1_000_003 + number)
        name = names[number % len(names)]
        content = mutated(found[name], others, draw)
        path.write_bytes(content)
        outcome = _judged(path, len(content))
        new = {module.partition(".")[0] for module in sys.modules.keys() - modules} & NEVER
        if outcome.startswith("FINDING") or canary.exists() or new:
            kept = Path(f"fuzz-finding-{seed}-{number}.bin")
            kept.write_bytes(content)
            say(f"{kept} ({name}): {outcome}{' EXECUTED' if canary.exists() else ''} {' '.join(new)}")
            outcome = "FINDING"
        outcomes[outcome] += 1
    return outcomes


def _judged(path: Path, size: int) -> str:
    before, start = _peak(), time.perf_counter()
    signal.alarm(SECONDS)
    try:
        outcome = read(path)
    except Exception as error:
        return f"FINDING {type(error).__name__}: {error!r:.200}"
    finally:
        signal.alarm(0)
    grown = _peak() - before
    if grown > 2 * size + MEMORY:
        return f"FINDING: {grown / 1e6:.0f} MB of memory for {size:,} bytes"
    return outcome if time.perf_counter() - start < SECONDS else "FINDING: too long"


def _peak() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _too_long(_number: int, _frame: object) -> None:
    raise TookTooLong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        outcomes = fuzz(options.count, options.seed, Path(folder))
    seconds = time.perf_counter() - start
    parts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    kinds = len(good_seeds() | bad_seeds())
    print(
        f"{options.count:,} files of {kinds} seeds in {seconds:.0f} s: {parts}; peak {_peak() / 1e6:.0f} MB"
    )
    sys.exit(1 if outcomes["FINDING"] else 0)


if __name__ == "__main__":
    main()
