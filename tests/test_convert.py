"""Conversions from file to file through the command line: torch.load, paddle.load and the twins are the judges."""

import argparse
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from importlib.resources import files
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.converters.containers import write_paddle
from stdc_parity.converters.convert import default_target, plan_conversion, write_conversion
from stdc_parity.converters.errors import UsageError
from stdc_parity.fixtures.samples import write_sample
from stdc_parity.fixtures.weights import seeded_weights, with_aliases
from stdc_parity.models_paddle import stdcnet as paddle_stdcnet
from stdc_parity.models_paddle import stdcseg as paddle_stdcseg
from stdc_parity.models_torch import stdcnet, stdcseg

OFFICIAL = json.loads(files("stdc_parity.fixtures").joinpath("official_stdc.json").read_text())
OFFICIAL_NAMES = {
    "stdcnet813": "STDCNet813",
    "stdcnet1446": "STDCNet1446",
    "stdc1-seg": "STDC1-Seg",
    "stdc2-seg": "STDC2-Seg",
}
TWINS = {
    "stdcnet813": (stdcnet.stdcnet813, paddle_stdcnet.stdcnet813),
    "stdcnet1446": (stdcnet.stdcnet1446, paddle_stdcnet.stdcnet1446),
    "stdc1-seg": (stdcseg.stdc1_seg, paddle_stdcseg.stdc1_seg),
    "stdc2-seg": (stdcseg.stdc2_seg, paddle_stdcseg.stdc2_seg),
}
SMALL = stdc.architecture("stdcnet813", base=8, imagenet_head=False)
SMALL_SEG = stdc.architecture("stdc1-seg", base=8, imagenet_head=False)
STEM = "features.0.conv.weight"
COUNTER = "num_batches_tracked"
NEW = {"zip": True, "legacy": False}


