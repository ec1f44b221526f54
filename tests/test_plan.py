"""Plans: what becomes of every key, by hand-made expectations and the official key lists."""

import json
from collections import Counter
from importlib.resources import files

import ml_dtypes
import numpy as np
import pytest

from stdc_parity.converters import families, stdc
from stdc_parity.converters.architecture import paddle_name
from stdc_parity.converters.errors import CheckpointError, UsageError
from stdc_parity.converters.plan import (
    MODELS,
    apply_plan,
    choose_architecture,
    counters,
    make_plan,
    naming,
    same_bytes,
)
from stdc_parity.converters.statedict import find_state_dict
from stdc_parity.fixtures.weights import seeded_weights, with_aliases

FORK = json.loads(files("stdc_parity.fixtures").joinpath("fork_variants.json").read_text())
OFFICIAL = json.loads(files("stdc_parity.fixtures").joinpath("official_stdc.json").read_text())
ABN = ("STDC1-Seg-InPlaceABN", "STDC2-Seg-InPlaceABN")
BACKBONE = stdc.architecture("stdcnet813", base=8, imagenet_head=False)
SEG = stdc.architecture("stdc1-seg", base=8, imagenet_head=False)
STEM = "features.0.conv.weight"
GAMMA = "conv_out.conv.bn.weight"


