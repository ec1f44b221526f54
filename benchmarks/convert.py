"""stdc-convert torch2paddle against the usual script, and against cp, on a sample of the official size.

    python benchmarks/convert.py [--rounds N]

Makes a 50 MB checkpoint with the structure of the published STDCNet1446 in a temporary folder, then takes
turns between: stdc-convert; stdc-convert --certificate (it hashes every tensor and both files);
`usual_script.py` (torch.load, rename, transpose, paddle.save); and cp followed by a Python that imports numpy.
Measured are whole processes: start of the interpreter, imports, reading, converting, writing.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from common import Command, print_runs, print_target, print_versions, ratio, rounds_wanted, script, take_turns

OURS, CERTIFIED = "stdc-convert", "stdc-convert --certificate"
USUAL, COPY = "usual script", "cp; python -c 'import numpy'"


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


def main() -> None:
    rounds = rounds_wanted(__doc__, 7)
    with tempfile.TemporaryDirectory() as folder:
        runs = take_turns(commands(Path(folder)), rounds)
    print_runs("convert a 50 MB checkpoint", runs)
    print_target("wall time,   stdc-convert / usual script", ratio(runs[OURS], runs[USUAL]), 1 / 8)
    print_target("peak memory, stdc-convert / usual script", ratio(runs[OURS], runs[USUAL], "peak"), 1 / 3)
    print_target("wall time,   --certificate / usual script", ratio(runs[CERTIFIED], runs[USUAL]), 1 / 10)
    print_target("wall time,   --certificate / cp and numpy", ratio(runs[CERTIFIED], runs[COPY]), 2.5)
    print_versions("stdc-parity", "numpy", "torch", "paddlepaddle")


if __name__ == "__main__":
    main()