def run(*arguments):
    """The result of `stdc-convert`; whatever happens, it must not be a traceback."""
    result = CliRunner().invoke(cli.convert, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "\x1b" not in result.output
    return result


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def tensors_of(architecture, seed=0):
    """The seeded weights as torch tensors, with some values that careless code changes."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in seeded_weights(architecture, seed).items()}
    odd = torch.tensor([0x7FC00001, -0x80000000, 1], dtype=torch.int32).view(torch.float32)  # a NaN, -0.0, 1e-45
    next(tensor for name, tensor in tensors.items() if name.endswith("running_mean"))[:3] = odd
    return tensors


def bits(tensor):
    """The bytes of a tensor of torch, in C order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def assert_same(ours, theirs):
    """Two torch state dicts: the same names in the same order, dtypes, shapes and bits."""
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert ours[name].shape == tensor.shape, name
        assert bits(ours[name]) == bits(tensor), name


def paddle_names(names):
    return [
        name.replace(".running_mean", "._mean").replace(".running_var", "._variance")
        for name in names
        if not name.endswith(COUNTER)
    ]


def listing(folder):
    return {path: path.is_dir() or sha256(path.read_bytes()) for path in Path(folder).rglob("*")}


@pytest.fixture(scope="module", params=[(name, kind) for name in TWINS for kind in NEW], ids="-".join)
def trip(request, tmp_path_factory):
    """A network's checkpoint as torch writes it, converted to Paddle and back, with certificates."""
    name, kind = request.param
    folder = tmp_path_factory.mktemp("trip")
    architecture = stdc.architecture(name, base=8)
    tensors = tensors_of(architecture)
    state = OrderedDict(with_aliases(tensors, architecture))
    source = folder / "model_76.47.tar"
    torch.save({"epoch": 3, "state_dict": state}, source, _use_new_zipfile_serialization=NEW[kind])
    before = sha256(source.read_bytes())
    done("torch2paddle", source, "--certificate", folder / "forth.json")
    assert sha256(source.read_bytes()) == before
    middle = folder / "model_76.47.pdparams"
    before = sha256(middle.read_bytes())
    done("paddle2torch", middle, "--certificate", folder / "back.json")
    done("paddle2torch", middle, folder / "aliases.pth", "--aliases", "--wrap", "state_dict")
    assert sha256(middle.read_bytes()) == before
    return argparse.Namespace(
        name=name, folder=folder, tensors=tensors, state=state, source=source, middle=middle,
        back=folder / "model_76.47.pth",
    )  # fmt: skip


def test_paddle_gets_every_tensor(trip):
    loaded = paddle.load(str(trip.middle), return_numpy=True)
    assert list(loaded) == paddle_names(trip.tensors)
    for name, tensor in trip.tensors.items():
        if not name.endswith(COUNTER):
            array = loaded[paddle_names([name])[0]]
            linear = name.endswith(("fc.weight", "linear.weight"))
            assert array.dtype == np.float32
            assert array.tobytes() == bits(tensor.T if linear else tensor), name


def test_the_paddle_twin_loads_it(trip):
    net = TWINS[trip.name][1](base=8)
    missing, unexpected = net.set_state_dict(paddle.load(str(trip.middle)))
    assert (missing, unexpected) == ([], [])
    loaded = net.state_dict()
    assert sorted(loaded) == sorted(paddle_names(trip.tensors))
    linear = next(name for name in loaded if name.endswith("linear.weight"))
    np.testing.assert_array_equal(loaded[linear].numpy(), trip.tensors[linear].numpy().T)


def test_there_and_back_is_bit_for_bit(trip):
    loaded = torch.load(trip.back, weights_only=True)
    assert type(loaded) is OrderedDict
    counted = {name for name in trip.tensors if name.endswith(COUNTER)}
    assert {name for name, tensor in loaded.items() if tensor.dtype == torch.int64} == counted
    weights = {name: tensor for name, tensor in loaded.items() if name not in counted}
    assert_same(weights, {name: tensor for name, tensor in trip.tensors.items() if name not in counted})


def test_the_counters_come_back_too(trip):
    assert_same(torch.load(trip.back, weights_only=True), trip.tensors)


def test_the_torch_twin_loads_what_came_back(trip):
    net = TWINS[trip.name][0](base=8)
    net.load_state_dict(torch.load(trip.back, weights_only=True), strict=True)
    assert_same(net.state_dict(), trip.tensors)


def test_aliases_give_the_official_keys(trip):
    (key, loaded), = torch.load(trip.folder / "aliases.pth", weights_only=True).items()  # fmt: skip
    assert key == "state_dict"
    assert loaded.keys() == OFFICIAL[OFFICIAL_NAMES[trip.name]].keys() == trip.state.keys()
    for name, tensor in trip.state.items():
        assert loaded[name].shape == tensor.shape
        assert bits(loaded[name]) == bits(tensor), name
    assert (trip.folder / "aliases.pth").stat().st_size < trip.back.stat().st_size * 1.1  # storages are shared
    done("torch2paddle", trip.folder / "aliases.pth", trip.folder / "again.pdparams", "--force")
    assert_equal_files(trip.folder / "again.pdparams", trip.middle)


def assert_equal_files(ours, theirs):
    a, b = (paddle.load(str(path), return_numpy=True) for path in (ours, theirs))
    assert [(name, array.tobytes()) for name, array in a.items()] == [
        (name, array.tobytes()) for name, array in b.items()
    ]


def test_certificates_account_for_every_key(trip):
    forth, back = (json.loads((trip.folder / f"{way}.json").read_text()) for way in ("forth", "back"))
    for account, source, target in ((forth, trip.source, trip.middle), (back, trip.middle, trip.back)):
        for side, path in (("source", source), ("target", target)):
            assert account[side]["name"] == path.name
            assert account[side]["bytes"] == path.stat().st_size
            assert account[side]["sha256"] == sha256(path.read_bytes())
    assert (forth["direction"], back["direction"]) == ("torch2paddle", "paddle2torch")
    assert forth["architecture"]["name"] == back["architecture"]["name"] == trip.name
    assert forth["source"]["state_dict"] == "state_dict"
    assert forth["schema_version"] == 1
    assert forth["tool"].startswith("stdc-parity ")
    arrays = {name: (tensor.numpy().dtype.name, tuple(tensor.shape), sha256(bits(tensor)))
              for name, tensor in trip.state.items()}  # fmt: skip
    paddles = {name: (array.dtype.name, array.shape, sha256(array.tobytes()))
               for name, array in paddle.load(str(trip.middle), return_numpy=True).items()}  # fmt: skip
    torches = {name: (tensor.numpy().dtype.name, tuple(tensor.shape), sha256(bits(tensor)))
               for name, tensor in torch.load(trip.back, weights_only=True).items()}  # fmt: skip
    for account, before, after in ((forth, arrays, paddles), (back, paddles, torches)):
        entries = account["entries"]
        assert Counter(e["source"] for e in entries if e["source"]) == Counter(list(before))
        assert Counter(e["target"] for e in entries if e["target"]) == Counter(list(after))
        for entry in entries:
            for side, tensors in (("source", before), ("target", after)):
                if entry[side]:
                    found = (entry["dtype"], tuple(entry[f"{side}_shape"]), entry[f"{side}_sha256"])
                    assert found == tensors[entry[side]], entry
                else:
                    assert entry[f"{side}_shape"] is entry[f"{side}_sha256"] is None
                    assert entry["reason"]
            same = entry["source_sha256"] == entry["target_sha256"]
            assert same or entry["rule"] in ("transpose", "create", "drop")
    assert forth["batches"] == back["batches"] == {n: int(t) for n, t in trip.tensors.items() if n.endswith(COUNTER)}


def save(path, tensors, **options):
    torch.save(tensors, path, **options)
    return path


@pytest.fixture
def source(tmp_path):
    """A small backbone's checkpoint, bare."""
    return save(tmp_path / "net.pth", tensors_of(SMALL))


@pytest.fixture
def paddle_source(tmp_path):
    """The same for Paddle, written by Paddle."""
    tensors = {
        name.replace("running_mean", "_mean").replace("running_var", "_variance"): paddle.to_tensor(array)
        for name, array in seeded_weights(SMALL).items()
        if not name.endswith(COUNTER)
    }
    paddle.save(tensors, str(tmp_path / "net.pdparams"))
    return tmp_path / "net.pdparams"


def prefixed(prefix, tensors):
    return OrderedDict((prefix + name, tensor) for name, tensor in tensors.items())


SGD = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1, momentum=0.9)

