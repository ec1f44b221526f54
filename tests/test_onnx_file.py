"""Initialisers of ONNX models: the onnx package is the judge, torch.onnx.export the writer of a real one."""

import ml_dtypes
import numpy as np
import onnx
import paddle
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from stdc_parity import cli
from stdc_parity.converters.containers import read_container
from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.statedict import find_state_dict
from stdc_parity.models_torch import stdcnet

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)


def values(dtype, shape=(3, 5), seed=0):
    kind = np.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, (*shape, kind.itemsize))
    return raw.astype(np.uint8).view(kind).reshape(shape)


def model_of(*tensors, nodes=()):
    return helper.make_model(helper.make_graph(nodes, "g", [], [], initializer=tensors), producer_name="test")


def saved(path, *tensors, **options):
    onnx.save(model_of(*tensors, **options), path)
    return read_container(path)


def assert_same(ours, theirs):
    assert (ours.dtype.name, ours.shape, ours.tobytes()) == (theirs.dtype.name, theirs.shape, theirs.tobytes())


def test_raw_elements_of_every_dtype(tmp_path):
    arrays = {name: values(name, seed=i) for i, name in enumerate(DTYPES)}
    arrays |= {"scalar": np.array(3.5, np.float32), "empty": np.zeros((0, 2), np.int64)}
    arrays["bfloat16"] = np.arange(5).astype(ml_dtypes.bfloat16)
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    found = saved(tmp_path / "x.onnx", *tensors)
    assert found.container == "onnx"
    assert found.version.endswith("made by test")
    assert list(found.root) == list(arrays)
    for tensor in tensors:
        assert_same(found.root[tensor.name], numpy_helper.to_array(tensor))


def test_typed_elements_of_every_dtype(tmp_path):
    tensors = [
        helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(np.dtype(name)), [2, 2], data)
        for name, data in {name: [0, 1, 1, 0] for name in DTYPES}.items()
    ]
    tensors += [
        helper.make_tensor("negative 8", TensorProto.INT8, [2], [-128, 127]),
        helper.make_tensor("negative 64", TensorProto.INT64, [2], [-(2**63), 2**63 - 1]),
        helper.make_tensor("large", TensorProto.UINT64, [2], [0, 2**64 - 1]),
        helper.make_tensor("halves", TensorProto.FLOAT16, [2], [-1.5, 6e-5]),
    ]
    found = saved(tmp_path / "x.onnx", *tensors)
    for tensor in tensors:
        assert_same(found.root[tensor.name], numpy_helper.to_array(tensor))


def test_external_data(tmp_path):
    arrays = {f"w{i}": values("float32", (40, 10), i) for i in range(3)}
    model = model_of(*(numpy_helper.from_array(array, name) for name, array in arrays.items()))
    (tmp_path / "sub").mkdir()
    onnx.save(model, tmp_path / "x.onnx", save_as_external_data=True, location="x.onnx_data", size_threshold=0)
    found = read_container(tmp_path / "x.onnx")
    assert [path.name for path in found.files] == ["x.onnx", "x.onnx_data"]
    for name, array in arrays.items():
        assert_same(found.root[name], array)


def external(**entries):
    tensor = numpy_helper.from_array(values("float32"), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "../secret"}, "not in the model's folder"),
        ({"location": "sub/../../secret"}, "not in the model's folder"),
        ({"location": "/etc/passwd"}, "not in the model's folder"),
        ({"location": "link"}, "not in the model's folder"),
        ({"location": "linked/secret"}, "not in the model's folder"),
        ({"location": "C:\\secret"}, "not in the model's folder"),
        ({"location": "a\0b"}, "not in the model's folder"),
        ({"location": "."}, "not in the model's folder"),
        ({}, "not in the model's folder"),
        ({"location": "sub"}, "this is a folder"),
        ({"location": "missing"}, "external data missing: the file does not exist"),
        ({"location": "data", "offset": 41}, "reach 1 bytes beyond"),
        ({"location": "data", "offset": -4}, "is no number"),
        ({"location": "data", "offset": 2**80}, "is no number"),
        ({"location": "data", "length": 56}, "has 56 bytes"),
        ({"location": "data", "length": 2**62}, "beyond the end"),
    ],
)
def test_external_data_elsewhere(tmp_path, entries, words):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(100))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "data").write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match=words):
        saved(folder / "x.onnx", external(**entries))
    assert_same(saved(folder / "x.onnx", external(location="data", offset=40)).root["w"], np.zeros((3, 5), "f4"))


