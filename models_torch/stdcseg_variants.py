"""Variants of STDC-Seg for deployment, in PyTorch. `models_paddle/stdcseg_variants.py` is its twin, line by line.

Those of a deployment fork of MichaelFan01/STDC-Seg: "cut" halves the channels of the fusion and its head, "del" has
no stage at stride 32 besides, "dw" has depthwise separable convolutions where the decoder is heavy (the fork writes
down the block and never uses it: where it stands is our choice). "infer" is any of them with its main logits alone.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from stdc_parity.models_torch.layers import BatchNorm2d, make_conv
from stdc_parity.models_torch.stdcnet import LAYERS, STDCNet
from stdc_parity.models_torch.stdcseg import (
    BiSeNet,
    BiSeNetOutput,
    ConvBlock,
    ConvBNReLU,
    FeatureFusionModule,
    init_weight,
    make_context,
)

FUSION = {"plain": 4, "cut": 2, "del": 2, "dw": 4}
"""Channels of the fusion and its head in multiples of the base width: 256 or 128 at base 64."""


class DWConvBNReLU(nn.Module):
    """Depthwise 3x3 convolution, 1x1 convolution, batch norm, ReLU: (n, in_chan, h, w) -> (n, out_chan, h, w).

    The fork's block and names. Nothing stands between the convolutions, as in Xception (Chollet, CVPR 2017), whose
    section 4.7 found that to be better than a nonlinearity.
    """

    def __init__(self, in_chan: int, out_chan: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv_dw = make_conv(in_chan, in_chan, 3, groups=in_chan)
        self.conv_point = make_conv(in_chan, out_chan, 1)
        self.bn = BatchNorm2d(out_chan)
        self.relu = nn.ReLU()
        init_weight(self)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.relu(self.bn(self.conv_point(self.conv_dw(x))))


class BiSeNetInfer(nn.Module):
    """What of `BiSeNet` leads to its main logits."""

    def __init__(
        self, backbone: STDCNet, num_classes: int = 19, base: int = 64, fusion: int = 4, conv: ConvBlock = ConvBNReLU
    ) -> None:
        """Build the network around a backbone, which needs no ImageNet head; the rest is as in `BiSeNet`."""
        super().__init__()
        self.cp = make_context(backbone, base * 2, conv)
        self.ffm = FeatureFusionModule(backbone.widths[2] + base * 2, base * fusion)
        self.conv_out = BiSeNetOutput(base * fusion, base * fusion, num_classes, conv)

    def forward(self, x: Tensor) -> Tensor:
        """Return the main logits (n, num_classes, h, w) of an image batch x (n, 3, h, w)."""
        _, _, feat8, _, feat_cp8, *_ = self.cp(x)
        out = self.conv_out(self.ffm(feat8, feat_cp8))
        return F.interpolate(out, x.shape[2:], mode="bilinear", align_corners=True)


def stdc_seg(
    depth: str,
    variant: str = "plain",
    infer: bool = False,
    num_classes: int = 19,
    use_conv_last: bool = False,
    base: int = 64,
) -> nn.Module:
    """Build STDC-Seg on the backbone `depth` ("stdcnet813", "stdcnet1446") as a variant, for training or inference.

    Raises ValueError for an unknown variant, and for "del" with `use_conv_last`, which is at stride 32.
    """
    if variant not in FUSION:
        raise ValueError(f"variant is {variant!r}, it must be one of {', '.join(FUSION)}")
    layers, stages = LAYERS[depth], 5
    if variant == "del":
        if use_conv_last:
            raise ValueError("use_conv_last: the variant del has no stage at stride 32")
        stages = 4
        layers = (*layers[:2], 0) if infer else layers  # the fork's training network holds them, and never runs them
    backbone = STDCNet(layers, base, use_conv_last=use_conv_last, stages=stages, classifier=not infer)
    conv: ConvBlock = DWConvBNReLU if variant == "dw" else ConvBNReLU
    if infer:
        return BiSeNetInfer(backbone, num_classes, base, FUSION[variant], conv)
    return BiSeNet(backbone, num_classes, base=base, fusion=FUSION[variant], conv=conv)
