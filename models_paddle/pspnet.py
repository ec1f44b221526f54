"""PSPNet on a dilated ResNet, in Paddle. `models_torch/pspnet.py` is its twin, line by line.

"Pyramid Scene Parsing Network" (Zhao et al., CVPR 2017). Behaviour, attribute names and defaults are those of
model/pspnet.py in github.com/hszhao/semseg (the first author's), whose state dicts load as they are: its ResNet
has three 3x3 convolutions at its start, and the dilated stages are dilated from their first block on. Upstream
takes sizes of 8k + 1 only, for which its zoom to (size - 1) / 8 * zoom_factor + 1 is the input's; here the
logits have the input's size for every size. Upstream's widths are those of base 64; here all scale.
"""

from paddle import Tensor, nn

from stdc_parity.models_paddle.heads import (
    AUX_DROPOUT,
    PyramidPooling,
    make_head,
    param_groups,
    resize,
)
from stdc_parity.models_paddle.resnet import ResNet, resnet50_v1s, resnet101_v1s


class PSPNet(nn.Layer):
    """PSPNet: the backbone's stages, pyramid pooling, the head, and an auxiliary head on the third stage."""

    def __init__(self, backbone: ResNet, num_classes: int = 19, dropout: float = 0.1) -> None:
        """Build the network of a backbone's parts; its classifier is left out."""
        super().__init__()
        _, _, feat3, feat4 = backbone.widths
        self.layer0 = nn.Sequential(*backbone.conv1, backbone.bn1, nn.ReLU(), backbone.maxpool)
        self.layer1 = backbone.layer1
        self.layer2 = backbone.layer2
        self.layer3 = backbone.layer3
        self.layer4 = backbone.layer4
        self.ppm = PyramidPooling(feat4)
        self.cls = make_head(feat4 * 2, feat4 // 4, num_classes, nn.Dropout2D(dropout))
        self.aux = make_head(feat3, feat3 // 4, num_classes, nn.Dropout2D(AUX_DROPOUT))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the main and the auxiliary logits (n, num_classes, h, w) of an image batch x (n, 3, h, w).

        Both are resized from stride 8 with aligned corners.
        """
        size = x.shape[2:]
        feat3 = self.layer3(self.layer2(self.layer1(self.layer0(x))))
        feat4 = self.layer4(feat3)
        return resize(self.cls(self.ppm(feat4)), size, True), resize(self.aux(feat3), size, True)

    def get_params(self, backbone_norms: bool = True) -> tuple[list[Tensor], ...]:
        """Return the four parameter groups of the recipe; the heads are `ppm`, `cls` and `aux`."""
        backbone = (self.layer0, self.layer1, self.layer2, self.layer3, self.layer4)
        return param_groups(backbone, (self.ppm, self.cls, self.aux), backbone_norms)


def pspnet_resnet50(num_classes: int = 19, base: int = 64) -> PSPNet:
    """Build PSPNet on ResNet-50."""
    return PSPNet(resnet50_v1s(base, dilate_first=True), num_classes)


def pspnet_resnet101(num_classes: int = 19, base: int = 64) -> PSPNet:
    """Build PSPNet on ResNet-101."""
    return PSPNet(resnet101_v1s(base, dilate_first=True), num_classes)
