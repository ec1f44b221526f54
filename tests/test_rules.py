"""Rules files: a conversion of any network by data, held against numpy; bad files end in one message."""

import json

import numpy as np
import paddle
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters.containers import read_container
from stdc_parity.converters.rules import OpenRule, Rules, TensorRule
from stdc_parity.converters.rules_file import load_rules, rules_text

RANDOM = np.random.default_rng(3)


def rule(torch_name=None, paddle_name=None, torch_shape=None, paddle_shape=None, *more, **fields):
    return TensorRule(torch_name, paddle_name, *more, torch_shape=torch_shape, paddle_shape=paddle_shape, **fields)


def values(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


TORCH = {
    "stem.weight": values(4, 3, 2, 2),
    "fc.weight": values(5, 5),
    "attn.in_proj": values(6, 3),
    "q": values(2, 3),
    "k": values(2, 3),
    "cube": values(2, 3, 4),
    "scale": values(4, 1, 1),
    "tied.weight": None,
    "bn.num_batches_tracked": np.array(7),
}
TORCH["tied.weight"] = TORCH["stem.weight"]
PADDLE = {
    "conv.w": TORCH["stem.weight"],
    "head.weight": TORCH["fc.weight"].T,
    "a.weight": TORCH["attn.in_proj"][:2].T,
    "b.weight": TORCH["attn.in_proj"][2:].T,
    "qk.weight": np.concatenate([TORCH["k"], TORCH["q"]]).T,
    "cube": TORCH["cube"].transpose(2, 0, 1),
    "scale": TORCH["scale"].reshape(4),
    "cell.w": TORCH["stem.weight"],
    "ones": np.ones(3, np.float32),
}
GOOD = Rules(
    (
        rule("stem.weight", "conv.w", (4, 3, 2, 2), (4, 3, 2, 2), settled="path"),
        rule("fc.weight", "head.weight", (5, 5), (5, 5), "transpose", settled="type"),
        rule("attn.in_proj", "a.weight", (6, 3), (3, 2), "transpose", torch_rows=(0, 2)),
        rule("attn.in_proj", "b.weight", (6, 3), (3, 4), "transpose", torch_rows=(2, 6)),
        rule("k", "qk.weight", (2, 3), (3, 4), "transpose", paddle_rows=(0, 2), settled="probe", evidence="1e-16"),
        rule("q", "qk.weight", (2, 3), (3, 4), "transpose", paddle_rows=(2, 4)),
        rule("cube", "cube", (2, 3, 4), (4, 2, 3), "permute", (2, 0, 1)),
        rule("scale", "scale", (4, 1, 1), (4,), "reshape"),
        rule("tied.weight", None, (4, 3, 2, 2), torch_alias="stem.weight"),
        rule(None, "cell.w", None, (4, 3, 2, 2), paddle_alias="conv.w"),
        rule("bn.num_batches_tracked", None, (), value=0, dtype="int64", reason="Paddle counts no batches"),
        rule(None, "ones", None, (3,), value=1, exact=True, reason="torch's norm is not affine"),
    )
)


def run(*arguments):
    return CliRunner().invoke(cli.convert, [str(each) for each in arguments])


@pytest.fixture
def good(tmp_path):
    (tmp_path / "rules.toml").write_text(rules_text(GOOD, ["A comment", "", 'with "signs" and ümlauts']))
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in TORCH.items()}
    tensors["tied.weight"] = tensors["stem.weight"]
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "net.pth")
    return tmp_path


def read(path):
    return read_container(path).root


def test_rules_survive_their_file(good):
    found = load_rules(good / "rules.toml")
    assert found.tensors == GOOD.tensors and found.origin == "rules.toml" and len(found.sha256) == 64


