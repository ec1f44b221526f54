"""STDC-Seg, the segmentation networks, in PyTorch. `models_paddle/stdcseg.py` is its twin, line by line.

"Rethinking BiSeNet For Real-time Semantic Segmentation" (Fan et al., CVPR 2021), section 3.2. Behaviour,
attribute names and defaults are those of models/model_stages.py in github.com/MichaelFan01/STDC-Seg, with a
plain batch norm in the place of InPlaceABNSync. Upstream's widths are those of base 64; here all scale.
"""

from torch import Tensor, cat, nn
from torch.nn import functional as F

from stdc_parity.models_torch.layers import BatchNorm2d, kaiming_normal_, make_conv
from stdc_parity.models_torch.stdcnet import STDCNet, stdcnet813, stdcnet1446


def init_weight(module: nn.Module) -> None:
    """Initialise the convolutions directly below a module as upstream: Kaiming-normal by fan-in, gain 1."""
    for child in module.children():
        if isinstance(child, nn.Conv2d):
            kaiming_normal_(child.weight, a=1)


class ConvBNReLU(nn.Module):
    """Convolution, batch norm, ReLU: (n, in_chan, h, w) -> (n, out_chan, h, w)."""

    def __init__(self, in_chan: int, out_chan: int, ks: int = 3) -> None:
        """Build the layers."""
        super().__init__()
        self.conv = make_conv(in_chan, out_chan, ks)
        self.bn = BatchNorm2d(out_chan)
        self.relu = nn.ReLU()
        init_weight(self)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.relu(self.bn(self.conv(x)))


ConvBlock = type[nn.Module]
"""What the heavy 3x3 convolutions are: `ConvBNReLU`, or another block with its two first arguments."""


class BiSeNetOutput(nn.Module):
    """Segmentation or detail head: (n, in_chan, h, w) -> logits (n, n_classes, h, w)."""

    def __init__(self, in_chan: int, mid_chan: int, n_classes: int, conv: ConvBlock = ConvBNReLU) -> None:
        """Build the layers, the first of type `conv`."""
        super().__init__()
        self.conv = conv(in_chan, mid_chan)
        self.conv_out = make_conv(mid_chan, n_classes, 1)
        init_weight(self)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.conv_out(self.conv(x))


class AttentionRefinementModule(nn.Module):
    """Channel attention: (n, in_chan, h, w) -> (n, out_chan, h, w)."""

    def __init__(self, in_chan: int, out_chan: int, conv: ConvBlock = ConvBNReLU) -> None:
        """Build the layers, the first of type `conv`."""
        super().__init__()
        self.conv = conv(in_chan, out_chan)
        self.conv_atten = make_conv(out_chan, out_chan, 1)
        self.bn_atten = BatchNorm2d(out_chan)
        self.sigmoid_atten = nn.Sigmoid()
        init_weight(self)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels by a gate computed from their means."""
        feat = self.conv(x)
        atten = feat.mean((2, 3), keepdim=True)  # (n, out_chan, 1, 1)
        return feat * self.sigmoid_atten(self.bn_atten(self.conv_atten(atten)))


class ContextPath(nn.Module):
    """Backbone and context: refines the features at strides 16 and 32 on their way up to stride 8."""

    def __init__(self, backbone: STDCNet, width: int = 128, conv: ConvBlock = ConvBNReLU) -> None:
        """Build the path around a backbone; `width` is the channels of both outputs."""
        super().__init__()
        self.backbone = backbone
        self.arm16 = AttentionRefinementModule(backbone.widths[3], width, conv)
        self.arm32 = AttentionRefinementModule(backbone.widths[4], width, conv)
        self.conv_head32 = conv(width, width)
        self.conv_head16 = conv(width, width)
        self.conv_avg = ConvBNReLU(backbone.widths[4], width, ks=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the backbone's features at strides 2, 4, 8 and 16, then the context at strides 8 and 16.

        x is an image batch (n, 3, h, w); both contexts have `width` channels.
        """
        feat2, feat4, feat8, feat16, feat32 = self.backbone(x)

        avg = self.conv_avg(feat32.mean((2, 3), keepdim=True))  # (n, width, 1, 1)
        feat32_sum = self.arm32(feat32) + avg  # (n, width, h/32, w/32)
        feat32_up = F.interpolate(feat32_sum, feat16.shape[2:], mode="nearest")
        feat32_up = self.conv_head32(feat32_up)  # (n, width, h/16, w/16)

        feat16_sum = self.arm16(feat16) + feat32_up
        feat16_up = F.interpolate(feat16_sum, feat8.shape[2:], mode="nearest")
        feat16_up = self.conv_head16(feat16_up)  # (n, width, h/8, w/8)
        return feat2, feat4, feat8, feat16, feat16_up, feat32_up


