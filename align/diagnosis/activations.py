"""What a module computes element by element, found by trying: the usual activations in numpy, float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf, pi, sqrt

import numpy as np

from stdc_parity.align.framework import Array

Function = Callable[[Array], Array]

_erf = np.vectorize(erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def _leaky(slope: float) -> Function:
    return lambda x: np.where(x > 0, x, slope * x)


FUNCTIONS: Mapping[str, tuple[Function, str]] = {
    "the identity": (lambda x: x, "nn.Identity()"),
    "ReLU": (lambda x: np.maximum(x, 0), "nn.ReLU()"),
    "ReLU6": (lambda x: np.clip(x, 0, 6), "nn.ReLU6()"),
    "Hardtanh": (lambda x: np.clip(x, -1, 1), "nn.Hardtanh()"),
    "clip(0, 1)": (lambda x: np.clip(x, 0, 1), "nn.Hardtanh(0, 1)"),
    **{
        f"LeakyReLU({slope:g})": (_leaky(slope), f"nn.LeakyReLU({slope:g})")
        for slope in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3)
    },
    "ELU": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), "nn.ELU()"),
    "GELU (erf)": (lambda x: x * 0.5 * (1 + _erf(x / sqrt(2))), "nn.GELU()"),
    "GELU (tanh)": (
        lambda x: 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),
        "nn.GELU(approximate=True)",
    ),
    "Sigmoid": (_sigmoid, "nn.Sigmoid()"),
    "Hardsigmoid (slope 1/6)": (lambda x: np.clip(x / 6 + 0.5, 0, 1), "nn.Hardsigmoid()"),
    "hard sigmoid (slope 0.2)": (lambda x: np.clip(0.2 * x + 0.5, 0, 1), "F.hardsigmoid(x, slope=0.2)"),
    "Hardswish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), "nn.Hardswish()"),
    "SiLU": (lambda x: x * _sigmoid(x), "nn.Silu()"),
    "Mish": (lambda x: x * np.tanh(_softplus(x)), "nn.Mish()"),
    "Softplus": (_softplus, "nn.Softplus()"),
    "Tanh": (np.tanh, "nn.Tanh()"),
    "LogSigmoid": (lambda x: -_softplus(-x), "nn.LogSigmoid()"),
    "exp": (np.exp, "paddle.exp(x)"),
    "square": (np.square, "paddle.square(x)"),
    "abs": (np.abs, "paddle.abs(x)"),
}
"""By name: the function, and the Paddle line that computes it."""


def softmax(x: Array, axis: int) -> Array:
    """Softmax over an axis."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result


def recognised(x: Array, y: Array, agreed: float) -> dict[str, str]:
    """The functions that turn x into y within `agreed` of its scale, with the line that computes each."""
    if x.shape != y.shape or x.dtype.kind != "f":
        return {}
    scale = float(np.abs(y).max()) or 1.0
    wide, found = x.astype(np.float64), {}
    with np.errstate(all="ignore"):
        for name, (function, line) in FUNCTIONS.items():
            if np.abs(function(wide) - y).max() <= agreed * scale:
                found[name] = line
        for axis in range(x.ndim):
            if np.abs(softmax(wide, axis) - y).max() <= agreed * scale:
                found[f"softmax over axis {axis}"] = f"F.softmax(x, axis={axis})"
            if np.abs(np.log(softmax(wide, axis)) - y).max() <= agreed * scale:
                found[f"log_softmax over axis {axis}"] = f"F.log_softmax(x, axis={axis})"
    return found
