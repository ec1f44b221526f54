"""Parameters and multiplications of a network: layers counted by hand, the paper's figures, both sides alike."""

import numpy as np
import paddle
import pytest
import torch

from stdc_parity.align.cost import Cost, count, measure, measure_sides
from stdc_parity.align.framework import load_framework
from stdc_parity.align.pair import Pair
from stdc_parity.align.result import Failure
from stdc_parity.align.session import Session
from stdc_parity.align.spec import RunSpec

PLAIN = Pair("by hand", {}, None, ("output",), ())
T, P = torch.nn, paddle.nn

# What, input shape, torch module, Paddle layer, parameters, MACs
LAYERS = [
    ("stride and padding", (1, 3, 9, 11), T.Conv2d(3, 8, 3, 2, 1), P.Conv2D(3, 8, 3, 2, 1),
     8 * 3 * 9 + 8, 8 * 5 * 6 * 3 * 9),
    ("no bias, two images", (2, 4, 5, 5), T.Conv2d(4, 6, 1, bias=False), P.Conv2D(4, 6, 1, bias_attr=False),
     24, 2 * 6 * 25 * 4),
    ("depthwise", (1, 6, 7, 7), T.Conv2d(6, 6, 3, padding=1, groups=6), P.Conv2D(6, 6, 3, padding=1, groups=6),
     6 * 9 + 6, 6 * 49 * 9),
    ("dilated, grouped", (1, 4, 9, 9),
     T.Conv2d(4, 2, 3, dilation=2, groups=2), P.Conv2D(4, 2, 3, dilation=2, groups=2), 2 * 2 * 9 + 2, 2 * 25 * 2 * 9),
    ("one dimension", (1, 4, 10), T.Conv1d(4, 5, 3), P.Conv1D(4, 5, 3), 65, 5 * 8 * 4 * 3),
    ("three dimensions", (1, 2, 4, 4, 4), T.Conv3d(2, 3, 3), P.Conv3D(2, 3, 3), 3 * 2 * 27 + 3, 3 * 8 * 2 * 27),
    ("transposed", (1, 4, 5, 6), T.ConvTranspose2d(4, 3, 3, 2), P.Conv2DTranspose(4, 3, 3, 2),
     4 * 3 * 9 + 3, 5 * 6 * 4 * 3 * 9),
    ("linear, of a sequence", (2, 7, 5), T.Linear(5, 3), P.Linear(5, 3), 18, 2 * 7 * 5 * 3),
    ("norms are free", (2, 4, 5, 5), T.BatchNorm2d(4), P.BatchNorm2D(4), 8, 0),
    ("no parameters", (2, 4, 5, 5), T.AvgPool2d(2), P.AvgPool2D(2), 0, 0),
]  # fmt: skip


def counted(side, module, *shapes):
    framework = load_framework(side)
    tensors = [framework.to_tensor(np.zeros(shape, np.float32)) for shape in shapes]
    framework.set_mode(module, "eval")
    return count(framework, module, PLAIN, tensors, shapes[0][0])


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer[0])
def test_layers_counted_by_hand(layer):
    _, shape, torch_module, paddle_layer, parameters, macs = layer
    for side, module in (("torch", torch_module), ("paddle", paddle_layer)):
        cost = counted(side, module, shape)
        assert (cost.parameters, cost.macs, cost.flops) == (parameters, macs, 2 * macs), side
        assert cost.unknown == ()


class Twice(torch.nn.Module):
    """A layer that runs twice, one that never runs, and a weight that two modules share."""

    def __init__(self):
        super().__init__()
        self.layer, self.idle, self.frozen = T.Linear(4, 4), T.Linear(4, 9), T.Linear(4, 4, bias=False)
        self.tied = T.Linear(4, 4)
        self.tied.weight = self.layer.weight
        self.frozen.weight.requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.tied(self.layer(self.layer(x))))


def test_calls_are_added_and_shared_or_frozen_parameters_counted_once_or_not():
    cost = counted("torch", Twice(), (3, 4))
    assert [(m.path, m.calls, m.macs) for m in cost.modules] == [("layer", 2, 96), ("idle", 0, 0), ("tied", 1, 48)]
    assert cost.parameters == 16 + 4 + 36 + 9 + 4
    assert cost.under("layer").macs + cost.under("tied").macs == cost.macs


def test_a_subclass_counts_as_what_it_is_and_an_unknown_type_is_named():
    own = type("OwnConv", (T.Conv2d,), {})
    network = T.Sequential(own(3, 2, 1), T.Flatten(2), T.GRU(4, 5))
    cost = counted("torch", network, (1, 3, 2, 2))
    assert cost.macs == 2 * 4 * 3
    assert cost.unknown == ("2",)


# Table 2 of the paper: 813 and 1446 million at 224x224, norms and the like included, which are not counted here.
@pytest.mark.parametrize(("name", "paper"), [("stdcnet813", 813e6), ("stdcnet1446", 1446e6)])
def test_the_backbones_cost_what_the_paper_says(name, paper):
    cost = measure(Session(load_framework("torch")), RunSpec(name, (224, 224)))
    assert 0.99 < cost.macs / paper < 1
    assert cost.under("features").macs + cost.under("conv_last").macs + 1024 * 2024 == cost.macs


def test_both_sides_cost_the_same_and_a_side_that_fails_says_why(workers):
    costs = measure_sides(workers, RunSpec("stdc1-seg", (64, 96), base=8, batch=2))
    alike = [[(m.path, m.calls, m.parameters, m.macs) for m in cost.modules] for cost in costs.values()]
    assert alike[0] == alike[1]
    assert costs["torch"].parameters == costs["paddle"].parameters
    assert costs["torch"] == Cost.from_json(costs["torch"].to_json())
    failed = measure_sides(workers, RunSpec("stdc1-seg", (64, -96), base=8))
    assert all(isinstance(failure, Failure) and "ValueError" in failure.message for failure in failed.values())
