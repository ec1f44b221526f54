"""GloRe on a dilated ResNet, in PyTorch. `models_paddle/glore.py` is its twin, line by line.

"Graph-Based Global Reasoning Networks" (Chen et al., CVPR 2019). The unit's behaviour and attribute names are
those of GloRe_Unit_2D in github.com/facebookresearch/GloRe (the authors'), which has it in video networks only.
The segmentation network around it is PaddleSeg's, paddleseg/models/glore.py, under the names that torchvision
gives to such a network's parts: ResNet v1d, 1x1 to 512 channels, the unit, dropout 0.1, and an auxiliary head
whose first convolution has a bias. (Its unit has the graph convolution's ReLU behind the second convolution; here
it is where the authors have it.) PaddleSeg's widths are those of base 64; here all scale.
"""

from torch import Tensor, nn

from stdc_parity.models_torch.heads import AUX_DROPOUT, make_block, make_head, param_groups, resize
from stdc_parity.models_torch.layers import BatchNorm2d, make_conv, make_conv1d
from stdc_parity.models_torch.resnet import ResNet, resnet50_v1d, resnet101_v1d


class GCN(nn.Module):
    """Graph convolution: (n, num_state, num_node) -> (n, num_state, num_node)."""

    def __init__(self, num_state: int, num_node: int) -> None:
        """Build the layers: along the nodes, then along the states."""
        super().__init__()
        self.conv1 = make_conv1d(num_node, num_node)
        self.relu = nn.ReLU()
        self.conv2 = make_conv1d(num_state, num_state, False)

    def forward(self, x: Tensor) -> Tensor:
        """Let the nodes see each other, then mix each node's states."""
        nodes = self.conv1(x.mT)  # (n, num_node, num_state)
        return self.conv2(self.relu(nodes.mT + x))


class GloReUnit(nn.Module):
    """Global reasoning unit (paper, section 3): (n, in_planes, h, w) -> (n, in_planes, h, w)."""

    def __init__(self, in_planes: int, num_mid: int) -> None:
        """Build a unit of `num_mid` nodes with 2 * num_mid states each."""
        super().__init__()
        self.conv_state = make_conv(in_planes, num_mid * 2, 1, bias=True)
        self.conv_proj = make_conv(in_planes, num_mid, 1, bias=True)
        self.gcn = GCN(num_mid * 2, num_mid)
        self.conv_extend = make_conv(num_mid * 2, in_planes, 1)
        self.blocker = BatchNorm2d(in_planes, 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Sum the pixels' states into nodes, reason over them, and add what comes back to every pixel."""
        proj = self.conv_proj(x).flatten(2)  # (n, num_mid, h * w)
        state = self.conv_state(x).flatten(2)  # (n, 2 * num_mid, h * w)
        nodes = self.gcn(state @ proj.mT)  # (n, 2 * num_mid, num_mid)
        back = (nodes @ proj).reshape([x.shape[0], -1, x.shape[2], x.shape[3]])  # (n, 2 * num_mid, h, w)
        return x + self.blocker(self.conv_extend(back))


class GloRe(nn.Module):
    """GloRe: the backbone, the head with the unit, and an auxiliary head."""

    def __init__(self, backbone: ResNet, num_classes: int = 19, dropout: float = 0.1) -> None:
        """Build the network around a backbone."""
        super().__init__()
        _, _, feat3, feat4 = backbone.widths
        width = feat4 // 4
        self.backbone = backbone
        self.classifier = nn.Sequential(
            *make_block(feat4, width, 1),
            GloReUnit(width, width // 8),
            nn.Dropout(dropout),
            make_conv(width, num_classes, 1, bias=True),
        )
        self.aux_classifier = make_head(feat3, feat3 // 4, num_classes, nn.Dropout(AUX_DROPOUT), bias=True)

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


def glore_resnet50(num_classes: int = 19, base: int = 64) -> GloRe:
    """Build GloRe on ResNet-50."""
    return GloRe(resnet50_v1d(base, num_classes=0, dilate_first=True), num_classes)


def glore_resnet101(num_classes: int = 19, base: int = 64) -> GloRe:
    """Build GloRe on ResNet-101."""
    return GloRe(resnet101_v1d(base, num_classes=0, dilate_first=True), num_classes)
