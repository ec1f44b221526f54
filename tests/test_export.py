"""Networks as files to deploy: verified, converted back, folded, and never half written."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from torch.nn import functional

from stdc_parity import cli
from stdc_parity.align import capture_paddle, capture_torch
from stdc_parity.align.export import deploy
from stdc_parity.align.load import seeded_state, side_weights
from stdc_parity.align.spec import RunSpec
from stdc_parity.converters import stdc
from stdc_parity.fixtures.samples import write_sample
from stdc_parity.models_paddle import export as paddle_export
from stdc_parity.models_paddle import stdcseg as paddle_stdcseg
from stdc_parity.models_torch import export as torch_export
from stdc_parity.models_torch import stdcseg as torch_stdcseg

SMALL = stdc.architecture("stdc1-seg", base=8, imagenet_head=False)


def convert(*arguments):
    done = CliRunner().invoke(cli.convert, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("export")
    write_sample(path / "net.pth", SMALL)
    assert convert("torch2paddle", path / "net.pth").exit_code == 0
    return path


def run(path, *shape):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).standard_normal((shape[0], 3, *shape[1:]), np.float32)
    return image, dict(
        zip([each.name for each in session.get_outputs()], session.run(None, {"image": image}), strict=True)
    )


def twin(path):
    spec = RunSpec("stdc1-seg", (64, 96), weights=str(path))
    network = torch_stdcseg.stdc1_seg(base=8).eval()
    capture_torch.load(network, side_weights("torch", spec)[0])
    return network


@pytest.mark.parametrize("names", ["net.pth", "net.pdparams"])
def test_a_graph_of_any_size_with_official_names(folder, names):
    target = folder / f"{names}.onnx"
    done = convert("onnx", folder / names, target, "-q")
    assert done.exit_code == 0, done.output
    own = names.endswith("pdparams") and importlib.util.find_spec("paddle2onnx") is not None
    assert ("by paddle2onnx" if own else "by torch.onnx") in done.output
    assert convert("diff", folder / names, target).exit_code == 0
    assert convert("diff", folder / "net.pth", target).exit_code == 0
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    assert not [node.op_type for node in model.graph.node if "Global" in node.op_type]
    assert sum(node.op_type == "ReduceMean" for node in model.graph.node) == 4
    for shape in ((1, 64, 96), (3, 33, 71), (1, 130, 49)):
        image, found = run(target, *shape)
        with torch.no_grad():
            expected = twin(folder / "net.pth")(torch.from_numpy(image))
        assert list(found) == ["logits", "logits16", "logits32", "detail8"]
        for ours, theirs in zip(found.values(), expected, strict=True):
            assert np.abs(ours - theirs.numpy()).max() <= 1e-5 * np.abs(ours).max()


def test_labels_folded_at_one_size(folder):
    target = folder / "labels.onnx"
    options = ("--outputs", "labels", "--fold-bn", "--size", "64x96", "--lean", "--opset", "18", "-q")
    done = convert("onnx", folder / "net.pth", target, *options)
    assert done.exit_code == 0, done.output
    assert "Batch norms folded into 44 convolutions" in done.output
    model = onnx.load(target)
    assert (model.opset_import[0].version, model.ir_version) == (18, 8)
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    held = {tensor.name for tensor in model.graph.initializer}
    assert {"cp.backbone.features.0.conv.weight", "cp.backbone.features.0.conv.bias"} <= held
    assert not [name for name in held if ".bn." in name]
    image, found = run(target, 1, 64, 96)
    with torch.no_grad():
        logits = twin(folder / "net.pth")(torch.from_numpy(image))[0]
    assert found["labels"].dtype == np.int64
    assert (found["labels"] == logits.argmax(1).numpy()).mean() > 0.999


@pytest.mark.parametrize(
    ("kind", "source", "target"),
    [
        ("torchscript", "net.pdparams", "x.pt"),
        ("paddle-inference", "net.pth", "x"),
        pytest.param("torch-export", "net.pth", "x.pt2", marks=pytest.mark.slow),
    ],
)
def test_other_kinds(folder, kind, source, target):
    done = convert(kind, folder / source, folder / target, "--fold-bn", "-q")
    assert done.exit_code == 0, done.output
    assert "Verified in fresh processes" in done.output
    image = np.random.default_rng(2).standard_normal((2, 3, 41, 67), np.float32)
    load = (paddle_export if kind == "paddle-inference" else torch_export).LOADERS[kind]
    found = load(str(folder / target) + (".json" if kind == "paddle-inference" else ""))([image])
    with torch.no_grad():
        expected = twin(folder / "net.pth")(torch.from_numpy(image))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs.numpy()).max() <= 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("onnx", "net.pth", "x.pt"), 2, "a target of onnx ends in .onnx"),
        (("onnx", "net.pth", "x.onnx", "--opset", "9"), 2, "graphs of opset 11 to 20 can be written"),
        (("onnx", "net.pth", "x.onnx", "--size", "64"), 2, "is not HxW in pixels"),
        (("onnx", "net.pth", "x.onnx", "--base", "8"), 2, "are for seeded weights"),
        (("onnx", "net.pth", "none/x.onnx"), 2, "the folder does not exist"),
        (("onnx", "absent.pth", "x.onnx"), 3, "the file does not exist"),
        (("paddle-inference", "net.pth", "x.pdmodel"), 2, "Paddle 3 writes its programs as .json"),
        (("onnx", "net.pth", "net.pth"), 2, "a target of onnx ends in .onnx"),
    ],
)
def test_what_cannot_be_exported(folder, monkeypatch, arguments, code, words):
    monkeypatch.chdir(folder)
    before = sorted(Path().iterdir())
    done = convert(*arguments)
    assert done.exit_code == code, done.output
    assert words in " ".join(done.output.split())
    assert sorted(Path().iterdir()) == before


def wrong_epsilon(model):
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-3


def wrong_weight(model):
    tensor = next(each for each in model.graph.initializer if each.name == "ffm.conv1.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1 + 1e-6), tensor.name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wrong_epsilon, "what was written does not compute what its source does at 64x96"),
        (wrong_weight, "1 weights in the graph are not the checkpoint's, first ffm.conv1.weight"),
    ],
)
def test_a_graph_that_computes_something_else_is_not_written(folder, monkeypatch, change, words):
    real = deploy.finish_graph

    def finish_graph(*arguments, **options):
        model = real(*arguments, **options)
        change(model)
        return model

    monkeypatch.setattr(deploy, "finish_graph", finish_graph)
    before = sorted(folder.iterdir())
    done = convert("onnx", folder / "net.pth", folder / "wrong.onnx", "--size", "64x96", "-q")
    assert done.exit_code == 1, done.output
    assert words in " ".join(done.output.split())
    assert sorted(folder.iterdir()) == before


class Shared(torch.nn.Module):
    """A convolution whose output is used beside the norm, which a run cannot see."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        self.other, self.twice = torch.nn.Conv2d(4, 4, 1, bias=False), torch.nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        y = self.other(x)
        return self.twice(y), self.twice(y + 1)


