"""The pickle machine: what Python's pickler writes, and what only an attacker does."""

import argparse
import collections
import os
import pickle
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from stdc_parity.converters.errors import CheckpointError
from stdc_parity.converters.paddle_pickle import read_paddle_pickle
from stdc_parity.converters.pickle_table import PLAIN
from stdc_parity.converters.pickle_values import settle
from stdc_parity.converters.pickle_vm import Opaque, load
from stdc_parity.converters.torch_pickle import TORCH

SIMPLE = {
    "none": None,
    "flags": [True, False],
    "numbers": [0, 1, 255, 256, 65535, 65536, -1, -(2**31), 2**31, 2**63, -(2**70), 2**2000],
    "floats": [0.0, -1.5, 1e300, float("inf")],
    "text": ["", "a", "ß", "漢" * 200, "x" * 60000, "line\nbreak \\u1234"],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "nested": {"a": [{"b": ({"c": []},)}]},
    "keys": {1: "a", 1.5: "b", None: "c", (1, "x"): "d", False: "e"},
    "list of many": list(range(3000)),
    "dict of many": {str(i): i for i in range(3000)},
    "ordered": collections.OrderedDict(a=1),
}


def of(raw, table=PLAIN, persistent=None):
    value, end = load(memoryview(raw), 0, table, persistent)
    assert end == len(raw)
    return value


def refused(raw, words, table=TORCH, persistent=None):
    with pytest.raises(CheckpointError, match=words) as caught:
        settle(load(memoryview(raw), 0, table, persistent)[0], len(raw))
    return caught.value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", SIMPLE)
def test_as_pickle_does(name, protocol):
    assert of(pickle.dumps(SIMPLE[name], protocol)) == SIMPLE[name]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_bytes_are_slices_of_the_file(protocol):
    raw = pickle.dumps([b"", b"abc", b"x" * 300, bytearray(b"yes")], protocol)
    values = of(raw)
    assert [bytes(v) for v in values] == [b"", b"abc", b"x" * 300, b"yes"]
    if protocol == 5:
        assert all(v.obj is raw for v in values)


