"""DeepLabv3 on a dilated ResNet, in Paddle. `models_torch/deeplabv3.py` is its twin, line by line.

"Rethinking Atrous Convolution for Semantic Image Segmentation" (Chen et al., 2017). Behaviour, attribute names
and defaults are those of torchvision's deeplabv3_resnet50 and deeplabv3_resnet101 (models/segmentation/), whose
state dicts with an auxiliary classifier load as they are (its published weights are for 21 classes). Torchvision's
widths are those of base 64; here all scale.
"""

from paddle import Tensor, nn

from stdc_parity.models_paddle.heads import ASPP, AUX_DROPOUT, make_block, make_head, param_groups, resize
from stdc_parity.models_paddle.layers import make_conv
from stdc_parity.models_paddle.resnet import ResNet, resnet50_v1b, resnet101_v1b


class DeepLabV3(nn.Layer):
    """DeepLabv3: the backbone, atrous spatial pyramid pooling with its head, and an auxiliary head."""

    def __init__(self, backbone: ResNet, num_classes: int = 19) -> None:
        """Build the network around a backbone."""
        super().__init__()
        _, _, feat3, feat4 = backbone.widths
        width = feat4 // 8
        self.backbone = backbone
        self.classifier = nn.Sequential(
            ASPP(feat4, width), *make_block(width, width, 3), make_conv(width, num_classes, 1, bias=True)
        )
        self.aux_classifier = make_head(feat3, feat3 // 4, num_classes, nn.Dropout(AUX_DROPOUT))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the main and the auxiliary logits (n, num_classes, h, w) of an image batch x (n, 3, h, w).

        Both are resized from stride 8 without aligned corners.
        """
        size = x.shape[2:]
        _, _, feat3, feat4 = self.backbone(x)
        return resize(self.classifier(feat4), size, False), resize(self.aux_classifier(feat3), size, False)

    def get_params(self, backbone_norms: bool = True) -> tuple[list[Tensor], ...]:
        """Return the four parameter groups of the recipe."""
        return param_groups((self.backbone,), (self.classifier, self.aux_classifier), backbone_norms)


def deeplabv3_resnet50(num_classes: int = 19, base: int = 64) -> DeepLabV3:
    """Build DeepLabv3 on ResNet-50."""
    return DeepLabV3(resnet50_v1b(base, num_classes=0), num_classes)


def deeplabv3_resnet101(num_classes: int = 19, base: int = 64) -> DeepLabV3:
    """Build DeepLabv3 on ResNet-101."""
    return DeepLabV3(resnet101_v1b(base, num_classes=0), num_classes)
