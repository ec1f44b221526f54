"""Graphs in float64, for the arbiter.

ONNX Runtime has float64 kernels for arithmetic, products of matrices, sums and norms, and none for convolutions,
pools and resizing (1.32): those are written here as what they are made of. The sizes of a run are known, so every
one becomes slices, matrices and sums; what a graph computes in float64 is then ONNX Runtime's result all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.converters.errors import UsageError

if TYPE_CHECKING:
    import onnx

SIZED = ("Conv", "AveragePool", "GlobalAveragePool", "Resize", "BatchNormalization")
"""Operators that are rewritten: the sizes of what they take and give are needed."""

Shapes = Mapping[str, tuple[int, ...]]


def sized_values(model: onnx.ModelProto) -> list[str]:
    """The values whose sizes `widen` has to know."""
    names = [
        value
        for node in model.graph.node
        if node.op_type in SIZED
        for value in (*node.input[:2], *node.output[:1])
    ]
    made = {value for node in model.graph.node for value in node.output}
    return [name for name in dict.fromkeys(names) if name in made]


def widen(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """The float32 graph in float64; `shapes` are those of `sized_values` in the run, and of its inputs.

    Numbers that a graph keeps as float32 for its operators (an epsilon, a scale) count as the decimal that they
    stand for: 1e-05, not 9.99999975e-06. Raises UsageError for an operator that is not written here.
    """
    import onnx
    from onnx import TensorProto

    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    del graph.value_info[:]
    known = {**shapes, **{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}}
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen_tensor(tensor, decimal=False)
    rewritten = _Rewritten(known)
    for node in graph.node:
        _widen_node(node)
        rewrite = REWRITES.get(node.op_type)
        if rewrite is None:
            rewritten.nodes.append(node)
        else:
            rewrite(rewritten, node, {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute})
    del graph.node[:]
    graph.node.extend(rewritten.nodes)
    graph.initializer.extend(rewritten.constants)
    return wide


def decimal_of(value: float) -> float:
    """The shortest decimal that a float32 stands for: 1e-05 for 9.99999975e-06."""
    return float(str(np.float32(value)))


def _widen_tensor(tensor: Any, *, decimal: bool) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.FLOAT:
        return
    array = numpy_helper.to_array(tensor)
    wide = np.array(decimal_of(array.item())).reshape(array.shape) if decimal and array.size == 1 else array
    tensor.CopyFrom(numpy_helper.from_array(wide.astype(np.float64), tensor.name))


def _widen_node(node: Any) -> None:
    """Let what a node holds or casts to be float64."""
    from onnx import TensorProto

    for attribute in node.attribute:
        if attribute.name == "value" and attribute.HasField("t"):
            _widen_tensor(attribute.t, decimal=True)
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE


class _Rewritten:
    """The nodes of a graph that is being rewritten, and the constants that they need."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = 0

    def constant(self, array: Array) -> str:
        """The name of a new constant."""
        from onnx import numpy_helper

        self._count += 1
        name = f"float64/constant {self._count}"
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def apply(self, operator: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """The name of a new operator's result, `to` if that is given."""
        from onnx import helper

        self._count += 1
        name = to or f"float64/{operator} {self._count}"
        node = helper.make_node(operator, list(inputs), [name], name=f"float64/{self._count}", **attributes)
        self.nodes.append(node)
        return name

    def reshape(self, value: str, *shape: int) -> str:
        """The value in another shape."""
        return self.apply("Reshape", value, self.constant(np.array(shape, np.int64)))

    def windows(self, value: str, out: Sequence[int], places: _Places, fill: float = 0.0) -> Iterator[str]:
        """For each place of a kernel what it sees: (n, c, *out), the input padded with `fill`."""
        rank = len(out)
        pads = np.array([0, 0, *places.pads[:rank], 0, 0, *places.pads[rank:]], np.int64)
        if pads.any():
            value = self.apply("Pad", value, self.constant(pads), self.constant(np.array(fill)))
        axes = self.constant(np.arange(2, rank + 2))
        steps = self.constant(np.array(places.strides, np.int64))
        for offset in product(*(range(size) for size in places.kernel)):
            start = np.array([i * dilation for i, dilation in zip(offset, places.dilations, strict=True)], np.int64)
            stop = start + (np.array(out) - 1) * places.strides + 1
            yield self.apply("Slice", value, self.constant(start), self.constant(stop), axes, steps)


class _Places:
    """Where a kernel's windows are, from a node's attributes."""

    def __init__(self, kernel: Sequence[int], attributes: Mapping[str, Any]) -> None:
        rank = len(kernel)
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or attributes.get("ceil_mode", 0):
            raise UsageError("a graph with auto_pad or ceil_mode is not run in float64")
        self.kernel = tuple(kernel)
        self.strides = np.array(attributes.get("strides", [1] * rank), np.int64)
        self.dilations = tuple(attributes.get("dilations", [1] * rank))
        self.pads = tuple(attributes.get("pads", [0] * 2 * rank))


def _conv(graph: _Rewritten, node: Any, attributes: Mapping[str, Any]) -> None:
    """A convolution: windows beside each other times the weights, a group at a time."""
    value, weight = node.input[:2]
    out_channels, per_group, *kernel = graph.shapes[weight]
    groups = int(attributes.get("group", 1))
    n, _, *out = graph.shapes[node.output[0]]
    length, taps = math.prod(out), math.prod(kernel)
    seen = [
        graph.reshape(window, n, groups, per_group, length)
        for window in graph.windows(value, out, _Places(kernel, attributes))
    ]
    columns = graph.apply("Concat", *seen, axis=2) if taps > 1 else seen[0]  # (n, groups, taps * per_group, length)
    rows = graph.reshape(weight, groups, out_channels // groups, per_group, taps)
    rows = graph.reshape(graph.apply("Transpose", rows, perm=[0, 1, 3, 2]), groups, out_channels // groups, -1)
    result = graph.apply("MatMul", rows, columns)
    biased = len(node.input) > 2 and node.input[2] != ""
    result = graph.reshape(result, n, out_channels, *out)
    bias = graph.reshape(node.input[2], 1, out_channels, *[1] * len(out)) if biased else graph.constant(np.zeros(1))
    graph.apply("Add", result, bias, to=node.output[0])


def _average_pool(graph: _Rewritten, node: Any, attributes: Mapping[str, Any]) -> None:
    """A mean of windows, over the cells that count."""
    places = _Places(attributes["kernel_shape"], attributes)
    out = graph.shapes[node.output[0]][2:]
    total = graph.apply("Sum", *graph.windows(node.input[0], out, places))
    counts: Array = np.array(float(math.prod(places.kernel)))
    if not attributes.get("count_include_pad", 0) and any(places.pads):
        counts = np.ones(())
        sizes = graph.shapes[node.input[0]][2:]
        for axis, (size, steps) in enumerate(zip(sizes, out, strict=True)):
            first = np.arange(steps) * places.strides[axis] - places.pads[axis]
            cells = first[:, None] + np.arange(places.kernel[axis]) * places.dilations[axis]
            counts = np.multiply.outer(counts, ((cells >= 0) & (cells < size)).sum(1).astype(np.float64))
    graph.apply("Div", total, graph.constant(counts), to=node.output[0])


def _global_average_pool(graph: _Rewritten, node: Any, attributes: Mapping[str, Any]) -> None:
    n, channels, *sizes = graph.shapes[node.input[0]]
    total = graph.apply("MatMul", graph.reshape(node.input[0], n, channels, -1), graph.constant(
        np.full((math.prod(sizes), 1), 1.0 / math.prod(sizes))
    ))  # fmt: skip
    shape = graph.constant(np.array([n, channels, *[1] * len(sizes)], np.int64))
    graph.apply("Reshape", total, shape, to=node.output[0])


def _batch_normalization(graph: _Rewritten, node: Any, attributes: Mapping[str, Any]) -> None:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, channel by channel."""
    value, *names = node.input
    shape = graph.shapes[value]
    wide = [1, shape[1], *[1] * (len(shape) - 2)]
    scale, bias, mean, variance = (graph.reshape(name, *wide) for name in names)
    epsilon = graph.constant(np.array(decimal_of(attributes.get("epsilon", 1e-5))))
    deviation = graph.apply("Sqrt", graph.apply("Add", variance, epsilon))
    factor = graph.apply("Div", scale, deviation)
    graph.apply("Add", graph.apply("Mul", graph.apply("Sub", value, mean), factor), bias, to=node.output[0])


def _resize(graph: _Rewritten, node: Any, attributes: Mapping[str, Any]) -> None:
    """Products with a matrix for each axis of an image that changes its size."""
    before, after = graph.shapes[node.input[0]], graph.shapes[node.output[0]]
    mode = attributes.get("mode", b"nearest").decode()
    if len(before) != 4 or before[:2] != after[:2] or mode not in ("nearest", "linear"):
        raise UsageError(f"a graph that resizes {len(before)}-d tensors ({mode}) is not run in float64")
    height, width = (_weights(a, b, mode, attributes) for a, b in zip(before[2:], after[2:], strict=True))
    rows = graph.apply("MatMul", graph.constant(height), node.input[0])
    graph.apply("MatMul", rows, graph.constant(width.T), to=node.output[0])


def _weights(before: int, after: int, mode: str, attributes: Mapping[str, Any]) -> Array:
    """(after, before): how much of each cell of an axis goes into each cell of the resized one."""
    transform = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    cells = np.arange(after)
    if transform == "align_corners":
        at = cells * ((before - 1) / (after - 1)) if after > 1 else np.zeros(1)
    elif transform == "asymmetric":
        at = cells * before / after
    elif transform in ("half_pixel", "pytorch_half_pixel"):
        at = (cells + 0.5) * before / after - 0.5
        at = np.zeros(1) if transform == "pytorch_half_pixel" and after == 1 else at
    else:
        raise UsageError(f"a graph that resizes by {transform} is not run in float64")
    weights = np.zeros((after, before))
    if mode == "nearest":
        rounding = attributes.get("nearest_mode", b"round_prefer_floor").decode()
        chosen = {
            "floor": np.floor(at),
            "ceil": np.ceil(at),
            "round_prefer_floor": np.ceil(at - 0.5),
            "round_prefer_ceil": np.floor(at + 0.5),
        }[rounding]
        weights[cells, chosen.astype(int).clip(0, before - 1)] = 1.0
        return weights
    low = np.floor(at).astype(int)
    share = at - low
    np.add.at(weights, (cells, low.clip(0, before - 1)), 1.0 - share)
    np.add.at(weights, (cells, (low + 1).clip(0, before - 1)), share)
    return weights


REWRITES: Mapping[str, Callable[[_Rewritten, Any, Mapping[str, Any]], None]] = {
    "Conv": _conv,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "BatchNormalization": _batch_normalization,
    "Resize": _resize,
}
"""Operator -> what writes it in float64."""
