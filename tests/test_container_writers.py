"""Writing checkpoint files: torch.load and paddle.load read back the same bits; the target is safe."""

import ast
import collections
import io
import os
import pathlib
import pickle
import pickletools
import signal
import subprocess
import sys
import threading
import time
import zipfile

import ml_dtypes
import numpy as np
import paddle
import pytest
import torch

from stdc_parity.converters import atomic
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.containers import read_container, write_paddle, write_torch
from stdc_parity.converters.errors import CheckpointError, UsageError
from stdc_parity.converters.paddle_pickle import write_paddle_pickle
from stdc_parity.converters.torch_write import write_torch_legacy, write_torch_zip
from stdc_parity.converters.torch_zip import read_directory
from stdc_parity.converters.zip_write import ZipWriter

COMMON = ["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
WIDE = ["uint16", "uint32", "uint64"]


def values(name, shape=(2, 3, 4)):
    """Bit patterns of all kinds, NaNs too."""
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    raw = np.random.default_rng(1).integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    return (raw % 2 if name == "bool" else raw).view(dtype).reshape(shape)


def layouts(name):
    base = values(name)
    return {
        "whole": base,
        "alias": base,
        "flat alias": base.reshape(-1),
        "transposed": base.T,
        "transposed again": base.T,
        "part": base[1],
        "steps": base[:, ::2, 1:],
        "backwards": base[::-1],
        "scalar": np.array(base[0, 0, 0]),
        "empty": values(name, (0, 3)),
        "column": values(name, (3, 1)),
        "unaligned": np.frombuffer(b"x" + base.tobytes(), base.dtype, offset=1),
        "ß": np.broadcast_to(base[0, 0], (2, 4)),
    }


def torch_bits(tensor):
    flat = tensor.contiguous().reshape(-1)
    return str(tensor.dtype)[6:], tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def numpy_bits(array):
    return array.dtype.name, array.shape, array.tobytes()


def legacy_bytes(root):
    stream = io.BytesIO()
    write_torch_legacy(stream.write, root)
    return stream.getvalue()


# --- torch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMON + WIDE)
def test_torch_reads_what_is_written(tmp_path, name):
    path = tmp_path / "x.pth"
    arrays = layouts(name)
    write_torch(path, arrays)
    found = torch.load(path, weights_only=True)
    assert type(found) is collections.OrderedDict
    assert list(found) == list(arrays)
    for key, array in arrays.items():
        assert torch_bits(found[key]) == numpy_bits(array), key
        assert found[key].is_contiguous()
    for mmapped in torch.load(path, weights_only=True, mmap=True).values():
        assert mmapped.dtype == found["whole"].dtype
    again = read_container(path)
    for key, array in arrays.items():
        assert numpy_bits(again.root[key]) == numpy_bits(array)


@pytest.mark.parametrize("weights_only", [True, False])
def test_same_memory_shares_a_storage(tmp_path, weights_only):
    arrays = layouts("float32")
    write_torch(tmp_path / "x.pth", arrays)
    (tmp_path / "x.tar").write_bytes(legacy_bytes(arrays))
    for name in ("x.pth", "x.tar"):
        found = torch.load(tmp_path / name, weights_only=weights_only)
        found["whole"].fill_(7)
        assert {key for key, tensor in found.items() if tensor.eq(7).all() and tensor.numel()} == {
            *("whole", "alias", "flat alias")
        }
        found["transposed"].fill_(8)
        assert found["transposed again"].eq(8).all()


@pytest.mark.parametrize("name", COMMON)
def test_the_legacy_container(tmp_path, name):
    state = collections.OrderedDict(layouts(name))
    path = tmp_path / "x.tar"
    path.write_bytes(legacy_bytes({"state_dict": state, "epoch": 3, "lr": 1e-2, "tags": ["a", (None, True)]}))
    found = torch.load(path, weights_only=True)
    assert (found["epoch"], found["lr"], found["tags"]) == (3, 1e-2, ["a", (None, True)])
    for key, array in state.items():
        assert torch_bits(found["state_dict"][key]) == numpy_bits(array), key
    again = read_container(path)
    assert again.container == "torch legacy"
    for key, array in state.items():
        assert numpy_bits(again.root["state_dict"][key]) == numpy_bits(array)


def test_values_beside_the_tensors(tmp_path):
    root = {
        "numbers": [0, 255, 256, -1, 2**31 - 1, -(2**31), 2**31, -(2**63), 2**100],
        "floats": [0.5, float("inf")],
        "text": ["", "漢字\n"],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "none": None,
        "nested": {"a": collections.OrderedDict(b=[{}])},
        3: True,
    }
    for write in (write_torch_zip, write_torch_legacy):
        with (tmp_path / "x").open("wb") as file:
            write(file.write, root)
        assert torch.load(tmp_path / "x", weights_only=True) == root
        assert read_container(tmp_path / "x").root == root
    with pytest.raises(TypeError, match="set"):
        write_torch_zip(io.BytesIO().write, {"a": {1}})


def test_the_zip_is_as_torch_makes_it(tmp_path):
    write_torch(tmp_path / "x.pth", {"a": values("float32"), "b": values("int8", (3,))}, wrap="state_dict")
    assert list(torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]) == ["a", "b"]
    with zipfile.ZipFile(tmp_path / "x.pth") as file:
        assert file.testzip() is None
        assert file.read("archive/byteorder") == b"little"
        raw = (tmp_path / "x.pth").read_bytes()
        assert raw.index(values("float32").tobytes()) % 64 == 0
        assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in file.infolist())


