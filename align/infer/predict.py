"""One image through a framework's network, in that side's process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages.forward import call, outputs_of


def predict(session: Session, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run the job's `image`, a file with float32 (1, 3, h, w), and put the network's first output into `scores`."""
    spec = RunSpec.from_json(job["spec"])
    framework, network, pair = session.framework, session.network(spec), session.pair(spec)
    image = framework.to_tensor(np.load(job["image"]))
    start = time.perf_counter()
    with framework.no_grad():
        scores = framework.to_array(outputs_of(call(network, pair, [image]))[0])
    seconds = time.perf_counter() - start
    np.save(job["scores"], scores)
    return {"seconds": seconds}