def changed(tensor=None, **fields):
    tensor = tensor or numpy_helper.from_array(values("float32"), "w")
    for name, value in fields.items():
        if isinstance(value, list):
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([changed(dims=[2**61, 4])], "w: an initialiser of shape .* has 60 bytes"),
        ([changed(dims=[-1, 15])], "w: an initialiser of shape"),
        ([changed(dims=[1] * 40)], "w: an initialiser of shape"),
        ([changed(raw_data=b"1")], "has 1 bytes"),
        ([changed(name="")], "without a name"),
        ([changed(), changed()], "two initialisers w"),
        ([changed(helper.make_tensor("w", TensorProto.INT8, [1], [3]), int32_data=[300])], "outside int8"),
        ([changed(helper.make_tensor("w", TensorProto.INT8, [1], [3]), data_type=1)], "not where its dtype"),
    ],
)
def test_broken_initialisers(tmp_path, tensors, words):
    with pytest.raises(CheckpointError, match=words):
        saved(tmp_path / "x.onnx", *tensors)


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.FLOAT8E4M3FN, 99])
def test_dtypes_that_are_not_converted_are_named(tmp_path, kind):
    with pytest.raises(CheckpointError, match="w: a tensor of dtype"):
        find_state_dict(saved(tmp_path / "x.onnx", changed(data_type=kind)).root)


def test_cut_and_changed_files_end_in_one_error_or_a_model(tmp_path):
    path = tmp_path / "x.onnx"
    saved(path, changed(), helper.make_tensor("v", TensorProto.INT64, [2], [1, 2]))
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    spoilt = [whole[:size] for size in range(1, len(whole))]
    for _ in range(1000):
        bad = bytearray(whole)
        bad[generator.integers(1, len(bad))] = generator.integers(256)
        spoilt.append(bytes(bad))
    errors = 0
    for data in spoilt:
        path.write_bytes(data)
        try:
            read_container(path)
        except CheckpointError as error:
            errors += 1
            assert "\n" not in error.message
    assert errors > len(whole)


def test_a_model_without_a_graph(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(CheckpointError, match="it has 0 graphs"):
        read_container(tmp_path / "x.onnx")


def test_a_model_of_too_many_parts_is_no_long_wait(tmp_path):
    path = tmp_path / "x.onnx"
    graph = b"\x52\0" * 3_000_000
    size = len(graph).to_bytes(3, "little")
    assert len(size) == 3
    varint = bytearray()
    left = len(graph)
    while left:
        varint.append(left & 127 | (128 if left > 127 else 0))
        left >>= 7
    path.write_bytes(b"\x08\x08\x3a" + bytes(varint) + graph)
    with pytest.raises(CheckpointError, match="more than 2,000,000 parts"):
        read_container(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_backbone_that_torch_exported(tmp_path):
    torch.manual_seed(0)
    net = stdcnet.stdcnet813(base=8).eval()
    options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    for name, more in (("net", options), ("folded", {})):
        torch.onnx.export(net, (torch.zeros(1, 3, 64, 64),), tmp_path / f"{name}.onnx", dynamo=False, **more)
    result = CliRunner().invoke(cli.convert, ["torch2paddle", str(tmp_path / "net.onnx")])
    assert result.exit_code == 0, result.output
    theirs = paddle.load(str(tmp_path / "net.pdparams"), return_numpy=True)
    ours = {name: tensor for name, tensor in net.state_dict().items() if "num_batches" not in name}
    assert len(theirs) == len([name for name in ours if name.startswith("features.")])
    for name, array in theirs.items():
        name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        assert_same(array, ours[name].numpy())
    result = CliRunner().invoke(cli.convert, ["torch2paddle", str(tmp_path / "folded.onnx")])
    assert result.exit_code == 3
    assert "do_constant_folding=False" in result.output
