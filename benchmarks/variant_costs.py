"""What the variants of STDC-Seg cost, beside the plain networks: parameters and MACs of one image.

    python benchmarks/variant_costs.py [--size HxW]

Counted by `stdc_parity.align.cost` (its docstring has the convention) on the PyTorch side, at 512x1024 by default.
Prints the table of docs/variants.md, and what each 3x3 convolution that "dw" replaces costs before and after.
"""

import argparse

from stdc_parity.align.cost import Cost, measure_sides
from stdc_parity.align.result import Failure
from stdc_parity.align.sides import open_sides
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters import stdc

REPLACED = ("cp.arm16.conv", "cp.arm32.conv", "cp.conv_head32", "cp.conv_head16", "conv_out.conv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="512x1024")
    height, width = map(int, parser.parse_args().size.split("x"))
    costs: dict[str, Cost] = {}
    print(f"| {height}x{width} | parameters | GMACs | for inference: parameters | GMACs |\n|---|---:|---:|---:|---:|")
    with open_sides(("torch",), 1) as processes:
        for name in stdc.FORMS:
            cost = measure_sides(processes, RunSpec(name, (height, width)))["torch"]
            if isinstance(cost, Failure):
                raise SystemExit(f"{name}: {cost.message}")
            costs[name] = cost
    for name in sorted(name for name, form in stdc.FORMS.items() if not form.infer):
        figures = [f"{c.parameters / 1e6:.2f} M | {c.macs / 1e9:.2f}" for c in (costs[name], costs[f"{name}-infer"])]
        print(f"| {name} | {' | '.join(figures)} |")
    print("\n| 3x3 convolution | parameters | GMACs | in dw: parameters | GMACs |\n|---|---:|---:|---:|---:|")
    for path in REPLACED:
        pair = [costs[name].under(path) for name in ("stdc1-seg-infer", "stdc1-seg-dw-infer")]
        print(f"| `{path}` | {' | '.join(f'{each.parameters:,} | {each.macs / 1e9:.3f}' for each in pair)} |")


if __name__ == "__main__":
    main()
