"""Another dtype on request: torch's rounding is the judge, and the loss is computed anew, value by value."""

import json
import math

import ml_dtypes
import numpy as np
import paddle
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import mapped as mapping
from stdc_parity.converters import stdc
from stdc_parity.converters.casting import cast_tensors
from stdc_parity.converters.mapped import Mapped
from stdc_parity.converters.pieces import PIECE
from stdc_parity.fixtures.weights import seeded_weights

ODD = [0.0, -0.0, 1.0, 65504, 65520, -1e6, 3.4e38, 1e-3, 6e-8, 2e-8, 1e-40, math.inf, -math.inf, math.nan]
SMALL = stdc.architecture("stdcnet813", base=8)


def tensors_of(dtype):
    values = torch.randn(50, 40, generator=torch.manual_seed(0)).to(dtype)
    return {"plain": values, "turned": values.T, "odd": torch.tensor(ODD, dtype=torch.float64).to(dtype),
            "scalar": values[1, 1], "empty": values[:0]}  # fmt: skip


def array_of(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_rounding_is_torchs_and_the_loss_is_told(source, target):
    tensors = tensors_of(source)
    arrays = {name: array_of(tensor) for name, tensor in tensors.items()}
    integers = {"count": np.array(7), "flag": np.array([True]), "bytes": np.arange(3, dtype=np.uint8)}
    result, loss = cast_tensors(arrays | integers, target, Mapped())
    assert list(result) == [*arrays, *integers]
    assert all(result[name] is array for name, array in integers.items())
    worst, relative, overflowed, vanished = 0.0, 0.0, 0, 0
    for name, tensor in tensors.items():
        rounded = tensor.to(getattr(torch, target))
        assert result[name].dtype.name == target
        assert result[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(result[name].astype(np.float64), rounded.double().numpy())
        for a, b in zip(tensor.double().flatten().tolist(), rounded.double().flatten().tolist(), strict=True):
            if math.isfinite(a) and math.isinf(b):
                overflowed += 1
            elif math.isfinite(a):
                worst = max(worst, abs(a - b))
                relative = max(relative, abs(a - b) / abs(a) if a else 0)
                vanished += a != 0 and b == 0
    if source == getattr(torch, target):
        assert (loss.tensors, loss.absolute) == (0, 0)
        return
    assert loss.tensors == len(tensors)
    assert loss.absolute == worst
    assert loss.relative == relative
    assert sum(loss.overflowed.values()) == overflowed
    assert sum(loss.vanished.values()) == vanished
    assert set(loss.overflowed) | set(loss.vanished) <= {"odd"}


def test_large_tensors_go_through_a_file_and_shared_ones_stay_shared(monkeypatch):
    monkeypatch.setattr(mapping, "KEEP", 1000)
    large = np.random.default_rng(0).random((3, PIECE // 8), dtype=np.float32)
    mapped = Mapped()
    result, loss = cast_tensors({"a": large, "b": large, "c": large.T}, "float16", mapped)
    assert len(mapped.mappings) == 1
    assert result["a"] is result["b"]
    np.testing.assert_array_equal(result["a"], large.astype(np.float16))
    np.testing.assert_array_equal(result["c"], large.T.astype(np.float16))
    assert loss.tensors == 3


def run(*arguments):
    result = CliRunner().invoke(cli.convert, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_by_command(tmp_path, dtype):
    weights = {name: torch.from_numpy(array.copy()) for name, array in seeded_weights(SMALL).items()}
    weights["features.0.conv.weight"][0, 0, 0, 0] = 1e38
    torch.save(weights, tmp_path / "net.pth")
    output = run("torch2paddle", tmp_path / "net.pth", "--dtype", dtype, "--certificate", tmp_path / "x.json")
    account = json.loads((tmp_path / "x.json").read_text())
    theirs = paddle.load(str(tmp_path / "net.pdparams"))
    assert {str(tensor.dtype) for tensor in theirs.values()} == {f"paddle.{dtype}"}
    for name, tensor in theirs.items():
        torch_name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        rounded = weights[torch_name].to(getattr(torch, dtype)).double().numpy()
        linear = name in ("fc.weight", "linear.weight")
        np.testing.assert_array_equal(tensor.astype("float64").numpy(), rounded.T if linear else rounded)
    entry = next(e for e in account["entries"] if e["target"] == "features.0.conv.weight")
    assert (entry["dtype"], entry["target_dtype"]) == ("float32", dtype)
    assert (entry["source_sha256"] == entry["target_sha256"]) == (dtype == "float32")
    if dtype == "float32":
        assert "0 tensors rounded" in output
    else:
        assert f"rounded to {dtype}: worst relative error" in output
        assert ("1 value OVERFLOWED to Inf: features.0.conv.weight (1)" in output) == (dtype == "float16")
        assert account["dtype"]["overflowed"] == ({"features.0.conv.weight": 1} if dtype == "float16" else {})
    run("paddle2torch", tmp_path / "net.pdparams", tmp_path / "back.safetensors", "--dtype", "float32")
    assert "dtypes        156 float32, 31 int64" in run("inspect", tmp_path / "back.safetensors")


def test_nothing_is_rounded_unasked(tmp_path):
    weights = {name: torch.from_numpy(array.copy()) for name, array in seeded_weights(SMALL).items()}
    half = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    torch.save(half, tmp_path / "net.pth")
    run("torch2paddle", tmp_path / "net.pth", "--certificate", tmp_path / "x.json")
    assert {str(t.dtype) for t in paddle.load(str(tmp_path / "net.pdparams")).values()} == {"paddle.float16"}
    assert json.loads((tmp_path / "x.json").read_text())["dtype"] is None
