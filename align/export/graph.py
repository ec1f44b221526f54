"""ONNX graphs after an exporter wrote them: official names, pools as means, nothing that no output needs.

The exporters of the two frameworks give weights names of their own, or hold them as constants; one that is to be
recognised, compared and converted back has every tensor of its network under its official name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.converters.containers import read_container
from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.sniffing import ONNX
from stdc_parity.converters.version import VERSION

if TYPE_CHECKING:
    import onnx

DEFAULT_OPSET = 17
"""ReduceMean has its axes as an attribute up to 17, which every runtime of recent years takes."""

OPSETS = range(11, 21)
"""From the first that has Resize with align_corners and sizes, to the newest of the exporters."""

UNUSED = "unused/"
"""What the outputs of Shape nodes are called that hold tensors no output needs. Runtimes drop such nodes without a
word, and initialisers that no node has with a warning each."""


@dataclass(frozen=True)
class Naming:
    """What an exporter called things: `tensors` maps its names of weights to official ones, `outputs` are the
    official names of what the graph gives, in order, `aliases` maps further names to those.

    `transposed` are official names of weights that it has transposed, `folded` of those that batch norms were
    folded into, `folded_norms` of the norms' own. `gap` is how much folding moves the outputs in float64, of their
    scale.
    """

    tensors: Mapping[str, str]
    outputs: Sequence[str]
    aliases: Mapping[str, str]
    transposed: frozenset[str] = frozenset()
    folded: tuple[str, ...] = ()
    folded_norms: tuple[str, ...] = ()
    gap: float = 0.0


@dataclass
class _Graph:
    """A model that is being changed: its initialisers by name, and its nodes in order."""

    model: Any
    nodes: list[Any] = field(default_factory=list)
    initialisers: dict[str, Any] = field(default_factory=dict)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give values other names wherever they are used."""
        for node in self.nodes:
            for values in (node.input, node.output):
                for i, value in enumerate(values):
                    values[i] = names.get(value, value)
        for value in self.model.graph.output:
            value.name = names.get(value.name, value.name)

    def keep_outputs(self, names: Sequence[str]) -> None:
        """Give no other outputs than those."""
        kept = [value for value in self.model.graph.output if value.name in names]
        del self.model.graph.output[:]
        self.model.graph.output.extend(kept)


