"""PaddleSeg 2.8: paddleseg/models/stdcseg.py and models/backbones/stdcnet.py.

Its heads bear other names than upstream's, by stride where upstream goes by the depth of the feature:
`conv_out8` is upstream's `conv_out16`, and `conv_out16` upstream's `conv_out32`. Their shapes are equal, so
nothing but a forward pass shows a mistake. All convolutions outside the backbone have biases (`bias_attr=None`
is Paddle's "with a bias"), upstream's have none. Older releases' backbones have the stages a second time, as
upstream does, and a `conv_last`.
"""

from stdc_parity.converters.layout import Layout, Line

HEADS = {
    # upstream: PaddleSeg
    "conv_out": "conv_out",
    "conv_out16": "conv_out8",
    "conv_out32": "conv_out16",
    "conv_out_sp*": "conv_out_sp*",
}

TRUNK = (
    Line("[cp.backbone.]features.**", "[cp.backbone.]features.**"),
    Line("cp.arm*.conv.conv", "cp.arm*.conv._conv", bias=True),
    Line("cp.arm*.conv.bn", "cp.arm*.conv._batch_norm"),
    Line("cp.arm*.conv_atten", "cp.arm*.conv_atten", bias=True),
    Line("cp.arm*.bn_atten", "cp.arm*.bn_atten"),
    Line("cp.conv_*.conv", "cp.conv_*._conv", bias=True),
    Line("cp.conv_*.bn", "cp.conv_*._batch_norm"),
    Line("ffm.convblk.conv", "ffm.convblk._conv", bias=True),
    Line("ffm.convblk.bn", "ffm.convblk._batch_norm"),
    Line("ffm.conv*", "ffm.conv*", bias=True),
)


def head(official: str, theirs: str) -> tuple[Line, ...]:
    """The lines of one head."""
    return (
        Line(f"{official}.conv.conv", f"{theirs}.conv._conv", bias=True),
        Line(f"{official}.conv.bn", f"{theirs}.conv._batch_norm"),
        Line(f"{official}.conv_out", f"{theirs}.conv_out", bias=True),
    )


OLDER = {"[cp.backbone.]conv_last.*": "only older releases of PaddleSeg have it (for use_conv_last)"}
NO_IMAGENET_HEAD = "PaddleSeg's backbone has no ImageNet head"
LAYOUT = Layout(
    name="paddleseg",
    side="paddle",
    title="PaddleSeg 2.8",
    family="stdc",
    lines=TRUNK + tuple(line for names in HEADS.items() for line in head(*names)),
    absent={
        "[cp.backbone.]conv_last.*": NO_IMAGENET_HEAD,
        "[cp.backbone.]fc": NO_IMAGENET_HEAD,
        "[cp.backbone.]bn": NO_IMAGENET_HEAD,
        "[cp.backbone.]linear": NO_IMAGENET_HEAD,
    },
    facts={"use_conv_last": (False,), "variant": ("plain",)},
    older=OLDER,
    aliases=True,
    advice="PaddleSeg's AvgPool2D leaves the padding out of its means (exclusive=True), upstream's counts it: set "
    "`layer.exclusive = False` on every AvgPool2D of the PaddleSeg network, or its logits differ "
    "(docs/checkpoints.md has the figures).",
    caveat="Was the checkpoint trained in PaddleSeg as it is? Its AvgPool2D leaves the padding out of its means "
    "(exclusive=True), and other code bases count it: their logits differ from PaddleSeg's (docs/checkpoints.md).",
)
