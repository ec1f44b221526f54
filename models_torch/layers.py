"""What the networks need of PyTorch, under the names that `models_paddle.layers` gives to the same things.

The official code normalises with `torch.nn.BatchNorm2d` (momentum 0.1, eps 1e-5): it is used as it is, and so
are PyTorch's initialisers.
"""

import torch
from torch import Tensor, nn
from torch.nn import BatchNorm1d, BatchNorm2d
from torch.nn import functional as F
from torch.nn.init import kaiming_normal_, normal_

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "adaptive_pool",
    "kaiming_normal_",
    "make_conv",
    "make_conv1d",
    "make_linear",
    "make_zeros",
    "normal_",
    "resize",
]


def make_conv(
    in_planes: int,
    out_planes: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """Build a convolution as all networks use them: square, padded so that h -> h/stride, rounded up.

    It is initialised as PyTorch does by default: uniform up to 1 / sqrt(fan_in).
    """
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_planes, out_planes, kernel, stride, padding, dilation, groups, bias)


def make_conv1d(in_planes: int, out_planes: int, bias: bool = True) -> nn.Conv1d:
    """Build a convolution of kernel 1 over (n, in_planes, w), initialised as PyTorch does by default."""
    return nn.Conv1d(in_planes, out_planes, 1, bias=bias)


def make_zeros(count: int) -> nn.Parameter:
    """Build a parameter (count,) of zeros."""
    return nn.Parameter(torch.zeros(count))


def make_linear(in_features: int, out_features: int) -> nn.Linear:
    """Build a linear layer with a bias, initialised as PyTorch does by default."""
    return nn.Linear(in_features, out_features)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Resize (n, c, h, w) to (n, c, height, width), bilinear between aligned corners."""
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def adaptive_pool(x: Tensor, bins: int) -> Tensor:
    """Average (n, c, h, w) over a grid: (n, c, bins, bins)."""
    return F.adaptive_avg_pool2d(x, bins)
