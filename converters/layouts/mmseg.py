"""mmsegmentation 1.2: mmseg/models/backbones/stdc.py and configs/_base_/models/stdc.py.

The context path counts from the deepest feature up: `arms.0` and `convs.0` are upstream's `arm32` and
`conv_head32`. The auxiliary heads go by `in_index`: head 0 reads the context at stride 8 (upstream's
`conv_out16`), head 1 that at stride 16 (`conv_out32`), head 2 is the detail head of stride 8. The classifiers
have biases, upstream's have none. The detail head has two sigmoid channels, "no detail" and "detail".
"""

from stdc_parity.converters.layout import Constant, Layout, Line

STAGES = {"8x": 2, "16x": 3, "32x": 4}
OURS, THEIRS = "[cp.backbone.]features", "[backbone.backbone.]stages"
BACKBONE = (
    Line(f"{OURS}.0.*", f"{THEIRS}.0.*"),
    Line(f"{OURS}.1.*", f"{THEIRS}.1.*"),
    *(
        Line(f"{OURS}.{{{stride}}}.{official}", f"{THEIRS}.{n}.{{{stride}}}.{theirs}")
        for stride, n in STAGES.items()
        for official, theirs in {
            "conv_list.*.*": "layers.*.*",
            "avd_layer.0": "downsample.conv",
            "avd_layer.1": "downsample.bn",
        }.items()
    ),
)
CONTEXT = (
    Line("cp.arm32.conv.*", "backbone.arms.0.conv_layer.*"),
    Line("cp.arm32.conv_atten", "backbone.arms.0.atten_conv_layer.1.conv"),
    Line("cp.arm32.bn_atten", "backbone.arms.0.atten_conv_layer.1.bn"),
    Line("cp.arm16.conv.*", "backbone.arms.1.conv_layer.*"),
    Line("cp.arm16.conv_atten", "backbone.arms.1.atten_conv_layer.1.conv"),
    Line("cp.arm16.bn_atten", "backbone.arms.1.atten_conv_layer.1.bn"),
    Line("cp.conv_head32.*", "backbone.convs.0.*"),
    Line("cp.conv_head16.*", "backbone.convs.1.*"),
    Line("cp.conv_avg.*", "backbone.conv_avg.*"),
    Line("ffm.convblk.*", "backbone.ffm.conv0.*"),
    Line("ffm.conv1", "backbone.ffm.attention.1.conv"),
    Line("ffm.conv2", "backbone.ffm.attention.2.conv"),
)
HEADS = (
    Line("conv_out.conv.*", "decode_head.convs.0.*"),
    Line("conv_out.conv_out", "decode_head.conv_seg", bias=True),
    Line("conv_out16.conv.*", "auxiliary_head.0.convs.0.*"),
    Line("conv_out16.conv_out", "auxiliary_head.0.conv_seg", bias=True),
    Line("conv_out32.conv.*", "auxiliary_head.1.convs.0.*"),
    Line("conv_out32.conv_out", "auxiliary_head.1.conv_seg", bias=True),
    Line("conv_out_sp8.conv.*", "auxiliary_head.2.convs.0.*"),
    Line("conv_out_sp8.conv_out", "auxiliary_head.2.conv_seg", bias=True, pair=True),
)

NO_IMAGENET_HEAD = "mmseg's backbone has no ImageNet head"
NO_DETAIL_HEAD = "mmseg has the detail head of stride 8 alone"
LAYOUT = Layout(
    name="mmseg",
    side="torch",
    title="mmsegmentation 1.2",
    family="stdc",
    lines=BACKBONE + CONTEXT + HEADS,
    absent={
        "[cp.backbone.]conv_last.*": NO_IMAGENET_HEAD,
        "[cp.backbone.]fc": NO_IMAGENET_HEAD,
        "[cp.backbone.]bn": NO_IMAGENET_HEAD,
        "[cp.backbone.]linear": NO_IMAGENET_HEAD,
        "conv_out_sp16.**": NO_DETAIL_HEAD,
        "conv_out_sp4.**": NO_DETAIL_HEAD,
        "conv_out_sp2.**": NO_DETAIL_HEAD,
    },
    constants={  # STDCHead's: of the loss's detail targets, never trained
        "auxiliary_head.2.fusion_kernel": Constant("conv_out_sp8.conv_out", [[[[0.6]], [[0.3]], [[0.1]]]]),
        "auxiliary_head.2.laplacian_kernel": Constant(
            "conv_out_sp8.conv_out", [[[[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]]]
        ),
    },
    facts={"use_conv_last": (False,), "block": ("cat",), "variant": ("plain", "cut")},
)
