"""One side's networks, built once and loaded afresh for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stdc_parity.align.framework import Array, Framework, Network
from stdc_parity.align.load import build_network, side_weights
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import hash_arrays
from stdc_parity.align.spec import RunSpec
from stdc_parity.fixtures.images import seeded_image


class Session:
    """A framework, and the networks and weights that were asked for so far."""

    def __init__(self, framework: Framework) -> None:
        """Start with nothing built."""
        self.framework = framework
        self._networks: dict[tuple[RunSpec, str], Network] = {}
        self._weights: dict[RunSpec, tuple[Pair, Mapping[str, Array], str]] = {}

    def network(self, spec: RunSpec) -> Network:
        """The network of `spec`, its weights loaded, in its dtype and mode. Raises ParityError."""
        pair, tensors, _ = self._loaded(spec)
        key = (_weights_key(spec), spec.dtype)
        if key not in self._networks:
            self._networks[key] = build_network(self.framework, pair, spec.dtype)
        network = self._networks[key]
        self.framework.load(network, tensors)
        self.framework.set_mode(network, spec.mode)
        return network

    def pair(self, spec: RunSpec) -> Pair:
        """The pair of `spec`, with the numbers of its checkpoint."""
        return self._loaded(spec)[0]

    def image(self, spec: RunSpec) -> Array:
        """The input of `spec`: (batch, 3, height, width), in its dtype."""
        return seeded_image(spec.size, spec.batch, spec.seed).astype(spec.dtype)

    def facts(self, spec: RunSpec) -> dict[str, object]:
        """What a record of `spec` says about its run."""
        return {
            **self.framework.facts(),
            "weights_sha256": self._loaded(spec)[2],
            "input_sha256": hash_arrays({"image": self.image(spec)}),
            **{name: value for name, value in spec.to_json().items() if name != "weights"},
        }

    def _loaded(self, spec: RunSpec) -> tuple[Pair, Mapping[str, Array], str]:
        key = _weights_key(spec)
        if key not in self._weights:
            pair, tensors, origin = side_weights(self.framework.SIDE, spec)
            self._weights[key] = (pair, tensors, hash_arrays(origin))
        return self._weights[key]


def _weights_key(spec: RunSpec) -> RunSpec:
    """`spec` without what does not change the weights."""
    return replace(spec, size=(0, 0), batch=1, mode="eval", dtype="float32", taps="stages")
