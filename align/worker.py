"""One side's process: `python -m stdc_parity.align.worker torch|paddle`.

Reads jobs as JSON lines from standard input and answers each with a JSON line on what was standard output
when it started; whatever else prints there goes to standard error. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stdc_parity.align.framework import Framework, load_framework
from stdc_parity.align.load import build_network, side_weights
from stdc_parity.align.pair import Pair
from stdc_parity.align.record import hash_arrays, load_record, save_record
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages import forward
from stdc_parity.converters.errors import ParityError
from stdc_parity.fixtures.images import seeded_image


def run_forward(framework: Framework, job: Mapping[str, Any]) -> dict[str, Any]:
    """Capture the forward stage and write its record."""
    spec, run = RunSpec.from_json(job["spec"]), Path(job["run"])
    pair, network, origin = _network(framework, spec)
    image = seeded_image(spec.size, spec.batch, spec.seed).astype(spec.dtype)
    start = time.perf_counter()
    record = forward.capture(framework, network, pair, image, spec)
    seconds = time.perf_counter() - start
    facts = framework.facts() | {
        "weights_sha256": hash_arrays(origin),
        "input_sha256": hash_arrays({"image": image}),
        "seed": spec.seed,
        "dtype": spec.dtype,
        "mode": spec.mode,
        "pair": spec.pair,
    }
    save_record(type(record)(record.side, record.stage, record.taps, record.arrays, facts), run)
    return {"seconds": seconds, "facts": facts}


def run_calls(framework: Framework, job: Mapping[str, Any]) -> dict[str, Any]:
    """Record every module's inputs and outputs."""
    spec, run = RunSpec.from_json(job["spec"]), Path(job["run"])
    pair, network, _ = _network(framework, spec)
    image = seeded_image(spec.size, spec.batch, spec.seed).astype(spec.dtype)
    save_record(forward.capture_calls(framework, network, pair, image), run)
    return {}


def run_replay(framework: Framework, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run this side's modules on the inputs that the other side recorded."""
    spec, run = RunSpec.from_json(job["spec"]), Path(job["run"])
    pair, network, _ = _network(framework, spec)
    reference = load_record(run, job["reference"], forward.ISOLATED)
    save_record(forward.replay(framework, network, pair, reference), run)
    return {}


JOBS: Mapping[str, Callable[[Framework, Mapping[str, Any]], dict[str, Any]]] = {
    "forward": run_forward,
    "calls": run_calls,
    "replay": run_replay,
}


def _network(framework: Framework, spec: RunSpec) -> tuple[Pair, Any, Mapping[str, Any]]:
    pair, tensors, origin = side_weights(framework.SIDE, spec)
    return pair, build_network(framework, pair, tensors, spec), origin


def answer(framework: Framework, job: Mapping[str, Any]) -> dict[str, Any]:
    """Do one job; a failure is an answer too."""
    try:
        return {"ok": True, **JOBS[job["do"]](framework, job)}
    except ParityError as error:
        return {"ok": False, "kind": type(error).__name__, "message": error.message, "note": error.note}
    except Exception as error:  # whatever a network's own code raises is a finding about that side
        where = traceback.format_exc(limit=-4)
        return {
            "ok": False,
            "kind": "Exception",
            "message": f"{type(error).__name__}: {error}",
            "note": where,
        }


def main() -> None:
    """Serve jobs until the input ends."""
    side = sys.argv[1]
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        framework = load_framework("torch" if side == "torch" else "paddle")
        framework.configure(int(os.environ.get("OMP_NUM_THREADS", "1")))
    except ImportError as error:
        print(
            json.dumps({"ok": False, "kind": "MissingFramework", "message": str(error)}),
            file=replies,
            flush=True,
        )
        return
    for line in sys.stdin:
        print(json.dumps(answer(framework, json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
