"""Graphs in float64, for the arbiter. ONNX Runtime has no float64 kernels for convolutions, pools and resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stdc_parity.align.framework import Array
from stdc_parity.converters.errors import UsageError

if TYPE_CHECKING:
    import onnx


def widen(model: onnx.ModelProto, inputs: Sequence[Array]) -> onnx.ModelProto:
    """The graph in float64. Raises UsageError for what has no float64 kernel."""
    raise UsageError("ONNX Runtime has no float64 kernel for Conv")
