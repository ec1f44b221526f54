"""What people see of a run while it runs: on a terminal, in a log, and with -q."""

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from stdc_parity.align.progress import View
from stdc_parity.align.result import StageResult
from stdc_parity.align.worker import INTERVAL, tell_taps
from stdc_parity.cli import align

SCHEDULE = ["schedule", "--base", "4", "--size", "64x128"]


def test_a_log_has_a_line_for_each_step_and_q_has_none() -> None:
    loud, quiet = (CliRunner().invoke(align, [*SCHEDULE, *more]) for more in ([], ["-q"]))
    assert loud.exit_code == quiet.exit_code == 0
    lines = loud.stderr.splitlines()
    assert all(re.match(r"\[ +\d+\.\d s\] ", line) for line in lines)
    assert [line.partition("] ")[2] for line in lines] == [
        "both sides import their frameworks",
        "schedule: every group's learning rate over a whole run",
        "schedule: PASS",
    ]
    assert quiet.stderr == "" and "schedule: PASS" in quiet.stdout
    untimed = [re.sub(r"\d+\.\d+ s", "", each.stdout) for each in (loud, quiet)]
    assert untimed[0] == untimed[1]


def test_the_view_names_rung_taps_and_verdicts() -> None:
    view, console = View(), Console(file=io.StringIO(), width=200)
    view.begin("weights", "tensor by tensor")
    view.judged(StageResult("weights", [], "", blocked_by="x"))
    view.begin("forward", "taps in eval mode")
    view.tap("torch", "conv1")
    view.tap("paddle", "conv0\x1b[2J")
    view.tap("torch", "conv2")
    console.print(view.show())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"\d\.\d s  forward  taps in eval mode · torch conv2 · paddle conv0\\x1b\[2J", text)
    assert "weights BLOCKED" in text and "conv1" not in text


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_terminal_shows_what_is_being_done(tmp_path: Path) -> None:
    master, slave = os.openpty()
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                seen.append(os.read(master, 1 << 16))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    code = "from stdc_parity.cli import align; align()"
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "150"}
    done = subprocess.run([sys.executable, "-c", code, *SCHEDULE], stderr=slave, stdout=subprocess.PIPE,
                          env=environment, check=False, text=True)  # fmt: skip
    os.close(slave)
    reader.join()
    os.close(master)
    text = b"".join(seen).decode(errors="replace")
    assert done.returncode == 0, text
    assert "every group's learning rate" in text and " · torch " in text
    assert re.search(r"schedule (\x1b\[\d+m)?PASS", text)
    assert "schedule: PASS" in done.stdout and "\x1b" not in done.stdout


def test_taps_are_told_of_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    replies = io.StringIO()
    tell = tell_taps(replies)
    for step in (0.0, INTERVAL / 4, INTERVAL / 4, INTERVAL):
        now[0] += step
        tell(f"tap at {now[0]:.3f}")
    assert replies.getvalue().splitlines() == ['{"tap": "tap at 100.000"}', '{"tap": "tap at 100.150"}']
