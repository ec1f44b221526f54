"""Checkpoints of any size: speed against cp and sha256sum, peak memory against the largest tensor, and growth.

    python benchmarks/any_size.py [--gigabytes 1] [--folder /tmp] [--keys 100000]

Makes an stdcnet813 so wide that its checkpoint has the wanted size (8 GB: base 1056, an fc.weight of 1.1 GB, which
is transposed), as torch writes it, and a tenth and a hundredth of it. Then takes turns, as whole processes on one
disk, between cp followed by sha256sum and conversions: to Paddle, with a certificate, back to PyTorch, to shards
of safetensors. Last come checkpoints of many keys with 25 values each, written and read by every container.
The disk needs four times the size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Command, Run, print_target, print_versions, run, script

COPY, ROUND = "cp; sha256sum", "to bfloat16"
MEGABYTE = 1e6


def make(path: Path, gigabytes: float) -> None:
    """Write the checkpoint: every tensor is another part of one array of noise."""
    import numpy as np

    from stdc_parity.converters import stdc
    from stdc_parity.converters.containers import write_torch

    base = max(16, round(1024 * (gigabytes / 7.55) ** 0.5 / 16) * 16)
    specs = stdc.architecture("stdcnet813", base=base).tensors
    sizes = {name: int(np.prod(spec.shape)) for name, spec in specs.items()}
    noise = np.random.default_rng(0).standard_normal(max(sizes.values()) + len(sizes), np.float32)
    tensors = {
        name: np.array(3, np.int64) if spec.kind == "norm.batches" else noise[i : i + sizes[name]].reshape(spec.shape)
        for i, (name, spec) in enumerate(specs.items())
    }
    write_torch(path, tensors, force=True)
    print(json.dumps({"largest": max(sizes.values()) * 4, "base": base}))


def pass_keys(count: int, folder: Path) -> None:
    """Write and read a checkpoint of ``count`` keys in every container; print the seconds of each."""
    import numpy as np

    from stdc_parity.converters import containers
    from stdc_parity.converters.statedict import find_state_dict

    tensors = {f"stage.{i // 100}.block.{i % 100}.weight": np.full(25, i, np.float32) for i in range(count)}
    writers = (containers.write_torch, containers.write_paddle, containers.write_safetensors, containers.write_npz)
    seconds = {}
    for write in writers:
        path = folder / f"{write.__name__}.{count}"
        start = time.perf_counter()
        write(path, tensors)
        state = find_state_dict(containers.read_container(path).root)
        seconds[write.__name__.removeprefix("write_")] = time.perf_counter() - start
        assert list(state.tensors) == list(tensors)
        path.unlink()
    print(json.dumps(seconds))


def child(*arguments: object) -> dict:
    """What this script prints when it is called with ``arguments``."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def conversions(folder: Path, source: Path) -> dict[str, Command]:
    tool, target, back = script("stdc-convert"), folder / "x.pdparams", folder / "back.pth"
    account, shards = folder / "x.json", folder / "x.safetensors"
    forth = [tool, "torch2paddle", str(source)]
    return {
        COPY: Command(["sh", "-c", 'cp "$1" "$2" && sha256sum "$2"', "sh", str(source), str(target)], [target]),
        "to .pdparams": Command([*forth, str(target)], [target]),
        "with certificate": Command([*forth, str(target), "--certificate", str(account)], [target, account]),
        "back to .pth": Command([tool, "paddle2torch", str(target), str(back)], [back]),
        "to shards": Command([*forth, str(shards), "--shard-size", "2GB", "--force"]),
        ROUND: Command([*forth, str(target), "--dtype", "bfloat16"], [target]),
    }


def measure(folder: Path, gigabytes: float) -> tuple[int, int, dict[str, Run]]:
    """The size of a checkpoint, that of its largest tensor, and a run of each command."""
    source = folder / "net.pth"
    largest = child("--make", source, "--gigabytes", gigabytes)["largest"]
    runs = {name: run(command) for name, command in conversions(folder, source).items()}
    size = source.stat().st_size
    for path in folder.iterdir():
        path.unlink()
    return size, largest, runs


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the largest checkpoint (1)")
    parser.add_argument("--keys", type=int, default=100_000, help="keys of the largest one of many (100,000)")
    parser.add_argument("--folder", type=Path, help="where to work; the folder for temporary files by default")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pass-keys", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make, options.gigabytes)
    elif options.pass_keys:
        pass_keys(options.keys, options.pass_keys)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print_sizes(Path(folder), options.gigabytes)
            print_keys(Path(folder), options.keys)
        print_versions("stdc-parity", "numpy")


def print_sizes(folder: Path, gigabytes: float) -> None:
    rates: dict[str, list[float]] = {}
    for part in (0.01, 0.1, 1):
        size, largest, runs = measure(folder, gigabytes * part)
        print(f"\n{size / MEGABYTE:,.0f} MB, largest tensor {largest / MEGABYTE:,.0f} MB")
        for name, result in runs.items():
            over = f"{(result.peak - largest) / MEGABYTE:+7.0f} MB of the largest tensor" if name != COPY else ""
            print(f"  {name:17} {result.wall:8.2f} s  {size / MEGABYTE / result.wall:6.0f} MB/s  {over}")
            rates.setdefault(name, []).append(size / result.wall)
    print()
    for name, result in runs.items():
        if name != COPY:
            if name != ROUND:  # which computes what it loses
                print_target(f"wall time, {name} / {COPY}", result.wall / runs[COPY].wall, 2)
            over = (result.peak - largest) / MEGABYTE
            print_target(f"peak memory over the largest tensor in MB, {name}", over, 200)
            growth = rates[name][1] / rates[name][2]
            print_target(f"time per byte, {name}: the whole / a tenth", growth, 2)


def print_keys(folder: Path, most: int) -> None:
    counts = (most // 100, most // 10, most)
    seconds = {count: child("--pass-keys", folder, "--keys", count) for count in counts}
    print("\nwrite and read, seconds for keys:", *(f"{count:,}" for count in counts))
    for name in seconds[most]:
        print(f"  {name:17}", *(f"{seconds[count][name]:8.2f}" for count in counts))
    for name in seconds[most]:
        growth = seconds[most][name] / seconds[counts[1]][name] / 10
        print_target(f"time per key, {name}: {most:,} / {counts[1]:,}", growth, 2)


if __name__ == "__main__":
    main()
