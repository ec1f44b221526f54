"""What several test files share."""

import os

# Before any test imports a framework: the networks are small, and on busy cores a second thread makes them wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from stdc_parity.align import file_side
from stdc_parity.align.file_side import FileSession
from stdc_parity.align.framework import load_framework
from stdc_parity.align.session import Session
from stdc_parity.align.sides import read_reply
from stdc_parity.align.worker import answer, do


class Here:
    """A side's worker in this process: the answers of its own one, without the seconds that takes to start."""

    is_alive = True

    def __init__(self, side):
        self.side = side
        self.session, self.doing = (Session(load_framework(side)), do) if side in ("torch", "paddle") else (
            FileSession(side, 1), file_side.do)  # fmt: skip

    def ask(self, job):
        self.reply = answer(self.session, job, self.doing)

    def answer(self):
        return read_reply(self.side, self.reply)


@pytest.fixture
def workers():
    return {side: Here(side) for side in ("torch", "paddle")}


@pytest.fixture
def graph_worker():
    return Here("onnx")
