"""The train stage on one side: a few steps of the recipe from the same start on the same batches.

Training is chaotic, so the reference side runs it twice: once more with rounding-sized noise on its images.
How far that control strays is how far another framework may.
"""

from __future__ import annotations

import numpy as np

from stdc_parity.align.framework import Array
from stdc_parity.align.pair import PlainOptimizer
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call
from stdc_parity.align.stages.loss import build_loss, for_loss, kind_of_loss, to_tensors
from stdc_parity.align.stages.optimizer import add_state, build_optimizer

STAGE = "train"
CONTROL = "train-control"
NOISE = 1e-9
"""The control's relative noise: what clean twins differ by in their first loss in float64, which is more than
rounding (Paddle interpolates with float32 ratios)."""


PLAIN_NOISE = 1e-6
"""The same with an optimizer of the framework's own: Paddle has learning rates in float32, which is up to 6e-8 of
every step, whatever its size."""


def capture(session: Session, spec: RunSpec) -> Record:
    """Train for `spec.steps` steps; record the loss, its terms and the rates of each, and the final state."""
    return _train(session, spec, noise=0.0, stage=STAGE)


def capture_control(session: Session, spec: RunSpec) -> Record:
    """The same with noise on the images."""
    plain = isinstance(session.recipe(spec).optimizer, PlainOptimizer)
    return _train(session, spec, noise=PLAIN_NOISE if plain else NOISE, stage=CONTROL)


def _disturbed(array: Array, noise: float, random: np.random.Generator) -> Array:
    """Floating-point inputs with relative noise."""
    if array.dtype.kind != "f":
        return array
    return (array * (1 + noise * random.standard_normal(array.shape))).astype(array.dtype)


def _train(session: Session, spec: RunSpec, noise: float, stage: str) -> Record:
    framework, pair = session.framework, session.pair(spec)
    network, loss = session.network(spec, fresh=True), build_loss(session, spec)
    optimizer = build_optimizer(session, spec, network, loss, spec.lr)
    recorder = Recorder(framework)
    random = np.random.default_rng([spec.seed, 2])
    for step in range(spec.steps):
        inputs, labels = session.training_case(spec, step * spec.batch)
        disturbed = [_disturbed(array, noise, random) for array in inputs]
        optimizer.zero_grad()
        outputs = call(network, pair, [framework.to_tensor(array) for array in disturbed])
        total, terms = loss(for_loss(outputs), to_tensors(framework, labels))
        framework.backward(total)
        optimizer.step()
        for name, term in {"total": total, **terms}.items():
            recorder.add(f"iteration {step}: {name}", "loss", f"iteration {step}", kind_of_loss(loss), term)
        for group, rate in optimizer.learning_rates().items():
            name = f"iteration {step}: learning rate of {group}"
            recorder.add_array(name, "rate", np.array(rate, np.float64), f"iteration {step}", "group")
        if step == 0:
            add_state(session, recorder, network, optimizer, "after iteration 0")
    add_state(session, recorder, network, optimizer, "at the end")
    for name, array in framework.buffers(network).items():
        recorder.add_array(f"{name} at the end", "buffer", array, name.rpartition(".")[0])
    return recorder.record(stage)
