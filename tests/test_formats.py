"""safetensors, their shards and npz, read and written: the safetensors library and numpy are the judges."""

import io
import json
import os
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.converters.containers import read_container, write_npz, write_safetensors
from stdc_parity.converters.errors import CheckpointError, UsageError
from stdc_parity.converters.statedict import find_state_dict
from stdc_parity.fixtures.samples import write_sample

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16"),
)
SMALL = stdc.architecture("stdcnet813", base=8)


def values(dtype, shape=(3, 5), seed=0):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, (*shape, np.dtype(kind).itemsize))
    return raw.astype(np.uint8).view(kind).reshape(shape)


def bits(array):
    array = np.asarray(array)
    return array.dtype.name, array.shape, array.tobytes()


def every_kind(without=()):
    tensors = {f"a.{name}": values(name, seed=i) for i, name in enumerate(DTYPES) if name not in without}
    large = values("float32", (600, 9000))
    return tensors | {
        "turned": values("float32").T, "steps": values("int64", (6, 6))[::2, 1::2], "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32), "one": values("uint8", (1,)), "名": values("float16"),
        "large, turned": large.T, "large and wide": large.reshape(1, -1, 2)[:, :, :1],
        "big": np.arange(4, dtype=">f4"),
    }  # fmt: skip


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def run(*arguments):
    result = CliRunner().invoke(cli.convert, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


# --- against the library and numpy -----------------------------------------------------------------------


def test_the_library_reads_our_safetensors(tmp_path):
    path, tensors = tmp_path / "x.safetensors", every_kind()
    assert write_safetensors(path, tensors) == [path]
    theirs = safetensors.torch.load_file(path)
    assert set(theirs) == set(tensors)
    for name, array in tensors.items():
        assert tuple(theirs[name].shape) == array.shape
        assert str(theirs[name].dtype)[6:] == array.dtype.name
        flat = theirs[name].contiguous().reshape(-1).view(torch.uint8).numpy()
        assert flat.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes(), name
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_we_read_the_librarys_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array).view(np.uint8)) for name, array in
               {"a": values("float32"), "b": values("int64")}.items()}  # fmt: skip
    tensors = {"a": tensors["a"].view(torch.float32), "b": tensors["b"].view(torch.int64)} | {
        "c": torch.arange(6).reshape(2, 3).to(torch.bfloat16), "d": torch.tensor([True, False]),
        "e": torch.zeros(0, 4), "f": torch.tensor(3, dtype=torch.uint16),
    }  # fmt: skip
    safetensors.torch.save_file(tensors, path, {"format": "pt", "epoch": "3"})
    found = read_container(path)
    assert found.container == "safetensors"
    assert set(found.root) == set(tensors)
    for name, tensor in tensors.items():
        assert bits(found.root[name])[:2] == (str(tensor.dtype)[6:], tuple(tensor.shape))
        assert found.root[name].tobytes() == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_names_keep_their_order_and_bytes_are_reproduced(tmp_path):
    tensors = every_kind()
    for name in ("x", "y"):
        write_safetensors(tmp_path / name, tensors)
    assert list(read_container(tmp_path / "x").root) == list(tensors)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_dtypes_that_are_not_converted_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(4, dtype=torch.float8_e4m3fn), "v": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="w: a tensor of dtype F8_E4M3"):
        find_state_dict(read_container(path).root)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_we_read_numpys_npz(tmp_path, save):
    path, tensors = tmp_path / "x.npz", every_kind(["bfloat16"])
    tensors["fortran"] = np.asfortranarray(values("float64", (4, 5)))
    save(path, **tensors)
    found = read_container(path)
    theirs = np.load(path)
    assert found.container == "npz"
    assert list(found.root) == theirs.files == list(tensors)
    for name in tensors:
        native = theirs[name].astype(theirs[name].dtype.newbyteorder("="))
        assert bits(found.root[name]) == bits(native), name


def test_numpy_reads_our_npz(tmp_path):
    path, tensors = tmp_path / "x.npz", every_kind(["bfloat16"])
    write_npz(path, tensors)
    theirs = np.load(path)
    assert theirs.files == list(tensors)
    for name, array in tensors.items():
        assert bits(theirs[name]) == bits(array.astype(array.dtype.newbyteorder("="))), name
    assert zipfile.ZipFile(path).testzip() is None
    with pytest.raises(CheckpointError, match=r"w: \.npz has no dtype bfloat16"):
        write_npz(tmp_path / "y.npz", {"w": values("bfloat16")})
    assert not (tmp_path / "y.npz").exists()


