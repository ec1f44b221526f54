"""`--prove` after a conversion, and `stdc-align --converted`: each side with its own file."""

import os
import subprocess
import sys

import pytest
import torch

from stdc_parity.converters import stdc
from stdc_parity.converters.containers import read_container, write_paddle
from stdc_parity.fixtures.weights import seeded_weights

COMMAND = "from stdc_parity.cli import {0}; {0}(prog_name='stdc-{0}')"
NET = stdc.architecture("stdcnet813", base=8)

WITHOUT_PADDLE = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] == "paddle" else find(name, *rest)
"""


@pytest.fixture
def source(tmp_path):
    torch.save({n: torch.from_numpy(a) for n, a in seeded_weights(NET).items()}, tmp_path / "net.pth")
    return tmp_path / "net.pth"


def run(folder, command, *arguments, before=""):
    code = before + COMMAND.format(command)
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True,
                          check=False, env={**os.environ, "COLUMNS": "200"})  # fmt: skip


def test_a_conversion_proves_itself(source):
    done = run(source.parent, "convert", "torch2paddle", "net.pth", "--prove")
    assert done.returncode == 0, done.stderr
    assert "Wrote net.pdparams" in done.stdout
    assert "net.pth and net.pdparams: stdcnet813" in done.stdout
    assert "forward: PASS" in done.stdout


def test_a_layout_that_lacks_heads_proves_itself(tmp_path):
    """mmsegmentation's has one of the four detail heads, whose outputs no network returns."""
    net = stdc.architecture("stdc1-seg", base=4, imagenet_head=False)
    torch.save({n: torch.from_numpy(a) for n, a in seeded_weights(net).items()}, tmp_path / "net.pth")
    done = run(tmp_path, "convert", "relayout", "net.pth", "--to-layout", "mmseg", "--prove")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "forward: PASS" in done.stdout
    assert "detail8" in done.stdout


def test_a_file_that_is_not_the_conversion_diverges(source):
    assert run(source.parent, "convert", "torch2paddle", "net.pth").returncode == 0
    contents = read_container(source.parent / "net.pdparams")
    arrays = {
        **contents.root,
        "features.3.conv_list.1.conv.weight": -contents.root["features.3.conv_list.1.conv.weight"],
    }
    write_paddle(source.parent / "wrong.pdparams", arrays)
    done = run(
        source.parent,
        "align",
        "forward",
        "--weights",
        "net.pth",
        "--converted",
        "wrong.pdparams",
        "--size",
        "64x64",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "forward: DIVERGED" in done.stdout
    assert "features.3" in done.stdout
    assert "--converted wrong.pdparams" in done.stdout  # what reproduces it


def test_without_a_framework_the_file_is_kept(source):
    done = run(source.parent, "convert", "torch2paddle", "net.pth", "--prove", before=WITHOUT_PADDLE)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "Wrote net.pdparams" in done.stdout
    assert "the paddle side needs paddlepaddle" in done.stderr
    assert "net.pdparams was written and is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert (source.parent / "net.pdparams").exists()


def test_usage(source):
    done = run(source.parent, "convert", "torch2paddle", "net.pth", "--prove", "--dry-run")
    assert done.returncode == 2
    assert "--prove needs the file" in done.stderr
    for option, value, said in (("--dtype", "float16", "without --dtype"), ("--member", "x", "unpack it first")):
        done = run(source.parent, "convert", "torch2paddle", "net.pth", "--prove", option, value)
        assert done.returncode == 2
        assert said in done.stderr
        assert not (source.parent / "net.pdparams").exists()
    assert run(source.parent, "align", "forward", "--converted", "net.pth").returncode == 2
