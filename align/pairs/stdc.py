"""STDC-Seg and its backbones as pairs of our own twins."""

from __future__ import annotations

from collections.abc import Mapping

from stdc_parity.align.pair import Floor, Pair, Published
from stdc_parity.align.pairs.stdc_recipe import recipe
from stdc_parity.converters import stdc
from stdc_parity.converters.architecture import Architecture, Side

NAMES = (*stdc.FORMS, *stdc.LAYERS)

SEG_STAGES = (
    "cp.arm32", "cp.conv_avg", "cp.conv_head32", "cp.arm16", "cp.conv_head16",
    "conv_out_sp2", "conv_out_sp4", "conv_out_sp8", "conv_out_sp16",
    "ffm", "conv_out", "conv_out16", "conv_out32",
)  # fmt: skip
SEG_OUTPUTS = {"logits": "conv_out", "logits16": "conv_out16", "logits32": "conv_out32", "detail8": "conv_out_sp8"}
"""What the segmentation twins return by default (`use_boundary_8`), at the places of upstream's forward, and from
which head."""

TIMED = tuple(name for name, form in stdc.FORMS.items() if form.infer)
"""What `stdc-align latency` measures unless it is told: the networks as they are deployed, with one output."""

GPU = "GTX 1080 Ti with TensorRT"
PAPER = "the paper, and the commands for it in the README of MichaelFan01/STDC-Seg"
PUBLISHED = {
    "stdcnet813": (Published((512, 1024), 250.4, GPU, PAPER), Published((768, 1536), 126.7, GPU, PAPER)),
    "stdcnet1446": (Published((512, 1024), 188.6, GPU, PAPER), Published((768, 1536), 97.0, GPU, PAPER)),
}
"""Images per second of STDC1/2-Seg50 and -Seg75, by the backbone."""

BILINEAR = "Paddle computes bilinear interpolation ratios in float32 even for float64 tensors"
EPSILON = "an epsilon of 1e-8 that guards a mean over labelled pixels is less than float32 can tell"
AVGPOOL = "the gradient of Paddle's AvgPool2D divides by a float32 9"
FLOORS = (
    Floor(r"logits(16|32)?", 2e-5, BILINEAR),
    Floor(r"(bce|dice)8( of given inputs)?|total", 2e-5, BILINEAR),
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
    facts = architecture.facts if architecture is not None and name in _names_of(architecture) else {}
    base, block = int(facts.get("base", base)), str(facts.get("block", "cat"))
    use_conv_last = bool(facts.get("use_conv_last", False))
    classes = int(facts.get("num_classes", 0)) or (19 if name in stdc.FORMS else 1000)
    arguments = {"base": base, "num_classes": classes, "use_conv_last": use_conv_last}
    full = stdc.architecture(name, num_classes=classes, base=base, block=block, use_conv_last=use_conv_last)
    if name in stdc.FORMS:
        return _segmentation(name, full, arguments)
    return Pair(
        name=name,
        builders=_builders("stdcnet", name),
        architecture=full,
        outputs=("logits",),
        stages=(*_features(full), "conv_last", "fc"),
        size=(224, 224),
        method="forward_impl",
        floors=(Floor(r"(own )?grad .*", 1e-7, AVGPOOL),),
        arguments=arguments | {"block": block, "dropout": 0.0},
    )


def _names_of(architecture: Architecture) -> tuple[str, ...]:
    """The pairs that a checkpoint of that architecture has all weights for."""
    return (architecture.name, *(name for name in stdc.FORMS if stdc.reduced(architecture, name) is not None))


def _features(architecture: Architecture, prefix: str = "") -> tuple[str, ...]:
    """The blocks of its backbone that run."""
    ran = [i for stride, blocks in architecture.groups.items() for i in blocks
           if stride != "32x" or architecture.facts["variant"] != "del"]  # fmt: skip
    return tuple(f"{prefix}features.{i}" for i in ran)


def _segmentation(name: str, full: Architecture, arguments: Mapping[str, object]) -> Pair:
    """A segmentation network: one for inference has no recipe."""
    form, classes = stdc.FORMS[name], int(full.facts["num_classes"])
    plain = form.variant == "plain" and not form.infer
    variant = {"depth": form.depth, "variant": form.variant, "infer": form.infer}
    stages = tuple(path for path in SEG_STAGES if any(key.startswith(f"{path}.") for key in full.tensors))
    outputs = tuple(head for head, path in SEG_OUTPUTS.items() if path in stages)
    heads = len(outputs) - 1  # the last one is a detail
    return Pair(
        name=name,
        builders=_builders("stdcseg", name) if plain else _builders("stdcseg_variants", "stdc_seg"),
        architecture=full,
        outputs=outputs,
        stages=_features(full, "cp.backbone.") + stages,
        arguments=arguments if plain else {**arguments, **variant},
        parts={form.depth: "cp.backbone."},
        floors=FLOORS,
        recipe=None if form.infer else recipe(classes, heads),
        published=PUBLISHED[form.depth] if form.variant == "plain" else (),
    )


def _builders(module: str, name: str) -> dict[Side, str]:
    factory = f"{module}:{name.replace('-', '_')}"
    return {
        "torch": f"stdc_parity.models_torch.{factory}",
        "paddle": f"stdc_parity.models_paddle.{factory}",
    }
