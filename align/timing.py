"""How long one forward pass takes: the seconds of single calls, measured where they are made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call


@dataclass(frozen=True)
class Seconds:
    """The seconds of every counted call, in their order."""

    calls: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the calls took no longer."""
        return float(np.median(self.calls))

    @property
    def p95(self) -> float:
        """95 of 100 calls took no longer (numpy's linear interpolation between the two nearest)."""
        return float(np.percentile(self.calls, 95))


def time_calls(run: Callable[[], object], count: int, warmup: int = 0) -> list[float]:
    """Call `run` `warmup` times, then `count` times; return the seconds of each of the latter (wall time)."""
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def time_network(session: Session, spec: RunSpec, count: int, warmup: int) -> list[float]:
    """The seconds of `count` forward passes of a framework's network, in eval mode and without gradients.

    Its input is on the framework's side already; on the CPU a call returns when its results are there.
    """
    spec = replace(spec, mode="eval")
    network, pair = session.network(spec), session.pair(spec)
    inputs = [session.framework.to_tensor(array) for array in session.inputs(spec)]
    with session.framework.no_grad():
        return time_calls(lambda: call(network, pair, inputs), count, warmup)
