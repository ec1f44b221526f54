"""What the benchmarks share: run commands in turn as whole processes, and print one table of the medians.

Wall time is from starting a process to its end. Peak memory is what the kernel accounts to it
(`ru_maxrss`), children included: the largest single process. The commands take turns (A B C, A B C, …), so a
machine that gets slower slows all of them; a ratio is the median of the rounds' ratios.
Standard library only: a child's peak starts at that of the process which starts it, so this must stay small.
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """A command line and the files that it makes, which are removed before every run."""

    argv: Sequence[str]
    makes: Sequence[Path] = ()


@dataclass(frozen=True)
class Run:
    """Wall time in seconds and peak memory in bytes of one finished process."""

    wall: float
    peak: int


def run(command: Command) -> Run:
    """Run `command` once, its output thrown away; its last words are shown if it fails."""
    for path in command.makes:
        path.unlink(missing_ok=True)
    os.sync()  # so that nobody's fsync waits for what the command before it wrote
    with tempfile.TemporaryFile() as words:
        start = time.perf_counter()
        process = subprocess.Popen(command.argv, stdout=subprocess.DEVNULL, stderr=words, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            words.seek(0)
            sys.exit(f"{' '.join(command.argv)}: exit code {process.returncode}\n{words.read().decode()}")
    return Run(wall, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def why_not(command: Command) -> str | None:
    """Try `command`: None if it works, else its exit code, the files it has not made and its last words."""
    for path in command.makes:
        path.unlink(missing_ok=True)
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    tried = subprocess.run(command.argv, stdout=pipe, stderr=merged, text=True, env=_environment())
    missing = [path.name for path in command.makes if not path.exists()]
    if tried.returncode == 0 and not missing:
        return None
    last = next((line for line in reversed(tried.stdout.splitlines()) if line.strip()), "it says nothing")
    lost = f", no {', '.join(missing)}" if missing else ""
    return f"exit code {tried.returncode}{lost}: {last.strip()}"


def _environment() -> dict[str, str]:
    """This one, but Python may cache compiled modules, as pip does for what it installs: the warm-up makes them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def take_turns(commands: Mapping[str, Command], rounds: int) -> dict[str, list[Run]]:
    """Run every command once to warm up, then `rounds` times in turn."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            result = run(command)
            if turn:
                runs[name].append(result)
    return runs


def ratio(ours: Sequence[Run], theirs: Sequence[Run], what: str = "wall") -> float:
    """The median over the rounds of ours / theirs, of "wall" or "peak"."""
    ratios = [getattr(a, what) / getattr(b, what) for a, b in zip(ours, theirs, strict=True)]
    return float(statistics.median(ratios))


def print_runs(title: str, runs: Mapping[str, Sequence[Run]]) -> None:
    """Print a row for every command: median, least and largest wall time, and median peak memory."""
    width = max(map(len, runs))
    print(f"{title} ({len(next(iter(runs.values())))} rounds, {_machine()})\n")
    print(f"{'':{width}}  median s    min    max  peak MB")
    for name, results in runs.items():
        walls = [result.wall for result in results]
        peak = statistics.median(result.peak for result in results)
        middle = statistics.median(walls)
        print(f"{name:{width}}  {middle:8.3f} {min(walls):6.3f} {max(walls):6.3f}  {peak / 1e6:7.0f}")
    print()


def print_target(what: str, figure: float, most: float) -> None:
    """Print a ratio beside the largest that is good enough."""
    print(f"{what}: {figure:.3f} (at most {most:.3g}){'' if figure <= most else '  <-- MISSED'}")


def print_versions(*packages: str) -> None:
    """Print the versions of Python and of what was measured."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    print("\n" + ", ".join(found))


def script(name: str) -> str:
    """The path of an installed command, that of this Python's environment first."""
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else shutil.which(name)
    return path or sys.exit(f"{name} is not installed: pip install -e . in the repository")


def rounds_wanted(description: str | None, default: int) -> int:
    """Parse the one option that all benchmarks have."""
    rounds: int = rounds_parser(description, default).parse_args().rounds
    return max(1, rounds)


def rounds_parser(description: str | None, default: int) -> argparse.ArgumentParser:
    """The parser of that option, for a benchmark that has more of them."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    parser.add_argument("--rounds", type=int, default=default, help=f"runs of each command ({default})")
    return parser


def _machine() -> str:
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} CPUs{load}"