# How people's files hold a state dict, and where.
NESTINGS = [
    ("bare", lambda t: t, ""),
    ("state_dict", lambda t: {"state_dict": t}, "state_dict"),
    ("DataParallel", lambda t: {"state_dict": prefixed("module.", t)}, "state_dict"),
    ("DDP around a compiled net", lambda t: prefixed("module._orig_mod.", t), ""),
    ("Lightning", lambda t: {"state_dict": prefixed("model.", t), "pytorch-lightning_version": "2.1.0",
                             "callbacks": {"ModelCheckpoint{'monitor': 'x'}": {"best_model_score": torch.ones(())}},
                             "hyper_parameters": {"lr": 0.1}, "loops": {}, "lr_schedulers": []}, "state_dict"),
    ("a training script's", lambda t: {"epoch": np.int64(3), "best": np.float64(0.7), "args": argparse.Namespace(a=1),
                                       "model": t, "rng": torch.get_rng_state(),
                                       "optimizer": SGD.state_dict()}, "model"),
    ("model and ema", lambda t: {"model": t, "ema": {n: torch.zeros_like(x) for n, x in t.items()}}, "model"),
    ("with None and numbers in it", lambda t: {**t, "epoch": 3, "none": None, "list": [torch.ones(2)]}, ""),
    ("parameters", lambda t: {n: torch.nn.Parameter(x) if x.is_floating_point() else x for n, x in t.items()}, ""),
]  # fmt: skip


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize(("what", "wrap", "where"), NESTINGS, ids=[case[0] for case in NESTINGS])
def test_what_people_have(what, wrap, where, kind, tmp_path):
    tensors = tensors_of(SMALL)
    source = save(tmp_path / "x.pth", wrap(tensors), _use_new_zipfile_serialization=NEW[kind])
    certificate = tmp_path / "x.json"
    output = done("torch2paddle", source, "--certificate", certificate)
    assert "stdcnet813 (base 8, cat blocks, without ImageNet head)" in output
    loaded = paddle.load(str(tmp_path / "x.pdparams"), return_numpy=True)
    assert list(loaded) == paddle_names(tensors)
    assert all(loaded[paddle_names([n])[0]].tobytes() == bits(t)
               for n, t in tensors.items() if not n.endswith(COUNTER))  # fmt: skip
    account = json.loads(certificate.read_text())
    assert account["source"]["state_dict"] == where
    root = torch.load(source, weights_only=False)
    names = root[where] if where else root
    assert Counter(entry["source"] for entry in account["entries"]) == Counter(list(names))
    inspected = done("inspect", source)
    assert "stdcnet813 (base 8" in inspected
    assert f"torch {kind}" in inspected