# --- what is refused -------------------------------------------------------------------------------------


def header(facts, content=b"", size=None):
    raw = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + content


def place(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header({"a": place(0, 4)}, bytes(4), size=1000), "ends inside the safetensors header"),
        (header({"a": place(0, 4)}, bytes(4), size=1 << 31), "header is 2,147,483,648 bytes long"),
        (header({"a": place(0, 4)}, bytes(3)), "a: its data reach 1 bytes beyond"),
        (header({"a": place(0, 4)}, bytes(5)), "1 bytes that belong to no tensor"),
        (header({"a": place(0, 4), "b": place(8, 12)}, bytes(12)), "b: its data leave a gap"),
        (header({"a": place(0, 4), "b": place(2, 6)}, bytes(6)), "b: its data overlap"),
        (header({"a": place(0, 4), "b": place(0, 4)}, bytes(4)), "b: its data overlap"),
        (header({"a": place(4, 0)}, bytes(4)), "a: .*F32|end before"),
        (header({"a": place(-4, 0)}, bytes(4)), "a: "),
        (header({"a": place(0, 4, (1 << 61, 4))}, bytes(4)), r"a: a tensor of shape \(23\d+, 4\)"),
        (header({"a": place(0, 4, (-1, -1))}, bytes(4)), "damaged at a"),
        (header({"a": place(0, 4, (True,))}, bytes(4)), "damaged at a"),
        (header({"a": place(0, 4, (1.0,))}, bytes(4)), "damaged at a"),
        (header({"a": place(0, 4, [1] * 40)}, bytes(4)), "damaged at a"),
        (header({"a": place(0, 4, dtype="object")}, bytes(4)), "a: object is no dtype"),
        (header({"a": place(0, 4, dtype=["F32"])}, bytes(4)), "damaged at a"),
        (header({"a": place(0, 4) | {"more": 1}}, bytes(4)), "damaged at a"),
        (header({"a": [1, 2]}), "damaged at a"),
        (header({"\x1b[31m": 3}), r"damaged at \\x1b\[31m"),
        (header(b'{"a": {}, "a": {}}'), "the name a twice"),
        (header(b'{"a": {"dtype": "F32", "dtype": "F32"}}'), "the name dtype twice"),
        (header(b'{"a": NaN}'), "no plain JSON"),
        (header(b'{"a": 1' + b"0" * 5000 + b"}"), "no plain JSON"),
        (header(b'{"a": \xff}'), "no plain JSON"),
        (header(b'{"a"'), "no plain JSON"),
        (header(DEEP), "no plain JSON"),
        (header({"__metadata__": {"a": 1}}), "not text by name"),
        (header({"__metadata__": {"stdc_parity num_batches_tracked": '{"a": "b"}'}}), "counters of batches"),
        (header({"__metadata__": {"stdc_parity num_batches_tracked": '{"a": 1, "a": 2}'}}), "counters of batches"),
    ],
)
def test_broken_safetensors(tmp_path, data, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        read_container(path)


def npy(array_header, content=b"", version=(1, 0)):
    raw = array_header.encode("latin1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(raw))
    return b"\x93NUMPY" + bytes(version) + size + raw + content


def facts_of(descr="'<f4'", order="False", shape="(1,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(facts_of("'|O'"), b"cos\nsystem\n(S'touch PWNED'\ntR."), "array of Python objects"),
        (npy(facts_of("[('a', '|O')]"), bytes(8)), "array of Python objects"),
        (npy(facts_of(), bytes(8)), r"shape \(1,\) and dtype float32 has 8 bytes"),
        (npy(facts_of(shape="(2305843009213693952, 4)"), bytes(4)), "has 4 bytes"),
        (npy(facts_of(shape="(-1,)"), bytes(4)), "header is damaged"),
        (npy(facts_of(shape="(True,)"), bytes(4)), "header is damaged"),
        (npy(facts_of("__import__('os')"), bytes(4)), "header is damaged"),
        (npy("(" * 3000, bytes(4)), "header is damaged"),
        (npy("{" + "'a': 1, " * 2000 + "}", bytes(4)), "header is damaged"),
        (npy(facts_of(), bytes(4), (3, 0)), "no .npy of version 1 or 2"),
        (npy(facts_of(), bytes(4))[:20], "header is damaged"),
        (b"", "header is damaged"),
    ],
)
def test_broken_npy_in_npz(tmp_path, content, words):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w.npy", content)
    with pytest.raises(CheckpointError, match=rf"w\.npy: .*{words}"):
        read_container(path)


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.zeros(2, "c8"), np.zeros(2, [("a", "f4")]), values("bfloat16")]
)
def test_npz_arrays_that_are_not_converted_are_named(tmp_path, array):
    np.savez(tmp_path / "x.npz", w=array, v=np.ones(2))
    with pytest.raises(CheckpointError, match="w: a numpy array of dtype"):
        find_state_dict(read_container(tmp_path / "x.npz").root)


