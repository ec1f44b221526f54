"""stdc-align all against the bare sum of its parts.

    python benchmarks/align_all.py [--rounds N]

`stdc-align all --size 256x512` on the default pair against `bare_all.py`: the same forwards, backwards and
steps without loading, recording or comparing. Measured are whole processes; the peak memory of stdc-align is
that of its largest process, while the bare program has both frameworks in one.
"""

import sys
from pathlib import Path

from common import Command, print_runs, print_target, print_versions, ratio, rounds_wanted, script, take_turns

OURS, BARE = "stdc-align all", "bare sum"


def main() -> None:
    rounds = rounds_wanted(__doc__, 3)
    bare = [sys.executable, str(Path(__file__).with_name("bare_all.py"))]
    ours = [script("stdc-align"), "all", "--size", "256x512"]
    runs = take_turns({OURS: Command(ours), BARE: Command(bare)}, rounds)
    print_runs("climb the ladder at 256x512", runs)
    print_target("wall time, stdc-align all / bare sum", ratio(runs[OURS], runs[BARE]), 2.5)
    print_target("peak memory, stdc-align all / bare sum", ratio(runs[OURS], runs[BARE], "peak"), 2)
    print_versions("stdc-parity", "torch", "paddlepaddle")


if __name__ == "__main__":
    main()
