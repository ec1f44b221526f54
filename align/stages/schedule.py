"""The schedule stage on one side: the effective learning rate of every group for a whole run."""

from __future__ import annotations

import numpy as np

from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.loss import build_loss

STAGE = "schedule"
ITERATIONS = 60_000
"""`max_iter` of upstream's published training command."""


def capture(session: Session, spec: RunSpec) -> Record:
    """Record each group's learning rate, its multiplier included, for all iterations: float64 (60000,)."""
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
    return recorder.record(STAGE)