def npz_bytes(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return bytearray(stream.getvalue())


def test_npz_bombs_and_damage(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(npz_bytes(w=np.zeros(30_000_000, np.float32)))
    with pytest.raises(CheckpointError, match="unpacks to more than"):
        read_container(path)
    good = npz_bytes(w=np.random.default_rng(0).random(1000))
    at = good.index(b"PK\1\2")
    for offset, value, words in ((16, 1, "damaged"), (24, 9, "damaged"), (8, 1, "encrypted"), (10, 12, "rare way")):
        bad = bytearray(good)
        bad[at + offset] ^= value
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=words):
            read_container(path)
    bad = bytearray(good)
    bad[200] ^= 255
    path.write_bytes(bad)
    with pytest.raises(CheckpointError, match="damaged"):
        read_container(path)


def test_a_declared_size_too_small_is_no_way_around_the_bound(tmp_path):
    bomb = npz_bytes(w=np.zeros(60_000_000, np.float32))
    at = bomb.index(b"PK\1\2")
    bomb[at + 24 : at + 28] = struct.pack("<I", 5000)
    (tmp_path / "x.npz").write_bytes(bomb)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_container(tmp_path / "x.npz")


# --- shards ----------------------------------------------------------------------------------------------


def test_shards_there_and_back(tmp_path):
    tensors = {f"w{i}": values("float32", (250, 10), i) for i in range(7)} | {"n": np.array(3)}
    paths = write_safetensors(tmp_path / "x.safetensors", tensors, shard_size=25_000, batches={"a": 7})
    assert [path.name for path in paths] == [
        "x.safetensors.index.json", *(f"x-0000{i}-of-00004.safetensors" for i in range(1, 5))
    ]  # fmt: skip
    index = json.loads(paths[0].read_text())
    theirs = {}
    for path in paths[1:]:
        for name, array in safetensors.numpy.load_file(path).items():
            assert index["weight_map"][name] == path.name
            theirs[name] = array
    assert {name: bits(array) for name, array in theirs.items()} == {n: bits(a) for n, a in tensors.items()}
    found = read_container(paths[0])
    assert list(found.root) == list(tensors)
    assert found.batches == {"a": 7}
    assert list(found.files) == paths
    assert {name: bits(array) for name, array in found.root.items()} == {n: bits(a) for n, a in tensors.items()}


def test_too_many_shards(tmp_path):
    with pytest.raises(UsageError, match="201 shards are more than 200"):
        write_safetensors(tmp_path / "x.safetensors", {f"{i}": np.ones(1) for i in range(201)}, shard_size=1)
    assert not listing(tmp_path)


def test_shards_are_all_there_or_none(tmp_path):
    tensors = {f"w{i}": values("float32", seed=i) for i in range(3)}
    taken = tmp_path / "x-00002-of-00003.safetensors"
    taken.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        write_safetensors(tmp_path / "x.safetensors", tensors, shard_size=60)
    assert listing(tmp_path) == [taken.name]
    write_safetensors(tmp_path / "x.safetensors", tensors, shard_size=60, force=True)
    assert len(listing(tmp_path)) == 4
    taken.unlink()
    os.mkfifo(taken)
    for each in tmp_path.glob("x-00001*"), tmp_path.glob("*.json"):
        next(each).unlink()
    before = listing(tmp_path)
    with pytest.raises(UsageError, match="not a regular file"):
        write_safetensors(tmp_path / "x.safetensors", tensors, shard_size=60, force=True)
    assert listing(tmp_path) == before


def test_a_name_that_is_taken_meanwhile_is_kept(tmp_path):
    """Another program takes the index's name after all was checked: nothing of ours stays."""
    index = tmp_path / "x.safetensors.index.json"
    tensors = {f"w{i}": values("float32", seed=i) for i in range(3)}

    def take(_size):
        index.write_text("theirs")

    with pytest.raises(UsageError, match="exists already"):
        write_safetensors(tmp_path / "x.safetensors", tensors, shard_size=60, progress=take)
    assert listing(tmp_path) == [index.name]
    assert index.read_text() == "theirs"


def _index(change):
    def spoil(folder):
        path = folder / "x.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))

    return spoil


def _swap(folder):
    one, two = folder / "x-00001-of-00003.safetensors", folder / "x-00002-of-00003.safetensors"
    one.write_bytes(two.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_index(lambda m: m.update(w0="../x-00001-of-00003.safetensors")), "names ../x-00001.*beside it"),
        (_index(lambda m: m.update(w0="/etc/x.safetensors")), "no .safetensors file beside"),
        (_index(lambda m: m.update(w0="a\\b.safetensors")), "no .safetensors file beside"),
        (_index(lambda m: m.update(w0="/etc/passwd")), "no .safetensors file beside"),
        (_index(lambda m: m.update(w0="")), "no .safetensors file beside"),
        (_index(lambda m: m.update(w0="missing.safetensors")), "shard missing.safetensors: the file does not exist"),
        (_index(lambda m: m.update(w0=3)), "does not give a file's name"),
        (_index(lambda m: m.update({f"v{i}": f"{i}.safetensors" for i in range(1001)})), "more than 1,000"),
        (_index(lambda m: m.update(more=m["w0"])), "lacks more"),
        (_index(lambda m: m.pop("w3")), "holds w3, which the index does not place there"),
        (_index(lambda m: m.clear()), "does not give a file's name"),
        (_swap, "holds w1, which the index does not place there"),
        (lambda f: (f / "x-00001-of-00003.safetensors").write_bytes(b"PK\3\4"), "no safetensors file"),
        (lambda f: (f / "x.safetensors.index.json").write_text('{"weight_map": {"a": "b", "a": "b"}}'), "a twice"),
        (lambda f: (f / "x.safetensors.index.json").write_text('{"weight_map": '), "no plain JSON"),
    ],
)  # fmt: skip
def test_broken_shards(tmp_path, spoil, words):
    tensors = {f"w{i}": values("float32", seed=i) for i in range(3)} | {"w3": values("int8", (1,))}
    write_safetensors(tmp_path / "x.safetensors", tensors, shard_size=61)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        read_container(tmp_path / "x.safetensors.index.json")