def test_more_entries_than_a_plain_zip_can_count(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        archive = ZipWriter(file.write)
        for number in range(66_000):
            archive.add(f"a/data/{number}", b"12345")
        archive.close()
    with zipfile.ZipFile(tmp_path / "x") as file:
        assert len(file.namelist()) == 66_000
        assert file.read("a/data/65999") == b"12345"
    entries = read_directory(memoryview((tmp_path / "x").read_bytes()))
    assert len(entries) == 66_000
    assert entries["a/data/65999"].size == 5


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_torch_zip, write_paddle_pickle])
def test_more_than_4_gb(tmp_path, write):
    """One array of 4.3 GB and one behind it, in a file with holes."""
    arrays = {"large": np.zeros((4300, 1000, 250), np.float32), "small": values("float32")}
    path = tmp_path / "x"
    with path.open("wb") as file:
        write(lambda piece: file.seek(len(piece), 1) if len(piece) == 16 << 20 else file.write(piece), arrays)
    found = read_container(path).root
    assert found["large"].shape == (4300, 1000, 250)
    assert numpy_bits(found["small"]) == numpy_bits(arrays["small"])
    if write is write_torch_zip:
        tensors = torch.load(path, weights_only=True, mmap=True)
        assert tensors["large"].shape == (4300, 1000, 250)
        assert torch_bits(tensors["small"]) == numpy_bits(arrays["small"])


def test_what_torch_does_not_have(tmp_path):
    with pytest.raises(CheckpointError, match="torch has no dtype complex64"):
        write_torch(tmp_path / "x", {"a": np.ones(2, np.complex64)})
    assert list(tmp_path.iterdir()) == []


# --- Paddle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMON)
def test_paddle_reads_what_is_written(tmp_path, name):
    path = str(tmp_path / "x.pdparams")
    arrays = layouts(name)
    write_paddle(path, arrays)
    found = paddle.load(path)
    assert list(found) == list(arrays)
    for key, array in arrays.items():
        tensor = found[key]
        assert str(tensor.dtype).rpartition(".")[2] == name
        assert (tuple(tensor.shape), tensor.numpy().tobytes()) == (array.shape, array.tobytes()), key
    again = read_container(path)
    for key, array in arrays.items():
        assert numpy_bits(again.root[key]) == numpy_bits(array)


def test_a_layer_takes_it(tmp_path):
    path = str(tmp_path / "x.pdparams")
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    arrays = {key: values("float32", tuple(t.shape)) for key, t in layer.state_dict().items()}
    write_paddle(path, arrays)
    missing, unexpected = layer.set_state_dict(paddle.load(path))
    assert not missing
    assert not unexpected
    for key, tensor in layer.state_dict().items():
        assert tensor.numpy().tobytes() == arrays[key].tobytes()


