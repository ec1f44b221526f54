"""Comparing checkpoints: what was changed by hand must be found, where it is, and by how much (numpy in float64)."""

import json
import pickle
import time
from collections import Counter

import numpy as np
import paddle
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.converters.closeness import gap_between
from stdc_parity.fixtures.weights import seeded_weights, with_aliases

SMALL = stdc.architecture("stdcnet813", base=8)
SEG = stdc.architecture("stdc1-seg", base=8, imagenet_head=False)
STEM = "features.0.conv.weight"
FC = "fc.weight"
VAR = "features.1.bn.running_var"


def diff(code, *arguments):
    """The rows of `stdc-convert diff` that are not same, by name, and its account."""
    path = arguments[0].parent / "diff.json"
    result = CliRunner().invoke(cli.convert, ["diff", *map(str, arguments), "--json", str(path)])
    assert result.exit_code == code, result.output
    account = json.loads(path.read_text())
    assert account["agree"] == (code == 0)
    counts = Counter(row["verdict"] for row in account["tensors"])
    assert counts == {verdict: n for verdict, n in account["counts"].items() if n}
    return (
        {row["name"]: row for row in account["tensors"] if row["verdict"] != "same"},
        account,
        result.output,
    )


def tensors(architecture=SMALL, seed=0):
    return {
        name: torch.from_numpy(array.copy()) for name, array in seeded_weights(architecture, seed).items()
    }


def save(path, state, **options):
    torch.save(state, path, **options)
    return path


def converted(source, *options):
    result = CliRunner().invoke(cli.convert, ["torch2paddle", str(source), *options])
    assert result.exit_code == 0, result.output
    return source.with_suffix(".pdparams")


def plus(amount):
    def change(state, name):
        state[name] = state[name].clone()
        state[name].view(-1)[7] += amount

    return change


def replaced(make):
    def change(state, name):
        state[name] = make(state[name])

    return change


# What is done to a copy, to which tensor, the verdict, and whether --tol 1e-5 lets it pass.
CHANGES = [
    (plus(0.5), STEM, "different", False),
    (plus(3e-7), STEM, "close", True),
    (replaced(torch.neg), VAR, "different", False),
    (replaced(lambda t: t.to(torch.float16)), STEM, "dtype", False),
    (replaced(lambda t: t.to(torch.float64)), STEM, "dtype", False),
    (replaced(lambda t: t.reshape(-1)), VAR.replace("bn.running_var", "conv.weight"), "shape", False),
    (replaced(lambda t: t.T.contiguous()), FC, "different", False),
    (replaced(lambda t: torch.full_like(t, float("nan"))), STEM, "different", False),
    (replaced(lambda t: torch.full_like(t, float("inf"))), STEM, "different", False),
    (lambda state, name: state.pop(name), VAR, "missing", False),
    (lambda state, name: state.update({"more.weight": torch.ones(2)}), "more.weight", "extra", False),
]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("change", "name", "verdict", "tolerable"), CHANGES)
def test_a_change_is_found(change, name, verdict, tolerable, framework, tmp_path):
    before, after = tensors(), tensors()
    change(after, name)
    a, b = save(tmp_path / "a.pth", before), save(tmp_path / "b.pth", after)
    if framework == "paddle":
        a = converted(a)
    found, account, output = diff(1, a, b)
    assert {row: found[row]["verdict"] for row in found} == {name: verdict}
    assert account["names"] == "official"
    assert name in output
    if verdict in ("close", "different", "dtype"):
        x, y = (state[name].double().numpy() for state in (before, after))
        distance = np.abs(x - y)
        row = found[name]
        if np.isfinite(distance).all():
            assert row["worst"] == distance.max()
            assert row["of_scale"] == distance.max() / np.abs(x).max()
            assert row["at"] == list(np.unravel_index(distance.argmax(), x.shape))
            assert row["values"] == [x.flat[distance.argmax()], y.flat[distance.argmax()]]
            assert row["differing"] == np.count_nonzero(distance)
        else:
            assert row["worst"] == "inf"
            assert row["differing"] == x.size
    diff(0 if tolerable else 1, a, b, "--tol", "1e-5")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["stdcnet813", "stdcnet1446", "stdc1-seg", "stdc2-seg"])
