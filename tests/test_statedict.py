"""Finding the state dict in what people really have: wrappers, prefixes, and what stands beside it."""

import re

import numpy as np
import pytest

from stdc_parity.converters.errors import CheckpointError, UsageError
from stdc_parity.converters.pickle_machine import Opaque, Unsupported
from stdc_parity.converters.statedict import find_state_dict

A, B, C = (np.full((2,), value, np.float32) for value in (1, 2, 3))
NET = {"conv.weight": A, "bn.bias": B}
SGD = {"state": {0: {"momentum_buffer": C}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
MANY = {f"layer{i}.weight": A for i in range(9)}


def prefixed(prefix, tensors=NET):
    return {prefix + name: tensor for name, tensor in tensors.items()}


# What the file holds, where the state dict is in it, and what stands beside it.
PLACES = [
    ("bare", NET, "", ()),
    *((wrapper, {wrapper: NET}, wrapper, ()) for wrapper in
      ("state_dict", "model", "model_state", "net", "params", "ema", "module", "model_ema", "weights")),
    ("unknown wrapper", {"whatever": NET}, "whatever", ()),
    ("nested", {"checkpoint": {"model": NET}}, "checkpoint.model", ()),
    ("nested four deep", {"a": {"b": {"c": {"d": NET}}}}, "a.b.c.d", ()),
    ("ema object", {"ema": {"module": NET, "decay": 0.99}}, "ema.module", ()),
    ("model before ema", {"ema": NET, "model": NET}, "model", ("ema",)),
    ("state_dict before all", {"model": NET, "ema": NET, "state_dict": NET}, "state_dict", ("model", "ema")),
    ("the outermost of two", {"model": NET, "best": {"model": NET}}, "model", ("best.model",)),
    ("optimizer beside", {"model": NET, "optimizer": SGD}, "model", ()),
    ("optimizer of arrays", {"model": NET, "optimizer_state": {"w_moment1": A, "lr": 1}}, "model", ()),
    ("optimizer under a strange name", {"model": NET, "solver": SGD}, "model", ()),
    ("optimizer with names", {"model": NET, "solver": {"w.exp_avg": A, "param_groups": []}}, "model", ()),
    ("tensors at the top too", {"mean": A, "std": B, "state_dict": MANY}, "state_dict", ("",)),
    ("a bare dict with a small one in it", {**MANY, "extra": {"mean": A}}, "", ("extra",)),
    ("paddle scheduler beside", {"model": NET, "LR_Scheduler": {"last_epoch": 3}}, "model", ()),
]  # fmt: skip


@pytest.mark.parametrize(("what", "root", "where", "others"), PLACES, ids=[case[0] for case in PLACES])
def test_the_state_dict_is_found(what, root, where, others):
    state = find_state_dict(root)
    expected = MANY if "layer8.weight" in repr(root) else NET
    assert state.where == where
    assert state.others == others
    assert list(state.tensors) == list(expected)
    assert all(state.tensors[name] is tensor for name, tensor in expected.items())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state", "net", "params", "ema"])
def test_a_known_wrapper_is_taken_before_an_unknown_one(wrapper):
    state = find_state_dict({"aaa": {"w": A}, wrapper: {"w": B}, "zzz": {"w": C}})
    assert state.tensors["w"] is B
    assert (state.where, state.others) == (wrapper, ("aaa", "zzz"))


@pytest.mark.parametrize("key", ["model", "ema", "deep.ema"])
def test_key_chooses(key):
    trees = {"model": {"w": A}, "ema": {"w": B}, "deep.ema": {"w": C}}
    root = {"model": trees["model"], "ema": trees["ema"], "deep": {"ema": trees["deep.ema"]}}
    state = find_state_dict(root, key=key)
    assert state.where == key
    assert state.tensors["w"] is trees[key]["w"]
    assert set(state.others) == trees.keys() - {key}


PREFIXES = [
    ("module", prefixed("module.")),
    ("module twice", prefixed("module.module.")),
    ("module inside", {"conv.module.weight": A, "bn.module.bias": B}),
    ("module on some alone", {"module.conv.weight": A, "bn.bias": B}),
    ("torch.compile", prefixed("_orig_mod.")),
    ("torch.compile in DDP", prefixed("module._orig_mod.")),
    ("DDP in torch.compile", prefixed("_orig_mod.module.")),
    ("a compiled part", {"conv._orig_mod.weight": A, "bn._orig_mod.bias": B}),
    ("Lightning", prefixed("model.")),
    ("Lightning, compiled", prefixed("model._orig_mod.")),
    ("two classes around it", prefixed("net.model.")),
    ("two classes, other way", prefixed("model.net.")),
]


@pytest.mark.parametrize(("what", "root"), PREFIXES, ids=[case[0] for case in PREFIXES])
def test_wrappers_prefixes_are_stripped(what, root):
    state = find_state_dict(root)
    assert list(state.tensors) == ["conv.weight", "bn.bias"]
    assert [state.original[name] for name in state.tensors] == list(root)
    assert state.tensors["conv.weight"] is A


KEPT = [
    ("a prefix that not all have", {"model.conv.weight": A, "criterion.weight": B}),
    ("module as a part of a word", {"submodule.weight": A, "modules.bias": B}),
    ("no more than a prefix's first letters", {"modelling.weight": A, "networks.bias": B}),
]


@pytest.mark.parametrize(("what", "root"), KEPT, ids=[case[0] for case in KEPT])
def test_other_names_stay(what, root):
    assert list(find_state_dict(root).tensors) == list(root)


def test_what_is_no_tensor_is_set_aside_by_name():
    beside = {"epoch": 3, "best": np.float64(0.75), "args": Opaque("argparse.Namespace"), "log": [1, 2],
              "name": "stdc\x1b[31m", "none": None}  # fmt: skip
    words = ["epoch: int 3", "best: float64 0.75", "args: argparse.Namespace", "log: list of 2",
             r"name: 'stdc\x1b[31m'", "none: None"]  # fmt: skip
    bare = find_state_dict({**NET, **beside})
    assert list(bare.tensors) == list(NET)
    assert [f"{name}: {what}" for name, what in bare.dropped.items()] == words
    assert bare.beside == ()
    wrapped = find_state_dict({"model": NET, **beside})
    assert wrapped.dropped == {}
    assert list(wrapped.beside) == words


def test_tensors_under_keys_that_are_no_names_are_not_lost():
    state = find_state_dict({**NET, 5: C, ("a", "b"): C})
    assert list(state.tensors) == [*NET, "5", "('a', 'b')"]


ODD_TENSORS = {
    "scalar": np.array(1.5),
    "empty": np.empty((0, 3), np.float16),
    "wide": np.zeros((1,) * 12, np.int8),
    "ключ\x1b": np.zeros(2, bool),
    "": np.zeros(2),
    "k" * 100_000: np.zeros(2),
    "....": np.zeros(1),
}


@pytest.mark.parametrize("name", ODD_TENSORS, ids=range(len(ODD_TENSORS)))
def test_any_name_and_any_array_will_do(name):
    state = find_state_dict({**NET, name: ODD_TENSORS[name]})
    assert state.tensors[name] is ODD_TENSORS[name]


def test_a_hundred_thousand_keys():
    root = {"state_dict": prefixed("module.", {f"layer{i}.weight": A for i in range(100_000)})}
    assert len(find_state_dict(root).tensors) == 100_000


SPARSE = Unsupported("a sparse tensor")
# What the file holds, what the message says, and what the note says.
REFUSED = [
    ("nothing", None, "holds None, not a state dict", "torch.save"),
    ("a list", [A], "holds list of 1", "torch.save"),
    ("a tensor", A, r"holds one tensor \(2,\)", "torch.save"),
    ("text", "x\x1b[2J" * 99, r"holds 'x\\x1b\[2J", "torch.save"),
    ("an empty dict", {}, "no tensors by name", "optimizer"),
    ("an empty state dict", {"state_dict": {}, "epoch": 3}, "no tensors by name", "optimizer"),
    ("an optimizer alone", SGD, "no tensors by name", "optimizer"),
    ("a list of tensors", {"params": [A, B]}, "no tensors by name", "optimizer"),
    ("two unknown names", {"teacher": NET, "student": NET}, "2 state dicts: teacher, student", "--key PATH"),
    ("very many", {f"m{i}": NET for i in range(999)}, r"999 state dicts: (m\d, ){10}…$", "--key PATH"),
    ("one path twice", {"a.b": NET, "a": {"b": NET}}, r"two state dicts .* path a\.b", None),
    ("one tensor twice", {"module.w": A, "w": B}, r"module\.w and w are both w", None),
    ("long names twice", {"module." + "w" * 9999: A, "w" * 9999: B}, "… are both w+…", None),
    ("a sparse tensor", {**NET, "s\x1b": SPARSE}, r"s\\x1b: a sparse tensor", "to_dense"),
    ("nothing but sparse tensors", {"s": SPARSE}, "s: a sparse tensor", "to_dense"),
    ("many sparse tensors", {f"s{i}": SPARSE for i in range(99)}, "not converted: 99\n", "to_dense"),
]


@pytest.mark.parametrize(("what", "root", "fact", "way_out"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refusals_say_what_and_why(what, root, fact, way_out):
    with pytest.raises(CheckpointError) as caught:
        find_state_dict(root)
    assert re.search(fact, caught.value.message)
    assert (way_out or "") in (caught.value.note or "")
    assert (way_out is None) == (caught.value.note is None)
    assert len(str(caught.value)) < 1500
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("key", ["nope", "", "model.w", "optimizer", "\x1b[31m"])
def test_a_key_that_leads_nowhere_names_the_others(key):
    with pytest.raises(UsageError) as caught:
        find_state_dict({"model": NET, "ema": NET, "optimizer": SGD}, key=key)
    assert caught.value.note == "The file has: model, ema."
    assert "\x1b" not in str(caught.value)
