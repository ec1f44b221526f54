"""stdc-align forward against the bare sum of its parts.

    python benchmarks/align_forward.py [--rounds N]

`stdc-align forward` with its defaults (stdc2-seg, 512x1024, --taps stages), which also draws seeded weights,
loads them on both sides, records 31 taps and compares them, against `bare_forward.py`: import both frameworks,
build both networks, run each forward once. Measured are whole processes; the peak memory of stdc-align is
that of its largest process, which is one side's, while the bare program has both frameworks in one.
"""

import sys
from pathlib import Path

from common import Command, print_runs, print_target, print_versions, ratio, rounds_wanted, script, take_turns

OURS, BARE = "stdc-align forward", "bare sum"


def main() -> None:
    rounds = rounds_wanted(__doc__, 5)
    bare = [sys.executable, str(Path(__file__).with_name("bare_forward.py"))]
    runs = take_turns({OURS: Command([script("stdc-align"), "forward"]), BARE: Command(bare)}, rounds)
    print_runs("compare one forward pass at 512x1024", runs)
    print_target("wall time, stdc-align forward / bare sum", ratio(runs[OURS], runs[BARE]), 1.1)
    print_versions("stdc-parity", "torch", "paddlepaddle")


if __name__ == "__main__":
    main()
