"""Comparing and verifying checkpoints of different layouts."""

import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stdc_parity.cli import convert
from stdc_parity.converters import stdc
from stdc_parity.converters.containers import read_container, write_paddle, write_torch
from stdc_parity.fixtures.weights import seeded_weights


def run(command, code=0):
    result = CliRunner().invoke(convert, command.split())
    assert result.exit_code == code, result.output
    return result.output


def save(path, tensors):
    torch.save({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}, path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("seg.pth", seeded_weights(stdc.architecture("stdc1-seg", base=4)))
    run("torch2paddle seg.pth seg.paddleseg.pdparams --to-layout paddleseg")
    run("torch2paddle seg.pth seg.paddle.pdparams")
    run("relayout seg.pth seg.stdcnet-paddle.pdparams --to-layout stdcnet-paddle")
    run("relayout seg.pth seg.mmseg.pth --to-layout mmseg")
    return tmp_path


FILES = ["seg.pth", "seg.paddle.pdparams", "seg.paddleseg.pdparams", "seg.stdcnet-paddle.pdparams", "seg.mmseg.pth"]


@pytest.mark.parametrize("a", FILES)
@pytest.mark.parametrize("b", FILES)
def test_one_network_in_two_layouts_is_the_same(folder, a, b):
    run(f"diff {a} {b}")


def test_what_a_layout_has_no_place_for_is_said(folder):
    """mmseg has one of the four detail heads: 6 tensors each, with the counter."""
    output = run("diff seg.pth seg.mmseg.pth")
    left_out = [line for line in output.splitlines() if "have no place in the layout mmseg" in line]
    assert len(left_out) == 1
    missing = set(stdc.architecture("stdc1-seg", base=4).tensors) - set(
        stdc.architecture("stdc1-seg", base=4, imagenet_head=False).tensors
    )
    heads = [name for name in torch.load("seg.pth", weights_only=True) if re.match(r"conv_out_sp(16|4|2)\.", name)]
    assert left_out[0].startswith(f"{len(heads) + len(missing)} of A ")


@pytest.mark.parametrize("file", [*FILES[1:4], "seg.mmseg.pth"])
def test_a_changed_tensor_is_found_in_any_layout(folder, file):
    """The first with 19 output channels is a classifier, whose official twin changes with it."""
    tensors = dict(read_container(file).root)
    key = next(name for name, tensor in tensors.items() if tensor.ndim == 4 and tensor.shape[0] == 19)
    tensors[key] = tensors[key] + np.float32(1)
    write = write_torch if file.endswith(".pth") else write_paddle
    write("changed.file", tensors)
    assert f"{key}: not the source's bits" in run("verify seg.pth changed.file", 1)
    assert "1 different" in run("diff seg.pth changed.file", 1)


def test_a_changed_tensor_is_found_through_layouts(folder):
    state = torch.load("seg.mmseg.pth", weights_only=True)
    state["auxiliary_head.1.conv_seg.weight"] += 1
    state["decode_head.conv_seg.bias"] += 1
    torch.save(state, "changed.pth")
    output = run("diff seg.paddleseg.pdparams changed.pth", 1)
    assert "conv_out32.conv_out.weight" in output
    output = run("diff seg.pth changed.pth", 1)
    assert "conv_out.conv_out.bias" in output


@pytest.mark.parametrize("target", FILES[1:])
def test_a_conversion_to_any_layout_is_verified(folder, target):
    run(f"verify seg.pth {target}")
    run(f"relayout {target} back.pth --to-layout official")
    run(f"verify {target} back.pth")


def test_swapped_heads_are_found(folder):
    state = torch.load("seg.mmseg.pth", weights_only=True)
    for name in [name for name in state if name.startswith("auxiliary_head.0.")]:
        other = name.replace("head.0.", "head.1.")
        state[name], state[other] = state[other], state[name]
    torch.save(state, "swapped.pth")
    assert "auxiliary_head.0" in run("verify seg.pth swapped.pth", 1)
