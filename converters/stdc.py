"""STDC networks by their official names: MichaelFan01/STDC-Seg's nets/stdcnet.py and models/model_stages.py, and
the variants of a deployment fork of it (docs/variants.md).

The state dicts of the published checkpoints follow from a few numbers (depth, base width, classes), so
they are written down as upstream builds them (stdc_tensors.py); the tests hold them against the official key lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from stdc_parity.converters.architecture import Architecture, Side, TensorSpec, Unused
from stdc_parity.converters.stdc_tensors import backbone, seg_parts

LAYERS = {"stdcnet813": (2, 2, 2), "stdcnet1446": (4, 5, 3)}
"""Blocks in the stages of 8x, 16x and 32x (the paper's table 2)."""

FUSION = {"plain": 4, "cut": 2, "del": 2, "dw": 4}
"""Channels of the fusion and its head, in multiples of the base width, of each variant of a segmentation network."""


@dataclass(frozen=True)
class Form:
    """What the name of a segmentation network says: its backbone, its variant, whether it has but the main logits.

    "cut" has half the channels in the fusion and its head, "del" no context from stride 32 besides, "dw" depthwise
    separable convolutions where the decoder's are heavy.
    """

    depth: str
    variant: str
    infer: bool


FORMS = {
    f"{seg}{'' if variant == 'plain' else f'-{variant}'}{'-infer' if infer else ''}": Form(depth, variant, infer)
    for infer, variant, (seg, depth) in product(
        (False, True), FUSION, (("stdc1-seg", "stdcnet813"), ("stdc2-seg", "stdcnet1446"))
    )
}
"""The segmentation networks by name: "stdc1-seg", "stdc2-seg", "stdc1-seg-cut", …, "stdc2-seg-dw-infer"."""

NAME = "stdc"
BACKBONE = {name: form.depth for name, form in FORMS.items()}
WHOLE = tuple(LAYERS) + tuple(name for name, form in FORMS.items() if not form.infer and form.variant == "plain")
"""The networks that `every_tensor` knows: each name of another one's tensor is one of theirs."""

MODELS = (*LAYERS, *BACKBONE)
LOSS_SHAPES: Mapping[str, tuple[int, ...]] = {"loss.fuse_kernel": (1, 3, 1, 1)}
"""What the loss of the recipe trains (loss/detail_loss.py)."""

IMAGENET_HEAD = ("fc.", "bn.", "linear.")
"""How the names of a backbone's head begin; a conv_last alone is none."""

AUXILIARY = ("conv_out16.", "conv_out32.", "conv_out_sp")
CONTEXT32 = ("cp.arm32.", "cp.conv_head32.", "conv_out32.")
"""How the names of the auxiliary heads' tensors begin, and those that need the context from stride 32."""


def architecture(
    name: str,
    *,
    num_classes: int | None = None,
    imagenet_classes: int = 1000,
    base: int = 64,
    block: str = "cat",
    imagenet_head: bool = True,
    use_conv_last: bool = False,
) -> Architecture:
    """The architecture called `name`, a backbone of LAYERS or a segmentation network of FORMS.

    `num_classes` defaults to upstream's: 1000 for a backbone, 19 for a segmentation network (whose backbone
    has an ImageNet head of `imagenet_classes`); a backbone without its head has none. Raises KeyError for
    another name.
    """
    if name in FORMS and FORMS[name].infer:
        whole = architecture(
            name.removesuffix("-infer"), num_classes=num_classes, imagenet_classes=imagenet_classes, base=base,
            block=block, use_conv_last=use_conv_last,
        )  # fmt: skip
        return _for_inference(name, whole)
    seg = name in FORMS
    depth, variant = BACKBONE.get(name, name), FORMS[name].variant if seg else "plain"
    classes = num_classes if num_classes is not None else 19 if seg else 1000
    head_classes = imagenet_classes if seg else classes
    prefix = "cp.backbone." if seg else ""
    tensors = dict(backbone(prefix, LAYERS[depth], base, block, head_classes if imagenet_head else None))
    backbone_norms = _norms(tensors)
    if seg:
        tensors |= seg_parts(base, classes, use_conv_last, variant, FUSION[variant])
    known = classes if seg or imagenet_head else 0
    words = [f"{known} classes"] if known else []
    words += [f"base {base}", f"{block} blocks", "with ImageNet head" if imagenet_head else "without ImageNet head"]
    stages = _stages(LAYERS[depth])
    ran = {stride: blocks for stride, blocks in stages.items() if variant != "del" or stride != "32x"}
    return Architecture(
        name=name,
        family=NAME,
        words=tuple(words),
        facts={
            "num_classes": known,
            "base": base,
            "block": block,
            "imagenet_head": imagenet_head,
            "use_conv_last": use_conv_last,
            "variant": variant,
        },
        tensors=tensors,
        aliases=_aliases(prefix, ran, tensors),
        abn_norms=_norms(tensors) - backbone_norms,
        other_norms=backbone_norms,
        groups=stages,
    )


def _for_inference(name: str, whole: Architecture) -> Architecture:
    """What of a segmentation network leads to its main logits; it has no use for the rest."""
    unused = {key: Unused(spec, reason) for key, spec in whole.tensors.items() if (reason := _why_unused(key, whole))}
    tensors = {key: spec for key, spec in whole.tensors.items() if key not in unused}
    norms = _norms(tensors)
    return replace(
        whole,
        name=name,
        facts={**whole.facts, "imagenet_head": False},
        words=whole.words[:-1],
        tensors=tensors,
        unused=unused,
        abn_norms=whole.abn_norms & norms,
        other_norms=whole.other_norms & norms,
    )


def _why_unused(key: str, whole: Architecture) -> str:
    """Why inference has no use for a segmentation network's tensor, "" if it has."""
    path = key.removeprefix("cp.backbone.")
    if key.startswith(AUXILIARY):
        return "only training needs the auxiliary heads"
    if path.startswith(IMAGENET_HEAD) or (path.startswith("conv_last.") and not whole.facts["use_conv_last"]):
        return "segmentation needs no ImageNet head"
    if whole.facts["variant"] == "del" and _feature_index(key, "cp.backbone.") in whole.groups["32x"]:
        return f"{whole.name} computes nothing at stride 32"
    return ""


def reduced(whole: Architecture, name: str) -> Architecture | None:
    """The network called `name` if it is what inference needs of `whole`, with the numbers of that; else None."""
    if name not in FORMS or name != f"{whole.name}-infer":
        return None
    linear = whole.tensors.get("cp.backbone.linear.weight")
    return architecture(
        name,
        num_classes=int(whole.facts["num_classes"]),
        imagenet_classes=linear.shape[0] if linear is not None else 1000,
        base=int(whole.facts["base"]),
        block=str(whole.facts["block"]),
        use_conv_last=bool(whole.facts["use_conv_last"]),
    )


def every_tensor(name: str) -> Architecture:
    """The network of WHOLE called `name` with all tensors that a variant of it may have, whatever their shapes.

    "add" blocks have all that "cat" blocks have.
    """
    every = architecture(name, block="add")
    variants = [each for each, form in FORMS.items() if name in FORMS and form.depth == FORMS[name].depth]
    others = (architecture(each).tensors for each in variants if not FORMS[each].infer)
    return replace(every, tensors={**{key: spec for other in others for key, spec in other.items()}, **every.tensors})


def training_orders(
    architecture: Architecture, names: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], ...]]:
    """The groups of upstream's recipe, with the loss's and without: with decay and without, context path and heads.

    Twice, as the backbone's norms may be left out (optimizer_loss.py). Its last norm, `bn`, is a BatchNorm1d, which
    upstream's groups always leave out.
    """
    if architecture.name not in BACKBONE:
        return
    kinds = architecture.tensors
    used = [name for name in names if not name.startswith("cp.backbone.bn.")]
    context = [name for name in used if name.startswith("cp.")]
    heads = [name for name in used if not name.startswith("cp.")]
    for frozen in (False, True):
        norms = [n for n in context if not (frozen and n.startswith("cp.backbone."))]
        groups = tuple(
            tuple(n for n in part if kinds[n].kind.startswith("norm") == is_norm)
            for part, is_norm in ((context, False), (norms, True), (heads, False), (heads, True))
        )
        yield groups
        yield (*groups, tuple(LOSS_SHAPES))


