"""How upstream groups ICNet's parameters (liminn/ICNet-pytorch, train.py)."""

from __future__ import annotations


def group_of(name: str) -> str:
    """Ten times the rate outside the backbone."""
    return "pretrained" if name.startswith("pretrained.") else "exclusive"