def test_a_conversion_by_rules_is_numpys_there_and_the_same_bits_back(good):
    rules = ("--rules", good / "rules.toml")
    done = run("torch2paddle", good / "net.pth", *rules, "--certificate", good / "forth.json")
    assert done.exit_code == 0, done.output
    assert "2 transposed" not in done.output and "9 tensors -> 9" in done.output
    loaded = paddle.load(str(good / "net.pdparams"))
    assert loaded.keys() == PADDLE.keys()
    assert all(np.array_equal(np.asarray(loaded[name]), PADDLE[name]) for name in PADDLE)
    done = run("verify", good / "net.pth", good / "net.pdparams", *rules, "--certificate", good / "forth.json")
    assert done.exit_code == 0 and "and both are as certified" in done.output, done.output
    done = run("paddle2torch", good / "net.pdparams", good / "back.pth", *rules, "--wrap", "state_dict")
    assert done.exit_code == 0, done.output
    back = torch.load(good / "back.pth", weights_only=True)["state_dict"]
    assert back.keys() == TORCH.keys()
    assert all(np.array_equal(back[name].numpy(), TORCH[name]) for name in TORCH)  # the counter, too
    done = run("verify", good / "net.pdparams", good / "back.pth", *rules)
    assert done.exit_code == 0, done.output


def test_the_certificate_names_the_rules_and_every_key(good):
    run("torch2paddle", good / "net.pth", "--rules", good / "rules.toml", "--certificate", good / "c.json")
    account = json.loads((good / "c.json").read_text())
    assert account["architecture"] == {"name": "rules.toml", "rules_sha256": load_rules(good / "rules.toml").sha256}
    assert {e["source"] for e in account["entries"]} - {None} == {f"module.{name}" for name in TORCH}
    assert {e["target"] for e in account["entries"]} - {None} == PADDLE.keys()


def test_verify_tells_a_changed_value(good):
    run("torch2paddle", good / "net.pth", good / "net.npz", "--rules", good / "rules.toml")
    arrays = dict(np.load(good / "net.npz"))
    arrays["qk.weight"][0, 0] += 1
    np.savez(good / "net.npz", **arrays)
    done = run("verify", good / "net.pth", good / "net.npz", "--rules", good / "rules.toml")
    assert done.exit_code == 1 and "qk.weight: not the source's bits" in done.output


def test_diff_compares_across_the_frameworks_by_rules(good):
    rules = ("--rules", good / "rules.toml")
    run("torch2paddle", good / "net.pth", good / "net.npz", *rules)
    done = run("diff", good / "net.pth", good / "net.npz", *rules)
    assert done.exit_code == 0 and "7 same bit for bit" in done.output, done.output
    arrays = dict(np.load(good / "net.npz"))
    arrays["b.weight"][0, 3] += 1
    del arrays["cube"]
    np.savez(good / "net.npz", **arrays, more=np.ones(1))
    done = run("diff", good / "net.pth", good / "net.npz", *rules)
    assert done.exit_code == 1
    for line in ("missing   cube", "extra     more", "different attn.in_proj"):
        assert line in done.output, done.output


def test_other_containers_dtypes_and_shards_work_as_for_known_networks(good):
    rules = ("--rules", good / "rules.toml")
    done = run("torch2paddle", good / "net.pth", good / "net.safetensors", *rules, "--shard-size", "300")
    assert done.exit_code == 0 and "shards" in done.output, done.output
    done = run("paddle2torch", good / "net.safetensors.index.json", good / "half.npz", *rules, "--dtype", "float16")
    assert done.exit_code == 0 and "rounded to float16" in done.output, done.output
    assert np.array_equal(np.load(good / "half.npz")["q"], TORCH["q"].astype(np.float16))
    done = run("relayout", good / "net.pth", good / "same.safetensors", *rules)
    assert done.exit_code == 0 and "all copied" in done.output, done.output
    done = run("torch2paddle", good / "net.pth", good / "dry.pdparams", *rules, "--dry-run")
    assert "pack      module.k -> qk.weight (2, 3) -> (3, 4)  # into the rows 0-2, transposed" in done.output
    assert not (good / "dry.pdparams").exists()


@pytest.mark.parametrize("prefix", ["", "module.", "net.module.", "net."])
def test_names_that_start_like_a_wrappers_prefix_are_found_with_and_without_one(tmp_path, prefix):
    (tmp_path / "rules.toml").write_text(rules_text(Rules((rule("model.w", "v", (2,), (2,)),))))
    np.savez(tmp_path / "net.npz", **{f"{prefix}model.w": np.ones(2)})
    done = run("torch2paddle", tmp_path / "net.npz", "--rules", tmp_path / "rules.toml")
    assert done.exit_code == 0, done.output


