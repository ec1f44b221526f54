"""Plot how float32 rounding and float64 differences grow with depth, in a pair that is correct.

    python benchmarks/noise_plot.py [docs/images]

Runs `stdc-align forward --arbiter always` on stdc1-seg at 256x512 with seeded weights, in eval and in train mode,
writes noise-eval.svg and noise-train.svg, and prints the figures. It needs both frameworks, and matplotlib, which
nothing else here does: `pip install matplotlib`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
from common import print_versions, script
from matplotlib import pyplot

NETWORK = ("--pair", "stdc1-seg", "--size", "256x512", "--threads", "1")
TOLERANCE, AGREED = 1e-5, 1e-9
LEAST = 1e-18
"""What a difference of 0 is drawn at: a logarithmic axis has no 0."""


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams.update({"svg.hashsalt": "stdc-parity", "svg.fonttype": "none", "font.size": 9})
    for mode in ("eval", "train"):
        taps = measure(mode)
        print_figures(mode, taps)
        plot(mode, taps, folder / f"noise-{mode}.svg")
    print_versions("torch", "paddlepaddle", "matplotlib")


def measure(mode: str) -> list[dict[str, Any]]:
    """Every module's output in the order of execution, as report.json has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forward.json"
        options = ("--mode", mode, "--taps", "modules", "--arbiter", "always", "--quiet", "--json", str(path))
        subprocess.run([script("stdc-align"), "forward", *NETWORK, *options], check=True, stdout=subprocess.DEVNULL)
        (stage,) = json.loads(path.read_text())["stages"]
    return [tap for tap in stage["taps"] if tap["kind"] in ("module", "output") and tap["arbiter"]]


def curves(taps: list[dict[str, Any]]) -> dict[str, list[float]]:
    """What is plotted, by its name in the legend: fractions of each tap's scale."""
    return {
        "PyTorch: float32 to its own float64": [tap["arbiter"]["noise"]["torch"] for tap in taps],
        "Paddle: float32 to its own float64": [tap["arbiter"]["noise"]["paddle"] for tap in taps],
        "PyTorch to Paddle in float32": [tap["relative"] for tap in taps],
        "PyTorch to Paddle in float64": [tap["arbiter"]["gap64"] for tap in taps],
    }


def print_figures(mode: str, taps: list[dict[str, Any]]) -> None:
    verdicts = [tap["verdict"] for tap in taps]
    print(f"{mode}: {len(taps)} taps, " + ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts))))
    for name, values in curves(taps).items():
        median, worst = sorted(values)[len(values) // 2], max(values)
        print(f"  {name:36} first {values[0]:.1e}, median {median:.1e}, worst {worst:.1e} ({_at(taps, values)})")
    ratio = max(t["relative"] / max(max(t["arbiter"]["noise"].values()), LEAST) for t in taps)
    print(f"  largest float32 gap / larger rounding of the two sides: {ratio:.2f}")


def _at(taps: list[dict[str, Any]], values: list[float]) -> str:
    return str(taps[values.index(max(values))]["tap"])


def plot(mode: str, taps: list[dict[str, Any]], path: Path) -> None:
    """Write one picture: depth to the right, the fraction of the tap's scale upwards."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    styles = (("#0072b2", "-"), ("#e69f00", "-"), ("#000000", ":"), ("#009e73", "-"))  # Okabe and Ito's colours
    for (name, values), (colour, line) in zip(curves(taps).items(), styles, strict=True):
        axes.plot([max(value, LEAST) for value in values], line, color=colour, linewidth=1.2, label=name)
    for limit, text in ((TOLERANCE, "--tol 1e-5"), (AGREED, "agreement in float64, 1e-9")):
        axes.axhline(limit, color="#888888", linewidth=0.8, linestyle="--")
        axes.text(0, limit * 1.4, text, color="#555555", fontsize=8)
    axes.set(yscale="log", ylim=(LEAST / 3, 1), ylabel="max|a-b| / max|reference|")
    axes.set_xlabel("every module's output, in the order of execution")
    axes.set_title(f"stdc1-seg, {mode} mode, seeded weights, 256x512")
    axes.legend(loc="upper left", ncols=2, fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)


if __name__ == "__main__":
    main()