def test_key_takes_the_other_state_dict(tmp_path):
    tensors, ema = tensors_of(SMALL), tensors_of(SMALL, seed=1)
    source = save(tmp_path / "x.pth", {"model": tensors, "ema": {"module": ema}})
    assert "Taken from model; the file also has state dicts under ema.module (--key)." in done("torch2paddle", source)
    done("torch2paddle", source, tmp_path / "ema.pdparams", "--key", "ema.module")
    for name, expected in (("x", tensors), ("ema", ema)):
        loaded = paddle.load(str(tmp_path / f"{name}.pdparams"), return_numpy=True)
        assert loaded[STEM].tobytes() == bits(expected[STEM])


DTYPES = [torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_are_kept(dtype, tmp_path):
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors_of(SMALL).items()}
    source = save(tmp_path / "x.pth", tensors)
    done("torch2paddle", source)
    loaded = paddle.load(str(tmp_path / "x.pdparams"))
    assert {str(t.dtype) for t in loaded.values()} == {str(dtype).replace("torch", "paddle")}
    back = tmp_path / "back.pth"
    done("paddle2torch", tmp_path / "x.pdparams", back)
    back = torch.load(back, weights_only=True)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert bits(back[name]) == bits(tensor)
    assert f"145 {str(dtype).removeprefix('torch.')}, 29 int64" in done("inspect", source)


def test_inplace_abn_from_file_to_file(tmp_path):
    tensors = tensors_of(SMALL_SEG)
    heads = {n for n in tensors if n.endswith(COUNTER) and not n.startswith("cp.backbone.")}
    abn = {n: t for n, t in tensors.items() if n not in heads}
    gammas = {n.replace(COUNTER, "weight") for n in heads}
    assert len(gammas) == 15
    for name in gammas:
        abn[name][::2] *= -1
    source = save(tmp_path / "abn.pth", abn)
    expected = {}
    for option in ("auto", "yes", "no"):
        output = done("torch2paddle", source, tmp_path / f"{option}.pdparams", "--abn", option,
                      "--certificate", tmp_path / f"{option}.json")  # fmt: skip
        loaded = paddle.load(str(tmp_path / f"{option}.pdparams"), return_numpy=True)
        account = json.loads((tmp_path / f"{option}.json").read_text())
        rewritten = {entry["source"] for entry in account["entries"] if entry["rule"] == "abs"}
        if option == "no":
            assert "InPlaceABN" not in output
            assert rewritten == set()
            assert not account["inplace_abn"]
        else:
            assert "InPlaceABN: 15 head norms" in output
            assert rewritten == gammas
            assert account["inplace_abn"]
        for name, tensor in abn.items():
            if not name.endswith(COUNTER):
                expected = tensor.abs() + 1e-5 if name in rewritten else tensor
                assert loaded[paddle_names([name])[0]].tobytes() == bits(expected), name


def test_inplace_abn_that_cannot_be_told(tmp_path):
    tensors = tensors_of(SMALL_SEG)
    none = save(tmp_path / "none.pth", {n: t for n, t in tensors.items() if not n.endswith(COUNTER)})
    assert "does not show whether its head norms were InPlaceABN" in done("torch2paddle", none)
    del tensors[f"ffm.convblk.bn.{COUNTER}"]
    some = save(tmp_path / "some.pth", tensors)
    result = run("torch2paddle", some)
    assert result.exit_code == 3
    assert "14 of 15 count batches, ffm.convblk.bn do not" in result.output
    assert "--abn yes or --abn no" in result.output
    assert not (tmp_path / "some.pdparams").exists()
    done("torch2paddle", some, "--abn", "no")


