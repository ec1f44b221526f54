"""What paddle.jit.save writes is told from checkpoints and explained."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from stdc_parity.converters.containers import read_container
from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.paddle_inference import describe
from stdc_parity.models_paddle import stdcnet

SAVE = """
import sys, paddle
layer = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.Embedding(5, 2))
paddle.jit.save(layer[0], sys.argv[1], input_spec=[paddle.static.InputSpec([1, 3], "float32")])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jit")
    net = stdcnet.stdcnet813(base=8)
    net.eval()
    paddle.jit.save(net, str(folder / "net"), input_spec=[paddle.static.InputSpec([1, 3, 64, 64], "float32")])
    environment = os.environ | {"FLAGS_enable_pir_api": "0"}  # what Paddle 2 writes
    subprocess.run([sys.executable, "-c", SAVE, folder / "old"], check=True, env=environment, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.pdiparams", r"inference parameters \(\.pdiparams\): 145 tensors, 0\.3 MB of float32"),
        ("net.json", r"Paddle program \(\.json\), which holds no weights"),
        ("old.pdiparams", r"inference parameters \(\.pdiparams\): 2 tensors, 0\.0 MB of float32"),
        ("old.pdmodel", r"Paddle program \(\.pdmodel\), which holds no weights"),
    ],
)
def test_each_file_is_explained(folder, name, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        read_container(folder / name)
    assert ".pdparams" in caught.value.note


def test_the_description_counts_every_byte(folder):
    data = (folder / "net.pdiparams").read_bytes()
    state = [name for name in stdcnet.stdcnet813(base=8).state_dict() if name.startswith("features.")]  # what is used
    assert describe(memoryview(data)).startswith(f"{len(state)} tensors")
    assert describe(memoryview(data[:-1])) == f"{len(state) - 1} whole tensors, and the next one is cut off"
    assert describe(memoryview(data + b"more")) == f"{len(state)} tensors and something else behind them"
    for other in (bytes(100), bytes(16) + b"\4\0\0\0\x08\x05\x10\x80", bytes(16) + b"\xff\xff\xff\x7f", b""):
        assert describe(memoryview(other)) in (None, "0 tensors, 0.0 MB of ")


def test_a_declared_size_beyond_all_is_no_trouble():
    huge = bytes(16) + b"\x0c\0\0\0\x08\x05\x10" + b"\xff" * 8 + b"\x7f" + bytes(8)
    assert describe(memoryview(huge)) is None
    generator = np.random.default_rng(0)
    for _ in range(300):
        raw = bytes(16) + generator.integers(0, 256, 60).astype(np.uint8).tobytes()
        assert describe(memoryview(raw)) is None or "tensors" in describe(memoryview(raw))
