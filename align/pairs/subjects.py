"""Small twin networks that hold one kind of layer each: what port bugs are put into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.pair import Floor, Pair
from stdc_parity.converters.architecture import Architecture

Inputs = tuple[Array, ...]

BILINEAR = "Paddle computes interpolation ratios in float32 even for float64 tensors"
AVGPOOL = "the gradients of Paddle's average pools divide in float32"
SHRINKING = "Paddle takes softshrink's threshold as a float32 number"
CONSTANTS = "Paddle has the constants of SELU and Hardsigmoid in float32"


@dataclass(frozen=True)
class Subject:
    """The class of a network in `torch_FILE.py` and its twin, its inputs, modules and outputs."""

    network: str
    inputs: Callable[[np.random.Generator, int], Inputs]
    stages: str
    outputs: str
    floors: Sequence[Floor] = ()
    file: str = "subjects"


def _normal(*shape: int) -> Callable[[np.random.Generator, int], Inputs]:
    """A batch of normal values; `shape` is that of one item."""
    return lambda random, batch: (random.standard_normal((batch, *shape), np.float32),)


def _steps(low: float, high: float, *shape: int) -> Callable[[np.random.Generator, int], Inputs]:
    """A batch of multiples of a half between two bounds: with exact zeros, kinks and ties."""

    def draw(random: np.random.Generator, batch: int) -> Inputs:
        return (random.integers(round(2 * low), round(2 * high) + 1, (batch, *shape)).astype(np.float32) / 2,)

    return draw


def _tokens(random: np.random.Generator, batch: int) -> Inputs:
    """Tokens, and which may not see which: about a third, nobody all."""
    hidden = (random.random((7, 7)) < 0.3) & ~np.eye(7, dtype=bool)
    return random.standard_normal((batch, 7, 16), np.float32), hidden


def _sequence(random: np.random.Generator, batch: int) -> Inputs:
    return (
        random.standard_normal((batch, batch, 5), np.float32),
    )  # as many steps as items: no shape tells them


def _ids(random: np.random.Generator, batch: int) -> Inputs:
    """Word ids of which the first of each item is 0, which often is the padding."""
    ids = random.integers(0, 8, (batch, 9))
    ids[:, 0] = 0
    return (ids,)


def _picks(random: np.random.Generator, batch: int) -> Inputs:
    """Features and channels to pick from them, different ones at each place."""
    order = random.random((batch, 6, 8, 8)).argsort(1)
    return random.standard_normal((batch, 6, 8, 8), np.float32), order[:, :2]


SUBJECTS: Mapping[str, Subject] = {
    "subject-convs": Subject(
        "Convs", _normal(3, 33, 47), "stem norm dilated grouped flat square mirrored line head", "logits rows"
    ),
    "subject-conv-transpose": Subject("ConvTransposes", _normal(6, 7, 5), "twice learned spread", "features"),
    "subject-pools": Subject(
        "Pools",
        _steps(0, 3, 4, 21, 30),
        "avg head avg_inner avg_ceil max max_ceil max_edge bins.0 bins.1 bins.2 bins.3 peaks",
        "avg avg_inner avg_ceil max max_ceil max_edge bin1 bin2 bin3 bin6 peaks means",
        (Floor(r"(own )?grad .*", 1e-7, AVGPOOL),),
    ),
    "subject-norms": Subject(
        "Norms",
        _normal(6, 7, 9),
        "batch wide untracked cumulative group layer instance response unit",
        "batch wide untracked cumulative group layer instance response unit",
    ),
    "subject-upsample": Subject(
        "Upsamples",
        _normal(8, 9, 13),
        "aligned centred nearest cubic sampled shuffle head",
        "aligned centred nearest cubic sampled shuffle",
        (Floor(r"(own grad |grad )?(aligned|input|network).*", 5e-6, BILINEAR),),
    ),
    "subject-activations": Subject(
        "Activations",
        _steps(-4, 7, 4, 5, 8),
        "relu relu6 leaky prelu elu selu gelu gelu_tanh silu mish softplus softplus2 sigmoid hardsigmoid"
        " hardswish clamp softmax log_softmax",
        "relu relu6 leaky prelu elu selu gelu gelu_tanh silu mish softplus softplus2 sigmoid hardsigmoid"
        " hardswish clamp softmax log_softmax",
        (Floor(r"(own grad |grad )?(selu|hardsigmoid|input|network).*", 2e-7, CONSTANTS),),
    ),
    "subject-attention": Subject(
        "Attention", _tokens, "norm1 attn masked norm2 fc1 gelu fc2 fused", "tokens fused"
    ),
    "subject-rnn": Subject("Recurrent", _sequence, "lstm gru head", "logits state last"),
    "subject-embedding": Subject("Embeddings", _ids, "table norm head", "logits"),
    "subject-dropout": Subject("Dropouts", _normal(4, 8, 8), "conv drop drop2d head", "logits"),
    "subject-tensor-ops": Subject(
        "TensorOps",
        _picks,
        "head piece median spectral picked placed strongest index alias pad pad_all flip roll tokens shuffle patches"
        " spread repeat rounded means larger length",
        "piece median spectral picked placed strongest index alias pad pad_all flip roll tokens shuffle patches"
        " spread repeat rounded means larger length",
    ),
    "subject-functions": Subject(
        "Functions",
        _picks,
        "head counted wrapped whole running ranked weakest edge framed affinity gated shrunk celu bounded "
        "thresholded tempered pointwise rms rotary windows focus unshuffle area cosine divided lower chosen "
        "floored positive deviation decades sums held",
        "counted wrapped whole running ranked weakest edge framed affinity gated shrunk celu bounded "
        "thresholded tempered pointwise rms rotary windows focus unshuffle area cosine divided lower chosen "
        "floored positive deviation decades sums held",
        (
            Floor(r"(own )?grad .*", 1e-7, AVGPOOL),
            Floor(r"(shrunk|network).*", 1e-7, SHRINKING),
        ),
        file="functions",
    ),
    "subject-blocks": Subject(
        "Blocks",
        _normal(8, 10, 13),
        "first second gate pyramid head aux",
        "logits mirrored aux",
        (Floor(r"(own )?grad .*", 2e-7, AVGPOOL),),
    ),
}

NAMES: tuple[str, ...] = tuple(SUBJECTS)


def pair(name: str, architecture: Architecture | None = None, base: int = 64) -> Pair:
    """The pair called `name`; `architecture` and `base` mean nothing to it, nor does a run's size."""
    subject = SUBJECTS[name]
    stages = tuple(subject.stages.split())
    return Pair(
        name=name,
        builders={
            "torch": f"stdc_parity.fixtures.portbugs.torch_{subject.file}:{subject.network}",
            "paddle": f"stdc_parity.fixtures.portbugs.paddle_{subject.file}:{subject.network}",
        },
        architecture=None,
        outputs=tuple(f"{name} out" if name in stages else name for name in subject.outputs.split()),
        stages=stages,
        inputs=lambda spec: subject.inputs(np.random.default_rng([spec.seed, 7]), spec.batch),
        floors=subject.floors,
    )