@pytest.mark.filterwarnings("error")
def test_the_pickle_names_what_numpy_1_and_2_have(tmp_path):
    path = tmp_path / "x.pdparams"
    write_paddle(path, {name: values(name) for name in COMMON} | {"zero-d": np.array(1.5)})
    raw = path.read_bytes()
    assert b"numpy._core" not in raw
    names = {text for op, text, _ in pickletools.genops(raw) if op.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    found = pickle.loads(raw)
    assert found["zero-d"].shape == ()
    assert all(array.flags.writeable for array in found.values())
    assert found["bfloat16"].dtype == np.uint16


def test_batches_stand_behind_what_paddle_reads(tmp_path):
    path = str(tmp_path / "x.pdparams")
    arrays = {"w": values("float32")}
    batches = {"bn.num_batches_tracked": 2**40, "ß": 0}
    write_paddle(path, arrays, batches=batches)
    assert list(paddle.load(path)) == ["w"]
    found = read_container(path)
    assert found.batches == batches
    assert list(found.root) == ["w"]
    with pathlib.Path(path).open("ab") as file:
        file.write(b"something of others")
    assert read_container(path).batches == batches
    raw = pathlib.Path(path).read_bytes()
    at = raw.index(b"stdc_parity num")
    pathlib.Path(path).write_bytes(raw[: at + 40])
    with pytest.raises(CheckpointError, match="ends inside"):
        read_container(path)
    pathlib.Path(path).write_bytes(raw[: raw.index(b"\x80\4", 2)] + b"trailing bytes")
    assert read_container(path).batches == {}


def test_what_paddle_does_not_have(tmp_path):
    for name in WIDE:
        with pytest.raises(CheckpointError, match=rf"a\\x1b: Paddle has no dtype {name}"):
            write_paddle(tmp_path / "x", {"a\x1b": values(name)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_paddle, write_torch])
def test_equal_tensors_give_equal_files_and_progress_adds_up(tmp_path, write):
    pieces = []
    arrays = layouts("float32") | {"large": np.zeros((3000, 3000), np.float32)}
    write(tmp_path / "a", arrays)
    write(tmp_path / "b", arrays, progress=pieces.append)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sum(pieces) >= 36_000_000
    assert max(pieces) <= 16 << 20


def test_from_torch_to_paddle_and_back(tmp_path):
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    write_paddle(tmp_path / "b.pdparams", read_container(tmp_path / "a.pth").root)
    write_torch(tmp_path / "c.pth", read_container(tmp_path / "b.pdparams").root)
    found = torch.load(tmp_path / "c.pth", weights_only=True)
    assert {k: torch_bits(t) for k, t in found.items()} == {k: torch_bits(t) for k, t in state.items()}


# --- atomic writes -------------------------------------------------------------------------------------


def put(path, content=b"new", **options):
    with atomic_write(path, **options) as file:
        file.write(content)


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path):
    path = tmp_path / "x"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_replaced_without_force(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="exists already"):
        put(path)
    assert path.read_bytes() == b"old"
    put(path, force=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
        put(tmp_path / "free")
        assert (tmp_path / "free").read_bytes() == b"new"
        (tmp_path / "free").unlink()
    path = tmp_path / "x"
    with pytest.raises(UsageError, match="exists already"), atomic_write(path) as file:
        file.write(b"new")
        path.write_bytes(b"of another process")
    assert path.read_bytes() == b"of another process"
    assert list(tmp_path.iterdir()) == [path]


def test_one_of_many_writers_wins(tmp_path):
    outcomes = []

    def write(number):
        try:
            put(tmp_path / "x", bytes([number]) * 100_000)
            outcomes.append(number)
        except UsageError:
            pass

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert (tmp_path / "x").read_bytes() == bytes(outcomes) * 100_000
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_never_over_the_source(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    os.link(source, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    for name in ("source", "hard", "soft", "folder/source", "folder/../" + tmp_path.name + "/source"):
        with pytest.raises(UsageError, match="the source itself"):
            put(tmp_path / name, force=True, source=source)
        with pytest.raises(UsageError, match="the source itself"):
            put(source, force=True, source=tmp_path / name)
    assert source.read_bytes() == b"weights"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    put(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, CheckpointError])
@pytest.mark.parametrize("force", [True, False])
def test_a_failure_leaves_nothing(tmp_path, error, force):
    path = tmp_path / "x"
    if force:
        path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path, force=force) as file:
        file.write(b"half")
        raise error("stop")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"old"] if force else [])


def test_targets_that_cannot_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    for name, words in (
        *((".", "folder"), ("fifo", "not a regular file"), ("missing/x", "folder does not exist")),
        ("loop", "cannot be written"),
        *(("file/x", "is a file, not a folder"), ("x" * 300, "name is too long"), ("a\0b", "null")),
    ):
        with pytest.raises(UsageError, match=words):
            put(tmp_path / name, force=True)


def test_a_full_disk_and_a_read_only_folder(tmp_path, monkeypatch):
    if pathlib.Path("/dev/full").exists():
        monkeypatch.setattr(
            atomic, "_create_beside", lambda _: (os.open("/dev/full", os.O_WRONLY), tmp_path / "t")
        )
        with pytest.raises(UsageError, match="no space is left"):
            put(tmp_path / "x", bytes(1 << 20))
        monkeypatch.undo()

    def read_only(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(atomic, "_create_beside", read_only)
    with pytest.raises(UsageError, match=r"x cannot be written: permission denied"):
        put(tmp_path / "x")


def test_killed_at_any_moment(tmp_path):
    """The target holds the old bytes or all of the new ones."""
    path = tmp_path / "x"
    path.write_bytes(b"old")
    program = (
        "import sys; from stdc_parity.converters.atomic import atomic_write\n"
        "print('ready', flush=True)\n"
        "for n in range(10**6):\n"
        f" with atomic_write({str(path)!r}, force=True) as file: file.write(bytes([n % 256]) * 50000)"
    )
    for moment in range(8):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.003 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = path.read_bytes()
        assert content == b"old" or content == content[:1] * 50_000


def test_no_framework_and_no_pickle_are_used(tmp_path):
    folder = pathlib.Path(atomic.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.partition(".")[0] for n in names} & {"torch", "paddle", "pickle", "marshal"}, path
