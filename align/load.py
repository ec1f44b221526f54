"""Building one side's network of a pair with its weights in it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace

from stdc_parity.align.framework import Array, Framework, Network
from stdc_parity.align.own import own_pair
from stdc_parity.align.pair import Pair
from stdc_parity.align.pairs import find_pair
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters.architecture import Architecture, Side, TensorSpec, is_transposed
from stdc_parity.converters.convert import open_state_dict, weights_for
from stdc_parity.converters.errors import UsageError
from stdc_parity.converters.families import part_of
from stdc_parity.converters.plan import choose_architecture
from stdc_parity.converters.statedict import StateDict, find_state_dict
from stdc_parity.fixtures.images import seeded_image
from stdc_parity.fixtures.weights import draw, seeded_weights


@dataclass(frozen=True)
class Source:
    """Where a run's weights come from: a state dict in `side`'s names, the architecture that it is, and how
    to say so. `part` is the prefix of the pair's tensors that it fills; the others are seeded.
    """

    state: StateDict
    side: Side
    architecture: Architecture
    part: str = ""


def open_source(weights: str, key: str | None) -> Source:
    """Open a checkpoint of either framework. Raises CheckpointError."""
    _, state, side = open_state_dict(weights, key)
    return Source(state, side, choose_architecture(state.tensors, side, None))


def resolve(spec: RunSpec) -> tuple[Pair, Source | None]:
    """The pair of a run and the checkpoint of its weights. Raises UsageError if they do not belong together."""
    if spec.own is not None:
        return own_pair(spec.own), None
    if spec.weights is None:
        if spec.converted is not None:
            raise UsageError("--converted needs --weights: the checkpoint that it was converted from")
        return find_pair(spec.pair, base=spec.base), None
    source = open_source(spec.weights, spec.key)
    pair = find_pair(spec.pair, source.architecture, int(source.architecture.facts.get("base", spec.base)))
    source = replace(source, architecture=part_of(source.architecture, pair.name) or source.architecture)
    name = source.architecture.name
    if name != pair.name and name not in pair.parts:
        raise UsageError(
            f"--weights {spec.weights} is {source.architecture.describe()}, the pair is {pair.name}",
            note=f"Leave out --pair, or say --pair {name}.",
        )
    return pair, Source(source.state, source.side, source.architecture, pair.parts.get(name, ""))


def describe_weights(spec: RunSpec, source: Source | None, pair: Pair) -> str:
    """Where the weights of the pair come from, in words."""
    if spec.own is not None:
        return spec.weights or f"the torch side's own initialisation (seed {spec.seed})"
    if source is None:
        return f"seeded weights (seed {spec.seed})"
    given = {source.part + name for name in source.architecture.tensors}
    whole = pair.architecture is None or set(pair.architecture.tensors) <= given
    remark = "" if whole else f", the rest seeded (seed {spec.seed})"
    files = f"{spec.weights} and {spec.converted}" if spec.converted else spec.weights
    return f"{files}: {source.architecture.describe()}{remark}"


def draw_inputs(pair: Pair, spec: RunSpec) -> list[Array]:
    """What the pair's network is called with; floating-point arrays are in the dtype of `spec`."""
    arrays = pair.inputs(spec) if callable(pair.inputs) else (seeded_image(spec.size, spec.batch, spec.seed),)
    return [in_dtype(array, spec.dtype) for array in arrays]


def in_dtype(array: Array, dtype: str) -> Array:
    """The array in `dtype` if it is of a floating-point one."""
    return array.astype(dtype) if array.dtype.kind == "f" else array


def side_weights(side: Side, spec: RunSpec) -> tuple[dict[str, Array], dict[str, Array]]:
    """The tensors that `side`'s network loads, and what both sides' weights are by their official names.

    Tensors that a checkpoint leaves open (those of a part alone) are seeded.
    Batch counters are not among the official ones: Paddle has none. The pair must have an architecture.
    """
    pair, source = resolve(spec)
    assert pair.architecture is not None
    seeded = find_state_dict(seeded_weights(pair.architecture, spec.seed))
    tensors = dict(weights_for(side, seeded, "torch").tensors)
    official = dict(seeded.tensors)
    if source is not None:
        own = _own_source(side, spec, source)
        for which, names, of in ((side, tensors, own), ("torch", official, source)):
            given = weights_for(which, of.state, of.side, model=of.architecture.name).tensors
            whole = {source.part + name: array for name, array in given.items()}
            names.update({name: array for name, array in whole.items() if name in names})
    return tensors, {
        name: array for name, array in official.items() if not name.endswith("num_batches_tracked")
    }


def _own_source(side: Side, spec: RunSpec, source: Source) -> Source:
    """What `side` loads: the converted checkpoint if that has its names, else the run's weights."""
    if spec.converted is None:
        return source
    converted = open_source(spec.converted, None)
    if converted.architecture.name != source.architecture.name:
        raise UsageError(f"{spec.converted} is {converted.architecture.name}, not {source.architecture.name}")
    return converted if converted.side == side else source


def seeded_state(framework: Framework, network: Network, seed: int) -> dict[str, Array]:
    """Seeded values for every tensor of a network without an architecture, by this side's names.

    The framework's module types tell what a tensor is, so that both sides' twins get the same values.
    """
    state, drawn = framework.state(network), {}
    for own, (official, kind) in framework.official_names(network).items():
        shape = state[own].shape
        values = draw(
            official, TensorSpec(kind, shape[::-1] if is_transposed(framework.SIDE, kind) else shape), seed
        )
        drawn[own] = values.T if is_transposed(framework.SIDE, kind) else values
    return drawn


def build_network(framework: Framework, pair: Pair, dtype: str) -> Network:
    """One side's network of a pair in `dtype`, its weights not yet loaded."""
    module, _, function = pair.builders[framework.SIDE].partition(":")
    network = getattr(importlib.import_module(module), function)(**pair.arguments)
    framework.set_dtype(network, dtype)
    return network
