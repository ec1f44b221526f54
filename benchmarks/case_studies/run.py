"""Run stdc-align and stdc-convert on real public ports, as they are, and write what they say into the case studies.

    python benchmarks/case_studies/run.py --stdc-seg DIR --stdcnet-paddle DIR --icnet-pytorch DIR --icnet-paddle DIR \
        --paddleseg-config FILE [--only PORT] [--run NAME]

The directories are checkouts: MichaelFan01/STDC-Seg, CuberrChen/STDCNet-Paddle (branch master), liminn/ICNet-pytorch,
pooruss/ICNet-paddle; the file is configs/stdcseg/stdc2_seg_cityscapes_1024x512_80k.yml of PaddlePaddle/PaddleSeg (tag
v2.8.0), as the package on PyPI has no configurations. It needs `paddleseg` 2.8.0 with what that imports (opencv,
scikit-learn, scipy). Nothing of theirs is copied or edited: the modules beside this file import it from where it is.

What the commands print goes into docs/case-studies/results.json, and from there into the pages between the lines
`<!-- run: PORT/NAME -->` and `<!-- end -->` (`--write` alone does the second part). Exit code 1 if a command ended
otherwise than in the file (`--check` says so and writes nothing).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGES = ROOT / "docs" / "case-studies"
RESULTS = PAGES / "results.json"
PORTS = ("paddleseg", "stdcnet-paddle", "icnet-paddle")
MOST = 60
"""Lines of one run that are kept."""


@dataclass(frozen=True)
class Command:
    """One command on one port. `words` are its arguments; `fixes` the remedies that CASE_FIXES applies; `code` is the
    exit code that it ended with when the pages were written; `pair` the pair file, "" for commands without one. Of
    the rules that a derivation writes the lines that match `grep` go along."""

    port: str
    name: str
    words: str
    code: int
    fixes: str = ""
    pair: str = ""
    grep: str = ""


def _align(port: str, pair: str, rows: Sequence[tuple[str, str, int, str]]) -> list[Command]:
    return [Command(port, name, f"stdc-align {words}", code, fixes, pair) for name, words, code, fixes in rows]


COMMANDS = (
    Command("paddleseg", "derive",
            "stdc-convert derive --torch upstream_stdc:build_without_imagenet_head --paddle paddleseg_stdc:build "
            "--input 2x3x64x128 -o rules.toml", 0, "pool", grep=r"conv_out(8|16|32).conv_out.weight"),
    Command("paddleseg", "convert",
            "stdc-convert torch2paddle upstream.pth paddleseg.pdparams --to-layout paddleseg", 0),
    *_align("paddleseg", "pair_paddleseg.py", [
        ("weights", "weights", 1, ""),
        ("forward", "forward", 1, ""),
        ("forward-fixed", "forward", 0, "pool"),
        ("train-mode", "forward --mode train", 1, "pool"),
        ("loss", "loss --arbiter never", 1, ""),
        ("loss-kernel", "loss --arbiter never", 1, "kernel"),
        ("loss-kept", "loss --arbiter never", 1, "kernel,kept"),
        ("optimizer", "optimizer", 1, ""),
        ("optimizer-fixed", "optimizer", 1, "groups"),
        ("schedule", "schedule", 1, ""),
        ("metric", "metric", 1, "pool"),
        ("data", "data", 1, ""),
    ]),
    *_align("paddleseg", "pair_paddleseg_by_name.py", [("by-name", "forward", 1, "pool")]),
    Command("stdcnet-paddle", "convert",
            "stdc-convert torch2paddle upstream.pth bisenet.pdparams --to-layout stdcnet-paddle-bisenet", 0),
    *_align("stdcnet-paddle", "pair_stdcnet_paddle.py", [
        ("weights", "weights", 1, ""),
        ("forward", "forward", 1, ""),
        ("forward-fixed", "forward", 0, "pool"),
        ("loss", "loss --arbiter never", 1, ""),
        ("loss-kept", "loss --arbiter never", 1, "kernel,kept"),
        ("optimizer", "optimizer", 1, ""),
        ("schedule", "schedule", 1, ""),
        ("metric", "metric", 1, "pool"),
        ("data", "data", 1, ""),
    ]),
    *_align("icnet-paddle", "pair_icnet.py", [
        ("weights", "weights", 0, ""),
        ("forward", "forward", 0, ""),
        ("train-mode", "forward --mode train", 1, ""),
        ("loss", "loss", 1, ""),
        ("optimizer", "optimizer", 0, ""),
        ("schedule", "schedule", 1, ""),
        ("metric", "metric", 1, ""),
    ]),
    Command("icnet-paddle", "derive",
            "stdc-convert derive --torch icnet_torch:build --paddle icnet_paddle:build --input 2x3x64x128 "
            "-o rules.toml", 0),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the commands, and write the results and the pages."""
    options = _options(arguments)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"versions": {}, "runs": {}}
    if options.write:
        _write(results)
        return 0
    chosen = [c for c in COMMANDS if options.only in (None, c.port) and options.run in (None, c.name)]
    _check(options, {command.port for command in chosen})
    found, wrong = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for command in chosen:
            print(f"{command.port}/{command.name} …", flush=True)
            key, run = f"{command.port}/{command.name}", _run(command, options, Path(folder))
            found[key] = run
            failed = any(line.endswith("side failed:") or " side failed: " in line for line in run["output"])
            if run["exit"] != command.code or failed:
                wrong.append(f"{key} ended with {run['exit']}, not {command.code}:\n" + "\n".join(run["output"]))
    print("\n".join(wrong) or f"{len(found)} commands ended as in the pages")
    if not options.check:
        order = [f"{command.port}/{command.name}" for command in COMMANDS]
        runs = {**results["runs"], **found}
        results["runs"] = {key: runs[key] for key in order if key in runs}
        results["versions"] = {**results["versions"], **_versions(options)}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _write(results)
    return 1 if wrong else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        epilog="Example: python benchmarks/case_studies/run.py --icnet-pytorch ../ICNet-pytorch "
        "--icnet-paddle ../ICNet-paddle --only icnet-paddle",
    )
    parser.add_argument("--stdc-seg", type=Path, metavar="DIR", help="checkout of MichaelFan01/STDC-Seg")
    parser.add_argument("--stdcnet-paddle", type=Path, metavar="DIR", help="of CuberrChen/STDCNet-Paddle, master")
    parser.add_argument("--icnet-pytorch", type=Path, metavar="DIR", help="checkout of liminn/ICNet-pytorch")
    parser.add_argument("--icnet-paddle", type=Path, metavar="DIR", help="checkout of pooruss/ICNet-paddle")
    parser.add_argument("--paddleseg-config", type=Path, metavar="FILE", help="PaddleSeg's stdc2_seg_city….yml")
    parser.add_argument("--only", choices=PORTS, help="one port")
    parser.add_argument("--run", help="one run, by its name in the pages")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 for another end")
    parser.add_argument("--write", action="store_true", help="run nothing; write the stored results into the pages")
    return parser.parse_args(arguments)


