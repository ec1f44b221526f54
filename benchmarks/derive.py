"""Rules derived for random networks and ports, and whether they are right: `python benchmarks/derive.py --count 300`.

Every rule is counted by how it was settled and whether it is right. A wrong one may only be marked "order" (a swap
that changes nothing), or be of a tensor that nothing computes with; any other ends in exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from stdc_parity.align.derivation.command import SIDES, spec_of
from stdc_parity.align.derivation.prober import Derivation, Prober
from stdc_parity.align.sides import Worker, open_sides
from stdc_parity.align.spec import Own
from stdc_parity.fixtures.random_ports import draw_design, draw_port

MODULE = "stdc_parity.fixtures.random_ports"


def prober(workers: dict[str, Worker], number: int, folder: Path, seed: int) -> Prober:
    """Both sides of a network, to be tried with weights and inputs of `seed`."""
    own = Own(
        torch=f"{MODULE}_torch:build",
        paddle=f"{MODULE}_paddle:build",
        inputs=("4x6",),
        arguments=(json.dumps({"seed": number}), "", ""),
    )
    return Prober({side: workers[side] for side in SIDES}, spec_of(None, own, 8, seed), folder)


def judge(found: Derivation, seed: int) -> Counter[str]:
    """How many rules are right and wrong, by how they were settled; open ones, and whether the outputs agree."""
    design = draw_design(seed)
    port, reached = draw_port(design, seed), design.reached()
    counts: Counter[str] = Counter({"open": len(found.rules.open), "outputs agree": int(found.holds)})
    for rule in found.rules.tensors:
        if rule.torch is None or rule.paddle is None:
            continue
        part = rule.torch.partition(".")[0]
        right = rule.paddle.partition(".")[0] == port.names[part]
        if design.parts[part] == "matrix":
            right &= rule.transform == ("transpose" if part in port.turned else "copy")
        where = "" if part in reached else ", without effect"
        counts[f"{'right' if right else 'WRONG'} by {rule.settled}{where}"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="the number of the first network")
    options = parser.parse_args()
    start, total = time.perf_counter(), Counter[str]()
    with open_sides(SIDES, 1) as workers, tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seed, options.seed + options.count):
            found = prober(workers, seed, Path(folder), 0).derive()
            counts = judge(found, seed)
            silent = [k for k in counts if k.startswith("WRONG") and "order" not in k and "without effect" not in k]
            number = sum(counts[kind] for kind in silent)
            if number and not found.rules.open and prober(workers, seed, Path(folder), 1).check(found.rules) < 1e-9:
                total["of them interchangeable: other weights and inputs agree too"] += number
            elif number or not found.holds:
                print(f"network {seed}: {dict(counts)}")
                total["silently wrong"] += number
            total += counts
    print(f"{options.count} networks in {time.perf_counter() - start:.0f} s")
    print("\n".join(f"{count:7,}  {what}" for what, count in sorted(total.items())))
    sys.exit(1 if total["silently wrong"] or total["outputs agree"] < options.count else 0)


if __name__ == "__main__":
    main()
