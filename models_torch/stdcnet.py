"""STDC networks, the backbones of STDC-Seg, in PyTorch. `models_paddle/stdcnet.py` is its twin, line by line.

"Rethinking BiSeNet For Real-time Semantic Segmentation" (Fan et al., CVPR 2021), section 3.1. Behaviour,
attribute names and defaults are those of nets/stdcnet.py in github.com/MichaelFan01/STDC-Seg, whose state
dicts load once their aliases (x2, x4, x8, x16, x32) are dropped.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stdc_parity.models_torch.layers import BatchNorm2d, kaiming_normal_, make_conv, normal_

Block = Literal["cat", "add"]
LAYERS = {"stdcnet813": (2, 2, 2), "stdcnet1446": (4, 5, 3)}
"""STDC modules at the strides 8, 16 and 32 (paper, table 2)."""


class ConvX(nn.Module):
    """Convolution, batch norm, ReLU: (n, in_planes, h, w) -> (n, out_planes, h/stride, w/stride)."""

    def __init__(self, in_planes: int, out_planes: int, kernel: int = 3, stride: int = 1) -> None:
        """Build the layers."""
        super().__init__()
        self.conv = make_conv(in_planes, out_planes, kernel, stride)
        self.bn = BatchNorm2d(out_planes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.relu(self.bn(self.conv(x)))


def make_conv_list(in_planes: int, out_planes: int, block_num: int) -> nn.ModuleList:
    """Build the convolutions of one STDC module (paper, figure 3).

    Their widths are out/2, out/4, ..., and the last two are equal, so that they add up to out_planes.
    """
    if block_num < 2:
        raise ValueError(f"block_num is {block_num}, an STDC module needs at least 2 blocks.")
    widths = [out_planes // 2**idx for idx in range(1, block_num)]
    widths.append(widths[-1])
    inputs = [in_planes, *widths[:-1]]
    return nn.ModuleList([ConvX(inputs[idx], widths[idx], 1 if idx == 0 else 3) for idx in range(block_num)])


class AddBottleneck(nn.Module):
    """STDC module with a residual: (n, in_planes, h, w) -> (n, out_planes, h/stride, w/stride)."""

    def __init__(self, in_planes: int, out_planes: int, block_num: int = 4, stride: int = 1) -> None:
        """Build the module; with stride 1, in_planes must be out_planes."""
        super().__init__()
        self.stride = stride
        self.conv_list = make_conv_list(in_planes, out_planes, block_num)
        if stride == 2:
            self.avd_layer = nn.Sequential(
                make_conv(out_planes // 2, out_planes // 2, 3, stride=2, groups=out_planes // 2),
                BatchNorm2d(out_planes // 2),
            )
            self.skip = nn.Sequential(
                make_conv(in_planes, in_planes, 3, stride=2, groups=in_planes),
                BatchNorm2d(in_planes),
                make_conv(in_planes, out_planes, 1),
                BatchNorm2d(out_planes),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the outputs of all blocks and add the input, downsampled if the module does so."""
        head, *tail = self.conv_list
        out = head(x)
        if self.stride == 2:
            out = self.avd_layer(out)
            x = self.skip(x)
        outs = [out]
        for conv in tail:
            outs.append(conv(outs[-1]))
        return torch.cat(outs, 1) + x


