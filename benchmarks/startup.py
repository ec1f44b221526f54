"""How long it takes to be told the options.

    python benchmarks/startup.py [--rounds N]

`stdc-convert --help` and `stdc-align --help` against `python -c "import click"`, whole processes.
"""

import sys

from common import Command, print_runs, print_target, print_versions, ratio, rounds_wanted, script, take_turns

BASE = "python -c 'import click'"


def main() -> None:
    rounds = rounds_wanted(__doc__, 25)
    ours = {f"{name} --help": Command([script(name), "--help"]) for name in ("stdc-convert", "stdc-align")}
    runs = take_turns(ours | {BASE: Command([sys.executable, "-c", "import click"])}, rounds)
    print_runs("start", runs)
    for name in ours:
        print_target(f"wall time, {name} / import click", ratio(runs[name], runs[BASE]), 3)
    print_versions("stdc-parity", "click")


if __name__ == "__main__":
    main()
