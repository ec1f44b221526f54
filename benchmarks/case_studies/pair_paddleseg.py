"""PaddleSeg's STDCSeg against MichaelFan01/STDC-Seg, as a pair file of stdc-align."""

from stdc_names import PADDLESEG
from stdc_recipe import pair

PAIR = pair(
    "paddleseg", "upstream_stdc:build_without_imagenet_head", "paddleseg_stdc", iterations=80_000, names=PADDLESEG
)