def test_a_conversion_and_its_way_back_agree(name, new, tmp_path):
    architecture = stdc.architecture(name, base=8)
    state = dict(with_aliases(tensors(architecture), architecture))
    wrapped = {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    a = save(tmp_path / "a.tar", wrapped, _use_new_zipfile_serialization=new)
    b = converted(a)
    found, account, _ = diff(0, a, b)
    assert not found
    assert account["counts"]["same"] == len(architecture.tensors)
    CliRunner().invoke(cli.convert, ["paddle2torch", str(b), str(tmp_path / "c.pth"), "--aliases"])
    for one, other in ((b, tmp_path / "c.pth"), (tmp_path / "c.pth", a)):
        found, account, _ = diff(0, one, other)
        assert account["counts"]["same"] == len(architecture.tensors)


def test_an_alias_that_differs_is_a_difference(tmp_path):
    state = dict(with_aliases(tensors(), SMALL))
    a = save(tmp_path / "a.pth", state)
    alias = next(name for name in state if name.startswith("x8.") and name.endswith("conv.weight"))
    b = save(tmp_path / "b.pth", {**state, alias: state[alias] + 1})
    found, _, _ = diff(1, a, b)
    assert {row: found[row]["verdict"] for row in found} == {alias: "extra"}


def test_counters_count_where_both_sides_have_them(tmp_path):
    state = tensors()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    for i, name in enumerate(counters):
        state[name] = torch.tensor(2**53 + i)
    a = save(tmp_path / "a.pth", state)
    b = converted(a)
    state[counters[3]] = state[counters[3]] + 1
    found, _, _ = diff(1, save(tmp_path / "c.pth", state), b)
    assert {name: row["worst"] for name, row in found.items()} == {counters[3]: 1}
    paddle.save(paddle.load(str(b)), str(tmp_path / "plain.pdparams"))  # Paddle itself keeps no counters
    found, account, output = diff(0, a, tmp_path / "plain.pdparams")
    assert account["counts"]["same"] == len(state) - len(counters)
    assert f"{len(counters)} of A are left out" in output


def test_inplace_abn_is_compared_as_what_it_does(tmp_path):
    state = tensors(SEG)
    counted = {
        k: v for k, v in state.items() if k.startswith("cp.backbone.") or not k.endswith("batches_tracked")
    }
    counted["ffm.convblk.bn.weight"] = -counted["ffm.convblk.bn.weight"]
    a = save(tmp_path / "a.pth", counted)
    b = converted(a)
    _, _, output = diff(0, a, b)
    assert "InPlaceABN's: compared as |weight| + 1e-5" in output
    diff(0, b, a)
    diff(0, a, a)
    converted(a, "--abn", "no", "--force")
    found, _, _ = diff(1, a, b)
    assert found["ffm.convblk.bn.weight"]["verdict"] == "different"
    assert all(name.endswith(("bn.weight", "atten.weight")) for name in found)


def test_unknown_networks_are_compared_by_their_own_names(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 6))
    a = save(tmp_path / "a.pth", net.state_dict())
    state = {
        name: tensor.numpy() for name, tensor in net.state_dict().items() if not name.endswith("tracked")
    }
    renamed = {
        n.replace("running_mean", "_mean").replace("running_var", "_variance"): t for n, t in state.items()
    }
    b = tmp_path / "b.pdparams"
    paddle.save({name: paddle.to_tensor(array) for name, array in renamed.items()}, str(b))
    found, account, _ = diff(1, a, b)
    assert account["names"] == "own"
    assert {name: row["verdict"] for name, row in found.items()} == {"1.num_batches_tracked": "missing"}
    renamed["2.weight"] = renamed["2.weight"].T.copy()
    paddle.save({name: paddle.to_tensor(array) for name, array in renamed.items()}, str(b))
    found, _, output = diff(1, a, b)
    assert found["2.weight"]["verdict"] == "shape"
    assert "the same when transposed" in output
    assert {row["name"] for row in account["tensors"]} == set(net.state_dict())