def test_values_that_are_not_finite_are_noted(tmp_path):
    clean = {n: torch.from_numpy(a.copy()) for n, a in seeded_weights(SMALL).items()}
    huge = {**clean, STEM: torch.full_like(clean[STEM], 3e38)}  # finite, though its sum is not
    assert "NaN" not in done("torch2paddle", save(tmp_path / "huge.pth", huge))
    for value in (float("nan"), float("inf"), float("-inf")):
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            bad = {**clean, STEM: clean[STEM].to(dtype)}
            bad[STEM][1, 2, 0, 1] = value
            source = save(tmp_path / "bad.pth", bad)
            assert f"NaN or Inf in 1 tensors: {STEM}." in done("torch2paddle", source, "--force")
            assert f"NaN or Inf in 1 tensors: {STEM}." in done("inspect", source)


def test_control_characters_are_escaped(tmp_path):
    evil = "x\x1b[2J\x07\u202e\n"
    bare = {**tensors_of(SMALL), evil: evil}
    source = save(tmp_path / "evil.pth", bare)
    for output in (done("torch2paddle", source, "--dry-run"), done("inspect", source, "--keys")):
        assert r"x\x1b[2J\x07\u202e\n" in output
        assert not set("\x1b\x07\u202e") & set(output)
    wrapped = save(tmp_path / "deep.pth", {evil: tensors_of(SMALL), evil * 2: {"w": torch.ones(2)}, evil * 3: evil})
    for argv in (("inspect", wrapped, "--key", evil), ("torch2paddle", wrapped), ("inspect", wrapped)):
        output = run(*argv).output
        assert r"x\x1b[2J" in output
        assert not set("\x1b\x07\u202e") & set(output)
    tensors = save(tmp_path / "tensors.pth", {**tensors_of(SMALL), evil: torch.ones(2)})
    result = run("torch2paddle", tensors)
    assert result.exit_code == 3
    assert r"x\x1b[2J\x07\u202e\n: unexpected" in result.output


TARGETS = [
    ("STDCNet1446_76.47.tar", "STDCNet1446_76.47"),
    ("model_maxmIOU75.pth", "model_maxmIOU75"),
    ("checkpoint.pth.tar", "checkpoint"),
    ("a.b.c.ckpt", "a.b.c"),
    ("UPPER.PTH", "UPPER"),
    ("Model.Pth.TAR", "Model"),
    ("nosuffix", "nosuffix"),
    ("v1.0", "v1.0"),
    ("pytorch_model.bin", "pytorch_model"),
    ("x.pt", "x"),
    (".pth", ".pth"),
    ("net.pdparams", "net"),
    ("with space.pth", "with space"),
    ("中文.tar", "中文"),
    ("weights.pth.bak", "weights.pth.bak"),
]


@pytest.mark.parametrize(("name", "stem"), TARGETS)
def test_default_names(name, stem):
    folder = Path("some.tar/folder")
    assert default_target(folder / name, "paddle") == folder / f"{stem}.pdparams"
    assert default_target(folder / name, "torch") == folder / f"{stem}.pth"


@pytest.mark.parametrize("name", ["STDCNet813_73.91.tar", "net.v2.PTH.TAR", "net"])
def test_the_target_is_beside_the_source(name, source, tmp_path):
    folder = tmp_path / "deep.er"
    folder.mkdir()
    moved = source.rename(folder / name)
    before = moved.read_bytes()
    output = done("torch2paddle", moved)
    (target,) = set(folder.iterdir()) - {moved}
    assert target.name == {"net": "net.pdparams", "net.v2.PTH.TAR": "net.v2.pdparams"}.get(
        name, "STDCNet813_73.91.pdparams"
    )
    assert f"Wrote {target}" in output
    assert moved.read_bytes() == before


def test_dry_runs_write_nothing(source, paddle_source, tmp_path):
    paddle_source = paddle_source.rename(tmp_path / "paddle.pdparams")
    before = listing(tmp_path)
    for command, path, keys in (("torch2paddle", source, 174), ("paddle2torch", paddle_source, 174)):
        output = done(command, path, "--dry-run")
        rules = [line.split()[0] for line in output.splitlines()]
        assert sum(rule in ("copy", "transpose", "drop", "create") for rule in rules) == keys
        assert "Dry run" in output
        assert "Wrote" not in output
    assert listing(tmp_path) == before