class ContextPath16(nn.Module):
    """Backbone and context from stride 16 alone, for a backbone that stops there (of four `stages`)."""

    def __init__(self, backbone: STDCNet, width: int = 128, conv: ConvBlock = ConvBNReLU) -> None:
        """Build the path around a backbone; `width` is the channels of the output."""
        super().__init__()
        self.backbone = backbone
        self.arm16 = AttentionRefinementModule(backbone.widths[3], width, conv)
        self.conv_head16 = conv(width, width)
        self.conv_avg = ConvBNReLU(backbone.widths[3], width, ks=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the backbone's features at strides 2, 4, 8 and 16, then the context at stride 8.

        x is an image batch (n, 3, h, w); the context has `width` channels.
        """
        feat2, feat4, feat8, feat16 = self.backbone(x)

        avg = self.conv_avg(feat16.mean((2, 3), keepdim=True))  # (n, width, 1, 1)
        feat16_sum = self.arm16(feat16) + avg  # (n, width, h/16, w/16)
        feat16_up = F.interpolate(feat16_sum, feat8.shape[2:], mode="nearest")
        feat16_up = self.conv_head16(feat16_up)  # (n, width, h/8, w/8)
        return feat2, feat4, feat8, feat16, feat16_up


class FeatureFusionModule(nn.Module):
    """Fuse detail and context: (n, a, h, w) and (n, b, h, w) with a + b = in_chan -> (n, out_chan, h, w)."""

    def __init__(self, in_chan: int, out_chan: int) -> None:
        """Build the layers."""
        super().__init__()
        self.convblk = ConvBNReLU(in_chan, out_chan, ks=1)
        self.conv1 = make_conv(out_chan, out_chan // 4, 1)
        self.conv2 = make_conv(out_chan // 4, out_chan, 1)
        self.relu = nn.ReLU()
        self.sigmoid = nn.Sigmoid()
        init_weight(self)

    def forward(self, fsp: Tensor, fcp: Tensor) -> Tensor:
        """Concatenate, mix, and add the channels weighed by a gate computed from their means."""
        feat = self.convblk(cat([fsp, fcp], 1))
        atten = feat.mean((2, 3), keepdim=True)  # (n, out_chan, 1, 1)
        atten = self.sigmoid(self.conv2(self.relu(self.conv1(atten))))
        return feat * atten + feat


def make_context(backbone: STDCNet, width: int, conv: ConvBlock) -> nn.Module:
    """Build the context path for as many stages as the backbone runs."""
    return (ContextPath if backbone.stages == 5 else ContextPath16)(backbone, width, conv)


class BiSeNet(nn.Module):
    """STDC-Seg: the context path, the fusion, three segmentation heads and four detail heads."""

    def __init__(
        self,
        backbone: STDCNet,
        num_classes: int = 19,
        use_boundary_2: bool = False,
        use_boundary_4: bool = False,
        use_boundary_8: bool = True,
        base: int = 64,
        fusion: int = 4,
        conv: ConvBlock = ConvBNReLU,
    ) -> None:
        """Build the network around a backbone; `base` is the backbone's.

        `fusion` times `base` are the channels of the fusion and its head, `conv` is the block of the 3x3
        convolutions on the way to the main logits. A backbone of four `stages` has no context at stride 16.
        """
        super().__init__()
        self.use_boundary_2 = use_boundary_2
        self.use_boundary_4 = use_boundary_4
        self.use_boundary_8 = use_boundary_8
        self.cp = make_context(backbone, base * 2, conv)
        sp2, sp4, sp8, sp16, _ = backbone.widths
        self.ffm = FeatureFusionModule(sp8 + base * 2, base * fusion)
        self.conv_out = BiSeNetOutput(base * fusion, base * fusion, num_classes, conv)
        self.conv_out16 = BiSeNetOutput(base * 2, base, num_classes)
        if backbone.stages == 5:
            self.conv_out32 = BiSeNetOutput(base * 2, base, num_classes)
        self.conv_out_sp16 = BiSeNetOutput(sp16, base, 1)
        self.conv_out_sp8 = BiSeNetOutput(sp8, base, 1)
        self.conv_out_sp4 = BiSeNetOutput(sp4, base, 1)
        self.conv_out_sp2 = BiSeNetOutput(sp2, base, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of an image batch x (n, 3, h, w).

        First the main, the 16x and the 32x logits (n, num_classes, h, w), which stem from strides 8, 8 and 16
        (the names are upstream's; the 32x logits only if there is a context at stride 16). Then the detail logits
        (n, 1, h/s, w/s) of the enabled boundaries s of 2, 4 and 8, in this order. Upstream knows none,
        8, 4 + 8 and 2 + 4 + 8; for others it returns None, which looks like an oversight.
        """
        feat2, feat4, feat8, feat16, feat_cp8, *feat_cp16 = self.cp(x)

        # All detail heads run, as upstream's do: in train mode their running statistics move.
        detail2 = self.conv_out_sp2(feat2)
        detail4 = self.conv_out_sp4(feat4)
        detail8 = self.conv_out_sp8(feat8)
        self.conv_out_sp16(feat16)

        logits = [self.conv_out(self.ffm(feat8, feat_cp8)), self.conv_out16(feat_cp8)]
        logits += [self.conv_out32(feat) for feat in feat_cp16]
        outs = [F.interpolate(each, x.shape[2:], mode="bilinear", align_corners=True) for each in logits]
        if self.use_boundary_2:
            outs.append(detail2)
        if self.use_boundary_4:
            outs.append(detail4)
        if self.use_boundary_8:
            outs.append(detail8)
        return tuple(outs)

    def get_params(self, backbone_norms: bool = True) -> tuple[list[Tensor], ...]:
        """Return upstream's four parameter groups: wd, nowd, lr_mul_wd, lr_mul_nowd.

        wd are the weights of convolutions and linear layers, nowd the parameters of batch norms; lr_mul are
        those outside the context path. `STDCNet.bn`, which no forward uses, is in no group.

        With `backbone_norms=False` the backbone's norms are in no group either: training leaves them alone.
        Upstream does that with InPlaceABNSync, by its isinstance test; its forks with BatchNorm2d train them,
        and so does the default.
        """
        wd, nowd = split_params(self.cp)
        if not backbone_norms:
            frozen = {id(param) for param in split_params(self.cp.backbone)[1]}
            nowd = [param for param in nowd if id(param) not in frozen]
        lr_mul_wd, lr_mul_nowd = [], []
        for name, child in self.named_children():
            if name != "cp":
                child_wd, child_nowd = split_params(child)
                lr_mul_wd += child_wd
                lr_mul_nowd += child_nowd
        return wd, nowd, lr_mul_wd, lr_mul_nowd


def split_params(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters of a module that decay (convolutions, linear layers) and that do not (norms)."""
    wd, nowd = [], []
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            wd.append(layer.weight)
        elif isinstance(layer, BatchNorm2d):
            nowd += [layer.weight, layer.bias]
    return wd, nowd


def stdc1_seg(
    num_classes: int = 19,
    use_boundary_2: bool = False,
    use_boundary_4: bool = False,
    use_boundary_8: bool = True,
    use_boundary_16: bool = False,
    use_conv_last: bool = False,
    base: int = 64,
) -> BiSeNet:
    """Build STDC1-Seg (backbone STDCNet813). As upstream's, `use_boundary_16` changes nothing."""
    backbone = stdcnet813(base, use_conv_last=use_conv_last)
    return BiSeNet(backbone, num_classes, use_boundary_2, use_boundary_4, use_boundary_8, base)


def stdc2_seg(
    num_classes: int = 19,
    use_boundary_2: bool = False,
    use_boundary_4: bool = False,
    use_boundary_8: bool = True,
    use_boundary_16: bool = False,
    use_conv_last: bool = False,
    base: int = 64,
) -> BiSeNet:
    """Build STDC2-Seg (backbone STDCNet1446). As upstream's, `use_boundary_16` changes nothing."""
    backbone = stdcnet1446(base, use_conv_last=use_conv_last)
    return BiSeNet(backbone, num_classes, use_boundary_2, use_boundary_4, use_boundary_8, base)
