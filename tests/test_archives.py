"""Checkpoints in tars and gzips: Python's tarfile and gzip, and the tar command, make what is read."""

import gzip
import io
import json
import shutil
import subprocess
import tarfile
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.converters.containers import read_container, write_paddle, write_safetensors
from stdc_parity.converters.errors import CheckpointError, UsageError
from stdc_parity.fixtures.samples import write_sample

ARRAYS = {f"w{i}": np.random.default_rng(i).random((20, 30)) for i in range(3)}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def weights(tmp_path):
    path = tmp_path / "made.pdparams"
    write_paddle(path, ARRAYS, force=True)
    return path.read_bytes()


def tar_of(files, kind="gnu", mode="w"):
    """A tar of (name, bytes or TarInfo changes) pairs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=FORMATS[kind]) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
                content = b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def read(tmp_path, data, **options):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(data)
    return read_container(path, **options)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(found, arrays=ARRAYS):
    assert list(found.root) == list(arrays)
    for name, array in arrays.items():
        assert found.root[name].tobytes() == array.tobytes()


NAMES = [
    *("STDCNet2.pdparams", "./a/STDCNet2.pdparams", "n" * 90 + "/" + "m" * 60 + "/w", "x" * 300),
    *("名.pdparams", "../../etc/w"),
]


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:12])
def test_a_checkpoint_is_found_in_a_tar(tmp_path, name, kind, packed):
    if kind == "ustar" and len(name) == 300:
        pytest.skip("ustar has no such names")
    folder = {"type": tarfile.DIRTYPE}
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    files = [("a", folder), ("README.md", b"text"), ("link.pdparams", link), ("._w", b"\0\5\x16\7")]
    files.append((name, weights(tmp_path)))
    data = tar_of(files, kind)
    before = listing(tmp_path)
    found = read(tmp_path, gzip.compress(data) if packed else data)
    assert found.container == "paddle pickle"
    assert found.member == name
    assert_same(found)
    assert listing(tmp_path) == sorted([*before, "x.tar.gz"])


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=ustar"], ["--format=gnu", "-z"]])
@pytest.mark.skipif(not shutil.which("tar"), reason="there is no tar command")
def test_what_the_tar_command_makes(tmp_path, options):
    weights(tmp_path)
    subprocess.run(["tar", "-cf", tmp_path / "x.tar", "-C", tmp_path, *options, "./made.pdparams"], check=True)
    assert_same(read_container(tmp_path / "x.tar"))


def test_a_gzip_without_a_tar_and_of_several_parts(tmp_path):
    data = weights(tmp_path)
    assert_same(read(tmp_path, gzip.compress(data)))
    assert_same(read(tmp_path, gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + bytes(512)))


def test_several_checkpoints_ask_for_one(tmp_path):
    one, two = weights(tmp_path), io.BytesIO()
    torch.save({"w": torch.ones(2)}, two)
    data = tar_of([("a/one.pdparams", one), ("notes.txt", b"..."), ("\x1b[31m.pth", two.getvalue())])
    with pytest.raises(CheckpointError, match=r"2 checkpoints: a/one\.pdparams, \\x1b\[31m\.pth") as caught:
        read(tmp_path, data)
    assert "--member" in caught.value.note
    assert_same(read(tmp_path, data, member="a/one.pdparams"))
    assert read(tmp_path, data, member="\x1b[31m.pth").container == "torch zip"
    with pytest.raises(UsageError, match="no such file") as usage:
        read(tmp_path, data, member="one")
    assert "a/one.pdparams" in usage.value.note
    with pytest.raises(UsageError, match="is no tar"):
        read(tmp_path, one, member="one")


def test_none_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint that is read: a\.txt, b\.gz"):
        read(tmp_path, tar_of([("a.txt", b"..."), ("b.gz", gzip.compress(weights(tmp_path)))]))
    with pytest.raises(CheckpointError, match="no checkpoint that is read: no file"):
        read(tmp_path, tar_of([("a", {"type": tarfile.DIRTYPE})]))


def test_other_files_are_not_looked_for_beside_an_archive(tmp_path):
    paths = write_safetensors(tmp_path / "w.safetensors", ARRAYS, shard_size=5000)
    files = [(path.name, path.read_bytes()) for path in paths[:1]]
    with pytest.raises(CheckpointError, match="no checkpoint that is read"):
        read(tmp_path, tar_of(files))
    for data, member in ((tar_of(files), paths[0].name), (gzip.compress(files[0][1]), None)):
        with pytest.raises(CheckpointError, match="several files, and in an archive"):
            read(tmp_path, data, member=member)


# --- hostile ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
def test_bombs(tmp_path, layers):
    data = bytes(200_000_000)
    for _ in range(layers):
        data = gzip.compress(data, 1)
    with pytest.raises(CheckpointError, match=r"unpacks to more than|with gzip itself"):
        read(tmp_path, data)


def _checked(header):
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def _changed(data, at, new):
    header = bytearray(data[:512])
    header[at : at + len(new)] = new
    return _checked(header) + data[512:]


def _pax(record):
    info = bytearray(tar_of([("w", record)])[:512])
    info[156:157] = b"x"
    return _checked(info) + record.ljust(-(-len(record) // 512) * 512, b"\0") + tar_of([("w", b"1")])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tar: tar[:700], "ends inside a tar's member"),
        (lambda tar: b"y" + tar[1:], "damaged"),
        (lambda tar: _changed(tar, 124, b"77777777777\0"), "ends inside a tar's member"),
        (lambda tar: _changed(tar, 124, b"-7\0"), "damaged"),
        (lambda tar: _changed(tar, 124, b"0x10\0"), "damaged"),
        (lambda tar: _changed(tar, 124, b"\xff" * 12), "damaged"),
        (lambda tar: _changed(tar, 124, b"\x80" + b"\xff" * 11), "ends inside a tar's member"),
        (lambda tar: tar_of([("a", tar), ("a", tar)]), "a twice"),
        (lambda tar: _pax(b"11 path=abc\n"[:5]), "damaged"),
        (lambda tar: _pax(b"2 path=abc\n"), "damaged"),
        (lambda tar: _pax(b"x path=abc\n"), "damaged"),
        (lambda tar: _pax(b"20 size=-5555555555\n"), "damaged"),
        (lambda tar: _pax(b"19 size=9999999999\n"), "ends inside a tar's member"),
        (lambda tar: _pax(b"22 GNU.sparse.major=1\n"), "with holes"),
        (lambda tar: gzip.compress(tar)[:-20], "ends inside its gzip data"),
        (lambda tar: gzip.compress(tar)[:-8] + bytes(8), "gzip data are damaged"),
        (lambda tar: gzip.compress(tar) + b"garbage", "gzip data are damaged"),
    ],
)
def test_damaged_archives(tmp_path, make, words):
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path, make(tar_of([("w.pdparams", weights(tmp_path))])))


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 30_000_000,  # a name without end
        gzip.compress(b"") * 1_000_000,
        tar_of([("w", b"")])[:512] * 60_000,
        _pax(b"9" * 5_000_000),
        b"".join(tar_of([("n" * 200, b"")])[:1536] for _ in range(20_000)),
    ],
    ids=["name", "parts", "members", "pax", "long names"],
)
def test_nothing_takes_long(tmp_path, data):
    start = time.process_time()
    with pytest.raises(CheckpointError):
        read(tmp_path, data)
    assert time.process_time() - start < 5


def test_mutated_archives_end_in_one_error_or_a_checkpoint(tmp_path):
    generator = np.random.default_rng(0)
    write_paddle(tmp_path / "small", {"w": np.ones(3)})
    whole = tar_of([("n" * 150, (tmp_path / "small").read_bytes())], "pax")[: 6 * 512]
    for packed in (whole, gzip.compress(whole)):
        for _ in range(700):
            bad = bytearray(packed)
            bad[generator.integers(len(bad))] = generator.integers(256)
            size = generator.integers(1, len(bad) + 1) if generator.random() < 0.3 else len(bad)
            try:
                read(tmp_path, bytes(bad[:size]))
            except CheckpointError as error:
                assert "\n" not in error.message


# --- the command -----------------------------------------------------------------------------------------


def test_by_command(tmp_path):
    write_sample(tmp_path / "net.tar", stdc.architecture("stdcnet813", base=8))
    data = gzip.compress(tar_of([("sub/net.tar", (tmp_path / "net.tar").read_bytes()), ("a.txt", b"")]))
    (tmp_path / "STDCNet2.tar.gz").write_bytes(data)
    result = CliRunner().invoke(cli.convert, ["inspect", str(tmp_path / "STDCNet2.tar.gz")])
    assert "member        sub/net.tar" in result.output
    arguments = [tmp_path / "STDCNet2.tar.gz", "--certificate", tmp_path / "x.json", "--member", "sub/net.tar"]
    result = CliRunner().invoke(cli.convert, ["torch2paddle", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "STDCNet2.pdparams").exists()
    account = json.loads((tmp_path / "x.json").read_text())["source"]
    assert (account["member"], account["bytes"]) == ("sub/net.tar", len(data))
