"""ResNet-50 and ResNet-101 with dilated stages, in PyTorch. `models_paddle/resnet.py` is its twin, line by line.

"Deep Residual Learning for Image Recognition" (He et al., CVPR 2016), in gluoncv's forms: v1b has the stride
of a bottleneck at its 3x3 convolution, v1s three 3x3 convolutions in the place of the first 7x7 one, v1d these
at half the width, and an average pool in the place of a shortcut's stride. Behaviour, attribute names and
defaults are those of models/base_models/resnetv1b.py in github.com/liminn/ICNet-pytorch, v1d's those of
gluoncv; v1b's state dict has torchvision's names. Upstream's widths are those of base 64; here all scale.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from stdc_parity.models_torch.layers import BatchNorm2d, kaiming_normal_, make_conv, make_linear

DILATIONS = {
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
}
"""Stride and dilation of the four stages, by the stride of the last one's output. Upstream has 8 and 32."""


class Bottleneck(nn.Module):
    """Residual block: (n, in_planes, h, w) -> (n, 4 * planes, h/stride, w/stride)."""

    def __init__(
        self, in_planes: int, planes: int, stride: int = 1, dilation: int = 1, avg_down: bool = False
    ) -> None:
        """Build the block; its input is projected where the shape changes, with `avg_down` after a pool."""
        super().__init__()
        downsample = None
        if stride != 1 or in_planes != planes * 4:  # built first as upstream's, so that a seed gives its weights
            pools = [nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)] if avg_down else []
            downsample = nn.Sequential(
                *pools,
                make_conv(in_planes, planes * 4, 1, 1 if avg_down else stride),
                BatchNorm2d(planes * 4),
            )
        self.conv1 = make_conv(in_planes, planes, 1)
        self.bn1 = BatchNorm2d(planes)
        self.conv2 = make_conv(planes, planes, 3, stride, dilation=dilation)
        self.bn2 = BatchNorm2d(planes)
        self.conv3 = make_conv(planes, planes * 4, 1)
        self.bn3 = BatchNorm2d(planes * 4)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Add the input, projected if the block does so, to the output of the three convolutions."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        skip = x if self.downsample is None else self.downsample(x)
        return self.relu(out + skip)


def make_stem(width: int) -> nn.Sequential:
    """Build a deep stem's convolutions, the last without its norm: (n, 3, h, w) -> (n, 2 * width, h/2, w/2)."""
    return nn.Sequential(
        make_conv(3, width, 3, stride=2),
        BatchNorm2d(width),
        nn.ReLU(),
        make_conv(width, width, 3),
        BatchNorm2d(width),
        nn.ReLU(),
        make_conv(width, width * 2, 3),
    )


def make_stage(
    in_planes: int,
    planes: int,
    blocks: int,
    stride: int,
    dilation: int,
    avg_down: bool = False,
    dilate_first: bool = False,
) -> nn.Sequential:
    """Build one stage: (n, in_planes, h, w) -> (n, 4 * planes, h/stride, w/stride).

    The dilation of its first block is half the others', that of the stage before, unless `dilate_first`.
    """
    start = dilation if dilate_first else max(1, dilation // 2)
    first = Bottleneck(in_planes, planes, stride, start, avg_down)
    return nn.Sequential(first, *[Bottleneck(planes * 4, planes, 1, dilation) for _ in range(1, blocks)])


class ResNet(nn.Module):
    """ResNet of bottlenecks: the features of its four stages, or ImageNet logits.

    `widths` holds the channels of the four features.
    """

    def __init__(
        self,
        layers: Sequence[int],
        base: int = 64,
        num_classes: int = 1000,
        output_stride: int = 8,
        deep_stem: bool = False,
        avg_down: bool = False,
        dilate_first: bool = False,
    ) -> None:
        """Build and initialise the network.

        `layers` counts the blocks of the four stages. `output_stride` is that of the last feature: 8 or 16 (the
        later stages are dilated instead of strided) or 32. With `deep_stem` it is v1s, with `avg_down` too v1d,
        else v1b. With `dilate_first` the first block of a dilated stage is dilated as its others. With 0
        `num_classes` there is no classifier. Raises ValueError for another stride.
        """
        super().__init__()
        if output_stride not in DILATIONS:
            raise ValueError(f"output_stride is {output_stride}, a ResNet has 8, 16 or 32.")
        stem = base * 2 if deep_stem and not avg_down else base
        self.widths = (base * 4, base * 8, base * 16, base * 32)
        self.conv1 = make_stem(stem // 2) if deep_stem else make_conv(3, base, 7, stride=2)
        self.bn1 = BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        one, two, three, four = DILATIONS[output_stride]
        self.layer1 = make_stage(stem, base, layers[0], *one, avg_down, dilate_first)
        self.layer2 = make_stage(base * 4, base * 2, layers[1], *two, avg_down, dilate_first)
        self.layer3 = make_stage(base * 8, base * 4, layers[2], *three, avg_down, dilate_first)
        self.layer4 = make_stage(base * 16, base * 8, layers[3], *four, avg_down, dilate_first)
        if num_classes:
            self.fc = make_linear(base * 32, num_classes)  # in official state dicts; only forward_impl uses it
        self.init_params()

    def init_params(self) -> None:
        """Initialise as upstream: convolutions Kaiming-normal by fan-out, the linear layer as PyTorch does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the four features of an image batch x (n, 3, h, w).

        Their channels are `widths`, their sizes ceil(h / stride) x ceil(w / stride) at strides 4 and 8, then 8
        and 8, or 16 and 16, or 16 and 32.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (n, stem, h/4, w/4)
        feats = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            feats.append(x)
        return tuple(feats)

    def forward_impl(self, x: Tensor) -> Tensor:
        """Return the classification logits (n, num_classes) of an image batch x (n, 3, h, w)."""
        return self.fc(self.forward(x)[-1].mean((2, 3)))


def resnet50_v1b(base: int = 64, num_classes: int = 1000, output_stride: int = 8) -> ResNet:
    """Build ResNet-50 v1b."""
    return ResNet((3, 4, 6, 3), base, num_classes, output_stride)


def resnet101_v1b(base: int = 64, num_classes: int = 1000, output_stride: int = 8) -> ResNet:
    """Build ResNet-101 v1b."""
    return ResNet((3, 4, 23, 3), base, num_classes, output_stride)


def resnet50_v1s(
    base: int = 64, num_classes: int = 1000, output_stride: int = 8, dilate_first: bool = False
) -> ResNet:
    """Build ResNet-50 v1s."""
    return ResNet((3, 4, 6, 3), base, num_classes, output_stride, True, False, dilate_first)


def resnet101_v1s(
    base: int = 64, num_classes: int = 1000, output_stride: int = 8, dilate_first: bool = False
) -> ResNet:
    """Build ResNet-101 v1s."""
    return ResNet((3, 4, 23, 3), base, num_classes, output_stride, True, False, dilate_first)


def resnet50_v1d(
    base: int = 64, num_classes: int = 1000, output_stride: int = 8, dilate_first: bool = False
) -> ResNet:
    """Build ResNet-50 v1d."""
    return ResNet((3, 4, 6, 3), base, num_classes, output_stride, True, True, dilate_first)


def resnet101_v1d(
    base: int = 64, num_classes: int = 1000, output_stride: int = 8, dilate_first: bool = False
) -> ResNet:
    """Build ResNet-101 v1d."""
    return ResNet((3, 4, 23, 3), base, num_classes, output_stride, True, True, dilate_first)
