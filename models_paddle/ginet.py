"""GINet on a dilated ResNet, in Paddle. `models_torch/ginet.py` is its twin, line by line.

"GINet: Graph Interaction Network for Scene Parsing" (Wu et al., ECCV 2020). There is no PyTorch code of the
authors in public: behaviour and attribute names are those of paddleseg/models/ginet.py in PaddleSeg, sequences
numbered as PyTorch numbers them, and joint pyramid upsampling those of encoding/nn/customize.py in
github.com/wuhuikai/FastFCN, where it comes from. Beside them stands what the paper's semantic context loss
needs and PaddleSeg leaves out: `presence`, which says of each class whether it is in the image, from the node
that the class has in the semantic graph. Upstream's widths are those of base 64; here all scale but the words'.
"""

import paddle
from paddle import Tensor, nn

from stdc_parity.models_paddle.glore import GCN
from stdc_parity.models_paddle.heads import AUX_DROPOUT, make_block, make_head, param_groups, resize
from stdc_parity.models_paddle.layers import (
    BatchNorm1d,
    BatchNorm2d,
    make_conv,
    make_conv1d,
    make_linear,
    make_zeros,
)
from stdc_parity.models_paddle.resnet import ResNet, resnet50_v1d, resnet101_v1d

WORD = 300
"""Numbers of a class name's embedding (GloVe's)."""

NODES = 84
"""Nodes of the visual graph."""

DILATIONS = (1, 2, 4, 8)
"""Of the four branches of joint pyramid upsampling (FastFCN, section 3.3)."""


