"""What the networks need of PyTorch, under the names that `models_paddle.layers` gives to the same things.

The official code normalises with `torch.nn.BatchNorm2d` (momentum 0.1, eps 1e-5): it is used as it is, and so
are PyTorch's initialisers.
"""

from torch.nn import BatchNorm2d, Conv2d
from torch.nn.init import kaiming_normal_, normal_

__all__ = ["BatchNorm2d", "kaiming_normal_", "make_conv", "normal_"]


def make_conv(in_planes: int, out_planes: int, kernel: int, stride: int = 1, groups: int = 1) -> Conv2d:
    """Build a convolution as all of STDC's are: square, no bias, padded so that h -> h/stride, rounded up."""
    return Conv2d(in_planes, out_planes, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
