"""Exports measured: PyTorch's two ONNX exporters, full-size parity of three runtimes, what folding norms gains.

    python benchmarks/exports.py exporters            # the tracing exporter against that of torch.export
    python benchmarks/exports.py parity               # forward at 512x1024 and 768x1536, three sides
    python benchmarks/exports.py folding --rounds 5   # seconds a forward pass, folded and not, in turn

Figures are of this machine and moment; of times only the ratios of one run say something.
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

SIZES = ("512x1024", "768x1536")
OUTPUTS = ["logits", "logits16", "logits32", "detail8"]


def exporters(pair: str) -> None:
    """Both exporters on one network: seconds, nodes, which weights keep their names, whether sizes are open."""
    import onnx
    import onnxruntime
    import torch

    from stdc_parity.align import capture_torch
    from stdc_parity.align.load import seeded_state
    from stdc_parity.models_torch import stdcseg

    network = getattr(stdcseg, pair.replace("-", "_"))(base=16).eval()
    capture_torch.load(network, seeded_state(capture_torch, network, 0))  # new networks' norms are all alike
    state, image = network.state_dict(), torch.randn(2, 3, 96, 160)
    dim = torch.export.Dim
    open_sizes = {0: dim.AUTO, 2: dim.AUTO, 3: dim.AUTO}
    names = {"input_names": ["image"], "output_names": OUTPUTS}
    scripted = {
        "dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False,
        "dynamic_axes": {"image": {0: "batch", 2: "height", 3: "width"}}, "opset_version": 17,
    }  # fmt: skip
    exported = {"dynamo": True, "dynamic_shapes": (open_sizes,), "external_data": False, "verbose": False}
    ways = {
        "tracing (dynamo=False)": scripted,
        "torch.export (dynamo=True)": exported,
        "torch.export, not optimised": {**exported, "optimize": False},
    }
    print(f"{pair}, base 16, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for title, options in ways.items():
            path, start = Path(folder) / "x.onnx", time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(network, (image,), path, **names, **options)
            seconds = time.perf_counter() - start
            model = onnx.load(path)
            held = {tensor.name for tensor in model.graph.initializer}
            needed = {name for name in state if not name.endswith("num_batches_tracked")}
            used = {value for node in model.graph.node for value in node.input}
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            works = []
            for size in ((64, 96), (33, 71)):
                try:
                    session.run(None, {"image": np.zeros((1, 3, *size), np.float32)})
                    works.append(f"{size[0]}x{size[1]}")
                except Exception as error:
                    works.append(f"not {size[0]}x{size[1]} ({type(error).__name__})")
            most = Counter(node.op_type for node in model.graph.node).most_common(6)
            counts = ", ".join(f"{count} {op}" for op, count in most)
            print(f"\n{title}: {seconds:.1f} s")
            print(f"  {len(model.graph.node)} nodes ({counts}, …), IR {model.ir_version}")
            print(f"  {len(needed & held & used)} of {len(needed)} tensors used under their own names, "
                  f"{len((held & used) - needed)} initialisers of other names")  # fmt: skip
            print(f"  batch 1 at {', '.join(works)}")


def parity(pair: str, sizes: list[str]) -> None:
    """Three sides forward at full size, each run a process of its own; prints its last lines."""
    for size in sizes:
        command = [
            str(Path(sys.executable).with_name("stdc-align")), "forward", "--pair", pair, "--size", size, "-q",
            "--sides", "torch,paddle,onnx,onnx-plain",
        ]  # fmt: skip
        print(f"$ stdc-align {' '.join(command[1:])}", flush=True)
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        words = ("torch", "forward", "All", "  logits ")
        kept = [line for line in done.stdout.splitlines() if line.startswith(words) or "odd" in line]
        print("\n".join(kept), f"\nexit code {done.returncode}, {time.perf_counter() - start:.0f} s\n", flush=True)


def folding(pair: str, size: str, rounds: int, threads: int) -> None:
    """Seconds a forward pass of each kind, norms folded and not, in turn; the ratios of the medians."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    height, width = map(int, size.split("x"))
    image = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    kinds = {"onnx": "x.onnx", "torchscript": "x.pt", "paddle-inference": "x"}
    convert = str(Path(sys.executable).with_name("stdc-convert"))
    print(f"{pair}, 1x3x{size} float32, {threads} threads, median of {rounds} rounds, seconds a pass")
    with tempfile.TemporaryDirectory() as folder:
        for kind, name in kinds.items():
            passes = {}
            for folded in (False, True):
                place = Path(folder) / f"{kind}-{folded}"
                place.mkdir()
                options = ["--pair", pair, "--size", size, "-q", *(["--fold-bn"] if folded else [])]
                subprocess.run([convert, kind, str(place / name), *options], check=True, capture_output=True)
                for optimised in (False, True) if kind == "onnx" else (True,):
                    label = "folded" if folded else "as it is"
                    passes[label + ("" if optimised else ", graph not optimised")] = runner(
                        kind, place / name, image, threads, optimised=optimised
                    )
            times = {label: [] for label in passes}
            for run in passes.values():
                run()
            for _ in range(rounds):
                for label, run in passes.items():
                    start = time.perf_counter()
                    run()
                    times[label].append(time.perf_counter() - start)
            medians = {label: statistics.median(each) for label, each in times.items()}
            for label, seconds in sorted(medians.items()):
                base = medians["as it is" + label.partition("folded")[2]] if "folded" in label else seconds
                gain = f"  {base / seconds:.2f} times as fast" if "folded" in label else ""
                print(f"  {kind:<18}{label:<32}{seconds:8.3f}{gain}", flush=True)


def runner(kind: str, path: Path, image: np.ndarray, threads: int, *, optimised: bool):
    """A function that runs one forward pass of a file."""
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"image": image})
    if kind == "torchscript":
        import torch

        torch.set_num_threads(threads)
        network, tensor = torch.jit.load(str(path)), torch.from_numpy(image)

        def run() -> None:
            with torch.no_grad():
                network(tensor)

        return run
    from paddle import inference

    config = inference.Config(f"{path}.json", f"{path}.pdiparams")
    config.disable_glog_info()
    config.disable_onednn()
    config.set_cpu_math_library_num_threads(threads)
    engine = inference.create_predictor(config)
    handle = engine.get_input_handle(engine.get_input_names()[0])
    handle.copy_from_cpu(image)
    return engine.run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["exporters", "parity", "folding"])
    parser.add_argument("--pair", default="stdc1-seg")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.what == "exporters":
        exporters(options.pair)
    elif options.what == "parity":
        parity(options.pair, options.sizes)
    else:
        folding(options.pair, options.sizes[0], options.rounds, options.threads)


if __name__ == "__main__":
    main()
