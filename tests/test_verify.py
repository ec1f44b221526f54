"""Verifying conversions after the fact: what is right passes, and every kind of tampering is found."""

import json
import tarfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stdc_parity import cli
from stdc_parity.converters import stdc
from stdc_parity.converters.containers import read_container, write_paddle
from stdc_parity.fixtures.weights import seeded_weights, with_aliases

SEG = stdc.architecture("stdc1-seg", base=8, imagenet_head=False)
COUNTER = "num_batches_tracked"


def run(code, *arguments):
    result = CliRunner().invoke(cli.convert, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def abn_state():
    """As the published segmentation checkpoints: aliases, InPlaceABN in the heads, counters elsewhere."""
    tensors = with_aliases(seeded_weights(SEG), SEG)
    state = {n: torch.from_numpy(a.copy()) for n, a in tensors.items()}
    return {n: t for n, t in state.items() if n.startswith("cp.backbone.") or not n.endswith(COUNTER)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, what it was converted to, that back to PyTorch, and the certificates."""
    folder = tmp_path_factory.mktemp("verify")
    torch.save({"state_dict": abn_state(), "epoch": 1}, folder / "net.pth")
    run(0, "torch2paddle", folder / "net.pth", "--certificate", folder / "forth.json")
    run(0, "paddle2torch", folder / "net.pdparams", folder / "back.pth", "--certificate", folder / "back.json",
        "--aliases", "--wrap", "state_dict")  # fmt: skip
    run(0, "torch2paddle", folder / "net.pth", folder / "copied.pdparams", "--abn", "no",
        "--certificate", folder / "copied.json")  # fmt: skip
    run(0, "torch2paddle", folder / "net.pth", folder / "half.pdparams", "--dtype", "float16",
        "--certificate", folder / "half.json")  # fmt: skip
    run(0, "torch2paddle", folder / "net.pth", "--dry-run", "--certificate", folder / "dry.json")
    return folder


def test_what_was_converted_is_verified(files):
    output = run(
        0, "verify", files / "net.pth", files / "net.pdparams", "--certificate", files / "forth.json"
    )
    assert "15 as |weight| + 1e-5" in output
    assert f"{sum(n.startswith('cp.backbone.x') for n in abn_state())} dropped: alias, equal bytes" in output
    assert "holds exactly these tensors, bit for bit, and both are as certified" in output
    run(0, "verify", files / "net.pth", files / "net.pdparams")
    output = run(
        0, "verify", files / "net.pdparams", files / "back.pth", "--certificate", files / "back.json"
    )
    assert "created: PyTorch's batch norm counts its batches" in output
    run(1, "verify", files / "net.pth", files / "copied.pdparams")
    run(0, "verify", files / "net.pth", files / "copied.pdparams", "--abn", "no")
    run(0, "verify", files / "net.pth", files / "copied.pdparams", "--certificate", files / "copied.json")


def test_another_dtype_is_verified_when_it_is_asked_for(files):
    source, half = files / "net.pth", files / "half.pdparams"
    output = run(1, "verify", source, half)
    assert "float16, must be" in output
    assert "Note: Was it converted with --dtype float16?" in output
    output = run(0, "verify", source, half, "--dtype", "float16")
    assert "tensors rounded to float16: worst relative error" in output
    run(0, "verify", source, half, "--certificate", files / "half.json")
    run(1, "verify", source, half, "--certificate", files / "half.json", "--dtype", "bfloat16")
    run(1, "verify", source, files / "net.pdparams", "--dtype", "float16")


def test_the_layout_can_be_asked_for(files, tmp_path):
    source, target, account = files / "net.pth", tmp_path / "seg.pdparams", tmp_path / "seg.json"
    run(0, "torch2paddle", source, target, "--to-layout", "paddleseg", "--certificate", account)
    run(0, "verify", source, target, "--to-layout", "paddleseg")
    run(0, "verify", source, target, "--certificate", account)
    run(1, "verify", source, target, "--to-layout", "paddle")
    forged = json.loads(account.read_text()) | {"source_layout": "mmseg"}
    account.write_text(json.dumps(forged))
    output = run(1, "verify", source, target, "--certificate", account)
    assert "the certificate is of mmseg, not of official" in output


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
def test_a_relayout_within_a_layout_is_verified(suffix, files, tmp_path):
    target, account = tmp_path / f"same.{suffix}", tmp_path / "same.json"
    run(0, "relayout", files / "back.pth", target, "--certificate", account)
    run(0, "verify", files / "back.pth", target, "--certificate", account)
    assert json.loads(account.read_text())["direction"] == "torch2torch"


def test_a_relayout_rewrites_inplace_abn_and_diff_knows_it(files, tmp_path):
    target = tmp_path / "plain.safetensors"
    assert "15 head norms were trained with |weight| + 1e-5" in run(0, "relayout", files / "net.pth", target)
    assert "They agree." in run(0, "diff", files / "net.pth", target)
    assert "They agree." in run(0, "diff", target, files / "net.pth")
    run(0, "verify", files / "net.pth", target)


def test_an_npz_has_no_counters_and_says_so(files, tmp_path):
    account = tmp_path / "net.json"
    output = run(0, "torch2paddle", files / "net.pth", tmp_path / "net.npz", "--certificate", account)
    assert "batch counters: they are lost" in output
    run(0, "verify", files / "net.pth", tmp_path / "net.npz", "--certificate", account)


def test_every_shard_is_held_against_the_certificate(files, tmp_path):
    source, index, account = files / "net.pth", tmp_path / "net.safetensors.index.json", tmp_path / "net.json"
    run(0, "torch2paddle", source, tmp_path / "net.safetensors", "--shard-size", "100KB", "--certificate", account)
    assert "both are as certified" in run(0, "verify", source, index, "--certificate", account)
    output = run(3, "verify", source, tmp_path / "net.safetensors")
    assert "It is in shards: name net.safetensors.index.json." in output
    forged = json.loads(account.read_text())
    forged["target"]["shards"][-1]["sha256"] = "0" * 64
    account.write_text(json.dumps(forged))
    output = run(1, "verify", source, index, "--certificate", account)
    last = sorted(tmp_path.glob("net-*.safetensors"))[-1]
    assert f"{last.name} is not the certified target: sha256" in output
    del forged["target"]["shards"][-1]
    account.write_text(json.dumps(forged))
    assert "files, certified are" in run(1, "verify", source, index, "--certificate", account)


def test_a_member_of_an_archive_is_verified(files, tmp_path):
    archive, account = tmp_path / "two.tar", tmp_path / "out.json"
    with tarfile.open(archive, "w") as tar:
        tar.add(files / "net.pth", "net.pth")
        tar.add(files / "back.pth", "back.pth")
    run(0, "torch2paddle", archive, tmp_path / "out.pdparams", "--member", "net.pth", "--certificate", account)
    run(0, "verify", archive, tmp_path / "out.pdparams", "--member", "net.pth")
    run(0, "verify", archive, tmp_path / "out.pdparams", "--certificate", account)
    run(0, "diff", archive, files / "net.pth", "--member-a", "net.pth")
    run(2, "diff", archive, archive, "--member-a", "net.pth", "--member-b", "none")


def negated(arrays):
    arrays["ffm.conv1.weight"] = -arrays["ffm.conv1.weight"]


def one_bit(arrays):
    array = arrays["cp.arm16.conv.conv.weight"] = arrays["cp.arm16.conv.conv.weight"].copy()
    array.view(np.uint32).flat[11] ^= 1


def swapped(arrays):
    first, second = "conv_out_sp16.conv.bn._mean", "conv_out_sp16.conv.bn._variance"
    arrays[first], arrays[second] = arrays[second], arrays[first]


TAMPERINGS = [
    (negated, ["ffm.conv1.weight: not the source's bits"]),
    (one_bit, ["cp.arm16.conv.conv.weight: not the source's bits"]),
    (swapped, ["conv_out_sp16.conv.bn._mean: not", "conv_out_sp16.conv.bn._variance: not"]),
    (lambda arrays: arrays.pop("ffm.conv2.weight"), ["ffm.conv2.weight: missing"]),
    (lambda arrays: arrays.update(more=np.ones(2, np.float32)), ["more: not of the source"]),
    (lambda arrays: arrays.update({"ffm.conv2.weight": arrays["ffm.conv2.weight"].astype(np.float64)}),
     ["ffm.conv2.weight: (32, 8, 1, 1) float64, must be (32, 8, 1, 1) float32"]),
    (lambda arrays: arrays.update({"ffm.conv2.weight": arrays["ffm.conv2.weight"].reshape(8, 32)}),
     ["ffm.conv2.weight: (8, 32) float32, must be (32, 8, 1, 1)"]),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "problems"), TAMPERINGS)
def test_tampering_is_found(tamper, problems, files, tmp_path):
    contents = read_container(files / "net.pdparams")
    arrays = dict(contents.root)
    tamper(arrays)
    write_paddle(tmp_path / "x.pdparams", arrays, batches=contents.batches)
    report = tmp_path / "x.json"
    run(1, "verify", files / "net.pth", tmp_path / "x.pdparams", "--json", report)
    account = json.loads(report.read_text())
    assert not account["verified"]
    assert len(account["problems"]) == len(problems)
    for problem, words in zip(account["problems"], problems, strict=True):
        assert problem.startswith(words)
    output = run(
        1, "verify", files / "net.pth", tmp_path / "x.pdparams", "--certificate", files / "forth.json"
    )
    assert "x.pdparams is not the certified target: sha256" in output


def test_other_counters_are_found(files, tmp_path):
    contents = read_container(files / "net.pdparams")
    batches = {**contents.batches, next(iter(contents.batches)): 5}
    write_paddle(tmp_path / "x.pdparams", contents.root, batches=batches)
    output = run(1, "verify", files / "net.pth", tmp_path / "x.pdparams")
    assert "the counters of batches behind the tensors are not net.pth's" in output
    assert "1 problem." in output


def test_more_beside_the_tensors_is_found(files, tmp_path):
    root = {"model": torch.load(files / "back.pth")["state_dict"], "ema": {"w": torch.ones(2)}}
    torch.save(root, tmp_path / "x.pth")
    output = run(1, "verify", files / "net.pdparams", tmp_path / "x.pth")
    assert "another state dict stands under ema" in output
    root["model"]["epoch"] = 3
    torch.save(root["model"], tmp_path / "x.pth")
    output = run(1, "verify", files / "net.pdparams", tmp_path / "x.pth")
    assert "epoch: not of the source, no tensor (int 3)" in output


def edit(account, **changes):
    account.update(changes)


def edit_entry(field, value):
    def change(account):
        entry = next(e for e in account["entries"] if e["target"] == "ffm.conv1.weight")
        entry[field] = value

    return change


FORGERIES = [
    (
        lambda account: account["source"].update(sha256="0" * 64),
        "net.pth is not the certified source: sha256",
    ),
    (lambda account: account["target"].update(bytes=1), "net.pdparams is not the certified target"),
    (
        edit_entry("source_sha256", "0" * 64),
        "ffm.conv1.weight of the source does not have the certified sha256",
    ),
    (edit_entry("target_sha256", None), "ffm.conv1.weight of the target does not have the certified sha256"),
    (
        edit_entry("target_shape", [1]),
        "ffm.conv1.weight of the target is (8, 32, 1, 1) float32, certified is [1]",
    ),
    (edit_entry("dtype", "float16"), "ffm.conv1.weight of the source is (8, 32, 1, 1) float32, certified"),
    (edit_entry("target", "x\x1b[2J"), r"x\x1b[2J is certified, but the target lacks it"),
    (lambda account: account["entries"].pop(), "of the source is not certified"),
    (lambda account: account["entries"].append(account["entries"][0]), "of the target is certified twice"),
    (lambda account: account["batches"].clear(), "the counters of batches are not the certified ones"),
    (lambda account: edit(account, dtype={"dtype": "float32"}), "what rounding lost is not what is certified"),
    (lambda account: edit(account, direction="paddle2torch"), "the certificate is of paddle2torch, not of"),
]


@pytest.mark.parametrize(("forge", "said"), FORGERIES, ids=[case[1][:40] for case in FORGERIES])
def test_a_certificate_of_something_else_is_found(forge, said, files, tmp_path):
    account = json.loads((files / "forth.json").read_text())
    forge(account)
    (tmp_path / "x.json").write_text(json.dumps(account))
    output = run(1, "verify", files / "net.pth", files / "net.pdparams", "--certificate", tmp_path / "x.json")
    assert said in output
    assert "Not verified" in output
    assert "\x1b" not in output


def test_a_certificate_of_a_dry_run_knows_no_target(files):
    output = run(1, "verify", files / "net.pth", files / "net.pdparams", "--certificate", files / "dry.json")
    assert "the certificate is of a dry run" in output


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\2N.", b"[]", b"{}", b'{"schema_version": 1}', b"[" * 100_000, b'{"schema_version": 1e999}',
     b'{"schema_version": 1, "entries": [], "batches": {}, "source": {"shards": [1]}, "target": null}',
     b'{"schema_version": 1, "entries": [], "batches": {}, "source": {"member": 1}, "target": null}',
     b'{"schema_version": 1, "entries": [], "batches": {}, "source": {}, "target": null, "dtype": {"dtype": []}}',
     b'{"schema_version": 1, "entries": [1], "batches": {}, "source": {}, "target": null}',
     b'{"schema_version": 1, "entries": [{"source": []}], "batches": {}, "source": {}, "target": null}'],
)  # fmt: skip
def test_what_is_no_certificate(content, files, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    output = run(3, "verify", files / "net.pth", files / "net.pdparams", "--certificate", tmp_path / "x.json")
    assert "x.json: this is no certificate" in output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("net.pth none.pdparams", 3, "none.pdparams: the file does not exist"),
        ("none.pth net.pdparams", 3, "none.pth: the file does not exist"),
        ("net.pth net.pdparams --certificate none.json", 3, "none.json: the file cannot be read"),
        ("net.pth net.pdparams --certificate .", 3, "this is no certificate"),
        ("net.pth evil.pdparams", 3, "refused to load posix.system"),
        ("net.pth net.pdparams --model stdc2-seg", 2, "looks like stdc1-seg"),
        ("net.pth net.pdparams --json net.pth", 2, "is the source itself"),
    ],
)
def test_mistakes(arguments, code, said, files, monkeypatch):
    monkeypatch.chdir(files)
    (files / "evil.pdparams").write_bytes(b"\x80\2cposix\nsystem\nNR.")
    before = sorted(files.iterdir())
    assert said in run(code, "verify", *arguments.split())
    assert sorted(files.iterdir()) == before
