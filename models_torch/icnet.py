"""ICNet, the image cascade network, in PyTorch. `models_paddle/icnet.py` is its twin, line by line.

"ICNet for Real-Time Semantic Segmentation on High-Resolution Images" (Zhao et al., ECCV 2018), section 3.
Behaviour, attribute names and defaults are those of models/icnet.py in github.com/liminn/ICNet-pytorch, whose
state dicts load. Upstream's widths are those of base 64; here all scale.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from stdc_parity.models_torch.layers import BatchNorm2d, adaptive_pool, make_conv, resize
from stdc_parity.models_torch.resnet import ResNet, resnet50_v1b, resnet50_v1s

BINS = (1, 2, 3, 6)
"""The grids that the pyramid pools to."""


class ConvBNReLU(nn.Module):
    """Convolution, batch norm, ReLU: (n, in_planes, h, w) -> (n, out_planes, h/2, w/2)."""

    def __init__(self, in_planes: int, out_planes: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv = make_conv(in_planes, out_planes, 3, stride=2)
        self.bn = BatchNorm2d(out_planes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.relu(self.bn(self.conv(x)))


class PyramidPoolingModule(nn.Module):
    """Add to a feature its averages over coarse grids; (n, c, h, w) stays so. It has no parameters."""

    def __init__(self, pyramids: Sequence[int] = BINS) -> None:
        """Take the sides of the grids."""
        super().__init__()
        self.pyramids = tuple(pyramids)

    def forward(self, x: Tensor) -> Tensor:
        """Pool to each grid, resize back, sum."""
        height, width = x.shape[2:]
        feat = x
        for bins in self.pyramids:
            feat = feat + resize(adaptive_pool(x, bins), height, width)
        return feat


class CascadeFeatureFusion(nn.Module):
    """Fuse a coarse and a fine feature: (n, low, h', w') and (n, high, h, w) -> (n, out_planes, h, w) and logits."""

    def __init__(self, low_planes: int, high_planes: int, out_planes: int, num_classes: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv_low = nn.Sequential(
            make_conv(low_planes, out_planes, 3, dilation=2),
            BatchNorm2d(out_planes),
        )
        self.conv_high = nn.Sequential(
            make_conv(high_planes, out_planes, 1),
            BatchNorm2d(out_planes),
        )
        self.conv_low_cls = make_conv(out_planes, num_classes, 1)
        self.relu = nn.ReLU()

    def forward(self, x_low: Tensor, x_high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of both after a ReLU, and auxiliary logits (n, num_classes, h, w) of the coarse one."""
        x_low = self.conv_low(resize(x_low, x_high.shape[2], x_high.shape[3]))
        return self.relu(x_low + self.conv_high(x_high)), self.conv_low_cls(x_low)


class ICHead(nn.Module):
    """Both fusions and the classifier."""

    def __init__(self, num_classes: int, base: int) -> None:
        """Build the layers for features of 32, 8 and 1 times `base` channels."""
        super().__init__()
        self.cff_12 = CascadeFeatureFusion(base * 2, base, base * 2, num_classes)
        self.cff_24 = CascadeFeatureFusion(base * 32, base * 8, base * 2, num_classes)
        self.conv_cls = make_conv(base * 2, num_classes, 1)

    def forward(self, x_sub1: Tensor, x_sub2: Tensor, x_sub4: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (n, num_classes, …) at 8, 2 and 1 times the size of x_sub1, and at that of x_sub2."""
        fused, logits16 = self.cff_24(x_sub4, x_sub2)
        fused, logits8 = self.cff_12(fused, x_sub1)
        height, width = fused.shape[2:]
        logits4 = self.conv_cls(resize(fused, height * 2, width * 2))
        return resize(logits4, height * 8, width * 8), logits4, logits8, logits16


class ICNet(nn.Module):
    """ICNet: a light branch for the whole image, a shared ResNet for its half and its quarter, and the head."""

    def __init__(self, backbone: ResNet, num_classes: int = 19, base: int = 64) -> None:
        """Build the network around a backbone; `base` is the backbone's."""
        super().__init__()
        self.pretrained = backbone
        self.conv_sub1 = nn.Sequential(
            ConvBNReLU(3, base // 2),
            ConvBNReLU(base // 2, base // 2),
            ConvBNReLU(base // 2, base),
        )
        self.ppm = PyramidPoolingModule()
        self.head = ICHead(num_classes, base)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (n, num_classes, …) of an image batch x (n, 3, h, w), h and w at least 4.

        They are for training at strides 1, 4, 8 and 16; the first is also what the network says. Its size is 8
        times ceil(h / 8) x ceil(w / 8): that of x if both are multiples of 8.
        """
        height, width = x.shape[2:]
        x_sub1 = self.conv_sub1(x)  # (n, base, h/8, w/8)
        # All stages run on the half, as upstream's do: in train mode their running statistics move.
        x_sub2 = self.pretrained(resize(x, height // 2, width // 2))[1]  # (n, 8 * base, h/16, w/16)
        x_sub4 = self.pretrained(resize(x, height // 4, width // 4))[3]  # (n, 32 * base, h/32, w/32)
        return self.head(x_sub1, x_sub2, self.ppm(x_sub4))


def icnet_resnet50_v1b(num_classes: int = 19, base: int = 64) -> ICNet:
    """Build ICNet on ResNet-50 v1b."""
    return ICNet(resnet50_v1b(base), num_classes, base)


def icnet_resnet50_v1s(num_classes: int = 19, base: int = 64) -> ICNet:
    """Build ICNet on ResNet-50 v1s, as published."""
    return ICNet(resnet50_v1s(base), num_classes, base)
