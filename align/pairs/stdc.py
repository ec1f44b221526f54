"""STDC-Seg and its backbones as pairs of our own twins."""

from __future__ import annotations

from stdc_parity.align.pair import Floor, Pair
from stdc_parity.align.pairs.stdc_recipe import recipe
from stdc_parity.converters import stdc
from stdc_parity.converters.architecture import Architecture, Side

NAMES = ("stdc1-seg", "stdc2-seg", "stdcnet813", "stdcnet1446")

SEG_STAGES = (
    "cp.arm32", "cp.conv_avg", "cp.conv_head32", "cp.arm16", "cp.conv_head16",
    "conv_out_sp2", "conv_out_sp4", "conv_out_sp8", "conv_out_sp16",
    "ffm", "conv_out", "conv_out16", "conv_out32",
)  # fmt: skip
SEG_OUTPUTS = ("logits", "logits16", "logits32", "detail8")
"""What the segmentation twins return by default (`use_boundary_8`), at the places of upstream's forward."""

BILINEAR = "Paddle computes bilinear interpolation ratios in float32 even for float64 tensors"
EPSILON = "an epsilon of 1e-8 that guards a mean over labelled pixels is less than float32 can tell"
AVGPOOL = "the gradient of Paddle's AvgPool2D divides by a float32 9"
FLOORS = (
    Floor(r"logits(16|32)?", 2e-5, BILINEAR),
    Floor(r"(bce|dice)8|total", 2e-5, BILINEAR),
    Floor(r"ohem of few labels", 1e-6, EPSILON),
    Floor(r"(weighted )?ohem.*", 2e-8, EPSILON),
    Floor(r"loss .*", 2e-5, BILINEAR),
    Floor(r"grad .*", 5e-5, BILINEAR),
    Floor(r"own grad (network|loss) .*", 5e-5, BILINEAR),
    Floor(r"own grad .*", 1e-7, AVGPOOL),
)
"""Measured in float64: logits up to 5.6e-6 of scale at 360x480 and growing with the size (5e-7 at 128x256),
gradients behind them 5.6e-6, gradients of the pools 1e-8. The first pattern that matches a tap counts."""


def pair(name: str, architecture: Architecture | None = None, base: int = 64) -> Pair:
    """The pair called `name`, with the numbers of `architecture` if a checkpoint gave one."""
    depth = stdc.BACKBONE.get(name, name)
    facts = architecture.facts if architecture is not None and architecture.name == name else {}
    base, block = int(facts.get("base", base)), str(facts.get("block", "cat"))
    use_conv_last = bool(facts.get("use_conv_last", False))
    classes = int(facts.get("num_classes", 0)) or (19 if name in stdc.BACKBONE else 1000)
    arguments = {"base": base, "num_classes": classes, "use_conv_last": use_conv_last}
    features = tuple(f"features.{i}" for i in range(2 + sum(stdc.LAYERS[depth])))
    full = stdc.architecture(name, num_classes=classes, base=base, block=block, use_conv_last=use_conv_last)
    if name in stdc.BACKBONE:
        return Pair(
            name=name,
            builders=_builders("stdcseg", name),
            architecture=full,
            outputs=SEG_OUTPUTS,
            stages=tuple(f"cp.backbone.{feature}" for feature in features) + SEG_STAGES,
            arguments=arguments,
            parts={depth: "cp.backbone."},
            floors=FLOORS,
            recipe=recipe(classes),
        )
    return Pair(
        name=name,
        builders=_builders("stdcnet", name),
        architecture=full,
        outputs=("logits",),
        stages=(*features, "conv_last", "fc"),
        size=(224, 224),
        method="forward_impl",
        floors=(Floor(r"(own )?grad .*", 1e-7, AVGPOOL),),
        arguments=arguments | {"block": block, "dropout": 0.0},
    )


def _builders(module: str, name: str) -> dict[Side, str]:
    factory = f"{module}:{name.replace('-', '_')}"
    return {
        "torch": f"stdc_parity.models_torch.{factory}",
        "paddle": f"stdc_parity.models_paddle.{factory}",
    }
