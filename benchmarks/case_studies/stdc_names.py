"""What upstream calls the parts of STDC-Seg and how it groups its parameters, and what PaddleSeg calls them."""

from __future__ import annotations

CONTEXT = ("cp.arm16.conv", "cp.arm32.conv", "cp.conv_head32", "cp.conv_head16", "cp.conv_avg", "ffm.convblk")
HEADS = {
    "conv_out": "conv_out",
    "conv_out16": "conv_out8",
    "conv_out32": "conv_out16",
    **{f"conv_out_sp{stride}": f"conv_out_sp{stride}" for stride in (16, 8, 4, 2)},
}
"""Upstream's heads and PaddleSeg's, by what they are given (models/model_stages.py, paddleseg/models/stdcseg.py)."""

PARTS = {"conv": "_conv", "bn": "_batch_norm", "relu": "_relu"}


def _renamed(heads: dict[str, str]) -> dict[str, str]:
    blocks = dict(zip(CONTEXT, CONTEXT, strict=True)) | {f"{a}.conv": f"{b}.conv" for a, b in heads.items()}
    parts = {f"{a}.{x}": f"{b}.{y}" for a, b in blocks.items() for x, y in PARTS.items()}
    outer = {a: b for a, b in heads.items() if a != b}
    return outer | {f"{a}.{part}": f"{b}.{part}" for a, b in outer.items() for part in ("conv", "conv_out")} | parts


PADDLESEG = _renamed(HEADS)
"""Upstream's paths of modules, and PaddleSeg's where they differ."""

BY_NAME = _renamed({head: head for head in HEADS})
"""The same for somebody who takes heads of one name for the same."""


def upstream_name(name: str) -> str:
    """What upstream calls a tensor of PaddleSeg's."""
    module, _, last = name.rpartition(".")
    found = next((a for a, b in PADDLESEG.items() if b == module), module)
    return f"{found}.{last}"


def group_of(name: str) -> str:
    """Upstream's group of a parameter: ten times the rate for fusion and heads, no decay for norms and biases."""
    if name.startswith("loss."):
        return "loss"
    heads = name.startswith(("ffm.", "conv_out"))
    bare = name.endswith(".bias") or ".bn." in name or "bn_atten" in name or ".avd_layer.1." in name
    return f"{'lr_mul_' if heads else ''}{'nowd' if bare else 'wd'}"