NEEDED = {
    "paddleseg": ("stdc_seg", "paddleseg_config"),
    "stdcnet-paddle": ("stdc_seg", "stdcnet_paddle"),
    "icnet-paddle": ("icnet_pytorch", "icnet_paddle"),
}
PROOF = {"stdc_seg": "models/model_stages.py", "stdcnet_paddle": "model/model_stages_paddle.py",
         "icnet_pytorch": "models/icnet.py", "icnet_paddle": "models/icnet.py", "paddleseg_config": ""}  # fmt: skip


def _check(options: argparse.Namespace, ports: set[str]) -> None:
    """Exit with a message and code 2 if a checkout that is needed is not given, or is another one."""
    for port in sorted(ports):
        for name in NEEDED[port]:
            option, path = f"--{name.replace('_', '-')}", getattr(options, name)
            if path is None:
                _refuse(f"{port} needs {option} (--only {PORTS[-1]} needs others)")
            if not (path / PROOF[name] if PROOF[name] else path).exists():
                _refuse(f"{option} {path}: there is no {PROOF[name] or 'such file'}")


def _refuse(message: str) -> None:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


def _run(command: Command, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What one command prints, without its table and times, and how it ends."""
    words, env = command.words.split(), {**os.environ, "CASE_FIXES": command.fixes}
    if options.paddleseg_config is not None:
        env["PADDLESEG_CONFIG"] = str(options.paddleseg_config.resolve())
    env["TERM"], env["COLUMNS"] = "dumb", "200"
    paths = _paths(command, options)
    shown = " ".join([*words, *(["--pair", f"benchmarks/case_studies/{command.pair}"] if command.pair else [])])
    given = [*words, *(["--pair", str(HERE / command.pair), "-q"] if command.pair else [])]
    for option, (path, name) in paths.items():
        given += [option, str(path)]
        shown += f" {option} {name}"
    if "upstream.pth" in words:
        _sample(folder)
    program = shutil.which(words[0], path=str(Path(sys.executable).parent)) or words[0]
    here = "derive" in words  # which finds its modules from the current folder
    given = [str(folder / word) if here and word == "rules.toml" else word for word in given]
    place = HERE if here else folder
    done = subprocess.run([program, *given[1:]], cwd=place, env=env, capture_output=True, text=True)
    lines = _kept(done.stdout + (done.stderr if done.returncode not in (0, 1) else ""), command)
    lines = [line.replace(f"{folder}/", "") for line in lines]
    if command.grep:
        shown += f" && grep -E '{command.grep}' rules.toml"
        rules = (folder / "rules.toml").read_text().splitlines()
        lines += [line.strip() for line in rules if re.search(command.grep, line)]
    for path, name in paths.values():
        lines = [line.replace(str(path), name) for line in lines]
    before = f"CASE_FIXES={command.fixes} " if command.fixes else ""
    return {"command": before + shown, "exit": done.returncode, "output": lines}


def _paths(command: Command, options: argparse.Namespace) -> Mapping[str, tuple[Path, str]]:
    """The checkouts that a command needs, by option, with their names in the pages."""
    if not command.pair and "derive" not in command.words:
        return {}
    if command.port == "icnet-paddle":
        return {"--torch-path": (options.icnet_pytorch.resolve(), "ICNet-pytorch"),
                "--paddle-path": (options.icnet_paddle.resolve(), "ICNet-paddle")}  # fmt: skip
    paths = {"--torch-path": (options.stdc_seg.resolve(), "STDC-Seg")}
    if command.port == "stdcnet-paddle":
        paths["--paddle-path"] = (options.stdcnet_paddle.resolve(), "STDCNet-Paddle")
    return paths


def _sample(folder: Path) -> None:
    if not (folder / "upstream.pth").exists():
        words = [sys.executable, "-m", "stdc_parity.fixtures.samples", "upstream.pth", "--model", "stdc1-seg"]
        subprocess.run(words, cwd=folder, check=True, capture_output=True)


def _kept(text: str, command: Command) -> list[str]:
    """The lines from the verdict on, without times, the next command, and what is not of the tool."""
    lines = [line.rstrip() for line in text.splitlines()]
    stage = command.words.split()[1] if command.pair else ""
    if stage:
        starts = [i for i, line in enumerate(lines) if re.match(rf"{stage}(-train)?: [A-Z]+", line)]
        failed = [i for i, line in enumerate(lines) if re.match(r"The \w+ side failed", line)]
        lines = lines[min([*starts, *failed], default=0) :]
    lines = [re.sub(r" · torch [\d.]+ s, paddle [\d.]+ s", "", line) for line in lines]
    lines = [line for line in lines if line and not line.startswith("Next: ")]
    return lines if len(lines) <= MOST else [*lines[:MOST], f"… {len(lines) - MOST} more lines"]


def _versions(options: argparse.Namespace) -> dict[str, str]:
    """The commits of the checkouts and the versions of the packages."""
    found = {name: version(name) for name in ("torch", "paddlepaddle", "paddleseg", "numpy")}
    for name in ("stdc_seg", "stdcnet_paddle", "icnet_pytorch", "icnet_paddle"):
        path = getattr(options, name)
        if path is not None:
            words = ["git", "-C", str(path), "log", "-1", "--format=%h %cs"]
            done = subprocess.run(words, capture_output=True, text=True)
            found[name.replace("_", "-")] = done.stdout.strip() or "not a git checkout"
    return found


def block(run: Mapping[str, Any]) -> str:
    """One run as a page shows it."""
    return "\n".join(["```console", f"$ {run['command']}", *run["output"], "```"])


def versions(results: Mapping[str, Any]) -> str:
    """The versions that were run, as the index shows them."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in results["versions"].items())])


def filled(page: str, results: Mapping[str, Any]) -> str:
    """A page with its runs and versions as they are in the results. Raises KeyError for a run that is not there."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- run: {match[1]} -->\n{block(results['runs'][match[1]])}\n<!-- end -->"

    page = re.sub(r"<!-- run: (\S+) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)
    table = f"<!-- versions -->\n{versions(results)}\n<!-- end -->"
    return re.sub(r"<!-- versions -->\n.*?<!-- end -->", lambda _: table, page, flags=re.DOTALL)


def _write(results: Mapping[str, Any]) -> None:
    """Fill the pages; a run that is not in the results yet leaves its place empty."""
    missing = {f"{c.port}/{c.name}": {"command": "", "output": []} for c in COMMANDS}
    results = {**results, "runs": {**missing, **results["runs"]}}
    for path in sorted(PAGES.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        path.write_text(filled(page, results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
