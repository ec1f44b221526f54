"""Conversions that are killed, starved of disk or run at once: `python benchmarks/crash.py --kills 100`.

Whatever happens to a conversion, its target must be the whole old file or the whole new one. Each part prints what
it found, and the exit code is 1 if a target was ever anything else.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from stdc_parity.converters import stdc
from stdc_parity.fixtures.samples import write_sample

CODE = "from stdc_parity.cli import convert; convert(prog_name='stdc-convert')"
COMMAND = [sys.executable, "-c", CODE, "torch2paddle"]


def start(source: Path, target: Path, *options: str, file_limit: int | None = None) -> subprocess.Popen[str]:
    """A conversion as a process of its own; with ``file_limit`` no file of it may be larger."""

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.Popen([*COMMAND, str(source), str(target), *options], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, preexec_fn=limit)  # fmt: skip


def sha256(path: Path) -> str:
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make(folder: Path, base: int) -> tuple[list[Path], list[str], float]:
    """Two sources, the hashes of what they convert to, and the seconds that a conversion takes."""
    sources, hashes, seconds = [], [], 0.0
    for seed in (0, 1):
        source, target = folder / f"{seed}.tar", folder / f"{seed}.pdparams"
        write_sample(source, stdc.architecture("stdcnet1446", base=base), seed=seed)
        begun = time.perf_counter()
        start(source, target).communicate()
        seconds = time.perf_counter() - begun
        sources.append(source)
        hashes.append(sha256(target))
    return sources, hashes, seconds


def kill(folder: Path, kills: int, base: int = 64, seed: int = 0) -> Counter[str]:
    """Kill conversions over an old target at random moments; what the target was afterwards."""
    sources, hashes, seconds = make(folder, base)
    words = {hashes[0]: "old", hashes[1]: "new"}
    target = folder / "target.pdparams"
    draw, found = random.Random(seed), Counter[str]()
    for _ in range(kills):
        shutil.copyfile(folder / "0.pdparams", target)
        process = start(sources[1], target, "--force")
        time.sleep(draw.uniform(0.2, 1.0) * seconds)
        process.kill()
        process.communicate()
        found[words.get(sha256(target), "BROKEN")] += 1
        for left in folder.glob(".target.pdparams.*.tmp"):
            found["with a temporary file left"] += 1
            left.unlink()
    return found


def starve(folder: Path, base: int = 16) -> Counter[str]:
    """Conversions that may write only so many bytes to a file: an error, and the target as it was."""
    sources, hashes, _ = make(folder, base)
    size = (folder / "1.pdparams").stat().st_size
    found = Counter[str]()
    for limit in (0, 1, 1000, size // 2, size - 1, size):
        for old in (True, False):
            target = folder / "target.pdparams"
            target.unlink(missing_ok=True)
            if old:
                shutil.copyfile(folder / "0.pdparams", target)
            process = start(sources[1], target, "--force", file_limit=limit)
            _, errors = process.communicate()
            found[_starved(process.returncode, errors, target, hashes, limit >= size, old)] += 1
            found["with a temporary file left"] += len(list(folder.glob("*.tmp")))
    return +found


def _starved(code: int, errors: str, target: Path, hashes: list[str], fits: bool, old: bool) -> str:
    if fits:
        return "new" if code == 0 and sha256(target) == hashes[1] else "BROKEN"
    as_it_was = sha256(target) == hashes[0] if old else not target.exists()
    clear = code == 2 and errors.startswith("Error: ") and "cannot be written" in errors
    return ("old" if old else "none") if as_it_was and clear else "BROKEN"


def fill(folder: Path, base: int = 16) -> Counter[str]:
    """Conversions into a file system that is too small, and into one that is read-only.

    They are tmpfs's in a mount namespace of the conversion's own, which not every system allows.
    """
    sources, _, _ = make(folder, base)
    disk = folder / "disk"
    disk.mkdir()
    found = Counter[str]()
    for options, words in (
        ("size=200k", "no space is left on the device"),
        ("ro", "the file system is read-only"),
    ):
        command = shlex.join([*COMMAND, str(sources[1]), str(disk / "x.pdparams")])
        mount = shlex.join(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)])
        script = f"{mount} || exit 99; {command}; echo $?; ls -A {shlex.quote(str(disk))}"
        if shutil.which("unshare") is None:
            return Counter({"not tried: no unshare": 1})
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False
        )
        if done.returncode == 99 or "unshare" in done.stderr:
            return Counter({f"not tried: {done.stderr.strip()}": 1})
        found[
            "none" if done.stdout == "2\n" and words in done.stderr else f"BROKEN {done.stdout}{done.stderr}"
        ] += 1
    return found


def race(folder: Path, rounds: int, base: int = 16) -> Counter[str]:
    """Two conversions into one target at the same time, with --force and without."""
    sources, hashes, _ = make(folder, base)
    target, found = folder / "target.pdparams", Counter[str]()
    for number in range(rounds):
        force = ["--force"] if number % 2 else []
        target.unlink(missing_ok=True)
        processes = [start(source, target, *force) for source in sources]
        errors = [process.communicate()[1] for process in processes]
        codes = [process.returncode for process in processes]
        if force:
            fine = codes == [0, 0] and sha256(target) in hashes
        else:
            fine = sorted(codes) == [0, 2] and sha256(target) == hashes[codes.index(0)]
            fine = fine and "exists already" in errors[codes.index(2)]
        found["one whole file" if fine else f"BROKEN {codes} {errors}"] += 1
        found["with a temporary file left"] += len(list(folder.glob("*.tmp")))
    return +found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10, help="of two conversions at once")
    options = parser.parse_args()
    broken = False
    parts = {
        "killed": lambda folder: kill(folder, options.kills),
        "file size limited": starve,
        "full or read-only": fill,
        "two at once": lambda folder: race(folder, options.rounds),
    }
    for name, part in parts.items():
        with TemporaryDirectory() as folder:
            found = part(Path(folder))
        broken = broken or any(outcome.startswith("BROKEN") for outcome in found)
        print(f"{name:18} {', '.join(f'{count} {outcome}' for outcome, count in found.items())}")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
