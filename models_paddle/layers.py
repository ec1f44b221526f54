"""What the networks need of Paddle, made to behave as the PyTorch things of the same name do.

`models_torch.layers` exports the same names.
"""

import math

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

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
) -> nn.Conv2D:
    """Build a convolution as all networks use them: square, padded so that h -> h/stride, rounded up.

    It is initialised as PyTorch does by default: uniform up to 1 / sqrt(fan_in).
    """
    padding = dilation * (kernel // 2)
    fill = uniform(kernel * kernel * in_planes // groups)
    return nn.Conv2D(
        in_planes,
        out_planes,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        weight_attr=fill,
        bias_attr=fill if bias else False,
    )


def make_conv1d(in_planes: int, out_planes: int, bias: bool = True) -> nn.Conv1D:
    """Build a convolution of kernel 1 over (n, in_planes, w), initialised as PyTorch does by default."""
    fill = uniform(in_planes)
    return nn.Conv1D(in_planes, out_planes, 1, weight_attr=fill, bias_attr=fill if bias else False)


def make_zeros(count: int) -> Tensor:
    """Build a parameter (count,) of zeros."""
    return paddle.create_parameter([count], "float32", default_initializer=nn.initializer.Constant(0.0))


def make_linear(in_features: int, out_features: int) -> nn.Linear:
    """Build a linear layer with a bias, initialised as PyTorch does by default."""
    fill = uniform(in_features)
    return nn.Linear(in_features, out_features, weight_attr=fill, bias_attr=fill)


def uniform(fan_in: int) -> paddle.ParamAttr:
    """What PyTorch fills the weight and bias of a convolution or linear layer with: up to 1 / sqrt(fan_in)."""
    bound = 1.0 / math.sqrt(fan_in)
    return paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))


class BatchNorm2d(nn.BatchNorm2D):
    """Batch norm that computes what `torch.nn.BatchNorm2d` does, with Paddle's kernel and state names.

    Paddle's own layer differs in two ways:

    - It puts the biased batch variance into `_variance`, PyTorch the unbiased one. With n values a channel
      they differ by n / (n - 1), a lot after pooling to one value an image.
    - Its kernel takes epsilon and momentum as float32, also for float64 tensors: where batch variances are
      small, float64 logits are then off by as much as 4e-8 of scale.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        """Take PyTorch's defaults: eps 1e-5, and momentum 0.1, which Paddle counts the other way round."""
        super().__init__(num_features, momentum=0.9, epsilon=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (n, c, h, w) of either float type; in train mode move the running statistics.

        Raises ValueError in train mode if there is one value a channel, as PyTorch does (Paddle does not).
        """
        return normalise(self, x)


class BatchNorm1d(nn.BatchNorm1D):
    """Batch norm of x (n, c) or (n, c, w) that computes what `torch.nn.BatchNorm1d` does, as `BatchNorm2d`."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        """Take PyTorch's defaults, as `BatchNorm2d`."""
        super().__init__(num_features, momentum=0.9, epsilon=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x as `BatchNorm2d` does."""
        return normalise(self, x)


def normalise(norm: BatchNorm1d | BatchNorm2d, x: Tensor) -> Tensor:
    """Apply a batch norm as PyTorch does."""
    epsilon = float(np.float32(norm._epsilon))  # what the kernel will add to the variance
    if not norm.training:
        variance = norm._variance + (norm._epsilon - epsilon)
        return F.batch_norm(x, norm._mean, variance, norm.weight, norm.bias, epsilon=epsilon)
    count = x.shape[0] * math.prod(x.shape[2:])
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input {x.shape}")
    # To normalise scale * x with scale^2 * eps is to normalise x with eps. In float32 scale rounds to 1.
    scale = math.sqrt(epsilon / norm._epsilon) if x.dtype == paddle.float64 else 1.0
    scaled = x if scale == 1.0 else x * scale
    # With momentum 0 the kernel leaves the batch's own statistics in the two buffers it is given.
    mean, variance = paddle.zeros_like(norm._mean), paddle.zeros_like(norm._variance)
    out = F.batch_norm(
        scaled, mean, variance, norm.weight, norm.bias, training=True, momentum=0.0, epsilon=epsilon
    )
    with paddle.no_grad():
        keep, take = norm._momentum, 1.0 - norm._momentum
        unbiased = variance * (count / (count - 1) / scale**2)
        norm._mean.set_value(keep * norm._mean + take / scale * mean)
        norm._variance.set_value(keep * norm._variance + take * unbiased)
    return out


def kaiming_normal_(weight: Tensor, a: float = 0.0, mode: str = "fan_in") -> None:
    """Fill a convolution's weight (out, in / groups, k, k) in place as `torch.nn.init.kaiming_normal_` does.

    `a` is the slope of the leaky ReLU that follows, `mode` is "fan_in" or "fan_out".
    """
    out_planes, in_planes, *kernel = weight.shape
    fan = (in_planes if mode == "fan_in" else out_planes) * math.prod(kernel)
    normal_(weight, std=math.sqrt(2.0 / (1.0 + a * a)) / math.sqrt(fan))


def normal_(weight: Tensor, std: float) -> None:
    """Fill a weight in place with samples of a normal distribution around 0."""
    nn.initializer.Normal(0.0, std)(weight)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Resize (n, c, h, w) to (n, c, height, width), bilinear between aligned corners.

    Paddle's kernel computes the places between pixels in float32 for float64 tensors too, 1e-6 of scale. Where
    an image is resized before a deep network, that is 1e-3 of the logits in train mode: so for float64 the
    resizing is written out here, as a product with a matrix from either side.
    """
    if x.dtype != paddle.float64:
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
    return between(resizing(x.shape[2], height), x, resizing(x.shape[3], width))


def adaptive_pool(x: Tensor, bins: int) -> Tensor:
    """Average (n, c, h, w) over a grid: (n, c, bins, bins).

    The gradient of Paddle's kernel divides by a float32 number for float64 tensors too, 1e-8 of scale: for those
    the average is written out here, as `resize` is.
    """
    if x.dtype != paddle.float64:
        return F.adaptive_avg_pool2d(x, bins)
    return between(pooling(x.shape[2], bins), x, pooling(x.shape[3], bins))


def between(rows: np.ndarray, x: Tensor, columns: np.ndarray) -> Tensor:
    """The product of a matrix (height, h), each channel of x (n, c, h, w) and a matrix (width, w) transposed."""
    return paddle.matmul(paddle.matmul(paddle.to_tensor(rows), x), paddle.to_tensor(columns.T))


def resizing(size: int, to: int) -> np.ndarray:
    """What each of `to` pixels takes of each of `size` pixels: float64 (to, size)."""
    place = np.arange(to) * ((size - 1) / (to - 1) if to > 1 else 0.0)
    return np.maximum(0.0, 1.0 - np.abs(place[:, np.newaxis] - np.arange(size)))


def pooling(size: int, bins: int) -> np.ndarray:
    """What each of `bins` averages takes of each of `size` pixels: float64 (bins, size); they may overlap."""
    start, end = np.arange(bins) * size // bins, -(-(np.arange(bins) + 1) * size // bins)
    inside = (start[:, np.newaxis] <= np.arange(size)) & (np.arange(size) < end[:, np.newaxis])
    return inside / (end - start)[:, np.newaxis]
