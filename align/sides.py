"""The two sides' processes. One that dies is that side's result, not the end of the run."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from stdc_parity.align.result import Failure
from stdc_parity.align.spec import Side
from stdc_parity.converters import errors

PACKAGES: Mapping[Side, str] = {
    "torch": "torch",
    "paddle": "paddlepaddle",
    "onnx": "onnxruntime",
    "onnx-plain": "onnxruntime",
    "torchscript": "torch",
    "torch-export": "torch",
    "paddle-inference": "paddlepaddle",
}
"""What to install for a side."""

GRAPH_SIDES: tuple[Side, ...] = ("onnx", "onnx-plain")
"""The sides that run an ONNX graph."""

FILE_SIDES: tuple[Side, ...] = (*GRAPH_SIDES, "torchscript", "torch-export", "paddle-inference")
"""The sides that run a file: they have no network, only what it gives."""


TapSeen = Callable[[Side, str], None]
"""Called with a side and the name of a tap that it has just recorded."""


class Worker(Protocol):
    """What does one side's jobs, one by one: a process, or this one (`live.LiveSide`)."""

    def ask(self, job: Mapping[str, Any]) -> None:
        """Send a job; the answer is fetched by `answer`."""

    def answer(self) -> dict[str, Any] | Failure:
        """Wait for the answer to the last job. Raises ParityError for what the user can mend."""


class SideProcess:
    """A worker process with one framework in it, which answers jobs one by one."""

    def __init__(self, side: Side, threads: int, seen: TapSeen = lambda side, tap: None) -> None:
        """Start it; its imports run while the caller goes on. `seen` is told of its taps, from another thread."""
        self.side = side
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        quiet = {"GLOG_minloglevel": "2", "PYTHONWARNINGS": "ignore"}
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | quiet
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stdc_parity.align.worker", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        self._seen = seen
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Put the process's answers into the queue, and None when it has ended; its taps go to `seen`."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):  # the last line of a process that was killed
                reply = json.loads(line)
                if "tap" in reply:
                    self._seen(self.side, reply["tap"])
                else:
                    self._replies.put(reply)
        self._replies.put(None)

    def ask(self, job: Mapping[str, Any]) -> None:
        """Send a job; the answer is fetched by `answer`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `answer` finds out why

    def answer(self) -> dict[str, Any] | Failure:
        """Wait for the answer to the last job. Raises ParityError for what the user can mend."""
        reply = self._replies.get()
        if reply is None:
            self._replies.put(None)  # for whoever asks again
            return Failure(self.side, self._death(), self._last_words())
        return read_reply(self.side, reply)

    @property
    def is_alive(self) -> bool:
        """Whether the process can still answer."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def _last_words(self) -> str:
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        return "\n".join(text.strip().splitlines()[-8:])


def read_reply(side: Side, reply: dict[str, Any]) -> dict[str, Any] | Failure:
    """The answer in a worker's reply. Raises ParityError for what the user can mend."""
    if reply["ok"]:
        return reply
    if reply["kind"] == "MissingFramework":
        raise missing_framework(side, reply["message"])
    if reply["kind"] != "Exception":
        raise getattr(errors, reply["kind"])(reply["message"], reply["note"])
    return Failure(side, reply["message"], reply["note"])


def missing_framework(side: Side, detail: str = "") -> errors.MissingFramework:
    """The error for a framework that is not there, with the way to get it."""
    return errors.MissingFramework(
        f"the {side} side needs {PACKAGES[side]}, which cannot be imported here{f' ({detail})' if detail else ''}",
        note="pip install 'stdc-parity[onnx]'"
        if side in GRAPH_SIDES
        else f"pip install {PACKAGES[side]} (README: how to get a CPU or a GPU build).",
    )


@contextmanager
def open_sides(
    sides: Sequence[Side], threads: int, seen: TapSeen = lambda side, tap: None
) -> Iterator[dict[Side, SideProcess]]:
    """Start the processes of `sides`, both at once; `seen` is told of their taps.

    Raises MissingFramework before starting any.
    """
    for side in sides:
        if not is_installed(side):
            raise missing_framework(side)
    processes = {side: SideProcess(side, threads, seen) for side in sides}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.close()


def is_installed(side: Side) -> bool:
    """Whether what a side computes with can be found here; ONNX Runtime's sides need the onnx package too."""
    framework = "paddle" if PACKAGES[side] == "paddlepaddle" else "torch"
    needed = ("onnxruntime", "onnx") if side in GRAPH_SIDES else (framework,)
    return all(importlib.util.find_spec(module) is not None for module in needed)


def default_threads(sides: int = 2) -> int:
    """The cores of this machine shared out between the sides, at least one each."""
    return max(1, (os.cpu_count() or 2) // sides)