def zeros(shapes):
    """Arrays of any size without memory, all of them equal."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def weights(architecture=BACKBONE):
    """Writable copies of the seeded weights."""
    return {name: array.copy() for name, array in seeded_weights(architecture).items()}


def plan_of(tensors, side="torch", model=None, **options):
    state = find_state_dict(tensors)
    architecture = choose_architecture(state.tensors, side, model)
    return make_plan(state, architecture, side, **options)


def problems(tensors, **options):
    with pytest.raises(CheckpointError) as caught:
        plan_of(tensors, **options)
    head, *lines = caught.value.message.split("\n")
    assert caught.value.note
    assert int(head.split()[0]) == len(lines) or lines[15].startswith("  …")
    return lines


def paddle_weights(architecture=BACKBONE):
    tensors = {}
    for name, array in weights(architecture).items():
        if not name.endswith("num_batches_tracked"):
            name = name.replace(".running_mean", "._mean").replace(".running_var", "._variance")
            tensors[name] = array.T if name.endswith(("fc.weight", "linear.weight")) else array
    return tensors


@pytest.mark.parametrize("official", OFFICIAL)
def test_every_official_key_is_accounted_for_once(official):
    keys = OFFICIAL[official]
    plan = plan_of(zeros(keys))
    assert Counter(entry.source for entry in plan.entries) == Counter(list(keys))
    targets = Counter(entry.target for entry in plan.entries if entry.target)
    kept = [
        key.replace(".running_mean", "._mean").replace(".running_var", "._variance")
        for key in keys
        if not key.endswith("num_batches_tracked") and not key.removeprefix("cp.backbone.").startswith("x")
    ]
    assert targets == Counter(kept)
    linear = {key for key in keys if key.endswith(("fc.weight", "linear.weight"))}
    assert len(linear) == 2
    for entry in plan.entries:
        assert list(entry.source_shape) == keys[entry.source]
        if entry.source in linear:
            assert entry.rule == "transpose"
            assert list(entry.target_shape) == keys[entry.source][::-1]
        elif entry.target:
            assert entry.rule in ("copy", "abs")
            assert entry.target_shape == entry.source_shape
        else:
            assert entry.rule == "drop"
        assert entry.reason or entry.rule == "copy"
    assert plan.abn == (official in ABN)


@pytest.mark.parametrize("official", ABN)
def test_the_abn_rule_is_for_the_norms_without_counters(official):
    plan = plan_of(zeros(OFFICIAL[official]))
    plain = OFFICIAL[official.removesuffix("-InPlaceABN")]
    bare = {key for key in plain if key not in OFFICIAL[official]}
    expected = {key.replace("num_batches_tracked", "weight") for key in bare}
    assert len(expected) == 15
    assert {entry.source for entry in plan.entries if entry.rule == "abs"} == expected


@pytest.mark.parametrize("official", [*FORK, *(name for name in OFFICIAL if not name.endswith("ABN"))])
@pytest.mark.parametrize("aliases", [True, False])
def test_the_way_back_needs_exactly_the_official_keys(official, aliases):
    keys = {**FORK, **OFFICIAL}[official]
    forth = plan_of(zeros(keys))
    paddle = zeros({entry.target: entry.target_shape for entry in forth.entries if entry.target})
    back = plan_of(paddle, "paddle", aliases=aliases)
    expected = {
        key: shape
        for key, shape in keys.items()
        if aliases or not key.removeprefix("cp.backbone.").startswith("x")
    }
    assert {entry.target: list(entry.target_shape) for entry in back.entries} == expected
    assert len(back.entries) == len(expected)
    created = {entry.target for entry in back.entries if entry.source is None}
    assert created == {key for key in expected if key.endswith("num_batches_tracked")}
    if not aliases:
        assert Counter(entry.source for entry in back.entries if entry.source) == Counter(list(paddle))


def negative(tensors):
    tensors[GAMMA] = np.array([-0.5, 0.0, -0.0, 1e-30, -3e38, np.inf, -np.inf, np.nan] * 4, np.float32)
    return tensors


def uncounted(tensors, norms):
    return {name: array for name, array in tensors.items()
            if not (name.endswith("num_batches_tracked") and norms(name))}  # fmt: skip


def head(name):
    return not name.startswith("cp.backbone.")


# What the checkpoint's counters are like, --abn, and whether the rule is applied (None: an error).
COUNTERS = [
    ("all norms count", lambda name: False, "auto", False),
    ("all norms count", lambda name: False, "no", False),
    ("all norms count", lambda name: False, "yes", True),
    ("head norms do not", head, "auto", True),
    ("head norms do not", head, "no", False),
    ("head norms do not", head, "yes", True),
    ("no norm counts", lambda name: True, "auto", False),
    ("no norm counts", lambda name: True, "yes", True),
    ("one head norm does not", lambda name: name.startswith("conv_out.conv.bn"), "auto", None),
    ("one head norm does not", lambda name: name.startswith("conv_out.conv.bn"), "yes", True),
    ("one head norm does not", lambda name: name.startswith("conv_out.conv.bn"), "no", False),
    ("one head norm alone does", lambda name: head(name) and "cp.arm16" not in name, "auto", None),
    ("backbone norms do not", lambda name: not head(name), "auto", False),
    ("one backbone norm alone does", lambda name: "backbone.features.3.avd" not in name and head(name), "auto",
     True),
]  # fmt: skip


@pytest.mark.parametrize(("what", "gone", "abn", "applied"), COUNTERS)
def test_inplace_abn(what, gone, abn, applied):
    tensors = uncounted(negative(weights(SEG)), gone)
    if applied is None:
        with pytest.raises(CheckpointError) as caught:
            plan_of(tensors, abn=abn)
        assert "InPlaceABN" in caught.value.message
        assert "--abn yes or --abn no" in caught.value.note
        return
    plan = plan_of(tensors, abn=abn)
    result = apply_plan(plan, tensors, {})
    assert plan.abn == applied
    expected = np.abs(tensors[GAMMA]) + np.float32(1e-5) if applied else tensors[GAMMA]
    np.testing.assert_array_equal(result[GAMMA], expected)
    changed = {
        name
        for name, spec in SEG.tensors.items()
        if spec.kind != "norm.batches" and not same_bytes(tensors[name], result[paddle_name(name, spec.kind)])
    }
    norms = {norm for norm in SEG.other_norms | SEG.abn_norms if not norm.startswith("cp.backbone.")}
    assert changed == ({f"{norm}.weight" for norm in norms} if applied else set())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_the_abn_rule_keeps_the_dtype(dtype):
    tensors = {name: array.astype(dtype) if array.dtype.kind == "f" else array
               for name, array in uncounted(weights(SEG), head).items()}  # fmt: skip
    tensors[GAMMA] = np.full(32, -0.5, dtype)
    result = apply_plan(plan_of(tensors), tensors, {})
    assert result[GAMMA].dtype == dtype
    assert result[GAMMA][0] == dtype(dtype(0.5) + dtype(1e-5))


def test_abn_yes_is_refused_where_it_makes_no_sense():
    with pytest.raises(UsageError, match="stdcnet813 has no norms"):
        plan_of(weights(), abn="yes")
    with pytest.raises(UsageError, match="Paddle"):
        plan_of(paddle_weights(SEG), "paddle", abn="yes")


def test_missing_norms_are_no_sign_of_inplace_abn():
    """A network without some of the heads is a network that lacks keys, not an ambiguous one."""
    tensors = {name: array for name, array in weights(SEG).items() if not name.startswith("conv_out32.")}
    lines = problems(tensors)
    assert len(lines) == 6
    assert all("conv_out32." in line and "missing" in line for line in lines)


def test_all_problems_are_reported_at_once():
    tensors = with_aliases(weights(), BACKBONE)
    del tensors["features.1.bn.bias"]
    tensors["features.3.conv_list.2.bn.weight"] = np.ones(5, np.float32)
    tensors["head.weight"] = np.ones(3, np.float32)
    tensors["x4.0.1.conv.weight"] = tensors["x4.0.1.conv.weight"].copy()
    tensors["x4.0.1.conv.weight"].flat[7] += 1
    tensors["features.0.bn.num_batches_tracked"] = np.array(np.nan)
    expected = [
        ("features.1.bn.bias", "missing, stdcnet813 needs (8,)"),
        ("features.3.conv_list.2.bn.weight", "checkpoint has (5,), stdcnet813 needs (4,)"),
        ("head.weight", "unexpected"),
        ("x4.0.1.conv.weight", "another name of features.1.conv.weight", "values differ"),
        ("features.0.bn.num_batches_tracked", "nan is no number of batches"),
        ("x8.0.3.conv_list.2.bn.weight", "values differ"),
        ("x2.0.0.bn.num_batches_tracked", "values differ"),
    ]
    lines = problems(tensors)
    for facts in expected:
        assert any(all(fact in line for fact in facts) for line in lines), facts
    assert len(lines) == len(expected)


def test_very_many_problems_are_counted():
    lines = problems({**weights(), **{f"k{i}\x1b[2J": np.ones(1) for i in range(100_000)}})
    ends = [*range(15), *range(99_995, 100_000)]
    expected = [f"  k{i}\\x1b[2J: unexpected, stdcnet813 has no such tensor" for i in ends]
    assert lines == [*expected[:15], "  … 99980 more …", *expected[15:]]


def test_very_long_names_are_clipped():
    (line,) = problems({**weights(), "k" * 100_000: np.ones(1)})
    assert len(line) < 250


# One thing that is wrong with a checkpoint, and what is said of it.
WRONG = [
    ("transposed conv", "features.1.conv.weight", lambda a: a.T, "checkpoint has (3, 3, 4, 8), stdcnet813 needs"),
    ("scalar", "features.1.bn.weight", lambda a: a[0, ...], "checkpoint has (), stdcnet813 needs (8,)"),
    ("flat conv", "features.1.conv.weight", lambda a: a.reshape(-1), "checkpoint has (288,)"),
    ("empty", "features.1.bn.weight", lambda a: a[:0], "checkpoint has (0,)"),
    ("counter of two", "features.1.bn.num_batches_tracked", lambda a: np.zeros(2, int), "checkpoint has (2,)"),
    ("half a batch", "features.1.bn.num_batches_tracked", lambda a: np.array(0.5), "0.5 is no number of batches"),
    ("inf batches", "features.1.bn.num_batches_tracked", lambda a: np.array(np.inf), "inf is no number"),
    ("negative batches", "features.1.bn.num_batches_tracked", lambda a: np.array(-1), "-1 is no number"),
    ("2**64-1 batches", "features.1.bn.num_batches_tracked", lambda a: np.array(2**64 - 1, np.uint64),
     "18446744073709551615 is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "name", "change", "said"), WRONG, ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_said(what, name, change, said):
    (line,) = problems({**weights(), name: change(weights()[name])})
    assert line.startswith(f"  {name}: ")
    assert said in line


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_a_linear_weight_in_the_other_order_is_said_to_be_one(side):
    architecture = stdc.architecture("stdcnet813", base=8, num_classes=10)
    tensors = weights(architecture) if side == "torch" else paddle_weights(architecture)
    tensors["linear.weight"] = tensors["linear.weight"].T
    (line,) = problems(tensors, side=side)
    shape = (1024, 10) if side == "torch" else (10, 1024)
    assert f"checkpoint has {shape}, stdcnet813 needs {shape[::-1]} (a Linear weight in the other" in line


COUNTS = [np.array(7), np.array([7]), np.array(7, np.uint16), np.array(7.0, np.float32), np.array([[7]], np.int8)]


@pytest.mark.parametrize("count", COUNTS, ids=repr)
def test_counters_of_any_kind_are_kept(count):
    tensors = {**weights(), "features.1.bn.num_batches_tracked": count}
    batches = counters(plan_of(tensors), tensors)
    assert batches["features.1.bn.num_batches_tracked"] == 7
    assert type(batches["features.1.bn.num_batches_tracked"]) is int
    assert batches.keys() == {name for name in tensors if name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("aliases", [True, False])
def test_counters_are_recreated(aliases):
    paddle = paddle_weights()
    plan = plan_of(paddle, "paddle", aliases=aliases)
    batches = {"features.0.bn.num_batches_tracked": 7}
    result = apply_plan(plan, paddle, batches)
    made = {name: array for name, array in result.items() if name.endswith("num_batches_tracked")}
    assert len(made) == len(BACKBONE.other_norms) * (2 if aliases else 1)
    for name, array in made.items():
        assert array.dtype == np.int64
        assert array.shape == ()
        seven = name in ("features.0.bn.num_batches_tracked", "x2.0.0.bn.num_batches_tracked")
        assert array == (7 if seven else 0)


def test_counters_that_a_paddle_file_kept_are_copied():
    name = "features.0.bn.num_batches_tracked"
    paddle = {**paddle_weights(), name: np.array(7)}
    result = apply_plan(plan_of(paddle, "paddle"), paddle, {})
    assert result[name] == 7
    (line,) = problems({**paddle, name: np.zeros(3, int)}, side="paddle")
    assert line == f"  {name}: checkpoint has (3,), stdcnet813 needs ()"


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_aliases_go_if_their_bytes_are_equal(side):
    tensors = weights() if side == "torch" else paddle_weights()
    everything = with_aliases(weights(), BACKBONE)
    if side == "paddle":  # what a converter that knows nothing of aliases writes
        everything = {
            name.replace(".running_mean", "._mean").replace(".running_var", "._variance"): array
            for name, array in everything.items()
            if not name.endswith("num_batches_tracked")
        }
    copied = {name: array.copy() for name, array in everything.items()}
    plan = plan_of(copied, side)
    assert Counter(entry.source for entry in plan.entries if entry.source) == Counter(list(copied))
    dropped = {entry.source: entry for entry in plan.entries if entry.reason.startswith("alias")}
    assert dropped.keys() == copied.keys() - tensors.keys()
    assert all(entry.target is None for entry in dropped.values())
    # NaNs with equal bits are equal; zeros of two signs are not.
    statistic = "running_mean" if side == "torch" else "_mean"
    for a, b, same in ((np.nan, np.nan, True), (0.0, -0.0, False)):
        copied[f"features.1.bn.{statistic}"][0] = a
        copied[f"x4.0.1.bn.{statistic}"][0] = b
        if same:
            plan_of(copied, side)
        else:
            (line,) = problems(copied, side=side)
            assert f"x4.0.1.bn.{statistic} is another name of features.1.bn.{statistic}" in line


def test_some_aliases_are_enough():
    tensors = with_aliases(weights(), BACKBONE)
    some = {name: array for name, array in tensors.items() if not name.startswith(("x2", "x8.0.3"))}
    plan = plan_of(some)
    assert Counter(entry.source for entry in plan.entries) == Counter(list(some))


def test_a_canonical_tensor_is_not_taken_from_its_alias():
    tensors = with_aliases(weights(), BACKBONE)
    del tensors["features.3.conv_list.0.conv.weight"]
    (line,) = problems(tensors)
    assert line == "  features.3.conv_list.0.conv.weight: missing, stdcnet813 needs (16, 32, 1, 1)"


NAMINGS = [
    ("torch", ["a.running_mean", "a.running_var"], "paddle", "torch"),
    ("paddle", ["a._mean", "a._variance"], "torch", "paddle"),
    ("half of it", ["a._variance"], "torch", "paddle"),
    ("no norm: torch", ["a.weight"], "torch", "torch"),
    ("no norm: paddle", ["a.weight"], "paddle", "paddle"),
    ("words that end so", ["a.the_mean", "a.grand_mean"], "torch", "torch"),
    ("nothing", [], "paddle", "paddle"),
]


@pytest.mark.parametrize(("what", "names", "default", "side"), NAMINGS, ids=[case[0] for case in NAMINGS])
def test_whose_names_they_are(what, names, default, side):
    assert naming(dict.fromkeys(names, np.zeros(1)), default) == side


def test_mixed_names_are_refused():
    with pytest.raises(CheckpointError, match="mix"):
        naming({"a.running_mean": np.zeros(1), "b._mean": np.zeros(1)}, "torch")


@pytest.mark.parametrize("name", stdc.MODELS)
def test_model_overrides(name):
    tensors = zeros({key: spec.shape for key, spec in families.architecture(name, base=8).tensors.items()})
    assert choose_architecture(tensors, "torch", name).name == name
    for other in MODELS:
        if other == f"{name}-infer":
            assert choose_architecture(tensors, "torch", other).name == other
        elif other != name:
            with pytest.raises(UsageError) as caught:
                choose_architecture(tensors, "torch", other)
            assert f"--model {other}: the checkpoint looks like {name} (" in caught.value.message
            assert f"--model {name}" in caught.value.note
    with pytest.raises(UsageError, match="there is no such model") as caught:
        choose_architecture(tensors, "torch", "stdc9\x1b")
    assert all(known in caught.value.note for known in MODELS)
    assert "\x1b" not in str(caught.value)


def test_an_unknown_network_is_refused_and_the_override_lists_what_is_missing():
    foreign = {f"layer{i}\x1b.weight": np.zeros(3) for i in range(9)}
    with pytest.raises(CheckpointError) as caught:
        choose_architecture(foreign, "torch", None)
    assert r"layer0\x1b.weight" in caught.value.message
    assert all(known in caught.value.note for known in MODELS)
    lines = problems(foreign, model="stdcnet813")
    assert lines[-1] == r"  layer8\x1b.weight: unexpected, stdcnet813 has no such tensor"
    assert lines[0] == f"  {STEM}: missing, stdcnet813 needs (32, 3, 3, 3)"


@pytest.mark.parametrize("name", stdc.MODELS)
def test_there_and_back_in_memory(name):
    architecture = families.architecture(name, base=8)
    tensors = seeded_weights(architecture)
    forth = plan_of(tensors)
    paddle = apply_plan(forth, tensors, {})
    back = apply_plan(plan_of(paddle, "paddle"), paddle, counters(forth, tensors))
    assert list(back) == list(tensors)
    assert all(same_bytes(back[key], tensors[key]) for key in tensors)
    assert all(back[key].dtype == tensors[key].dtype for key in tensors)


SAME = [
    (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True),
    (np.array([0.0]), np.array([-0.0]), False),
    (np.zeros(3, np.float32), np.zeros(3, np.int32), False),
    (np.zeros((2, 3)), np.zeros((3, 2)), False),
    (np.zeros((0, 3)), np.zeros((0, 3)), True),
    (np.array(1), np.array(1), True),
    (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy(), True),
    (np.arange(6)[::-1], np.arange(6), False),
    (np.ones(2, ml_dtypes.bfloat16), np.ones(2, ml_dtypes.bfloat16), True),
    (np.ones(2, ml_dtypes.bfloat16), np.ones(2, np.float16), False),
    (np.array([True]), np.array([False]), False),
]


@pytest.mark.parametrize(("a", "b", "same"), SAME)
def test_same_bytes(a, b, same):
    assert same_bytes(a, b) is same
    assert same_bytes(b, a) is same
    assert same_bytes(a, a)
