"""CuberrChen/STDCNet-Paddle's model/model_stages_paddle.py: the BiSeNet that the repository's train.py trains.

Upstream's names, with a bias in every convolution and Linear (`bias_attr=None` is Paddle's "with a bias") and the
second names of the stages, which Paddle counts from 0 in each stage.
"""

from dataclasses import replace

from stdc_parity.converters.layout import Line
from stdc_parity.converters.layouts import stdcnet_paddle

LAYOUT = replace(
    stdcnet_paddle.LAYOUT,
    name="stdcnet-paddle-bisenet",
    title="STDCNet-Paddle's BiSeNet",
    lines=(Line("**", "**", bias=True),),
)
