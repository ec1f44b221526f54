"""The schedule stage on one side: the effective learning rate of every group for a whole run."""

from __future__ import annotations

import numpy as np

from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.loss import build_loss
from stdc_parity.align.stages.optimizer import LR

STAGE = "schedule"
ITERATIONS = 60_000
"""`max_iter` of upstream's published training command."""

FIRST, WARMUP = 12, 4
"""Steps that are taken, and the warm-up of their schedule: a rate that is set too late shows here alone."""


def capture(session: Session, spec: RunSpec) -> Record:
    """Record each group's learning rate, its multiplier included: float64 (60000,) for all iterations.

    Then (12,) of the first steps of a short schedule, as the optimizer's own counting has them.
    """
    network, loss = session.network(spec), build_loss(session, spec)
    optimizer = session.part(spec, "optim").build_optimizer(network, loss, max_iter=ITERATIONS)
    rates: dict[str, list[float]] = {}
    for iteration in range(ITERATIONS):
        optimizer.set_iteration(iteration)
        for group, rate in optimizer.learning_rates().items():
            rates.setdefault(group, []).append(rate)
    recorder = Recorder(session.framework)
    for group, values in rates.items():
        recorder.add_array(f"learning rate of {group}", "rate", np.array(values, np.float64), group, "group")
    for group, values in _rates_of_steps(session, spec).items():
        name = f"learning rate of {group} step by step"
        recorder.add_array(name, "rate", np.array(values, np.float64), group, "group")
    return recorder.record(STAGE)


def _rates_of_steps(session: Session, spec: RunSpec) -> dict[str, list[float]]:
    """Each group's learning rate in the first steps, which change nothing: no parameter has a gradient."""
    network, loss = session.network(spec, fresh=True), build_loss(session, spec)
    optimizer = session.part(spec, "optim").build_optimizer(
        network, loss, lr0=LR, warmup_start_lr=LR / 10, warmup_steps=WARMUP, max_iter=2 * FIRST
    )
    rates: dict[str, list[float]] = {}
    for _ in range(FIRST):
        optimizer.step()
        for group, rate in optimizer.learning_rates().items():
            rates.setdefault(group, []).append(rate)
    return rates