# --- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".shards"])
def test_there_and_back_by_command(tmp_path, suffix):
    source, back = tmp_path / "net.tar", tmp_path / "back.pth"
    write_sample(source, SMALL)
    middle = tmp_path / ("net" + suffix.replace(".shards", ".safetensors"))
    options = ("--shard-size", "200kB") if suffix == ".shards" else ()
    output = done("torch2paddle", source, middle, *options, "--certificate", tmp_path / "forth.json")
    account = json.loads((tmp_path / "forth.json").read_text())["target"]
    if options:
        middle = tmp_path / "net.safetensors.index.json"
        assert f"and {len(account['shards'])} shards (" in output
        assert account["name"] == middle.name
        assert all((tmp_path / shard["name"]).stat().st_size == shard["bytes"] for shard in account["shards"])
    assert "_variance" in done("inspect", middle, "--keys")
    done("paddle2torch", middle, back)
    theirs = torch.load(source, weights_only=False)["state_dict"]
    ours = torch.load(back, weights_only=True)
    assert set(ours) <= set(theirs)
    for name, tensor in ours.items():
        if suffix != ".npz" or not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, theirs[name]), name
    done("paddle2torch", middle, tmp_path / "back.safetensors")
    again = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert set(again) == set(ours)
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())
    done("torch2paddle", tmp_path / "back.safetensors", tmp_path / "again.pdparams")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("net.npz", "--shard-size", "1MB"), "--shard-size is for .safetensors"),
        (("net.pdparams", "--shard-size", "1MB"), "--shard-size is for .safetensors"),
        (("net.safetensors", "--shard-size", "many"), "no size"),
        (("net.safetensors", "--shard-size", "0"), "no size"),
    ],
)
def test_options_that_do_not_fit(tmp_path, arguments, words):
    write_sample(tmp_path / "net.tar", SMALL)
    result = run("torch2paddle", tmp_path / "net.tar", tmp_path / arguments[0], *arguments[1:])
    assert result.exit_code == 2
    assert words in result.output
    assert listing(tmp_path) == ["net.tar"]
