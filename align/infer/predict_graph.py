"""One image through an ONNX graph, in the process of a side that runs files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stdc_parity.align import capture_onnx
from stdc_parity.align.export.graph import open_graph
from stdc_parity.converters.errors import UsageError, shown

if TYPE_CHECKING:
    from stdc_parity.align.file_side import FileSession


def predict_graph(session: FileSession, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run the job's `graph` on its `image`, float32 (1, 3, h, w), and put the first output into `scores`."""
    started = start_once(session, job["graph"])
    image = np.load(job["image"])
    start = time.perf_counter()
    result = capture_onnx.run_started(started, [image])
    seconds = time.perf_counter() - start
    np.save(job["scores"], next(iter(result.values())))
    return {"seconds": seconds}


def graph_size(session: FileSession, job: Mapping[str, Any]) -> dict[str, Any]:
    """The height and width of the images that the job's `graph` takes, None for each that is free.

    Raises UsageError if it takes no images.
    """
    shapes = [each.shape for each in start_once(session, job["graph"]).get_inputs()]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UsageError(f"{shown(job['graph'])} does not take one batch of images, but {shown(shapes)}")
    return {"size": [side if isinstance(side, int) else None for side in shapes[0][2:]]}


def start_once(session: FileSession, file: str) -> Any:
    """ONNX Runtime with the graph in it, started when it is asked for first."""
    if file not in session.started:
        session.started[file] = capture_onnx.start_graph(
            open_graph(Path(file)), optimised=session.side == "onnx", threads=session.threads
        )
    return session.started[file]