class CatBottleneck(nn.Module):
    """STDC module: (n, in_planes, h, w) -> (n, out_planes, h/stride, w/stride)."""

    def __init__(self, in_planes: int, out_planes: int, block_num: int = 4, stride: int = 1) -> None:
        """Build the module."""
        super().__init__()
        self.stride = stride
        self.conv_list = make_conv_list(in_planes, out_planes, block_num)
        if stride == 2:
            self.avd_layer = nn.Sequential(
                make_conv(out_planes // 2, out_planes // 2, 3, stride=2, groups=out_planes // 2),
                BatchNorm2d(out_planes // 2),
            )
            self.skip = nn.AvgPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the outputs of all blocks, the first one pooled if the module downsamples."""
        head, *tail = self.conv_list
        first = out = head(x)
        if self.stride == 2:
            out = self.avd_layer(first)
            first = self.skip(first)
        outs = [first]
        for conv in tail:
            out = conv(out)
            outs.append(out)
        return torch.cat(outs, 1)


class STDCNet(nn.Module):
    """STDC network of either depth (paper, table 2): five feature maps, or ImageNet logits.

    `widths` holds the channels of the five features.
    """

    def __init__(
        self,
        layers: Sequence[int],
        base: int = 64,
        num_classes: int = 1000,
        dropout: float = 0.2,
        block: Block = "cat",
        block_num: int = 4,
        use_conv_last: bool = False,
        stages: int = 5,
        classifier: bool = True,
    ) -> None:
        """Build and initialise the network.

        `layers` counts the STDC modules at strides 8, 16 and 32, `block_num` the convolutions of a module;
        `base` is the width at stride 4. With `use_conv_last` the last feature goes through `conv_last`.
        `stages` is how many features `forward` computes; without `classifier` nothing is built for ImageNet.
        """
        super().__init__()
        last = max(1024, base * 16)
        self.widths = (base // 2, base, base * 4, base * 8, last if use_conv_last else base * 16)
        self.stage_ends = [sum(layers[:stage]) + 1 for stage in range(4)]  # of strides 4, 8, 16, 32
        self.use_conv_last = use_conv_last
        self.stages = stages

        bottleneck: type[nn.Module] = {"cat": CatBottleneck, "add": AddBottleneck}[block]
        features: list[nn.Module] = [ConvX(3, base // 2, 3, 2), ConvX(base // 2, base, 3, 2)]
        in_planes = base
        for out_planes, count in zip((base * 4, base * 8, base * 16), layers, strict=True):
            for idx in range(count):
                features.append(bottleneck(in_planes, out_planes, block_num, 2 if idx == 0 else 1))
                in_planes = out_planes
        self.features = nn.Sequential(*features)

        if classifier or use_conv_last:
            self.conv_last = ConvX(base * 16, last, 1)
        if classifier:
            self.fc = nn.Linear(last, last, bias=False)
            self.bn = nn.BatchNorm1d(last)  # in official state dicts; no forward uses it
            self.relu = nn.ReLU()
            self.dropout = nn.Dropout(dropout)
            self.linear = nn.Linear(last, num_classes, bias=False)
        self.init_params()

    def init_params(self) -> None:
        """Initialise as upstream: convolutions Kaiming-normal by fan-out, linear layers with std 0.001."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                normal_(module.weight, std=0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the first `stages` features of an image batch x (n, 3, h, w), at strides 2, 4, 8, 16 and 32.

        Their channels are `widths`, their sizes ceil(h / stride) x ceil(w / stride).
        """
        feats = []
        for idx, feature in enumerate(list(self.features)[: self.stage_ends[self.stages - 2] + 1]):
            x = feature(x)
            if idx == 0 or idx in self.stage_ends:
                feats.append(x)
        if self.use_conv_last:
            feats[-1] = self.conv_last(feats[-1])
        return tuple(feats)

    def forward_impl(self, x: Tensor) -> Tensor:
        """Return the classification logits (n, num_classes) of an image batch x (n, 3, h, w)."""
        out = self.conv_last(self.features(x)).square()  # (n, last, h/32, w/32)
        out = self.fc(out.mean((2, 3)))  # (n, last)
        return self.linear(self.dropout(self.relu(out)))


def stdcnet813(
    base: int = 64,
    num_classes: int = 1000,
    dropout: float = 0.2,
    block: Block = "cat",
    block_num: int = 4,
    use_conv_last: bool = False,
) -> STDCNet:
    """Build STDC1: two STDC modules at each of the strides 8, 16 and 32 (upstream's STDCNet813)."""
    return STDCNet(LAYERS["stdcnet813"], base, num_classes, dropout, block, block_num, use_conv_last)


def stdcnet1446(
    base: int = 64,
    num_classes: int = 1000,
    dropout: float = 0.2,
    block: Block = "cat",
    block_num: int = 4,
    use_conv_last: bool = False,
) -> STDCNet:
    """Build STDC2: four, five and three STDC modules at the strides 8, 16 and 32 (upstream's STDCNet1446)."""
    return STDCNet(LAYERS["stdcnet1446"], base, num_classes, dropout, block, block_num, use_conv_last)
