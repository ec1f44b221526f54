"""PaddleSeg 2.8: paddleseg/models/glore.py and ginet.py on ResNet50_vd and ResNet101_vd (backbones/resnet_vd.py).

Their structure is the twins', so that every tensor has its place but what GINet's semantic context loss needs, which
PaddleSeg does without. PSPNet and DeepLabV3 are other networks in PaddleSeg than semseg's and torchvision's: other
orders of concatenation, biases and heads.
"""

from __future__ import annotations

from collections.abc import Iterator

from stdc_parity.converters import dilated
from stdc_parity.converters.layout import Layout, Line


def pair(official: str, theirs: str, first: int = 0) -> Iterator[Line]:
    """A convolution and its norm, items `first` and `first` + 1 of a sequence: PaddleSeg's ConvBNReLU."""
    yield Line(f"{official}.{first}", f"{theirs}._conv")
    yield Line(f"{official}.{first + 1}", f"{theirs}._batch_norm")


def resnet() -> Iterator[Line]:
    """The backbone: ResNet v1d, `vd` in Paddle's words."""
    yield from pair("backbone.conv1", "backbone.conv1_1", 0)
    yield from pair("backbone.conv1", "backbone.conv1_2", 3)
    yield Line("backbone.conv1.6", "backbone.conv1_3._conv")
    yield Line("backbone.bn1", "backbone.conv1_3._batch_norm")
    for stage in range(4):
        ours, theirs = f"backbone.layer{stage + 1}.*", f"backbone.bb_{stage}_*"
        for number in range(3):
            yield Line(f"{ours}.conv{number + 1}", f"{theirs}.conv{number}._conv")
            yield Line(f"{ours}.bn{number + 1}", f"{theirs}.conv{number}._batch_norm")
        yield from pair(f"{ours}.downsample", f"{theirs}.short", 1)


def glore() -> Iterator[Line]:
    """GloRe's head."""
    yield from pair("classifier", "head.conv_bn_relu")
    unit = {"conv_state": "reduction_dim", "conv_proj": "projection_mat", "gcn.conv*": "gcn.conv*",
            "conv_extend": "extend_dim", "blocker": "extend_bn"}  # fmt: skip
    for ours, theirs in unit.items():
        yield Line(f"classifier.3.{ours}", f"head.gru_module.{theirs}")
    yield Line("classifier.5", "head.classifier")
    yield from pair("aux_classifier", "head.auxlayer.conv_bn_relu")
    yield Line("aux_classifier.4", "head.auxlayer.conv")


def ginet() -> Iterator[Line]:
    """GINet's joint pyramid upsampling and heads."""
    for number in (5, 4, 3):
        yield from pair(f"jpu.conv{number}", f"jpu.conv{number}")
    for number in range(1, 5):
        ours, theirs = f"jpu.dilation{number}", f"jpu.dilation{number}"
        yield Line(f"{ours}.0.conv1", f"{theirs}.depthwise_conv._conv")
        yield Line(f"{ours}.0.bn", f"{theirs}.depthwise_conv._batch_norm")
        yield Line(f"{ours}.0.pointwise", f"{theirs}.piontwise_conv._conv")  # their spelling
        yield Line(f"{ours}.1", f"{theirs}.piontwise_conv._batch_norm")
    yield Line("head", "head")
    yield Line("head.fc*.*", "head.fc*.*")
    yield from pair("head.conv5", "head.conv5")
    yield Line("head.gloru.**", "head.gloru.**")
    yield Line("head.conv6.1", "head.conv6.1")
    yield from pair("auxlayer", "auxlayer.conv_bn_relu")
    yield Line("auxlayer.4", "auxlayer.conv")


RELU = (
    "PaddleSeg's GloRe has the ReLU of its graph convolution behind the second convolution, our twins before it, as "
    "the authors:"
)
GINET = "Its GINet computes the same (docs/dilated.md)."
LAYOUT = Layout(
    name="paddleseg-dilated",
    side="paddle",
    title="PaddleSeg 2.8's GloRe and GINet",
    family=dilated.NAME,
    lines=(*resnet(), *glore(), *ginet()),
    facts={"backbone": ("v1d",)},
    absent={dilated.PRESENCE: "PaddleSeg trains GINet without its semantic context loss"},
    advice=f"{RELU} such a file computes otherwise in PaddleSeg. {GINET}",
    caveat=f"{RELU} its logits differ from theirs. {GINET}",
)
