"""What of this machine can disturb parity, and what to set about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator

import numpy as np

from stdc_parity.align.sides import PACKAGES, default_threads, is_installed, open_sides
from stdc_parity.align.spec import Side

WATCHED = {
    "NVIDIA_TF32_OVERRIDE": "0 switches TF32 off for both frameworks; unset, Paddle uses it on Ampere and later",
    "FLAGS_cudnn_deterministic": "1 makes Paddle choose deterministic cuDNN kernels",
    "FLAGS_use_mkldnn": "changes which CPU kernels Paddle uses",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8 makes cuBLAS deterministic for torch",
    "OMP_NUM_THREADS": "other thread counts sum in another order (differences of rounding size)",
    "MKL_NUM_THREADS": "as OMP_NUM_THREADS",
    "MKL_CBWR": "COMPATIBLE makes MKL's results independent of the processor",
    "ONEDNN_DEFAULT_FPMATH_MODE": "anything but STRICT lets oneDNN compute in bfloat16 or TF32",
}
"""Environment variables that change results, and how."""

PACKAGED = (
    "stdc-parity", "numpy", "torch", "paddlepaddle", "paddlepaddle-gpu", "onnx", "onnxruntime", "paddle2onnx",
)  # fmt: skip
"""The packages whose versions matter."""


def diagnose_machine() -> Iterator[str]:
    """Lines on versions, threads, flags and arithmetic, each followed by advice where there is some."""
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    for package in PACKAGED:
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            if package in PACKAGES.values():
                yield f"{package} is not installed: that side cannot run here (stdc-align compare can)"
    yield ""
    sides: tuple[Side, ...] = ("torch", "paddle", "onnx")
    for side in sides:
        if is_installed(side):
            yield from _side(side)
    yield ""
    for name, effect in WATCHED.items():
        value = os.environ.get(name)
        yield f"{name} is {'not set' if value is None else value!r}: {effect}"
    yield ""
    yield _denormals()


def _side(side: Side) -> Iterator[str]:
    """What the framework itself says, asked in a process of its own as runs do."""
    with open_sides((side,), default_threads()) as processes:
        processes[side].ask({"do": "facts"})
        answer = processes[side].answer()
    if not isinstance(answer, dict):
        yield f"{side} cannot be started: {answer.message}"
        return
    facts = answer["facts"]
    yield f"{side}: " + ", ".join(f"{name} {value}" for name, value in facts.items())
    if facts.get("tf32"):
        yield f"  TF32 is on: float32 products keep 10 bits. Set NVIDIA_TF32_OVERRIDE=0 before comparing {side}."
    if not facts.get("deterministic"):
        yield "  Deterministic kernels are off: two runs of one side may differ."
    if facts.get("flushes_denormals"):
        yield "  Denormals are flushed to zero: values under 1e-38 differ from the other side's."


def _denormals() -> str:
    tiny = np.array([np.finfo(np.float32).tiny], np.float32) / np.float32(2)
    if tiny[0] == 0:
        return "denormal float32 numbers are flushed to zero in this process: another library has switched that on"
    return "denormal float32 numbers are kept"