def test_keys_choose_the_state_dicts(tmp_path):
    ema = tensors(seed=1)
    a = save(tmp_path / "a.pth", {"model": tensors(), "ema": ema})
    b = save(tmp_path / "b.pth", ema)
    diff(1, a, b)
    diff(0, a, b, "--key-a", "ema")
    diff(0, b, a, "--key-b", "ema")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("a.pth none.pth", 3, "none.pth: the file does not exist"),
        ("evil.pth a.pth", 3, "evil.pth: refused to load posix.system"),
        ("a.pth", 2, "Missing argument 'B'"),
        ("a.pth a.pth --tol -1", 2, "--tol"),
        ("a.pth a.pth --key-a x", 2, "no state dict there"),
        ("a.pth a.pth --json a.pth", 2, "is the source itself"),
        ("a.pth a.pth --json no/x.json", 2, "the folder does not exist"),
    ],
)
def test_mistakes(arguments, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.pth", {"w": torch.ones(2)})
    (tmp_path / "evil.pth").write_bytes(b"\x80\2cposix\nsystem\nX\4\0\0\0true\x85R.")
    result = CliRunner().invoke(cli.convert, ["diff", *arguments.split()])
    assert result.exit_code == code, result.output
    assert said in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "evil.pth"]


def test_names_are_escaped(tmp_path):
    a = save(tmp_path / "a.pth", {"w\x1b[2J\n": torch.ones(2)})
    b = save(tmp_path / "b.pth", {"w\x1b[2J\n": torch.zeros(2)})
    _, _, output = diff(1, a, b)
    assert r"w\x1b[2J\n" in output
    assert "\x1b" not in output


def test_100_000_keys_stay_readable(tmp_path):
    paths = tmp_path / "a.pdparams", tmp_path / "b.pdparams"
    for i, path in enumerate(paths):
        state = {f"layer.{n}.weight": np.full(3, n + i * (n % 2), np.float32) for n in range(i * 10, 100_000)}
        path.write_bytes(pickle.dumps(state, 4))
    start = time.perf_counter()
    result = CliRunner().invoke(cli.convert, ["diff", *map(str, paths)])
    assert time.perf_counter() - start < 60  # 5 on a quiet machine
    lines = result.output.splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) < 200
    assert "100,000 tensors" in lines[2]
    assert "49,995 same" in lines[2]
    assert "10 missing from B" in lines[2]
    assert any("different … and 49," in line for line in lines)


DTYPES = [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.uint64, np.bool_]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize(
    "shape", [(), (0,), (3, 0, 2), (7,), (600_000,), (1100, 701), (2, 3, 400_000)], ids=str
)
def test_gaps_are_those_of_numpy(dtype, shape):
    draw = np.random.default_rng(1)
    a = draw.integers(0, 2 if dtype == np.bool_ else 100, shape).astype(dtype)
    assert gap_between(a, a.copy()) is None
    assert gap_between(a.T, a.copy().T) is None
    if a.size == 0:
        return
    b = a.copy()
    place = tuple(int(draw.integers(n)) for n in shape)
    b[place] = not a[place] if dtype == np.bool_ else a[place] + 3
    for x, y, at in ((a, b, place), (a.T, b.T, place[::-1])):
        gap = gap_between(x, y)
        assert (gap.differing, gap.at) == (1, at)
        assert gap.worst == (1 if dtype == np.bool_ else 3)
        assert gap.scale == float(np.abs(a.astype(float)).max())
        assert (gap.a, gap.b) == (float(a[place]), float(b[place]))


@pytest.mark.parametrize(
    ("a", "b", "worst", "differing"),
    [
        ([0.0, 1.0], [-0.0, 1.0], 0, 1),
        ([np.nan, 1.0], [np.nan, 1.0], None, 0),
        ([np.nan, 1.0], [-np.nan, 1.0], 0, 1),
        ([np.nan, 1.0], [0.0, 1.0], np.inf, 1),
        ([np.inf, 1.0], [np.inf, 2.0], 1, 1),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf, 1),
        ([1e308, 1.0], [-1e308, 1.0], np.inf, 1),
        ([0.0, 0.0], [0.0, 1e-30], 1e-30, 1),
    ],
)
def test_what_is_no_ordinary_number(a, b, worst, differing):
    gap = gap_between(np.array(a), np.array(b))
    if worst is None:
        assert gap is None
    else:
        assert (gap.worst, gap.differing) == (worst, differing)


def test_integers_beyond_float64():
    a, b = np.array([2**63 - 1, -(2**63)]), np.array([2**63 - 2, -(2**63)])
    assert gap_between(a, b).worst == 1
    assert gap_between(np.array([2**64 - 1], np.uint64), np.array([0], np.uint64)).worst == 2.0**64
    assert gap_between(np.array([-(2**63)]), np.array([2**63 - 1])).worst == 2.0**64
