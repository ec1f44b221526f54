"""Our Paddle twin and backbones of CuberrChen/STDCNet-Paddle: official names with Paddle's norm statistics.

The latter also has the stages' tensors a second time (`x8.0.…`), counted from 0 within the stage; torch's
slices of a Sequential keep their numbers. So `x8.0.2` is `features.2` in a file that was converted by name
from PyTorch, and `features.4` in one that Paddle saved: the plan tells which. PaddleSeg's backbones alone have these
names too.
"""

from stdc_parity.converters.layout import Layout, Line
from stdc_parity.converters.layouts.paddleseg import OLDER

LAYOUT = Layout(
    name="paddle",
    side="paddle",
    title="our Paddle twin; backbones of STDCNet-Paddle and PaddleSeg",
    lines=(Line("**", "**"),),
    older=OLDER,
    aliases=True,
)
