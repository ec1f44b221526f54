"""What the networks on dilated ResNets share, in Paddle. `models_torch/heads.py` is its twin, line by line.

Widths are in proportion to the backbone's, as the networks' sources have them at base 64.
"""

from collections.abc import Iterable, Sequence

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from stdc_parity.models_paddle.layers import BatchNorm2d, make_conv

AUX_DROPOUT = 0.1
"""What every network's auxiliary head drops (torchvision's FCNHead, semseg, PaddleSeg's AuxLayer)."""


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Resize x (n, c, any, any) bilinearly to (n, c, *size)."""
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def make_block(
    in_planes: int, out_planes: int, kernel: int, dilation: int = 1, bias: bool = False
) -> list[nn.Layer]:
    """Build convolution, batch norm and ReLU: (n, in_planes, h, w) -> (n, out_planes, h, w)."""
    conv = make_conv(in_planes, out_planes, kernel, dilation=dilation, bias=bias)
    return [conv, BatchNorm2d(out_planes), nn.ReLU()]


def make_head(
    in_planes: int, mid_planes: int, num_classes: int, dropout: nn.Layer, bias: bool = False
) -> nn.Sequential:
    """Build a head of two convolutions: (n, in_planes, h, w) -> logits (n, num_classes, h, w).

    `bias` says whether the first one has a bias beside its norm's, as PaddleSeg's has; the last one always has.
    """
    classifier = make_conv(mid_planes, num_classes, 1, bias=True)
    return nn.Sequential(*make_block(in_planes, mid_planes, 3, bias=bias), dropout, classifier)


class PyramidPooling(nn.Layer):
    """Pyramid pooling (PSPNet, section 3.2): (n, in_planes, h, w) -> (n, 2 * in_planes, h, w).

    The means over a grid of cells for each of `bins`, resized with aligned corners, behind the input itself.
    """

    def __init__(self, in_planes: int, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        """Build a branch for each of `bins`, in_planes / len(bins) wide."""
        super().__init__()
        width = in_planes // len(bins)
        self.features = nn.LayerList(
            [nn.Sequential(nn.AdaptiveAvgPool2D(bin), *make_block(in_planes, width, 1)) for bin in bins]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the input and its branches, in the order of the bins."""
        return paddle.concat([x, *[resize(feature(x), x.shape[2:], True) for feature in self.features]], 1)


class ASPP(nn.Layer):
    """Atrous spatial pyramid pooling (DeepLabv3, section 3.3): (n, in_planes, h, w) -> (n, out_planes, h, w)."""

    def __init__(
        self, in_planes: int, out_planes: int, rates: Sequence[int] = (12, 24, 36), dropout: float = 0.5
    ) -> None:
        """Build a 1x1 branch, a 3x3 one for each of `rates` (its dilation), one of the image's means, and what joins.

        The rates are the paper's for an output stride of 8; the dropout is torchvision's.
        """
        super().__init__()
        self.convs = nn.LayerList(
            [
                nn.Sequential(*make_block(in_planes, out_planes, 1)),
                *[nn.Sequential(*make_block(in_planes, out_planes, 3, rate)) for rate in rates],
                nn.Sequential(nn.AdaptiveAvgPool2D(1), *make_block(in_planes, out_planes, 1)),
            ]
        )
        width = out_planes * (len(rates) + 2)
        self.project = nn.Sequential(*make_block(width, out_planes, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Join the branches, the image's means spread over the whole size."""
        outs = [conv(x) for conv in self.convs]
        outs[-1] = resize(outs[-1], x.shape[2:], False)  # (n, out_planes, 1, 1) -> (n, out_planes, h, w)
        return self.project(paddle.concat(outs, 1))


def param_groups(
    backbone: Iterable[nn.Layer], heads: Iterable[nn.Layer], backbone_norms: bool = True
) -> tuple[list[Tensor], ...]:
    """Return the four parameter groups of the recipe: wd, nowd, lr_mul_wd, lr_mul_nowd.

    As in semseg's train.py all parameters decay, and the heads' have ten times the backbone's learning rate.
    With `backbone_norms=False` the backbone's norms are in no group.
    """
    wd = trained(backbone)
    if not backbone_norms:
        wd = [param for param in wd if param.ndim > 1]
    return wd, [], trained(heads), []


def trained(modules: Iterable[nn.Layer]) -> list[Tensor]:
    """Return the parameters of some modules that training changes, in order."""
    return [param for module in modules for param in module.parameters() if not param.stop_gradient]