def test_force_replaces(source, tmp_path):
    target = tmp_path / "net.pdparams"
    target.write_bytes(b"old")
    assert run("torch2paddle", source).exit_code == 2
    assert target.read_bytes() == b"old"
    done("torch2paddle", source, "--force")
    assert STEM in paddle.load(str(target))


@pytest.mark.parametrize("side", ["paddle", "torch"])
def test_the_source_is_safe_from_those_who_call_us_too(side, source, paddle_source):
    path = source if side == "paddle" else paddle_source
    before = path.read_bytes()
    conversion = plan_conversion(path, side)
    with pytest.raises(UsageError, match="is the source itself"):
        write_conversion(conversion, path, force=True)
    assert path.read_bytes() == before


def make(folder):
    """The files that errors are about."""
    tensors = tensors_of(SMALL)
    save(folder / "net.pth", tensors)
    save(folder / "damaged.pth", {n: t for n, t in tensors.items() if n != "features.1.bn.bias"})
    save(folder / "foreign.pth", {"layer.weight": torch.ones(2)})
    save(folder / "empty.pth", {})
    save(folder / "list.pth", [torch.ones(2)])
    save(folder / "two.pth", {"teacher": tensors, "student": tensors})
    save(folder / "sparse.pth", {**tensors, STEM: torch.ones(2, 2).to_sparse()})
    save(folder / "model.pth", torch.nn.Linear(2, 2))
    save(folder / "nan_counter.pth", {**tensors, f"features.1.bn.{COUNTER}": torch.tensor(float("nan"))})
    changed = {**tensors, "x2.0.0.conv.weight": tensors[STEM] + 1}
    save(folder / "alias.pth", changed)
    (folder / "exists.pdparams").write_bytes(b"mine")
    (folder / "garbage.pth").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "zero.pth").write_bytes(b"")
    (folder / "cut.pth").write_bytes((folder / "net.pth").read_bytes()[:5000])
    (folder / "folder.pth").mkdir()
    with (folder / "evil.pdparams").open("wb") as file:
        pickle.dump(os.system, file)
    with (folder / "torch_names.pdparams").open("wb") as file:
        pickle.dump(seeded_weights(SMALL), file)