def test_a_module_that_is_called_like_a_wrapper_keeps_its_name(tmp_path):
    rules = Rules((rule("model.w", "model.w", (2,), (2,)), rule("model.module.x", "x", (), ())))
    (tmp_path / "rules.toml").write_text(rules_text(rules))
    np.savez(tmp_path / "net.npz", **{"model.w": np.ones(2), "model.module.x": np.ones(())})
    done = run("torch2paddle", tmp_path / "net.npz", "--rules", tmp_path / "rules.toml")
    assert done.exit_code == 0, done.output
    assert paddle.load(str(tmp_path / "net.pdparams")).keys() == {"model.w", "x"}


def test_all_problems_of_a_checkpoint_are_named_at_once(good):
    tensors = torch.load(good / "net.pth", weights_only=True)["state_dict"]
    del tensors["module.q"]
    tensors["module.more"] = torch.zeros(1)
    tensors["module.cube"] = torch.zeros(4, 3, 2)
    tensors["module.tied.weight"] = torch.zeros(4, 3, 2, 2)
    torch.save(tensors, good / "bad.pth")
    done = run("torch2paddle", good / "bad.pth", "--rules", good / "rules.toml")
    assert done.exit_code == 3
    for line in ("4 problems", "q: missing, rules.toml needs (2, 3)", "more: unexpected, rules.toml has no rule",
                 "cube: checkpoint has (4, 3, 2), rules.toml needs (2, 3, 4) (in the other framework's order?)",
                 "tied.weight is another name of stem.weight, but their values differ"):  # fmt: skip
        assert line in done.output
    assert not (good / "bad.pdparams").exists()


def test_what_a_side_lacks_may_go_only_if_it_says_nothing(good):
    arrays = {**PADDLE, "ones": np.array([1, 1, 2], np.float32)}
    np.savez(good / "bad.npz", **arrays)
    done = run("paddle2torch", good / "bad.npz", "--rules", good / "rules.toml")
    assert done.exit_code == 3 and "ones: it is not full of 1, so it cannot go: torch's norm" in done.output


def test_tensors_that_are_one_on_the_other_side_have_to_be_equal(tmp_path):
    rules = Rules((rule("a", "a", (2,), (2,)), rule("b", "b", (2,), (2,), paddle_alias="a")))
    (tmp_path / "rules.toml").write_text(rules_text(rules))
    for second, code in ((1, 0), (2, 3)):
        np.savez(tmp_path / "net.npz", a=np.ones(2), b=np.full(2, second, float))
        done = run("torch2paddle", tmp_path / "net.npz", "--rules", tmp_path / "rules.toml", "--force")
        assert done.exit_code == code, done.output
    assert "b and a are one tensor on the paddle side" in done.output


def test_open_rules_convert_nothing_and_are_listed(good):
    rules = Rules(GOOD.tensors, (OpenRule(("x.a", "x.b"), ("y.a",), "equal shapes\nin no order"),))
    (good / "open.toml").write_text(rules_text(rules))
    for command in ("torch2paddle", "verify"):
        more = ["x"] if command == "verify" else []
        done = run(command, good / "net.pth", *more, "--rules", good / "open.toml")
        assert done.exit_code == 2
        assert "open.toml leaves 1 thing open:\n  x.a, x.b <-> y.a: equal shapes\\nin no order" in done.output


def test_options_for_known_networks_are_refused(good):
    for option in (["--model", "stdcnet813"], ["--to-layout", "paddle"], ["--abn", "yes"], ["--prove"]):
        done = run("torch2paddle", good / "net.pth", "--rules", good / "rules.toml", *option)
        assert done.exit_code == 2 and option[0] in done.output and "Traceback" not in done.output


ONE = 'torch = "w", paddle = "w", torch_shape = [2], paddle_shape = [2], settled = "path"'


def one(old="", new="", more=""):
    """A document with one rule: a good one, with something replaced and more fields."""
    return f"format = 1\ntensors = [{{{ONE.replace(old, new) if old else ONE}{more}}}]"