def recognise(shapes: Mapping[str, tuple[int, ...]], side: Side) -> Architecture | None:
    """The STDC network whose official PyTorch names these are, or None; the shapes are those of `side`.

    Names decide which network it is; shapes only tell the numbers that the names leave open (classes, base width,
    and that of the fusion, by which "cut" differs). A checkpoint that lacks some tensors or has foreign ones is
    still recognised: the plan reports them.
    """
    seg = any(key.startswith("cp.backbone.") for key in shapes)
    prefix = "cp.backbone." if seg else ""
    stem = shapes.get(f"{prefix}features.0.conv.weight")
    if stem is None or len(stem) != 4:
        return None
    base = stem[0] * 2
    variant, infer = _form(shapes, base) if seg else ("plain", False)
    names = {_feature_index(key, prefix) for key in shapes} - {-1}
    short = variant == "del" and infer  # it may end with stride 16
    depth = next((d for d, layers in LAYERS.items() if len(names) in _lengths(layers, short)), None)
    if depth is None or names != set(range(len(names))):
        return None
    name = next(n for n, form in FORMS.items() if form == Form(depth, variant, infer)) if seg else depth
    linear = shapes.get(f"{prefix}linear.weight", ())
    imagenet_classes = _classes(linear if side == "torch" else linear[::-1], max(1024, base * 16))
    conv_out = shapes.get("conv_out.conv_out.weight")
    classes = (conv_out[0] if conv_out else None) if seg else imagenet_classes
    feat32 = shapes.get("cp.conv_avg.conv.weight", ())
    head = tuple(prefix + part for part in IMAGENET_HEAD)
    return architecture(
        name,
        num_classes=classes,
        imagenet_classes=imagenet_classes or 1000,
        base=base,
        block="add" if f"{prefix}features.2.skip.0.weight" in shapes else "cat",
        imagenet_head=any(key.startswith(head) for key in shapes),
        use_conv_last=variant != "del" and len(feat32) == 4 and feat32[1] == max(1024, base * 16) != base * 16,
    )