# The command, its exit code, and what it says.
ERRORS = [
    ("torch2paddle net.pth exists.pdparams", 2, "exists.pdparams exists already"),
    ("torch2paddle net.pth net.pth", 2, "is the source itself"),
    ("torch2paddle net.pth net.pth --force", 2, "is the source itself"),
    ("torch2paddle net.pth ./folder.pth/../net.pth --force", 2, "is the source itself"),
    ("torch2paddle net.pth folder.pth", 2, "is a folder"),
    ("torch2paddle net.pth nowhere/x.pdparams", 2, "the folder does not exist"),
    ("torch2paddle net.pth --certificate exists.pdparams", 2, "exists.pdparams exists already"),
    ("torch2paddle net.pth --certificate net.pth --force", 2, "is the source itself"),
    ("torch2paddle net.pth --certificate net.pdparams --force", 2, "the same file"),
    ("torch2paddle net.pth --certificate nowhere/x.json", 2, "folder does not exist"),
    ("torch2paddle net.pth --abn yes", 2, "stdcnet813 has no norms that upstream trains as InPlaceABN"),
    ("torch2paddle net.pth --abn maybe", 2, "maybe"),
    ("torch2paddle net.pth --model stdc2-seg", 2, "the checkpoint looks like stdcnet813 (base 8"),
    ("torch2paddle net.pth --model resnet", 2, "There are: stdcnet813, stdcnet1446, stdc1-seg, "),
    ("torch2paddle net.pth --key ema", 2, "The file has: the top."),
    ("torch2paddle two.pth --key ema", 2, "The file has: teacher, student."),
    ("torch2paddle torch_names.pdparams", 2, "is the source itself"),
    ("paddle2torch torch_names.pdparams", 2, "torch_names.pdparams has PyTorch's names already"),
    ("paddle2torch net.pth net.safetensors", 2, "with the same names: `stdc-convert relayout SRC DST`"),
    ("paddle2torch net.pth x.pth", 2, "The other way is `stdc-convert torch2paddle`."),
    ("torch2paddle", 2, "Missing argument 'SRC'"),
    ("torch2paddle missing.pth", 3, "missing.pth: the file does not exist"),
    ("torch2paddle folder.pth", 3, "folder.pth: this is a folder"),
    ("torch2paddle .", 3, "this is a folder"),
    ("torch2paddle /", 3, "this is a folder"),
    ("torch2paddle garbage.pth", 3, "garbage.pth: this is no checkpoint that is known"),
    ("torch2paddle zero.pth", 3, "zero.pth: the file is empty"),
    ("torch2paddle cut.pth", 3, "cut.pth: "),
    ("torch2paddle empty.pth", 3, "empty.pth: the file holds no tensors by name"),
    ("torch2paddle list.pth", 3, "list.pth: the file holds list of 1"),
    ("torch2paddle two.pth", 3, "2 state dicts: teacher, student"),
    ("torch2paddle sparse.pth", 3, f"{STEM}: a sparse tensor"),
    ("torch2paddle model.pth", 3, "torch.nn.modules.linear.Linear; nothing was executed"),
    ("torch2paddle foreign.pth", 3, "none of the known architectures has these 1 keys (layer.weight"),
    ("torch2paddle foreign.pth --model stdcnet813", 3, "layer.weight: unexpected"),
    ("torch2paddle damaged.pth", 3, "features.1.bn.bias: missing, stdcnet813 needs (8,)"),
    ("torch2paddle nan_counter.pth", 3, f"features.1.bn.{COUNTER}: nan is no number of batches"),
    ("torch2paddle alias.pth", 3, f"x2.0.0.conv.weight is another name of {STEM}, but their values differ"),
    ("torch2paddle damaged.pth --dry-run", 3, "features.1.bn.bias: missing"),
    ("paddle2torch evil.pdparams", 3, "system; nothing was executed"),
    ("inspect evil.pdparams", 3, "system; nothing was executed"),
    ("inspect missing.pth", 3, "missing.pth: the file does not exist"),
    ("inspect garbage.pth", 3, "garbage.pth: "),
    ("inspect two.pth --key ema", 2, "The file has: teacher, student."),
]  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    make(folder)
    return folder


@pytest.mark.parametrize(("command", "code", "said"), ERRORS, ids=[case[0] for case in ERRORS])
def test_mistakes_say_what_is_wrong_and_leave_no_file(command, code, said, mistakes, monkeypatch):
    monkeypatch.chdir(mistakes)
    before = listing(mistakes)
    result = run(*command.split())
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert result.stdout == ""
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert listing(mistakes) == before


def test_inspect_shows_a_damaged_checkpoint(mistakes):
    output = done("inspect", mistakes / "damaged.pth")
    assert "stdcnet813 (base 8" in output
    assert "features.1.bn.bias: missing, stdcnet813 needs (8,)" in output
    assert "not recognised" in done("inspect", mistakes / "foreign.pth")


def test_inspect_says_what_a_checkpoint_is(tmp_path):
    source = tmp_path / "sample.tar"
    write_sample(source, SMALL)
    output = done("inspect", source, "--keys")
    loaded = torch.load(source, weights_only=True)["state_dict"]
    facts = {line.split()[0]: line for line in output.splitlines() if not line.startswith(" ")}
    assert "torch legacy" in facts["container"]
    assert f"state_dict, {len(loaded)} tensors" in facts["state"]
    assert f"{sum(t.numel() for t in loaded.values()):,} in" in facts["values"]
    assert "290 float32, 58 int64" in facts["dtypes"]
    for name, tensor in loaded.items():
        assert f"  {name}  {tuple(tensor.shape)}  {str(tensor.dtype).removeprefix('torch.')}" in output


def test_inspect_does_not_flood(tmp_path):
    many = save(tmp_path / "many.pth", {**tensors_of(SMALL), **{f"k{i}": i for i in range(3000)}})
    wrapped = save(tmp_path / "wrapped.pth", {"model": tensors_of(SMALL), **{f"k{i}": i for i in range(3000)}})
    for source in (many, wrapped):
        assert len(done("inspect", source).splitlines()) < 40


