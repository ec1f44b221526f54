"""Bad files through the command line: one clear line, exit code 3, nothing executed, nothing left behind."""

import json
import os
import re
import resource
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.fixtures import hostile
from stdc_parity.fixtures.hostile import array, mapping, patched, pickled, tensor, torch_legacy, torch_zip
from stdc_parity.fixtures.weights import seeded_weights

NET = stdc.architecture("stdcnet813", base=8, imagenet_head=False)
STEM = "features.0.conv.weight"
STATE = seeded_weights(NET)
GOOD = hostile.good(STATE)
CANARY = "CANARY"
ATTACKS = hostile.attacks(CANARY)
ZIP = torch_zip(mapping({"w": tensor()}))
SECONDS = 5


def zips(**lies):
    return torch_zip(mapping({"w": tensor(**lies)}))


def npys(**lies):
    return pickled(mapping({"w": array(**lies)}))


saved = hostile.whole_zip
PLAIN = hostile.safetensors({"w": np.ones(4, np.float32)})
NPZ = hostile.zip_of([("w.npy", hostile.npy())])
TAR = hostile.tar_of({"net.pth": ZIP})


def places(**facts):
    """A safetensors file of 16 bytes whose one tensor lies about itself."""
    facts = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **facts}
    return hostile.raw_safetensors(json.dumps({"w": facts}).encode())


def npzs(method=0, **lies):
    return hostile.zip_of([("w.npy", hostile.npy(**lies))], method)


def indexes(places):
    """An index of shards."""
    return json.dumps({"metadata": {}, "weight_map": places}).encode()


def gzips(content, at=0, raw=b""):
    return patched(hostile.gzipped(content), at, raw)


def damaged(content, where, raw=None):
    """``content`` with one byte flipped (or ``raw`` written) at the place behind ``where``."""
    at = content.index(where) + len(where)
    return patched(content, at, raw or bytes((content[at] ^ 1,)))


def directory(field, raw, record=0, content=ZIP):
    """A zip with ``raw`` written into a record of its directory."""
    return patched(content, hostile.directory_records(content)[record] + field, raw)