def _form(shapes: Mapping[str, tuple[int, ...]], base: int) -> tuple[str, bool]:
    """Which variant of a segmentation network it is, and whether it has but the main logits."""
    fusion = shapes.get("ffm.convblk.conv.weight", ())
    variant = "plain"
    if any(".conv_dw." in key for key in shapes):
        variant = "dw"
    elif any(key.startswith("cp.arm16.") for key in shapes) and not any(key.startswith(CONTEXT32) for key in shapes):
        variant = "del"
    elif fusion[:1] == (base * FUSION["cut"],):
        variant = "cut"
    heads = [key for key in shapes if key.startswith(("conv_out.", *AUXILIARY))]
    return variant, bool(heads) and not any(key.startswith(AUXILIARY) for key in heads)


def _lengths(layers: tuple[int, ...], short: bool) -> set[int]:
    """How many blocks a backbone of these layers has, or with `short` may have."""
    return {2 + sum(layers), *((2 + sum(layers[:2]),) if short else ())}


def _classes(linear: tuple[int, ...], width: int) -> int | None:
    """The classes of a Linear weight (classes, width), even if it came as (width, classes): the plan reports that."""
    if len(linear) != 2:
        return None
    return linear[1] if linear[0] == width != linear[1] else linear[0]


def _feature_index(key: str, prefix: str) -> int:
    """N of `{prefix}features.N.…`, -1 for any other name."""
    if not key.startswith(f"{prefix}features."):
        return -1
    number = key[len(prefix) + len("features.") :].partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 4 else -1


def _norms(tensors: Mapping[str, TensorSpec]) -> frozenset[str]:
    """The dotted paths of the norm modules."""
    return frozenset(k.rpartition(".")[0] for k, spec in tensors.items() if spec.kind == "norm.batches")


def _stages(layers: tuple[int, ...]) -> dict[str, range]:
    """The numbers N of the blocks `features.N` at each stride."""
    first = [0, 1, 2, 2 + layers[0], 2 + sum(layers[:2]), 2 + sum(layers)]
    strides = ("2x", "4x", "8x", "16x", "32x")
    return {stride: range(*ends) for stride, ends in zip(strides, pairwise(first), strict=True)}


def _aliases(prefix: str, stages: Mapping[str, range], tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Upstream registers its stages a second time: `x8.0.2.…` is `features.2.…` (same N: torch slices
    of a Sequential keep their indices)."""
    aliases = {}
    numbers = {key: _feature_index(key, prefix) for key in tensors}
    for stride, blocks in stages.items():
        for key, number in numbers.items():
            if number in blocks:
                alias = f"x{stride.removesuffix('x')}.0.{key.removeprefix(f'{prefix}features.')}"
                aliases[prefix + alias] = key
    return aliases
