"""CuberrChen/STDCNet-Paddle's paddleseg/models/stdcseg.py: PaddleSeg's modules under upstream's head names.

So its `conv_out16` is upstream's `conv_out16`, which PaddleSeg calls `conv_out8`. Unlike PaddleSeg's its backbone
(paddleseg/models/backbones/stdcnet.py) has the ImageNet head and the second names of the stages, and a bias in every
convolution and Linear: `bias_attr=None` is Paddle's "with a bias". What the repository's own converter made of
upstream's backbones has no biases, and is the layout `paddle`.
"""

from dataclasses import replace

from stdc_parity.converters.layout import Line
from stdc_parity.converters.layouts import paddleseg


def _whose(text: str) -> str:
    return text.replace("PaddleSeg", "STDCNet-Paddle")


HEADS = ("conv_out", "conv_out16", "conv_out32", "conv_out_sp*")
BACKBONE = ("[cp.backbone.]features.**", "[cp.backbone.]conv_last.**", "[cp.backbone.]fc", "[cp.backbone.]linear")
LAYOUT = replace(
    paddleseg.LAYOUT,
    name="stdcnet-paddle",
    title="STDCNet-Paddle's STDCSeg",
    lines=(
        *(Line(modules, modules, bias=True) for modules in BACKBONE),
        Line("[cp.backbone.]bn", "[cp.backbone.]bn"),
        *paddleseg.TRUNK[1:],
        *(line for name in HEADS for line in paddleseg.head(name, name)),
    ),
    absent={},
    facts={"variant": ("plain",)},
    older={},
    advice=_whose(paddleseg.LAYOUT.advice),
    caveat=_whose(paddleseg.LAYOUT.caveat),
)