def test_paddle_files_of_paddle_itself(paddle_source, tmp_path):
    done("paddle2torch", paddle_source)
    loaded = torch.load(tmp_path / "net.pth", weights_only=True)
    expected = seeded_weights(SMALL)
    assert list(loaded) == list(expected)
    assert all(bits(t) == expected[n].tobytes() for n, t in loaded.items() if not n.endswith(COUNTER))
    assert all(t == 0 and t.dtype == torch.int64 for n, t in loaded.items() if n.endswith(COUNTER))


@pytest.mark.parametrize("count", [-1, 1 << 63, 1 << 99])
def test_counters_that_no_norm_can_have_are_refused(count, paddle_source, tmp_path):
    arrays = paddle.load(str(paddle_source), return_numpy=True)
    damaged = tmp_path / "damaged.pdparams"
    write_paddle(damaged, arrays, batches={"features.0.bn.num_batches_tracked": count})
    result = run("paddle2torch", damaged)
    assert result.exit_code == 3
    assert "the counters of batches behind the tensors are damaged" in result.output
    assert not (tmp_path / "damaged.pth").exists()


def test_a_twins_own_state_dict_converts(tmp_path):
    """`StructuredToParameterName@@` and all, as paddle.save(layer.state_dict()) writes it."""
    net = paddle_stdcseg.stdc1_seg(base=8)
    paddle.save(net.state_dict(), str(tmp_path / "seg.pdparams"))
    done("paddle2torch", tmp_path / "seg.pdparams")
    twin = stdcseg.stdc1_seg(base=8)
    twin.load_state_dict(torch.load(tmp_path / "seg.pth", weights_only=True), strict=True)
    ours = {n: t.numpy() for n, t in net.state_dict().items()}
    for name, tensor in twin.state_dict().items():
        if not name.endswith(COUNTER):
            array = ours[paddle_names([name])[0]]
            linear = name.endswith(("fc.weight", "linear.weight"))
            assert (array.T if linear else array).tobytes() == bits(tensor), name


def test_a_certificate_survives_a_name_that_is_no_text(source, tmp_path):
    moved = os.fsencode(tmp_path) + b"/na\xffme.pth"
    try:
        os.rename(os.fsencode(source), moved)  # noqa: PTH104 (bytes)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    done("torch2paddle", os.fsdecode(moved), tmp_path / "x.pdparams", "--certificate", tmp_path / "x.json")
    account = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert account["source"]["name"] == os.fsdecode(b"na\xffme.pth")


COMMANDS = [
    (["torch2paddle", "net.pth"], 0, "Wrote net.pdparams"),
    (["torch2paddle", "net.pth"], 2, "Note: Choose another name, or --force"),
    (["paddle2torch", "net.pdparams", "back.pth"], 0, "Wrote back.pth"),
    (["inspect", "back.pth"], 0, "stdcnet813"),
    (["torch2paddle", "nope.pth"], 3, "Error: nope.pth: the file does not exist"),
    (["--help"], 0, "Exit codes: 0 parity"),
]


def test_the_installed_command(source):
    """The exit codes that a shell sees."""
    command = [sys.executable, "-c", "from stdc_parity.cli import convert; convert(prog_name='stdc-convert')"]
    for arguments, code, said in COMMANDS:
        done = subprocess.run(command + arguments, cwd=source.parent, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert said in (done.stdout if code == 0 else done.stderr)
        assert "Traceback" not in done.stderr


def test_a_terminal_without_the_characters(tmp_path):
    """`…` and names in any script have no place in Latin-1; they are escaped, not a traceback."""
    save(tmp_path / "net.pth", {**tensors_of(SMALL), "轮次": 3})
    command = [sys.executable, "-c", "from stdc_parity.cli import convert; convert(prog_name='stdc-convert')"]
    done = subprocess.run([*command, "inspect", "net.pth"], cwd=tmp_path, capture_output=True, check=False,
                          env={**os.environ, "PYTHONIOENCODING": "latin-1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"\u8f6e\u6b21 in the state dict" in done.stdout
