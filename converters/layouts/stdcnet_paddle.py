"""CuberrChen/STDCNet-Paddle's paddleseg/models/stdcseg.py: PaddleSeg's modules under upstream's head names.

So its `conv_out16` is upstream's `conv_out16`, which PaddleSeg calls `conv_out8`. Its backbone alone is the
layout `paddle`.
"""

from dataclasses import replace

from stdc_parity.converters.layouts import paddleseg

HEADS = ("conv_out", "conv_out16", "conv_out32", "conv_out_sp*")
LAYOUT = replace(
    paddleseg.LAYOUT,
    name="stdcnet-paddle",
    title="STDCNet-Paddle's STDCSeg",
    lines=paddleseg.TRUNK + tuple(line for name in HEADS for line in paddleseg.head(name, name)),
)