def finish_graph(
    raw: Path,
    naming: Naming,
    *,
    name: str,
    metadata: Mapping[str, str],
    unused: Mapping[str, Array],
    given: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """The graph that an exporter wrote to `raw`, checked in full, with inferred shapes.

    `name` is the graph's, `metadata` its properties. `unused` are tensors by official names that the graph is to
    hold if it does not need them. `given` are the outputs that it keeps, all by default; the others keep their names
    within it. Raises onnx.checker.ValidationError, onnx.shape_inference.InferenceError.
    """
    import onnx

    model = onnx.load(raw)
    graph = _Graph(model, list(model.graph.node), {t.name: t for t in model.graph.initializer})
    _name_outputs(graph, naming.outputs)
    _copy_outputs(graph, naming.aliases)
    _take_constants(graph, naming.tensors)
    _name_tensors(graph, naming.tensors)
    _turn_back(graph, naming.transposed)
    _pool_by_means(graph, _opset(model))
    outputs = [*naming.outputs, *naming.aliases] if given is None else given
    graph.keep_outputs(outputs)
    graph.nodes = _needed(graph.nodes, outputs)
    _hold(graph, unused)
    return _checked(graph, name, metadata)


def open_graph(file: Path) -> onnx.ModelProto:
    """The model in a file, checked. Raises CheckpointError if it is none."""
    import onnx
    from google.protobuf.message import DecodeError

    contents = read_container(file)  # says what else it may be, and that external data stay in their folder
    if contents.container != ONNX:
        raise CheckpointError(f"{shown(file)} is no ONNX model but {contents.container}")
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        raise CheckpointError(f"{shown(file)} is no valid ONNX model: {shown(error, 300)}") from None
    return model


def _name_outputs(graph: _Graph, names: Sequence[str]) -> None:
    """Call the outputs by `names`; one that is an input, or another output too, is copied."""
    from onnx import helper

    taken = {value.name for value in graph.model.graph.input}
    renamed: dict[str, str] = {}
    for output, name in zip(graph.model.graph.output, names, strict=True):
        if output.name in taken:
            graph.nodes.append(helper.make_node("Identity", [output.name], [name], name=f"copy of {name}"))
            output.name = name
        else:
            taken.add(output.name)
            renamed[output.name] = name
    graph.rename(renamed)


def _copy_outputs(graph: _Graph, aliases: Mapping[str, str]) -> None:
    """Give outputs a second time, by other names."""
    from onnx import helper

    for name, first in aliases.items():
        output = graph.model.graph.output.add()
        output.CopyFrom(next(value for value in graph.model.graph.output if value.name == first))
        output.name = name
        graph.nodes.append(helper.make_node("Identity", [first], [name], name=f"copy of {name}"))


def _take_constants(graph: _Graph, known: Mapping[str, str]) -> None:
    """Turn Constant nodes that hold weights into initialisers, and undo the sharing of equal initialisers."""
    from onnx import TensorProto

    kept = []
    for node in graph.nodes:
        output = node.output[0] if node.output else ""
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        shared = graph.initialisers.get(node.input[0]) if node.op_type == "Identity" else None
        tensor = shared if shared is not None else value if node.op_type == "Constant" else None
        if tensor is None or output not in known:
            kept.append(node)
            continue
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.name = output
        graph.initialisers[output] = copy
    graph.nodes = kept


def _name_tensors(graph: _Graph, names: Mapping[str, str]) -> None:
    """Call initialisers by their official names."""
    graph.rename(names)
    graph.initialisers = {names.get(name, name): tensor for name, tensor in graph.initialisers.items()}
    for name, tensor in graph.initialisers.items():
        tensor.name = name


def _turn_back(graph: _Graph, names: Iterable[str]) -> None:
    """Hold weights that the exporter has transposed as they officially are, with a Transpose for who uses them."""
    from onnx import helper, numpy_helper

    for name in sorted(graph.initialisers.keys() & set(names)):
        turned = np.ascontiguousarray(numpy_helper.to_array(graph.initialisers[name]).T)
        graph.initialisers[name] = numpy_helper.from_array(turned, name)
        graph.rename({name: f"{name}.T"})
        node = helper.make_node("Transpose", [name], [f"{name}.T"], name=f"{name}.T", perm=[1, 0])
        graph.nodes.insert(0, node)


def _pool_by_means(graph: _Graph, opset: int) -> None:
    """Let average pools over the whole of a feature map be ReduceMean, which every runtime takes at any size."""
    from onnx import helper, numpy_helper

    for i, node in enumerate(graph.nodes):
        if node.op_type != "GlobalAveragePool":
            continue
        source, target = node.input[0], node.output[0]
        if opset < 18:
            mean = helper.make_node("ReduceMean", [source], [target], name=node.name, axes=[2, 3], keepdims=1)
        else:
            axes = f"{target}/axes"
            graph.initialisers[axes] = numpy_helper.from_array(np.array([2, 3], np.int64), axes)
            mean = helper.make_node("ReduceMean", [source, axes], [target], name=node.name, keepdims=1)
        graph.nodes[i] = mean


def _needed(nodes: Sequence[Any], outputs: Iterable[str]) -> list[Any]:
    """The nodes that `outputs` need, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            for inner in _subgraph_inputs(node):
                wanted.add(inner)
    return kept[::-1]


def _subgraph_inputs(node: Any) -> Iterable[str]:
    """What the bodies of an If or a Loop take from around them."""
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for each in graph.node:
                yield from each.input
                yield from _subgraph_inputs(each)


def _hold(graph: _Graph, tensors: Mapping[str, Array]) -> None:
    """Keep what no node needs in the graph, or nothing of it; what it needs is there."""
    from onnx import helper, numpy_helper

    used = {value for node in graph.nodes for value in (*node.input, *_subgraph_inputs(node))}
    graph.initialisers = {name: tensor for name, tensor in graph.initialisers.items() if name in used}
    for name, array in tensors.items():
        if name not in graph.initialisers:
            graph.initialisers[name] = numpy_helper.from_array(np.array(array, order="C"), name)
            graph.nodes.append(helper.make_node("Shape", [name], [f"{UNUSED}{name}"], name=f"{UNUSED}{name}"))


def _checked(graph: _Graph, name: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The model with what was changed, its shapes inferred."""
    import onnx
    from onnx import helper

    model = graph.model
    opset = _opset(model)
    graph.model.graph.ClearField("node")
    graph.model.graph.ClearField("initializer")
    graph.model.graph.ClearField("value_info")
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.initialisers.values())
    model.graph.name = name
    model.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    model.producer_name, model.producer_version = "stdc-parity", VERSION
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def _opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next(int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx"))
