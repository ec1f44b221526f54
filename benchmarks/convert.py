"""stdc-convert torch2paddle against the usual script, and against cp, on a sample of the official size.

    python benchmarks/convert.py [--rounds N] [--x2paddle x2paddle-env/bin/python]

Makes a 50 MB checkpoint with the structure of the published STDCNet1446 in a temporary folder, then takes
turns between: stdc-convert; stdc-convert --certificate (it hashes every tensor and both files);
`usual_script.py` (torch.load, rename, transpose, paddle.save); and cp followed by a Python that imports numpy.
Measured are whole processes: start of the interpreter, imports, reading, converting, writing.

X2Paddle needs an environment of its own, which must find stdc_parity too (PYTHONPATH, or pip install -e . there):

    python -m venv x2paddle-env
    x2paddle-env/bin/pip install x2paddle==1.6.0 torch==2.13.0 paddlepaddle==3.3.1 six astor requests

With it, `x2paddle_script.py` takes its turns too; what it cannot convert is said with the reason, without a figure.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import (
    Command,
    Run,
    print_runs,
    print_target,
    print_versions,
    ratio,
    rounds_parser,
    script,
    take_turns,
    why_not,
)

OURS, CERTIFIED = "stdc-convert", "stdc-convert --certificate"
USUAL, COPY = "usual script", "cp; python -c 'import numpy'"
NESTED, FLAT = "X2Paddle --pretrain_model", "X2Paddle --pretrain_model, unwrapped"
TRACED = "X2Paddle pytorch2paddle"

VERSIONS = """
from importlib.metadata import version
print("X2Paddle's:", ", ".join(f"{name} {version(name)}" for name in ("x2paddle", "torch", "paddlepaddle")))
"""


def commands(folder: Path) -> dict[str, Command]:
    source, target, account = folder / "sample.tar", folder / "sample.pdparams", folder / "certificate.json"
    subprocess.run([sys.executable, "-m", "stdc_parity.fixtures.samples", source], check=True)
    convert = [script("stdc-convert"), "torch2paddle", str(source), str(target)]
    usual = [sys.executable, str(Path(__file__).with_name("usual_script.py")), str(source), str(target)]
    copy = ["sh", "-c", 'cp "$1" "$2" && exec "$3" -c "import numpy"', "sh"]
    return {
        OURS: Command(convert, [target]),
        CERTIFIED: Command([*convert, "--certificate", str(account)], [target, account]),
        USUAL: Command(usual, [target]),
        COPY: Command([*copy, str(source), str(target), sys.executable], [target]),
    }


def x2paddle_commands(folder: Path, python: str) -> dict[str, Command]:
    """X2Paddle's ways, to be called after `commands`, which makes the sample. It goes by the suffix .pth."""
    source, nested, flat = folder / "sample.tar", folder / "nested.pth", folder / "flat.pth"
    traced = folder / "traced"
    run = [python, str(Path(__file__).with_name("x2paddle_script.py"))]
    shutil.copyfile(source, nested)
    subprocess.run([*run, "unwrap", source, flat], check=True)
    return {
        NESTED: Command([*run, "state", str(nested)], [nested.with_suffix(".pdiparams")]),
        FLAT: Command([*run, "state", str(flat)], [flat.with_suffix(".pdiparams")]),
        TRACED: Command([*run, "trace", str(source), str(traced)], [traced / "model.pdparams"]),
    }


def print_rivals(runs: Mapping[str, Sequence[Run]], reasons: Mapping[str, str | None]) -> None:
    """Print ours over X2Paddle's for each way that runs, and the reason for each that does not."""
    for name, reason in reasons.items():
        if reason is None:
            wall, peak = ratio(runs[OURS], runs[name]), ratio(runs[OURS], runs[name], "peak")
            print(f"stdc-convert / {name}: wall time {wall:.3f}, peak memory {peak:.3f}")
        else:
            print(f"{name}: cannot run, {reason}")


def main() -> None:
    parser = rounds_parser(__doc__, 7)
    parser.add_argument("--x2paddle", metavar="PYTHON", help="the Python of an environment that has X2Paddle")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns = commands(folder)
        rivals = x2paddle_commands(folder, options.x2paddle) if options.x2paddle else {}
        reasons = {name: why_not(command) for name, command in rivals.items()}
        turns |= {name: command for name, command in rivals.items() if reasons[name] is None}
        runs = take_turns(turns, max(1, options.rounds))
    print_runs("convert a 50 MB checkpoint", runs)
    print_target("wall time,   stdc-convert / usual script", ratio(runs[OURS], runs[USUAL]), 1 / 8)
    print_target("peak memory, stdc-convert / usual script", ratio(runs[OURS], runs[USUAL], "peak"), 1 / 3)
    print_target("wall time,   --certificate / usual script", ratio(runs[CERTIFIED], runs[USUAL]), 1 / 10)
    print_target("wall time,   --certificate / cp and numpy", ratio(runs[CERTIFIED], runs[COPY]), 2.5)
    print_rivals(runs, reasons)
    print_versions("stdc-parity", "numpy", "torch", "paddlepaddle")
    if options.x2paddle:
        subprocess.run([options.x2paddle, "-c", VERSIONS], check=True)


if __name__ == "__main__":
    main()