BAD = [
    ("no TOML", "tensors = [", "no TOML file"),
    ("no UTF-8", b"\xff\xfe", "no TOML file"),
    ("nothing", "", "format = 1"),
    ("another format", "format = 2", "format = 1"),
    ("a format that is true", "format = true", "format = 1"),
    ("nested without end", "format = 1\ntensors = " + "[" * 100_000, "no TOML file"),
    ("a field of its own", "format = 1\nmore = 1", "more: there is no such field"),
    ("tensors that are text", 'format = 1\ntensors = "w"', "list of tables"),
    ("a rule's field", one(more=", way = 1"), "there is no field way"),
    ("without settled", one(', settled = "path"', ""), "lacks settled"),
    ("another settled", one('"path"', '"luck"'), "settled has to be one of path"),
    ("a shape that is text", one("[2]", '"2"'), "list of sizes"),
    ("a negative size", one("[2]", "[-2]"), "list of sizes"),
    ("a size of 2**70", one("[2]", f"[{2**70}]"), "list of sizes"),
    ("a size that is true", one("[2]", "[true]"), "list of sizes"),
    ("too many axes", one("[2]", str([1] * 33)), "list of sizes"),
    ("shapes that differ", one("torch_shape = [2]", "torch_shape = [3]"), "copy does not make"),
    ("a transposed vector", one(more=', transform = "transpose"'), "transpose does not make"),
    ("axes twice", one(more=', transform = "permute", axes = [0, 0]'), "each once"),
    ("axes beyond", one(more=', transform = "permute", axes = [1, 0]'), "does not make"),
    ("axes without permute", one(more=", axes = [0]"), "axes go with"),
    ("permute without axes", one(more=', transform = "permute"'), "axes go with"),
    ("another reshape", one("paddle_shape = [2]", 'paddle_shape = [3], transform = "reshape"'), "reshape does not"),
    ("rows turned round", one(more=", torch_rows = [1, 0]"), "two row numbers"),
    ("rows beyond", one(more=", torch_rows = [0, 3]"), "beyond the tensor"),
    ("rows with a gap", one("paddle_shape = [2]", "paddle_shape = [1], torch_rows = [0, 1]"), "the rows 0-1 of 2"),
    ("a tensor twice", f"format = 1\ntensors = [{{{ONE}}}, {{{ONE}}}]", "without saying which rows"),
    ("no name", 'format = 1\ntensors = [{settled = "hand", reason = "x"}]', "names no tensor"),
    ("an empty name", one('torch = "w"', 'torch = ""'), "torch has to be a name"),
    ("one side without reason", one('paddle = "w", ', "").replace("paddle_shape = [2], ", ""), "a reason is missing"),
    ("one side, a shape too many", one('paddle = "w", ', ""), "paddle_shape goes with paddle"),
    ("a value for both", one(more=", value = 1"), "one side lacks"),
    ("a value beyond", 'format = 1\ntensors = [{torch = "w", torch_shape = [2], settled = "hand", reason = "x", '
     'value = 300, dtype = "uint8"}]', "300 is no uint8"),
    ("an alias of nothing", one(more=', torch_alias = "v"'), "no other tensor"),
    ("an alias of itself", one(more=', torch_alias = "w"'), "no other tensor"),
    ("open without why", 'format = 1\nopen = [{torch = ["w"], paddle = []}]', "open 1"),
    ("open and ruled", one() + '\nopen = [{torch = ["w"], why = "x"}]', "is open"),
    ("a control character", 'format = 1\n"\\u001b[2J" = 1', "no such field"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_rules_file_ends_in_one_message(good, content, said):
    (good / "bad.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run("torch2paddle", good / "net.pth", "--rules", good / "bad.toml")
    assert done.exit_code == 3, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert said in done.output
    assert all(line.isprintable() for line in done.output.splitlines())
    assert not (good / "net.pdparams").exists()


def test_a_rules_file_that_cannot_be_read(good):
    for path, said in ((good / "none.toml", "does not exist"), (good, "no file")):
        done = run("torch2paddle", good / "net.pth", "--rules", path)
        assert done.exit_code == 3 and said in done.output


def test_every_problem_of_a_rules_file_is_named(good):
    (good / "bad.toml").write_text(f"format = 1\nmore = 1\ntensors = [{{{ONE}, way = 1}}, {{settled = \"hand\"}}]")
    done = run("torch2paddle", good / "net.pth", "--rules", good / "bad.toml")
    assert "4 problems" in done.output, done.output


def test_rules_create_no_more_than_weights_can_be(good):
    huge = rule(None, "huge", None, (2**40,), value=0, reason="x")
    (good / "huge.toml").write_text(rules_text(Rules((*GOOD.tensors, huge))))
    done = run("torch2paddle", good / "net.pth", "--rules", good / "huge.toml")
    assert done.exit_code == 3 and "which no weights do" in done.output
