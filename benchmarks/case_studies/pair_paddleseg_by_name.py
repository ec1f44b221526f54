"""The same as paddleseg.py, with the heads paired by their names, as who copies weights by name has them."""

from stdc_names import BY_NAME
from stdc_recipe import pair

PAIR = pair(
    "paddleseg-by-name", "upstream_stdc:build_without_imagenet_head", "paddleseg_stdc", 80_000, names=BY_NAME
)
