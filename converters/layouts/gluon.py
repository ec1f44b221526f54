"""gluoncv's ResNets of model_zoo/resnetv1b.py (v1b, v1s, v1d), as MXNet's .params files hold them.

`save_parameters` writes the attributes' names, which are ours (`layer1.0.bn1.gamma`). `collect_params().save` and
`export` write the flat names that gluon makes up: the network's prefix, that of a Sequential with a name scope, and a
layer's class with its number in that scope (`resnetv1s_layers1_conv0_weight`, `…_down1_batchnorm0_gamma`).
"""

import re
from collections.abc import Mapping

from stdc_parity.converters.layout import Layout, Line
from stdc_parity.converters.sniffing import MXNET
from stdc_parity.converters.statedict import Array

_FLAT = re.compile(
    r"(?:(?P<net>[^_]+)_)??(?:(?P<scope>layers|down)(?P<stage>[1-4])_)?(?P<layer>conv|(?:sync)?batchnorm|dense)"
    r"(?P<number>\d{1,3})_(?P<last>weight|bias|gamma|beta|running_mean|running_var)"
)


def structured_names(tensors: Mapping[str, Array]) -> dict[str, str]:
    """The names of a file's tensors as `save_parameters` would write them.

    `arg:` and `aux:`, which `export` puts before them, go. Flat names of other networks stay.
    """
    plain = {name: re.sub(r"^(arg|aux):", "", name) for name in tensors}
    found = {name: _FLAT.fullmatch(short) for name, short in plain.items()}
    flat = {name: match for name, match in found.items() if match is not None}
    if len(flat) < len(plain) or len({match["net"] for match in flat.values()}) != 1:
        return plain
    deep = any(m["scope"] is None and m["layer"] == "conv" and m["number"] == "2" for m in flat.values())
    first = {match["scope"]: tensors[name].shape[:1] for name, match in flat.items()
             if match["layer"] == "conv" and match["number"] == "0" and match["stage"] in (None, "1")}  # fmt: skip
    pooled = deep and [2 * n for n in first.get(None, ())] == list(first.get("layers", ()))
    return {name: f"{_module(match, deep, pooled)}.{match['last']}" for name, match in flat.items()}


def _module(match: re.Match[str], deep: bool, pooled: bool) -> str:
    """The module of a flat name: in v1s and v1d the stem is `deep`, in v1d projections come after a pool."""
    number, is_norm, stage = int(match["number"]), "norm" in match["layer"], match["stage"]
    if match["layer"] == "dense":
        return "fc"
    if match["scope"] == "layers":  # three convolutions and three norms a block, counted through the stage
        block, place = divmod(number, 3)
        return f"layer{stage}.{block}.{'bn' if is_norm else 'conv'}{place + 1}"
    if match["scope"] == "down":
        return f"layer{stage}.0.downsample.{pooled + is_norm}"
    if not deep:
        return "bn1" if is_norm else "conv1"
    return "bn1" if is_norm and number == 2 else f"conv1.{3 * number + is_norm}"


LAYOUT = Layout(
    name="gluon",
    side="torch",
    title="gluoncv's ResNets",
    lines=(Line("**", "**"),),
    suffixes={"norm.weight": "gamma", "norm.bias": "beta"},
    family="resnet",
    container=MXNET,
    structured=structured_names,
)