def test_only_norms_that_alone_follow_a_convolution_are_folded():
    network = Shared().eval().double()
    network.norm.running_mean.uniform_(-1, 1)
    network.norm.running_var.uniform_(1, 2)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        before = network(x)
        assert torch_export.fold_batch_norms(network, network, [x]) == [("conv", "norm")]
        after = network(x)
    assert isinstance(network.norm, torch.nn.Identity)
    assert max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True)) < 1e-14


def test_pools_over_all_of_a_map_are_means_while_traced():
    class Pools(torch.nn.Module):
        def forward(self, x):
            whole = functional.avg_pool2d(x, x.size()[2:]) + functional.adaptive_avg_pool2d(x, 1)
            return whole + functional.avg_pool2d(x, 2)[:, :, :1, :1]

    with torch_export.pools_as_means():
        traced = torch.jit.trace(Pools(), torch.randn(1, 2, 6, 8))
    x = torch.randn(1, 2, 10, 4)
    assert torch.allclose(traced(x), Pools()(x), atol=1e-6)
    assert "adaptive" not in str(traced.graph)


@pytest.mark.parametrize("bins", [1, 3, (3, 5), (2, 6), (7, None)])
def test_adaptive_pools_are_what_exporters_can_write(bins):
    """At a known size; bins that do not divide it are products, and PyTorch's own pool is the judge on both sides."""
    array = np.random.default_rng(0).standard_normal((2, 3, 8, 12)).astype(np.float32)
    expected = functional.adaptive_avg_pool2d(torch.from_numpy(array), bins).numpy()
    with torch_export.pools_as_means(), paddle_export.pools_as_means():
        ours = functional.adaptive_avg_pool2d(torch.from_numpy(array), bins).numpy()
        theirs = paddle.nn.functional.adaptive_avg_pool2d(paddle.to_tensor(array), bins).numpy()
    assert np.abs(ours - expected).max() < 1e-6
    assert np.abs(theirs - expected).max() < 1e-6


def test_folding_is_alike_on_both_sides():
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 96))
    found = {}
    for framework, exporter, models in (
        (capture_torch, torch_export, torch_stdcseg), (capture_paddle, paddle_export, paddle_stdcseg)
    ):  # fmt: skip
        network = models.stdc1_seg(base=8)
        framework.load(network, seeded_state(framework, network, 0))
        framework.set_dtype(network, "float64")
        framework.set_mode(network, "eval")
        with framework.no_grad():
            before = [framework.to_array(each) for each in network(framework.to_tensor(x))]
            folded = exporter.fold_batch_norms(network, network, [framework.to_tensor(x)])
            after = [framework.to_array(each) for each in network(framework.to_tensor(x))]
        assert max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(before, after, strict=True)) < 1e-13
        state = framework.state(network)
        found[framework.SIDE] = {conv: (state[f"{conv}.weight"], state[f"{conv}.bias"]) for conv, _ in folded}
    assert found["torch"].keys() == found["paddle"].keys()
    assert len(found["torch"]) == 44
    for conv, tensors in found["torch"].items():
        for ours, theirs in zip(tensors, found["paddle"][conv], strict=True):
            assert np.abs(ours - theirs).max() <= 1e-14 * np.abs(ours).max()
