"""MXNet's .params, against a writer that follows the description of the format; MXNet itself cannot be installed."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import imagenet
from stdc_parity.converters.containers import read_container
from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.statedict import find_state_dict
from stdc_parity.fixtures.mxnet_params import CODES, block, params, row_sparse, whole
from stdc_parity.fixtures.weights import seeded_weights

RANDOM = np.random.default_rng(1)


def array(dtype, *shape):
    values = RANDOM.integers(0, 2, shape) if dtype == "bool" else RANDOM.integers(-9, 9, shape)
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def read(path, content):
    path.write_bytes(content)
    return read_container(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.params"


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", CODES)
def test_every_dtype_of_every_version_is_read(path, version, dtype):
    arrays = {str(shape): array(dtype, *shape) for shape in ((3,), (2, 3), (2, 1, 3, 2), (0, 4))}
    found = read(path, params(arrays, version))
    assert (found.container, found.framework) == ("mxnet params", "torch")
    assert found.version == f"4 arrays of version {version}"
    assert found.root.keys() == arrays.keys()
    for name, expected in arrays.items():
        assert found.root[name].dtype == expected.dtype and found.root[name].shape == expected.shape
        assert found.root[name].tobytes() == expected.tobytes()


def test_a_scalar_is_one_in_numpys_shapes_alone(path):
    assert read(path, params({"x": np.float32(3)}, 3)).root["x"] == 3
    with pytest.raises(CheckpointError, match="an array without a shape"):
        find_state_dict(read(path, whole([struct.pack("<Iii", 0xF993FAC9, 0, 0)], [b"x"])).root)


def test_arrays_view_the_file_and_may_lie_anywhere(path):
    found = read(path, params({"a": array("int8", 3), "b": array("float32", 2, 2)})).root
    assert not found["b"].flags.owndata and not found["b"].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        found["b"][0] = 1


def test_sparse_arrays_are_refused_by_name_and_what_follows_them_is_read(path):
    rows = row_sparse(array("float32", 2, 3), np.array([0, 4]), (9, 3))
    found = read(path, params({"table": rows, "w": array("float32", 4)}))
    assert found.root["w"].shape == (4,)
    with pytest.raises(CheckpointError, match=r"table: a row-sparse array"):
        find_state_dict(found.root)


GOOD = block(np.ones(4, np.float32))
BAD = {
    "nothing but the magic": (whole([], [])[:8], "beyond the file's end"),
    "reserved bytes": (whole([GOOD], [b"w"], reserved=1), "reserved bytes are not zeros"),
    "cut in the data": (params({"w": np.ones(4, np.float32)})[:60], "beyond the file's end"),
    "cut in the names": (params({"w": np.ones(4, np.float32)})[:-3], "beyond the file's end"),
    "more behind": (params({"w": np.ones(4, np.float32)}) + b"x", "1 bytes behind its end"),
    "2**60 arrays": (struct.pack("<QQQ", 0x112, 0, 1 << 60), "declares 1,152,921,504,606,846,976 arrays"),
    "no names": (whole([GOOD], []), "1 arrays without names"),
    "too many names": (whole([GOOD], [b"a", b"b"]), "1 arrays and 2 names"),
    "a name twice": (whole([GOOD, GOOD], [b"w", b"w"]), "the name w twice"),
    "a long name": (whole([GOOD], [b"w" * 5000]), "5,000 bytes long"),
    "a name of 2**63": (whole([GOOD], [])[:-8] + struct.pack("<QQ", 1, 1 << 63), "more than 4,096"),
    "a name of no UTF-8": (whole([GOOD], [b"\xff"]), "no UTF-8"),
    "shape beyond the data": (params({"w": block(np.ones(4, np.float32), shape=(1 << 40,))}), "beyond the file's"),
    "shape of 2**124": (params({"w": block(np.ones(4, np.float32), shape=(1 << 61, 1 << 61))}), "beyond the file's"),
    "negative shape": (params({"w": block(np.ones(4, np.float32), shape=(-4,))}), r"has the shape \(-4,\)"),
    "negative axes": (params({"w": block(np.ones(4, np.float32), axes=-2)}), "has -2 axes"),
    "33 axes": (params({"w": block(np.ones(4, np.float32), axes=33)}), "has 33 axes"),
    "a magic of nothing": (params({"w": struct.pack("<I", 0xF993FACB)}), "axes"),
    "a dtype of nothing": (params({"w": block(np.ones(4, np.float32), dtype=13)}), "13 is no dtype"),
    "a negative dtype": (params({"w": block(np.ones(4, np.float32), dtype=-1)}), "-1 is no dtype"),
    "a device of nothing": (params({"w": block(np.ones(4, np.float32), device=9)}), "9 is no type of a device"),
    "a storage of nothing": (params({"w": block(np.ones(4, np.float32), storage=3)}), "3 is no storage type"),
    "sparse in version 3": (params({"w": block(np.ones(4, np.float32), 3, storage=1)}), "1 is no storage type"),
    "sparse beyond the data": (params({"w": row_sparse(np.ones((2, 3), np.float32), np.zeros(1 << 4), (9, 3))[:-9]}),
                               "is no dtype|beyond|names|bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_ends_in_one_message(path, name):
    content, said = BAD[name]
    path.write_bytes(content)
    done = CliRunner().invoke(cli.convert, ["inspect", str(path)])
    assert done.exit_code == 3 and isinstance(done.exception, SystemExit), done.output
    with pytest.raises(CheckpointError, match=said):
        read_container(path)


def test_every_cut_of_a_file_is_refused(path):
    content = params({"arg:w": array("float32", 2, 2), "aux:m": array("int64", 3)})
    for size in range(8, len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            read_container(path)


FORMS = ("resnet50-v1b", "resnet50-v1s", "resnet50-v1d")


def gluon_names(net):
    """What `save_parameters` calls each tensor of a network but for its counters."""
    names = {}
    for name, spec in net.tensors.items():
        module, _, last = name.rpartition(".")
        if spec.kind != "norm.batches":
            names[name] = f"{module}.{GAMMA.get(last, last) if spec.kind.startswith('norm.') else last}"
    return names


def flat_name(structured, form):
    """What gluon's name scopes make of a name in `resnetv1b.py`, by following its constructor."""
    module, _, last = structured.rpartition(".")
    if module == "fc":
        return f"dense0_{last}"
    parts = module.split(".")
    if parts[0].startswith("layer"):
        stage = parts[0][-1]
        kind = "batchnorm" if last not in ("weight", "bias") else "conv"
        if parts[2] == "downsample":
            return f"down{stage}_{kind}0_{last}"
        return f"layers{stage}_{kind}{3 * int(parts[1]) + int(parts[2][-1]) - 1}_{last}"
    stem = ["conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"] if form != "v1b" else ["conv1", "bn1"]
    convs = [m for m in stem if m in ("conv1", "conv1.0", "conv1.3", "conv1.6")]
    norms = [m for m in stem if m not in convs]
    return f"conv{convs.index(module)}_{last}" if module in convs else f"batchnorm{norms.index(module)}_{last}"