class SeparableConv(nn.Layer):
    """Depthwise 3x3 convolution, batch norm, 1x1 convolution: (n, in_planes, h, w) -> (n, out_planes, h, w)."""

    def __init__(self, in_planes: int, out_planes: int, dilation: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv1 = make_conv(in_planes, in_planes, 3, groups=in_planes, dilation=dilation)
        self.bn = BatchNorm2d(in_planes)
        self.pointwise = make_conv(in_planes, out_planes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.pointwise(self.bn(self.conv1(x)))


class JPU(nn.Layer):
    """Joint pyramid upsampling: features of the last three stages -> (n, 4 * width, h, w) at the first one's size."""

    def __init__(self, in_planes: tuple[int, int, int], width: int) -> None:
        """Build the layers; `in_planes` are the features' channels."""
        super().__init__()
        self.conv5 = nn.Sequential(*make_block(in_planes[2], width, 3))
        self.conv4 = nn.Sequential(*make_block(in_planes[1], width, 3))
        self.conv3 = nn.Sequential(*make_block(in_planes[0], width, 3))
        branches = [SeparableConv(width * 3, width, dilation) for dilation in DILATIONS]
        self.dilation1 = nn.Sequential(branches[0], BatchNorm2d(width), nn.ReLU())
        self.dilation2 = nn.Sequential(branches[1], BatchNorm2d(width), nn.ReLU())
        self.dilation3 = nn.Sequential(branches[2], BatchNorm2d(width), nn.ReLU())
        self.dilation4 = nn.Sequential(branches[3], BatchNorm2d(width), nn.ReLU())

    def forward(self, feat2: Tensor, feat3: Tensor, feat4: Tensor) -> Tensor:
        """Resize with aligned corners, join, and look at four dilations."""
        fine = self.conv3(feat2)
        coarse = [self.conv5(feat4), self.conv4(feat3)]
        feats = [resize(feat, fine.shape[2:], True) for feat in coarse]
        joint = paddle.concat([*feats, fine], 1)  # (n, 3 * width, h, w)
        branches = (self.dilation1, self.dilation2, self.dilation3, self.dilation4)
        return paddle.concat([branch(joint) for branch in branches], 1)


class GraphTransfer(nn.Layer):
    """Let two graphs see each other: (n, c, words) and (n, c, nodes) -> (n, c, words) and (n, c, nodes)."""

    def __init__(self, planes: int) -> None:
        """Build the layers."""
        super().__init__()
        self.query_conv = make_conv1d(planes, planes // 2)
        self.key_conv = make_conv1d(planes, planes // 2)
        self.value_conv_vis = make_conv1d(planes, planes)
        self.value_conv_word = make_conv1d(planes, planes)
        self.softmax_vis = nn.Softmax(-1)
        self.softmax_word = nn.Softmax(-2)

    def forward(self, word: Tensor, vis: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the words take from the nodes, and what the nodes take from the words."""
        energy = self.query_conv(word).mT @ self.key_conv(vis)  # (n, words, nodes)
        to_word = self.value_conv_vis(vis) @ self.softmax_vis(energy).mT
        return to_word, self.value_conv_word(word) @ self.softmax_word(energy)


class GraphLayer(nn.Layer):
    """Both graphs' convolutions and what passes between them, which starts at nothing."""

    def __init__(self, num_state: int, num_node: int, num_classes: int) -> None:
        """Build the layers."""
        super().__init__()
        self.vis_gcn = GCN(num_state, num_node)
        self.word_gcn = GCN(num_state, num_classes)
        self.transfer = GraphTransfer(num_state)
        self.gamma_vis = make_zeros(num_node)
        self.gamma_word = make_zeros(num_classes)

    def forward(self, word: Tensor, vis: Tensor) -> tuple[Tensor, Tensor]:
        """Return the semantic graph (n, num_state, num_classes) and the visual one (n, num_state, num_node)."""
        word, vis = self.word_gcn(word), self.vis_gcn(vis)
        to_word, to_vis = self.transfer(word, vis)
        return self.gamma_word * word + to_word, self.gamma_vis * to_vis + vis


class GlobalReasonUnit(nn.Layer):
    """Graph interaction unit (paper, section 3.2): features (n, in_planes, h, w) and words -> features, classes."""

    def __init__(self, in_planes: int, num_state: int, num_classes: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv_theta = make_conv(in_planes, NODES, 1, bias=True)
        self.conv_phi = make_conv(in_planes, num_state, 1, bias=True)
        self.graph = GraphLayer(num_state, NODES, num_classes)
        self.extend_dim = make_conv(num_state, in_planes, 1)
        self.bn = BatchNorm2d(in_planes)

    def forward(self, x: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
        """Average the pixels' states into nodes, let them and the words reason, and add what comes back.

        The second result is the semantic graph (n, num_state, num_classes).
        """
        theta = self.conv_theta(x).flatten(2)  # (n, NODES, h * w)
        phi = self.conv_phi(x).flatten(2)  # (n, num_state, h * w)
        nodes = phi @ theta.mT / (x.shape[2] * x.shape[3])  # (n, num_state, NODES)
        classes, nodes = self.graph(word, nodes)
        back = (nodes @ theta).reshape([x.shape[0], -1, x.shape[2], x.shape[3]])  # (n, num_state, h, w)
        return self.bn(self.extend_dim(back)) + x, classes


class GIHead(nn.Layer):
    """The head: features (n, in_planes, h, w) -> logits (n, num_classes, h, w) and presences (n, num_classes)."""

    def __init__(self, in_planes: int, num_classes: int, presence: bool = True, dropout: float = 0.1) -> None:
        """Build the layers; `inp` are the embeddings of the class names, which training leaves alone."""
        super().__init__()
        width = in_planes // 4
        self.register_buffer("inp", paddle.zeros([num_classes, WORD]))
        self.fc1 = nn.Sequential(make_linear(WORD, width // 4), BatchNorm1d(width // 4), nn.ReLU())
        self.fc2 = nn.Sequential(make_linear(width // 4, width // 2), BatchNorm1d(width // 2), nn.ReLU())
        self.conv5 = nn.Sequential(*make_block(in_planes, width, 3))
        self.gloru = GlobalReasonUnit(width, width // 2, num_classes)
        self.conv6 = nn.Sequential(nn.Dropout(dropout), make_conv(width, num_classes, 1, bias=True))
        self.presence = make_conv1d(width // 2, 1) if presence else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits, and with `presence` the logits of each class being in the image."""
        word = self.fc2(self.fc1(self.inp)).unsqueeze(0).mT  # (1, width // 2, num_classes)
        word = word.expand([x.shape[0], -1, -1])
        out, classes = self.gloru(self.conv5(x), word)
        logits = self.conv6(out)
        return (logits,) if self.presence is None else (logits, self.presence(classes).squeeze(1))


class GINet(nn.Layer):
    """GINet: the backbone, joint pyramid upsampling, the head, and an auxiliary head on the third stage."""

    def __init__(self, backbone: ResNet, num_classes: int = 59, presence: bool = True) -> None:
        """Build the network around a backbone."""
        super().__init__()
        _, feat2, feat3, feat4 = backbone.widths
        self.backbone = backbone
        self.jpu = JPU((feat2, feat3, feat4), feat4 // 4)
        self.head = GIHead(feat4, num_classes, presence)
        self.auxlayer = make_head(feat3, feat3 // 4, num_classes, nn.Dropout(AUX_DROPOUT))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the main and the auxiliary logits (n, num_classes, h, w) of an image batch x (n, 3, h, w).

        Both are resized from stride 8 with aligned corners. With `presence` the third is the logits of each class
        being in the image, (n, num_classes).
        """
        size = x.shape[2:]
        _, feat2, feat3, feat4 = self.backbone(x)
        logits, *presence = self.head(self.jpu(feat2, feat3, feat4))
        return resize(logits, size, True), resize(self.auxlayer(feat3), size, True), *presence

    def get_params(self, backbone_norms: bool = True) -> tuple[list[Tensor], ...]:
        """Return the four parameter groups of the recipe."""
        return param_groups((self.backbone,), (self.jpu, self.head, self.auxlayer), backbone_norms)


def ginet_resnet50(num_classes: int = 59, presence: bool = True, base: int = 64) -> GINet:
    """Build GINet on ResNet-50."""
    return GINet(resnet50_v1d(base, num_classes=0, dilate_first=True), num_classes, presence)


def ginet_resnet101(num_classes: int = 59, presence: bool = True, base: int = 64) -> GINet:
    """Build GINet on ResNet-101."""
    return GINet(resnet101_v1d(base, num_classes=0, dilate_first=True), num_classes, presence)
