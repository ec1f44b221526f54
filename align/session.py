"""One side's networks, built once and loaded afresh for whoever asks."""

from __future__ import annotations

import copy
import functools
import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stdc_parity.align.carry_rules import parts
from stdc_parity.align.framework import Array, Framework, Network
from stdc_parity.align.load import build_network, draw_inputs, in_dtype, resolve, seeded_state, side_weights
from stdc_parity.align.pair import Pair, Place, Recipe
from stdc_parity.align.record import Record, hash_arrays
from stdc_parity.align.spec import Own, RunSpec
from stdc_parity.converters.architecture import is_transposed
from stdc_parity.converters.errors import UsageError
from stdc_parity.converters.rules import TensorRule
from stdc_parity.fixtures import scenes
from stdc_parity.fixtures.images import normalised
from stdc_parity.fixtures.portbugs import change_part, planted

KEPT = 4
"""Networks and weights that a session remembers."""

SMALL = 1 << 15
"""Pixels up to which a drawn scene is kept for whoever asks again."""


class Session:
    """A framework, and the networks and weights that were asked for so far."""

    def __init__(self, framework: Framework) -> None:
        """Start with nothing built."""
        self.framework = framework
        self.lent: Record | None = None
        self.benches: dict[RunSpec, Any] = {}
        self.special: list[TensorRule] = []
        self.other: tuple[Own, Session] | None = None
        self.records: dict[str, Record] = {}
        self._initial: Mapping[str, Array] = {}
        self._networks: dict[tuple[RunSpec, str], tuple[Network, Mapping[str, Array]]] = {}
        self._weights: dict[RunSpec, tuple[Pair, Mapping[str, Array] | None, str]] = {}
        self._templates: dict[RunSpec, Network] = {}

    def check_planted(self, spec: RunSpec) -> None:
        """Raise UsageError if two of the planted bugs replace the same thing, so that one would hide the other."""
        changed = Counter(
            f"{module}.{name}"
            for bug in planted(self.framework.SIDE, spec.plant)
            for module, names in bug.parts.items()
            for name in names
        )
        twice = [name for name, count in changed.items() if count > 1]
        if twice:
            raise UsageError(
                f"--plant {' --plant '.join(spec.plant)}: both replace {', '.join(twice)}",
                "Plant one of them.",
            )

    def network(self, spec: RunSpec, *, fresh: bool = False) -> Network:
        """The network of `spec`, its weights loaded, in its dtype and mode. Raises ParityError.

        `fresh` builds it anew, so that no gradient of an earlier use is left (Paddle keeps zeros). Weights that
        are `lent` to this side, a record of the weights stage, stand in for its own where they fit.
        """
        key = (_weights_key(spec), spec.dtype)
        if fresh or key not in self._networks:
            _make_room(self._networks)
            self._networks[key] = self._built(spec)
        network, tensors = self._networks[key]
        self.framework.load(network, {**tensors, **self._lent(network, tensors)})
        self.framework.set_mode(network, spec.mode)
        return network

    def _built(self, spec: RunSpec) -> tuple[Network, Mapping[str, Array]]:
        """The network and the tensors to load into it, with the bugs that are planted."""
        pair, tensors, _ = self._loaded(spec)
        bugs = planted(self.framework.SIDE, spec.plant)
        network = self._copied(spec, pair) if spec.plant else build_network(self.framework, pair, spec.dtype)
        if tensors is None:
            tensors = seeded_state(self.framework, network, spec.seed)
        for bug in bugs:
            network = bug.change_network(network)
        self.framework.set_dtype(network, spec.dtype)
        self._initial = self.framework.state(network) if bugs else {}
        for bug in bugs:
            tensors = bug.change_tensors(tensors, self._initial)
        return network, tensors

    def _copied(self, spec: RunSpec, pair: Pair) -> Network:
        """A copy of the network as it was built, in float32, for a bug to change: quicker than to build it anew."""
        key = replace(_weights_key(spec), plant=())
        if key not in self._templates:
            _make_room(self._templates)
            self._templates[key] = build_network(self.framework, pair, "float32")
        return copy.deepcopy(self._templates[key])

    def _lent(self, network: Network, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Those of the lent weights that fit, by this side's names."""
        if self.lent is None:
            return {}
        side, found = self.framework.SIDE, {}
        for own, (name, kind) in self.framework.official_names(network).items():
            if name in self.lent.arrays:
                array = self.lent.arrays[name]
                found[own] = array.T if is_transposed(side, kind) else array
        return {own: array for own, array in found.items() if array.shape == tensors[own].shape}

    def own_network(self, spec: RunSpec) -> Network:
        """A network of `spec` that is the caller's own, to change it: the session does not keep it."""
        network, tensors = self._built(spec)
        self.framework.load(network, tensors)
        self.framework.set_mode(network, spec.mode)
        return network

    def apart(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], set[str]]:
        """What of `arrays`, by this side's names, is a part of one tensor on the other side: parts that both sides
        have, by one name; and the names of those here."""
        side = self.framework.SIDE
        return parts(self.special, arrays, side), {rule.name(side) or "" for rule in self.special}

    def initial(self) -> Mapping[str, Array]:
        """What the network that was built last had before anything was loaded, by this side's names.

        Empty unless bugs are planted: a load that is strict leaves nothing at its initial value.
        """
        return self._initial

    def pair(self, spec: RunSpec) -> Pair:
        """The pair of `spec`, with the numbers of its checkpoint."""
        return self._loaded(spec)[0]

    def module(self, spec: RunSpec, place: Place) -> Any:
        """This side's module of a place, with the bugs that are planted in it: a module of its own then."""
        name = place[self.framework.SIDE].partition(":")[0]
        part: Any = importlib.import_module(name)
        return change_part(part, name.rpartition(".")[2], planted(self.framework.SIDE, spec.plant))

    def part(self, spec: RunSpec, place: Place) -> Any:
        """What is at `place` on this side: something in a module, or a module."""
        name = place[self.framework.SIDE].partition(":")[2]
        module = self.module(spec, place)
        return getattr(module, name) if name else module

    def inputs(self, spec: RunSpec) -> list[Array]:
        """What the network of `spec` is called with; floating-point arrays are in its dtype."""
        return draw_inputs(self.pair(spec), spec)

    def recipe(self, spec: RunSpec) -> Recipe:
        """The pair's recipe, an empty one if it has none."""
        return self.pair(spec).recipe or Recipe()

    def classes(self, spec: RunSpec) -> int:
        """The number of classes of the pair's recipe. Raises UsageError if it says none."""
        classes = self.recipe(spec).num_classes
        if classes is None:
            raise UsageError(f"the pair {spec.pair} does not say its num_classes", "Say it in its Recipe.")
        return classes

    def training_case(self, spec: RunSpec, first: int = 0) -> tuple[list[Array], Array]:
        """The inputs of a training step and its target, from item number `first` on.

        Those of the recipe's case, by default scenes and labels; without a recipe plain inputs and no target.
        Floating-point inputs are in the dtype of `spec`. Raises UsageError as `scenes` does.
        """
        recipe = self.pair(spec).recipe
        if recipe is None:
            return self.inputs(spec), np.zeros(1)
        if recipe.case is not None:
            arrays, target = recipe.case(spec, first)
            return [in_dtype(array, spec.dtype) for array in arrays], target
        images, labels = self.scenes(spec, first)
        return [images], labels

    def scenes(self, spec: RunSpec, first: int = 0) -> tuple[Array, Array]:
        """A batch of street-like scenes from number `first` on.

        Images (batch, 3, height, width) in the dtype of `spec`, train ids int64 (batch, height, width), those that
        the recipe has no class for being its ignored label. Raises UsageError for a size that is too small for a
        scene.
        """
        try:
            drawn = [_scene(spec.seed, first + i, spec.size) for i in range(spec.batch)]
        except ValueError as error:
            raise UsageError(f"--size: {error}") from None
        recipe = self.recipe(spec)
        images = np.stack([normalised(rgb) for rgb, _ in drawn]).astype(spec.dtype)
        labels = np.stack([scenes.train_ids(ids) for _, ids in drawn]).astype(np.int64)
        return images, np.where(labels < (recipe.num_classes or 255), labels, recipe.ignored)

    def facts(self, spec: RunSpec) -> dict[str, object]:
        """What a record of `spec` says about its run."""
        return {
            **self.framework.facts(),
            "spec": spec.to_json(),
            "weights_sha256": self._loaded(spec)[2],
            "input_sha256": hash_arrays({f"input {i}": array for i, array in enumerate(self.inputs(spec))}),
        }

    def _loaded(self, spec: RunSpec) -> tuple[Pair, Mapping[str, Array] | None, str]:
        key = replace(_weights_key(spec), plant=())
        if key not in self._weights:
            _make_room(self._weights)
            pair, _ = resolve(spec)
            if pair.architecture is None:
                self._weights[key] = (pair, None, f"seed {spec.seed}")
            else:
                tensors, official = side_weights(self.framework.SIDE, spec)
                self._weights[key] = (pair, tensors, hash_arrays(official))
        return self._weights[key]


def _scene(seed: int, number: int, size: tuple[int, int]) -> tuple[Array, Array]:
    """A scene, remembered if it is small: a training and its metrics ask for the same ones again and again."""
    draw = _small_scene if size[0] * size[1] <= SMALL else scenes.scene
    return draw(seed, number, size)


_small_scene = functools.lru_cache(64)(scenes.scene)


def _make_room(kept: dict[Any, Any]) -> None:
    """Forget the oldest of what is kept, so that a long session stays small."""
    while len(kept) >= KEPT:
        del kept[next(iter(kept))]


def _weights_key(spec: RunSpec) -> RunSpec:
    """`spec` without what does not change the weights."""
    return RunSpec(
        spec.pair,
        (0, 0),
        weights=spec.weights,
        key=spec.key,
        base=spec.base,
        seed=spec.seed,
        plant=spec.plant,
        converted=spec.converted,
        own=spec.own,
    )