GAMMA = {"weight": "gamma", "bias": "beta"}


def files_of(model, folder):
    """A checkpoint of a ResNet: PyTorch's as it is, and gluoncv's with the two kinds of names."""
    net = imagenet.architecture(model, base=4, num_classes=5)
    state = {name: tensor.copy() for name, tensor in seeded_weights(net).items()}
    torch.save({name: torch.from_numpy(tensor) for name, tensor in state.items()}, folder / "net.pth")
    kept = {structured: state[name] for name, structured in gluon_names(net).items()}
    form = model.partition("-")[2]
    (folder / "structured.params").write_bytes(params(kept))
    prefix = {"v1b": "arg:resnetv1b0_", "v1s": "resnetv1s_", "v1d": ""}[form]
    flat = {prefix + flat_name(name, form): t for name, t in kept.items()}
    assert len(flat) == len(kept)
    flat = {name.replace("arg:", "aux:") if "running" in name else name: t for name, t in flat.items()}
    (folder / "flat.params").write_bytes(params(flat))
    return kept


@pytest.mark.parametrize("model", FORMS)
def test_gluoncvs_resnets_become_what_pytorchs_do(tmp_path, model):
    kept = files_of(model, tmp_path)
    for name in ("net.pth", "structured.params", "flat.params"):
        written = tmp_path / f"{name}.pdparams", "--certificate", tmp_path / f"{name}.json"
        done = run("torch2paddle", tmp_path / name, *written)
        assert done.exit_code == 0, done.output
    expected = read_container(tmp_path / "net.pth.pdparams").root
    for name in ("structured", "flat"):
        found = read_container(tmp_path / f"{name}.params.pdparams").root
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
        entries = json.loads((tmp_path / f"{name}.params.json").read_text())["entries"]
        assert len({entry["source"] for entry in entries} - {None}) == len(kept)
        done = run("inspect", tmp_path / f"{name}.params")
        assert f"architecture  {model} (5 classes, base 4, with ImageNet head)" in done.output
        assert "layout        gluon (gluoncv's ResNets)" in done.output
        done = run("verify", tmp_path / f"{name}.params", tmp_path / f"{name}.params.pdparams")
        assert done.exit_code == 0, done.output
    assert run("diff", tmp_path / "flat.params", tmp_path / "net.pth").exit_code == 0
    done = run("relayout", tmp_path / "flat.params", tmp_path / "back.pth", "--to-layout", "official")
    assert done.exit_code == 0, done.output
    back, whole = (torch.load(tmp_path / f"{name}.pth") for name in ("back", "net"))
    assert back.keys() == whole.keys()
    assert all(torch.equal(back[key], whole[key]) for key in whole if not key.endswith("num_batches_tracked"))


def test_what_a_resnet_lacks_or_has_too_much_is_named(tmp_path):
    kept = files_of(FORMS[1], tmp_path)
    del kept["layer2.1.bn3.gamma"]
    kept["more.weight"] = np.zeros(3, np.float32)
    (tmp_path / "bad.params").write_bytes(params(kept))
    done = run("torch2paddle", tmp_path / "bad.params")
    assert done.exit_code == 3 and "layer2.1.bn3.gamma: missing" in done.output
    assert "more.weight: unexpected" in done.output and not (tmp_path / "bad.pdparams").exists()


def test_flat_names_of_another_network_stay(tmp_path):
    arrays = {"arg:vgg0_conv0_weight": array("float32", 2), "arg:x_y": array("int8", 1)}
    (tmp_path / "x.params").write_bytes(params(arrays))
    done = run("inspect", tmp_path / "x.params", "--keys")
    assert "layout        not recognised" in done.output and "arg:vgg0_conv0_weight  (2,)  float32" in done.output


def test_params_are_read_and_not_written(tmp_path):
    files_of(FORMS[0], tmp_path)
    done = run("paddle2torch", tmp_path / "net.pth", "--to-layout", "gluon")
    assert done.exit_code == 2 and "are read and not written" in done.output


def run(*arguments):
    return CliRunner().invoke(cli.convert, [str(each) for each in arguments])
