"""One side's process: `python -m stdc_parity.align.worker SIDE`, a side of `spec.Side`.

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
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from stdc_parity.align.cost import measure, measure_shapes
from stdc_parity.align.derivation.job import derive
from stdc_parity.align.export.job import export
from stdc_parity.align.framework import load_framework
from stdc_parity.align.infer.predict import predict
from stdc_parity.align.ladder import CAPTURES, REPLAYS
from stdc_parity.align.own_session import OwnSession, session_of
from stdc_parity.align.places import describe, frames_of
from stdc_parity.align.record import Record, load_record, save_record
from stdc_parity.align.recorder import Recorder
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec
from stdc_parity.align.stages import weights
from stdc_parity.align.stages.explain import explain, explain_loss, explain_metric
from stdc_parity.align.timing import time_network
from stdc_parity.align.tracing import Edit
from stdc_parity.converters.errors import ParityError
from stdc_parity.fixtures.portbugs import planted, touched

REMEMBERED = 64
"""Records of a side without a bug that are kept while bugs of the other are planted one by one."""


def _save_initial(session: OwnSession, spec: RunSpec, job: Mapping[str, Any]) -> dict[str, Any]:
    save_record(session.initial_record(spec), Path(job["run"]))
    return {}


def _set_up(session: OwnSession, spec: RunSpec, job: Mapping[str, Any]) -> dict[str, Any]:
    session.set_up(job)
    return {}


OWN: Mapping[str, Callable[[OwnSession, RunSpec, Mapping[str, Any]], dict[str, Any]]] = {
    "own-table": lambda session, spec, job: {"table": session.table(spec)},
    "own-initial": _save_initial,
    "own-setup": _set_up,
    "own-calls": lambda session, spec, job: {"calls": session.calls(spec)},
}
"""What a side of a pair of one's own does before the rungs."""


def do(session: Session, job: Mapping[str, Any]) -> dict[str, Any]:
    """Do one job and write its record under the job's run folder."""
    if job["do"] == "facts":
        return {"facts": session.framework.facts()}
    if job["do"] == "touched":
        return {"touched": sorted(touched(session.framework.SIDE, job["plant"]))}
    spec = RunSpec.from_json(job["spec"])
    if job["do"] == "shape-cost":
        return {"cost": measure_shapes(session, spec).to_json()}
    if job["do"] == "predict":
        return predict(session, job)
    session = session_of(session, spec)
    if job["do"].startswith("derive-"):
        return derive(session, spec, job)
    if job["do"] == "cost":
        return {"cost": measure(session, spec).to_json()}
    if job["do"] == "time":
        return {"calls": time_network(session, spec, job["count"], job["warmup"])}
    if isinstance(session, OwnSession) and job["do"] in OWN:
        return OWN[job["do"]](session, spec, job)
    if job["do"] == "export":
        return export(session, spec, job)
    run = Path(job["run"])
    session.check_planted(spec)
    lent = job.get("lent")
    session.lent = load_record(Path(lent), job["reference"], weights.STAGE) if lent else None
    start = time.perf_counter()
    record = _again(session, spec, run, job)
    seconds = time.perf_counter() - start
    record = replace(record, stage=job["as"], facts={**record.facts, **session.facts(spec)})
    save_record(record, run)
    return {"seconds": seconds, "facts": dict(record.facts)}


def _again(session: Session, spec: RunSpec, run: Path, job: Mapping[str, Any]) -> Record:
    """The record that a job asks for; what a side without a bug gave is the same for the next bug of the other."""
    clean = replace(spec, plant=())
    if (
        spec == clean
        or job["reference"] != session.framework.SIDE
        or planted(session.framework.SIDE, spec.plant)
    ):
        return _recorded(session, spec, run, job)
    key = json.dumps({**job, "spec": clean.to_json(), "run": "", "as": ""})
    if key not in session.records:
        while len(session.records) >= REMEMBERED:
            del session.records[next(iter(session.records))]
        session.records[key] = _recorded(session, clean, run, job)
    return session.records[key]


def _recorded(session: Session, spec: RunSpec, run: Path, job: Mapping[str, Any]) -> Record:
    if job["do"].endswith("-explain"):
        return _explain(session, spec, run, job)
    if job["do"] in CAPTURES:
        return CAPTURES[job["do"]](session, spec)
    return REPLAYS[job["do"]](session, spec, load_record(run, job["reference"], job["of"]))


def _explain(session: Session, spec: RunSpec, run: Path, job: Mapping[str, Any]) -> Record:
    """One module traced, with the changes that the job asks for."""
    values = load_record(run, job["reference"], job["values"]) if job.get("values") else None
    edits = [Edit.from_json(edit) for edit in job["edits"]]
    if job["do"] == "loss-explain":
        return explain_loss(session, spec, edits, values)
    if job["do"] == "metric-explain":
        return explain_metric(session, spec, job["call"], edits, values)
    calls = load_record(run, job["reference"], job["of"])
    return explain(session, spec, job["do"].removesuffix("-explain"), calls, job["call"], edits, values)


Doing = Callable[[Any, Mapping[str, Any]], dict[str, Any]]
"""What does a side's jobs, given its session."""


def answer(session: Any, job: Mapping[str, Any], doing: Doing = do) -> dict[str, Any]:
    """Do one job; a failure is an answer too."""
    try:
        return {"ok": True, **doing(session, job)}
    except ParityError as error:
        return {"ok": False, "kind": type(error).__name__, "message": error.message, "note": error.note}
    except (Exception, SystemExit) as error:  # whatever a network's own code raises is a finding about that side
        where = "".join(traceback.format_list(frames_of(error))) or traceback.format_exc(limit=-4)
        return {"ok": False, "kind": "Exception", "message": describe(error), "note": where.rstrip()}


INTERVAL = 0.1
"""Seconds between two taps that are told of: more than people can read."""


def tell_taps(replies: TextIO) -> Callable[[str], None]:
    """A function that writes the taps that it is told of to `replies`, not all of them."""
    last = 0.0

    def seen(name: str) -> None:
        nonlocal last
        if time.monotonic() - last > INTERVAL:
            last = time.monotonic()
            print(json.dumps({"tap": name}), file=replies, flush=True)

    return seen


def open_session(side: str, threads: int) -> tuple[Any, Doing]:
    """What a side does its jobs with. Raises ImportError if its framework, or ONNX Runtime, is not installed."""
    if side in ("torch", "paddle"):
        session = Session(load_framework("torch" if side == "torch" else "paddle"))
        session.framework.configure(threads)
        return session, do
    from stdc_parity.align import file_side

    return file_side.open_session(side, threads), file_side.do


def main() -> None:
    """Serve jobs until the input ends."""
    side = sys.argv[1]
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        Recorder.seen = staticmethod(tell_taps(replies))
        session, doing = open_session(side, int(os.environ.get("OMP_NUM_THREADS", "1")))
    except ImportError as error:
        reply = {"ok": False, "kind": "MissingFramework", "message": str(error)}
        print(json.dumps(reply), file=replies, flush=True)
        return
    for line in sys.stdin:
        print(json.dumps(answer(session, json.loads(line), doing)), file=replies, flush=True)


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # taking a framework down in good order is half a second that the caller would wait for