def test_shared_values_stay_shared():
    shared = [1]
    value = of(pickle.dumps({"a": shared, "b": shared}))
    assert value["a"] is value["b"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_sets_are_lists(protocol):
    assert of(pickle.dumps([{1}, frozenset((2,)), set()], protocol)) == [[1], [2], []]


def test_old_strings_are_text_or_bytes():
    assert of(b"\x80\2]U\3abca.") == ["abc"]
    assert bytes(of(b"U\2\xff\xfe.")) == b"\xff\xfe"
    assert of(b"T\3\0\0\0abc.") == "abc"


def test_several_pickles_in_a_row():
    raw = memoryview(pickle.dumps(1) + pickle.dumps("two", 2))
    first, at = load(raw, 0, PLAIN)
    assert (first, load(raw, at, PLAIN)) == (1, ("two", len(raw)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_scalars_and_arrays(protocol):
    values = [np.float32(1.5), np.int64(-1), np.bool_(True), np.arange(3, dtype=np.uint8), np.zeros((0, 2))]
    found = settle(of(pickle.dumps(values, protocol)), 1000)
    for a, b in zip(found, values, strict=True):
        assert np.array_equal(a, b)
        assert a.dtype == b.dtype


# --- attacks -------------------------------------------------------------------------------------------


def text(value):
    return b"\x8c" + bytes((len(value),)) + value.encode()


class Call:
    """Pickles as a call of ``function`` with ``args``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def attacks(target):
    command = f"touch {target}"
    yield "GLOBAL", f"cposix\nsystem\n(X{chr(len(command))}\0\0\0{command}tR.".encode()
    yield "os.system", b"cos\nsystem\n(" + text(command) + b"tR."
    yield "STACK_GLOBAL", b"\x80\4" + text("os") + text("system") + b"\x93" + text(command) + b"\x85R."
    yield (
        "memo",
        b"\x80\4" + text("os") + b"\x940" + text("system") + b"\x940h\0h\1\x93" + text(command) + b"\x85R.",
    )
    yield "eval", b"cbuiltins\neval\n(" + text(f"__import__('os').system('{command}')") + b"tR."
    yield "exec", b"c__builtin__\nexec\n(" + text(f"import os; os.system('{command}')") + b"tR."
    yield "getattr", b"cbuiltins\ngetattr\n(cnumpy\nndarray\n" + text("tofile") + b"tR."
    yield "import", b"cimportlib\nimport_module\n(" + text("os") + b"tR."
    yield "dunder", b"cbuiltins\n__import__\n(" + text("os") + b"tR."
    yield "dotted", b"\x80\4" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93."
    yield "numpy load", b"cnumpy\nload\n(" + text(str(target)) + b"tR."
    yield "numpy runstring", b"cnumpy.testing._private.utils\nrunstring\n(" + text(command) + b")tR."
    yield "torch load", b"ctorch\nload\n(" + text(str(target)) + b"tR."
    yield "torch bytes", b"ctorch.storage\n_load_from_bytes\n(C\1xtR."
    yield "runpy", b"crunpy\n_run_code\n(" + text(command) + b"}tR."
    yield "as a class", b"\x80\2csubprocess\nPopen\n" + text(command) + b"\x85\x81."
    yield (
        "as a class with keywords",
        b"\x80\4csubprocess\nPopen\n)}" + text("args") + text(command) + b"s\x92.",
    )
    yield "from the table", b"\x80\4" + text("builtins") + text("compile") + b"\x93."
    yield "persistent id", b"\x80\2" + text(command) + b"Q."
    yield "extension", b"\x80\2\x82\1."
    yield "extension 2", b"\x80\2\x83\1\0."
    yield "extension 4", b"\x80\2\x84\1\0\0\0."
    yield "instance", b"(" + text(command) + b"ios\nsystem\n."
    yield "object", b"(cos\nsystem\n" + text(command) + b"o."
    yield "inside", pickle.dumps({"state_dict": {"w": Call(os.system, command)}})
    yield "in a namespace", pickle.dumps(Call(collections.OrderedDict, [("a", Call(os.system, command))]))
    yield "name of no text", b"\x80\4K\1K\2\x93."
    yield "control characters", b"cos\x1b[2J\nsys\x07tem\n)R."


ATTACKS = dict(attacks("/nonexistent"))


@pytest.mark.parametrize("table", ["torch", "paddle"])
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_ever_executed(name, table, tmp_path):
    target = tmp_path / "executed"
    raw = dict(attacks(target))[name]
    before = set(sys.modules)
    with pytest.raises(CheckpointError) as caught:
        if table == "paddle":
            read_paddle_pickle(memoryview(raw))
        else:
            load(memoryview(raw), 0, TORCH)
    assert not target.exists()
    assert set(sys.modules) == before
    assert "\x1b" not in str(caught.value)
    assert "\x07" not in str(caught.value)


def test_the_attacks_are_real(tmp_path):
    """Python's own unpickler does execute them."""
    target = tmp_path / "executed"
    for name in ("os.system", "STACK_GLOBAL", "memo", "eval"):
        raw = dict(attacks(target))[name]
        subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({raw!r})"], check=True)
        assert target.exists()
        target.unlink()


def test_refusals_say_what_and_why():
    error = refused(ATTACKS["STACK_GLOBAL"], r"^refused to load os\.system; nothing was executed")
    assert "hostile" in error.note
    refused(ATTACKS["control characters"], r"refused to load os\\x1b\[2J\.sys\\x07tem")
    error = refused(b"ctorch.nn.modules.conv\nConv2d\n)\x81.", r"torch\.nn\.modules\.conv\.Conv2d")
    assert "state_dict()" in error.note
    error = refused(b"cmylib.config\nConfig\n)\x81.", r"mylib\.config\.Config")
    assert "save its weights alone" in error.note


def number(value):
    return b"J" + struct.pack("<i", value)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x80\6N.", "protocol 6"),
        (b"\x80\2\xff.", "opcode no checkpoint uses"),
        (b"\x80\2R.", "empty stack"),
        (b"\x80\2.", "too many or too few"),
        (b"\x80\2NN.", "too many or too few"),
        (b"\x80\2(N.", "too many or too few"),
        (b"\x80\2t.", "mark that is not there"),
        (b"\x80\2N\x86.", "tuple of values that are not there"),
        (b"\x80\2h\5.", "has not made"),
        (b"\x80\2j\xff\xff\xff\xff.", "has not made"),
        (b"\x80\2NNNs.", "not a dict"),
        (b"\x80\2}(Nu.", "not a dict"),
        (b"\x80\2}Na.", "not a list"),
        (b"\x80\2NNb.", "none"),
        (b"\x80\2]Nb.", "none"),
        (b"\x80\2N)R.", "not a function"),
        (b"\x80\2ccollections\nOrderedDict\nNR.", "not a function"),
        (b"\x80\2ccollections\nOrderedDict\nK\1\x85R.", "no sense"),
        (b"\x80\2}]Ns.", "as a key"),
        (b"\x80\2}((tttNs.", "mark|key|tuple"),
        (b"\x80\2X\xff\xff\xff\xffabc.", "ends inside"),
        (b"\x80\2B\xff\xff\xff\x7fabc.", "ends inside"),
        (b"\x80\4\x8e" + b"\xff" * 8 + b"abc.", "ends inside"),
        (b"\x80\4\x8d" + b"\xff" * 7 + b"\x7fabc.", "ends inside"),
        (b"\x80\2\x8b\xff\xff\xff\x7f.", "integer of"),
        (b"\x80\2\x8b\xff\xff\0\0" + bytes(70000) + b".", "integer of"),
        (b"I" + b"9" * 5000 + b"\n.", "text where a number"),
        (b"F1e\n.", "text where a number"),
        (b"I" + b"9" * 70000, "endless line"),
        (b"c" + b"x" * 100, "ends inside"),
        (b"X\1\0\0\0\xff.", "not UTF-8"),
        (b"\x97.", "outside the file"),
        (b"\x80\2cbuiltins\nbytearray\n" + number(2**30) + b"\x85R.", "bytes|no sense"),
        (b"\x80\2cbuiltins\nlist\ncbuiltins\nrange\n" + number(2**30) + b"\x85R\x85R.", "no sense"),
        (b"\x80\2cbuiltins\nint\nX\1\0\0\x009\x85R.", "no sense"),
        (b"\x80\2c_codecs\nencode\nX\1\0\0\0aX\3\0\0\0zip\x86R.", "no sense"),
        (b"\x80\2c_codecs\nencode\nX\1\0\0\0aX\4\0\0\0rot_\x86R.", "no sense"),
        (b"\x80\2cnumpy\ndtype\nX\2\0\0\0f4\x85RK\1b.", "no sense"),
        (b"\x80\2cnumpy.core.multiarray\nscalar\nNN\x86R.", "no sense"),
        (b"\x80\2cnumpy.core.multiarray\n_reconstruct\n)RK\1b.", "no sense"),
        (b"\x80\2cnumpy.core.multiarray\n_reconstruct\n)R.", "no content"),
        (b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n)R.", "no sense"),
        (b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR.", "no sense"),
        (b"\x80\2ctorch._utils\n_rebuild_tensor_v3\n(NNNNNNNtR.", "no sense"),
        (b"\x80\2ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\ndict\nN)NtR.", "no sense"),
        (b"\x80\2ccopyreg\n_reconstructor\n(NNNtR.", "no sense"),
        (b"\x80\2}" + b"(" * 40 + b"t" * 40 + b"Ns.", "as a key"),
        (b"\x80\2]" + b"]" * 200 + b"a" * 200 + b".", "nest too deeply"),
        (b"\x80\2]q\0h\0a.", "nest too deeply"),
        (b"\x80\2}q\0K\1h\0s.", "nest too deeply"),
        (b"\x80\2]q\0h\0\x85a.", "nest too deeply"),
        (b"\x80\2cargparse\nNamespace\n)\x81q\0h\0b.", "nest too deeply"),
        (b"\x80\2)" + b"2\x86" * 60 + b".", "unfold|nest"),
    ],
)
def test_malformed(raw, words):
    start = time.perf_counter()
    refused(raw, words)
    assert time.perf_counter() - start < 5


def test_hashing_a_bomb_is_refused():
    """A dict key that is a tuple doubled 60 times takes 2**60 steps to hash."""
    refused(b"\x80\2})" + b"2\x86" * 60 + b"Ns.", "as a key")
    refused(b"\x80\2})" + b"2\x86" * 60 + b"\x85Ns.", "as a key")


def test_values_copied_again_and_again_are_refused():
    many = b"(" + b"N" * 200_000 + b"lq\0"
    call = b"cbuiltins\nlist\nq\1"
    refused(b"\x80\2" + many + call + b"(" + b"h\1h\0\x85R" * 100_000 + b"t.", "again and again")
    long = b"X" + struct.pack("<I", 5_000_000) + b"x" * 5_000_000 + b"q\0"
    call = b"c_codecs\nencode\nq\1"
    refused(b"\x80\2" + long + call + b"(" + b"h\1h\0\x85R" * 100_000 + b"t.", "again and again")


def test_arrays_that_share_data_are_bounded():
    """100,000 big-endian arrays of the same 5 MB would be 500 GB."""
    data = b"B" + struct.pack("<I", 5_000_000) + bytes(5_000_000) + b"q\0"
    dtype = b"cnumpy\ndtype\nU\2f4\x85R(K\3U\1>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tbq\1"
    function = b"cnumpy.core.numeric\n_frombuffer\nq\2"
    call = b"h\2(h\0h\1J" + struct.pack("<i", 1_250_000) + b"\x85U\1CtR"
    refused(b"\x80\2" + data + dtype + function + b"(" + call * 100_000 + b"l.", "again and again|far more")


def test_endless_opcodes_are_refused():
    refused(b"\x80\2" + b"N0" * 3_100_000 + b".", "more than 6,000,000 opcodes")
    refused(b"\x80\4N" + b"\x94" * 2_100_000 + b".", "remembers more than")


def test_a_state_is_only_kept():
    namespace = argparse.Namespace()
    namespace.__dict__.update(__class__="x", __reduce__=1)
    found = of(pickle.dumps(namespace))
    assert type(found) is Opaque
    assert found.state == {"__class__": "x", "__reduce__": 1}


def test_errors_of_a_persistent_id_are_ours():
    def callback(_pid):
        raise ZeroDivisionError

    refused(b"\x80\2K\1Q.", "no sense", persistent=callback)


def test_it_is_fast():
    state = {f"layer.{i}.weight": np.zeros(1, np.float32) for i in range(2000)}
    raw = memoryview(pickle.dumps(state, 4))  # about 40,000 opcodes
    best = min(_seconds(lambda: load(raw, 0, PLAIN)) for _ in range(5))
    assert best < 0.2  # 0.02 on a quiet machine


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
