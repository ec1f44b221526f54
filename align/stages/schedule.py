"""The schedule stage on one side: the effective learning rate of every group for a whole run."""

from __future__ import annotations

import numpy as np

from stdc_parity.align.pair import PlainOptimizer
from stdc_parity.align.record import Record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.loss import build_loss, trained
from stdc_parity.align.stages.optimizer import base_rate, build_optimizer

STAGE = "schedule"
FIRST, WARMUP = 12, 4
"""Steps that are taken, and the warm-up of their schedule: a rate that is set too late shows here alone."""


def capture(session: Session, spec: RunSpec) -> Record:
    """Record each group's learning rate, its multiplier included: float64 (n,) for all n iterations of a run.

    Then (12,) of the first steps of a short schedule, as the optimizer's own counting has them.
    """
    part = session.recipe(spec).optimizer
    assert part is not None and part.iterations is not None
    network, loss = session.network(spec), build_loss(session, spec)
    if isinstance(part, PlainOptimizer):
        optimizer = build_optimizer(session, spec, network, loss, part.lr)
    else:
        optimizer = session.part(spec, part.place)(network, trained(loss), **part.whole)
    rates: dict[str, list[float]] = {}
    for iteration in range(part.iterations):
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
    lr = base_rate(session, spec)
    optimizer = build_optimizer(session, spec, network, loss, lr, WARMUP, 2 * FIRST)
    rates: dict[str, list[float]] = {}
    for _ in range(FIRST):
        optimizer.step()
        for group, rate in optimizer.learning_rates().items():
            rates.setdefault(group, []).append(rate)
    return rates