# A name, the bytes of the file (or what makes it in a folder), and what the message must say.
BAD = [
    *((f"pickle: {name}", torch_zip(mapping({STEM: tensor(), "args": value})), "nothing was executed|no sense|"
       "no checkpoint uses|refers to data|outside the file|registry") for name, value in ATTACKS.items()),
    ("paddle pickle: os.system", pickled(mapping({STEM: ATTACKS["os.system"]})), r"os\.system; nothing"),
    ("paddle pickle: eval", pickled(mapping({STEM: ATTACKS["paddle's eval, with code"]})), "eval"),
    ("paddle pickle: in our counters", pickled(b"}") + pickled(mapping({"stdc_parity num_batches_tracked":
        ATTACKS["eval"]})), r"builtins\.eval; nothing"),
    ("legacy: in the object", torch_legacy(ATTACKS["eval"]), r"builtins\.eval; nothing"),
    ("legacy: in the list of storages", torch_legacy(b"}", keys=ATTACKS["eval"]), r"eval; nothing"),
    ("torch tar: in the pickle", hostile.tar_of({"storages": b"", "tensors": b"", "pickle": pickled(
        ATTACKS["eval"])}), "damaged|ends inside"),
    *((f"bomb: {name}", torch_zip(value), "") for name, value in hostile.bombs().items()),
    *((f"paddle bomb: {name}", pickled(value), "") for name, value in hostile.bombs().items()),
    ("zip bomb", hostile.zip_bomb(), "compressed, which torch never does"),
    ("gzip bomb", hostile.gzip_bomb(), "gzip|no checkpoint"),
    ("gzip bomb of a tar", hostile.gzip_bomb(start=hostile.tar_of({"x.pdparams": b""})[:512]), "gzip|no checkpoint"),
    ("shape beyond the storage", zips(shape=(5,)), r"w: the tensor of shape \(5,\)"),
    ("shape of 2**62", zips(shape=(2**61, 2), strides=(0, 0)), "more elements"),
    ("shape of 2**200", zips(shape=(2**50,) * 4, strides=(0,) * 4), "more elements"),
    ("storage of 2**60", zips(numel=2**60), "storage has 16 of"),
    ("negative shape", zips(shape=(-4,)), "no sense"),
    ("negative stride", zips(strides=(-1,)), "negative offset or stride"),
    ("negative offset", zips(offset=-1), "negative offset or stride"),
    ("offset beyond the storage", zips(offset=1), "outside its storage"),
    ("stride beyond the storage", zips(strides=(2,)), "outside its storage"),
    ("numpy array of 2**60", npys(shape=(2**60,)), "has 16 bytes of data"),
    ("numpy array of negative shape", npys(shape=(-4,)), "no sense"),
    ("numpy array without its data", npys(data=b""), "has 0 bytes of data"),
    ("numpy array of objects", npys(code="O8"), "w: a numpy array of dtype"),
    ("numpy array of text", npys(code="U4"), "w: a numpy array of dtype"),
    ("overlapping zip entries", hostile.overlapping_zip(), "overlaps"),
    ("zip entry twice", torch_zip(mapping({"w": tensor()}), more=[("a/data/0", bytes(16))]), "twice"),
    ("zip: two pickles", torch_zip(b"}", more=[("b/data.pkl", pickled(b"}"))]), "single data.pkl"),
    ("zip: wrong checksum of a storage", damaged(ZIP, b"a/data/0"), r"data/0 is damaged: its checksum"),
    ("zip: wrong checksum of the pickle", damaged(ZIP, b"a/data.pkl"), r"data\.pkl is damaged: its checksum"),
    ("zip: encrypted", directory(8, b"\1\0"), "encrypted"),
    ("zip: deflated", torch_zip(mapping({"w": tensor()}), method=8), "compressed"),
    ("zip: size beyond the file", directory(20, struct.pack("<2L", 2**30, 2**30)), "beyond|overlap"),
    ("zip: header elsewhere", directory(42, struct.pack("<L", 7)), "not where the directory says"),
    ("zip: bytes behind", ZIP + b"more", "behind its end"),
    ("zip: bytes before", b"PK\3\4" + bytes(30) + ZIP, "before its start"),
    ("zip: no storage", hostile.zip_of([("a/data.pkl", pickled(mapping({"w": tensor()})))]), "no entry a/data/0"),
    ("zip: entry with ../", hostile.zip_of([("../../data.pkl", pickled(b"}"))]), "single data.pkl"),
    ("zip: TorchScript", torch_zip(b"}", more=[("a/constants.pkl", b"")]), "TorchScript"),
    ("zip: big-endian", hostile.zip_of([("a/data.pkl", pickled(b"}")), ("a/byteorder", b"big")]), "big-endian"),
    ("legacy: big-endian", torch_legacy(mapping({"w": tensor(view=b"N")}), little=False), "big-endian"),
    ("legacy: storage too short", torch_legacy(mapping({"w": tensor(view=b"N")}), storage=bytes(8)),
     "declares 4 elements and has 2"),
    ("safetensors: header beyond the file", hostile.raw_safetensors(b"{}", size=1000), "ends inside"),
    ("safetensors: header of 2 GB", hostile.raw_safetensors(b"{}", size=2**31), "2,147,483,648 bytes long"),
    ("safetensors: shape beyond the data", places(shape=[5]), r"shape \(5,\) and dtype F32 has 16 bytes"),
    ("safetensors: shape of 2**63", places(shape=[2**61, 4]), "has 16 bytes of data"),
    ("safetensors: negative shape", places(shape=[-2, -2]), "damaged at w"),
    ("safetensors: negative offset", places(data_offsets=[-16, 0]), "end before they begin"),
    ("safetensors: offsets turned round", places(data_offsets=[16, 0]), "end before they begin"),
    ("safetensors: data beyond the file", places(shape=[8], data_offsets=[0, 32]), "16 bytes beyond"),
    ("safetensors: bytes of no tensor", PLAIN + b"more", "4 bytes that belong to no tensor"),
    ("safetensors: overlap", hostile.safetensors({"w": np.ones(4, np.float32)}, x={"dtype": "F32", "shape": [2],
        "data_offsets": [8, 16]}), "overlap"),
    ("safetensors: a name twice", hostile.raw_safetensors(b'{"w": {}, "w": {}}'), "the name w twice"),
    ("safetensors: no JSON", hostile.raw_safetensors(b"{'w': 1}"), "no plain JSON"),
    ("safetensors: nested JSON", hostile.raw_safetensors(b'{"a":' * 100_000), "no plain JSON"),
    ("safetensors: an integer of 5,000 digits", hostile.raw_safetensors(b'{"a": 1' + b"0" * 5000 + b"}"),
     "no plain JSON"),
    ("safetensors: an unknown dtype", places(dtype="object"), "object is no dtype"),
    ("safetensors: a dtype of 8 bits", places(dtype="F8_E4M3", shape=[16]), "F8_E4M3"),
    ("safetensors: control characters", hostile.raw_safetensors(b'{"\\u001b[31m": 3}'), r"\\x1b\[31m"),
    ("safetensors: NaN as a counter", hostile.raw_safetensors(b'{"__metadata__": {"stdc_parity num_batches_tracked":'
        b' "{\\"a\\": NaN}"}}', b""), "counters of batches"),
    ("shards: one in another folder", indexes({"w": "../x.safetensors"}), r"\.\./x\.safetensors"),
    ("shards: one by its whole path", indexes({"w": "/etc/x.safetensors"}), "/etc/x.safetensors"),
    ("shards: one that is missing", indexes({"w": "x-00001-of-00001.safetensors"}), "does not exist"),
    ("shards: the index itself", indexes({"w": "bad.tar"}), r"bad\.tar, which is no \.safetensors"),
    ("shards: thousands", indexes({f"{i}": f"{i}.safetensors" for i in range(2000)}), "2,000 shards"),
    ("shards: no map", indexes(["x.safetensors"]), "weight_map"),
    ("shards: nested JSON", indexes({})[:-2] + b'{"a":' * 100_000, "no plain JSON"),
    ("npz: objects", npzs(code="'|O'", data=pickled(ATTACKS["eval"])), "array of Python objects"),
    ("npz: objects in a record", npzs(code="[('a', '|O')]"), "array of Python objects"),
    ("npz: code for a dtype", npzs(code="__import__('os').system('touch CANARY')"), "header is damaged"),
    ("npz: shape beyond the data", npzs(shape="(5,)"), r"shape \(5,\)"),
    ("npz: shape of 2**63", npzs(shape="(2305843009213693952, 4)"), "has 16 bytes"),
    ("npz: negative shape", npzs(shape="(-4,)"), "header is damaged"),
    ("npz: text", npzs(code="'<U4'"), "w: a numpy array of dtype"),
    ("npz: complex", npzs(code="'<c8'", shape="(2,)"), "w: a numpy array of dtype"),
    ("npz: wrong checksum", damaged(NPZ, b"w.npy"), "damaged: its checksum"),
    ("npz: encrypted", directory(8, b"\1\0", content=NPZ), "encrypted"),
    ("npz: an entry twice", hostile.zip_of([("w.npy", hostile.npy()), ("w.npy", hostile.npy())]), "twice"),
    ("npz bomb", npzs(zipfile.ZIP_DEFLATED, shape="(2**27,)", data=bytes(1 << 27)), "unpacks to more than"),
    ("npz bomb of a smaller size", directory(24, struct.pack("<L", 500), content=npzs(zipfile.ZIP_DEFLATED,
        data=bytes(1 << 27))), "damaged"),
    ("tar.gz with ../", hostile.gzipped(hostile.tar_of({"../evil.pth": b"x"})), r"\.\./evil\.pth"),
    ("tar.gz: the attack inside", hostile.gzipped(hostile.tar_of({"net.pdparams": pickled(ATTACKS["eval"])})),
     r"builtins\.eval; nothing"),
    ("tar.gz: two checkpoints", hostile.gzipped(hostile.tar_of({"a.pth": ZIP, "b.pth": ZIP})), "--member NAME"),
    ("tar.gz: an index inside", hostile.gzipped(hostile.tar_of({"x.json": indexes({"w": "a.safetensors"})})),
     "no checkpoint that is read"),
    ("tar.gz: one gzip in another", hostile.gzipped(hostile.gzipped(ZIP)), "compressed with gzip itself"),
    ("tar.gz: cut", hostile.gzipped(TAR)[:-20], "ends inside its gzip|damaged"),
    ("tar.gz: wrong checksum", gzips(TAR, len(hostile.gzipped(TAR)) - 8, bytes(4)), "gzip data are damaged"),
    ("tar.gz: a tar that is cut", hostile.gzipped(TAR[:700]), "ends inside a tar"),
    ("tar: a name twice", TAR[: 512 + -(-len(ZIP) // 512) * 512] + TAR, "net.pth twice"),
    ("tar: wrong checksum", patched(TAR, 148, b"0000000"), "the tar is damaged"),
    ("tar: only an empty file", hostile.tar_of({"a.pth": b""}), "no checkpoint that is read: a.pth"),
    ("onnx: cut", hostile.onnx({"w": np.ones(4, np.float32)})[:-30], "."),
    ("complex", zips(kind="ComplexFloatStorage"), "w: a tensor of dtype complex64"),
    ("quantized", torch_zip(mapping({"w": hostile.call("torch._utils._rebuild_qtensor", b"N")})), "w: a quantized"),
    ("sparse", torch_zip(mapping({"w": hostile.call("torch._utils._rebuild_sparse_tensor", b"N", b"N")})),
     "w: a sparse"),
    ("empty", b"", "the file is empty"),
    ("a web page", b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "web page"),
    ("a web page with spaces before", b"\xef\xbb\xbf\r\n\r\n  <HTML>", "web page"),
    ("a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    ("JSON", b'{"error": "not found"}', "no checkpoint that is known|JSON"),
    ("rubbish", np.random.default_rng(0).bytes(10_000), "no checkpoint that is known"),
    ("control characters", b"\x1b[2J\x1b]0;title\x07 rest of it", r"\\x1b\[2J"),
    ("a tar with ../", hostile.tar_of({"../evil.pth": b"x"}), r"\.\./evil\.pth"),
    ("a tar that is absolute", hostile.tar_of({"/etc/evil": b"x"}), "/etc/evil"),
    ("a tar of negative size", patched(hostile.tar_of({"a": b"x"}), 124, b"-0000000001\0"), "tar"),
    ("two keys of one target", saved({**STATE, f"module.{STEM}": STATE[STEM]}), f"two keys name one tensor.*{STEM}"),
    ("names of both frameworks", saved({**STATE, "features.0.bn._mean": np.zeros(4, np.float32)}), "keys mix"),
    ("a missing key", saved({n: t for n, t in STATE.items() if n != "features.1.bn.bias"}),
     "features.1.bn.bias: missing"),
    ("an extra key", saved({**STATE, "extra.weight": np.ones(2, np.float32)}), "extra.weight: unexpected"),
    ("an extra key with an escape", saved({**STATE, "e\x1b[31m\u202e\n": np.ones(2, np.float32)}),
     r"e\\x1b\[31m\\u202e\\n"),
    ("a wrong shape", saved({**STATE, "features.1.conv.weight": np.ones((8, 4, 1, 1), np.float32)}),
     r"\(8, 4, 1, 1\)"),
    ("a transposed shape", saved({**STATE, "features.1.conv.weight": STATE["features.1.conv.weight"].T}),
     "other framework"),
    ("a norm without its size", saved({**STATE, "features.1.bn.bias": np.array(1, np.float32)}),
     r"checkpoint has \(\)"),
    ("an alias that differs", saved({**STATE, "x2.0.0.conv.weight": STATE[STEM] + 1}), "their values differ"),
    ("counters of NaN", saved({**STATE, "features.1.bn.num_batches_tracked": np.array(np.nan)}), "nan is no number"),
    ("no tensors", torch_zip(mapping({"epoch": b"K\1"})), "no tensors by name"),
    ("a list", torch_zip(b"]"), "the file holds list of 0"),
    ("a tensor alone", torch_zip(tensor()), "the file holds one tensor"),
    ("a key that is no text", torch_zip(b"}(K\1" + tensor() + b"u"), "no tensors by name"),
    ("a pickled model", torch_zip(hostile.call("torch.nn.modules.linear.Linear")), "pickled model"),
]  # fmt: skip
assert len({name for name, _, _ in BAD}) == len(BAD)


def run(folder, *arguments):
    """The result of `stdc-convert` in ``folder``, and the seconds it took."""
    before = Path.cwd()
    os.chdir(folder)
    start = time.perf_counter()
    try:
        result = CliRunner().invoke(cli.convert, arguments)
        return result, time.perf_counter() - start
    finally:
        os.chdir(before)


def assert_refused(folder, *arguments, words):
    """One clear message in a few seconds, and the folder as it was."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result, seconds = run(folder, *arguments)
    assert seconds < SECONDS
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 3, result.output
    assert result.stdout == ""
    first, *more = result.stderr.splitlines()
    assert first.startswith("Error: bad.tar: "), result.stderr
    assert re.search(words, result.stderr), result.stderr
    assert all(line.isprintable() for line in (first, *more))
    assert sum(line.startswith("Error: ") for line in (first, *more)) == 1
    assert sum(line.startswith("Note: ") for line in (first, *more)) <= 1
    assert max(len(line) for line in (first, *more)) < 500
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_refused_in_one_clear_line(content, words, tmp_path):
    (tmp_path / "bad.tar").write_bytes(content)
    way = "paddle2torch" if content[:2] == b"\x80\4" else "torch2paddle"
    assert_refused(tmp_path, way, "bad.tar", "out.file", "--certificate", "out.json", words=words)


def test_there_are_enough():
    assert len(BAD) >= 40


def test_the_attacks_are_real(tmp_path):
    """Python's own unpickler executes them."""
    code = """
import os, pickle, sys
for name, raw in eval(sys.stdin.read()).items():
    try:
        made = pickle.loads(raw)
        getattr(made, "wait", int)()
    except Exception:
        pass
    if os.path.exists("CANARY"):
        print(name)
        os.remove("CANARY")
"""
    attacks = {name: pickled(value) for name, value in ATTACKS.items()}
    done = subprocess.run([sys.executable, "-c", code], input=repr(attacks), cwd=tmp_path, capture_output=True,
                          text=True, check=True)  # fmt: skip
    real = set(done.stdout.splitlines())
    assert real >= {"os.system", "posix.system", "subprocess", "eval", "numpy.memmap", "name from pieces",
                    "name from the memo", "instance", "object", "state", "persistent id of a call"}  # fmt: skip


def test_the_good_ones_convert(tmp_path):
    """The same builders, without the harm: else the table would prove nothing."""
    for container, content in GOOD.items():
        (tmp_path / "bad.tar").write_bytes(content)
        way = "paddle2torch" if container == "paddle pickle" else "torch2paddle"
        result, _ = run(tmp_path, way, "bad.tar", f"{container}.out")
        assert result.exit_code == 0, result.output
    for content in (ZIP, torch_legacy(mapping({"w": tensor(view=b"N")})), npys()):
        (tmp_path / "bad.tar").write_bytes(content)
        result, _ = run(tmp_path, "inspect", "bad.tar", "--keys")
        assert result.exit_code == 0, result.output
        assert "w  (4,)  float32" in result.output


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_nan_and_inf_are_allowed_and_said(value, tmp_path):
    state = {**STATE, STEM: STATE[STEM].copy()}
    state[STEM].flat[3] = value
    (tmp_path / "odd.pth").write_bytes(saved(state))
    result, _ = run(tmp_path, "torch2paddle", "odd.pth")
    assert result.exit_code == 0
    assert f"NaN or Inf in 1 tensors: {STEM}." in result.output


NO_FILES = {"folder": Path.mkdir, "fifo": os.mkfifo, "loop": lambda path: path.symlink_to(path)}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file(make, tmp_path):
    make(tmp_path / "bad.tar")
    result, seconds = run(tmp_path, "torch2paddle", "bad.tar", "out.file")
    assert result.exit_code == 3
    assert re.search(
        "Error: bad.tar: (this is a folder|this is a pipe|the file cannot be read)", result.stderr
    )
    assert seconds < SECONDS
    assert not (tmp_path / "out.file").exists()


def boundaries(container, content):
    """Where the parts of a file begin: pickles, opcodes, storages, records."""
    import pickletools

    marks = {1, 2, 8, 100, len(content) - 1, *range(len(content) // 30, len(content), len(content) // 30)}
    for magic in (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\x80\2", b"\x80\4"):
        at = -1
        while (at := content.find(magic, at + 1)) >= 0:
            marks |= {at, at + 1, at + len(magic), at + 30}
    if container == "paddle pickle":
        places = [at for _, _, at in pickletools.genops(content)]
        marks |= set(places[1:40]) | set(places[-40:])
    return sorted(mark for mark in marks if 0 < mark < len(content))


WHOLE = GOOD | hostile.other_containers(STATE)


@pytest.mark.parametrize("container", [container for container in WHOLE if container != "tar"])
def test_truncated_at_every_boundary(container, tmp_path):
    content = WHOLE[container]
    way = "paddle2torch" if container in ("paddle pickle", "tar.gz") else "torch2paddle"
    whole = len(content) if container != "paddle pickle" else content.index(b"stdc_parity num_batches") - 9
    cuts = boundaries(container, content)
    assert len(cuts) > 20
    assert content[whole : whole + 2] in (b"", b"\x80\4")
    for cut in cuts[:: max(1, len(cuts) // 150)]:
        if cut != whole:  # a Paddle file that ends before our counters is a whole one
            (tmp_path / "bad.tar").write_bytes(content[:cut])
            assert_refused(tmp_path, way, "bad.tar", "out.file", words="")


PROCESSES = ["pickle: os.system", "pickle: name from the memo", "zip bomb", "gzip bomb", "gzip bomb of a tar",
             "shape of 2**62", *(f"bomb: {name}" for name in hostile.bombs()), "a web page"]  # fmt: skip


@pytest.mark.parametrize("name", PROCESSES)
def test_as_a_real_process(name, tmp_path):
    """What a shell sees, with 5 seconds of processor time and 400 MB of memory beyond twice the file."""
    content = next(case[1] for case in BAD if case[0] == name)
    (tmp_path / "bad.tar").write_bytes(content)
    limit = 400_000_000 + 2 * len(content)

    def limits():
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS * 2, SECONDS * 2))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, "-c", "from stdc_parity.cli import convert; convert(prog_name='stdc-convert')"]
    done = subprocess.run([*command, "torch2paddle", "bad.tar"], cwd=tmp_path, capture_output=True, text=True,
                          check=False, preexec_fn=limits)  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("Error: bad.tar: ")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]
