"""STDC networks by their official names: MichaelFan01/STDC-Seg's nets/stdcnet.py and models/model_stages.py.

The state dicts of the published checkpoints follow from a few numbers (depth, base width, classes), so
this file writes them down as upstream builds them; the tests hold it against the official key lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from stdc_parity.converters.architecture import Architecture, Kind, Side, TensorSpec

LAYERS = {"stdcnet813": (2, 2, 2), "stdcnet1446": (4, 5, 3)}
"""Blocks in the stages of 8x, 16x and 32x (the paper's table 2)."""

BACKBONE = {"stdc1-seg": "stdcnet813", "stdc2-seg": "stdcnet1446"}
NAME = "stdc"
MODELS = (*LAYERS, *BACKBONE)
LOSS_SHAPES: Mapping[str, tuple[int, ...]] = {"loss.fuse_kernel": (1, 3, 1, 1)}
"""What the loss of the recipe trains (loss/detail_loss.py)."""

BLOCK_CONVS = 4
"""Convolutions of a block: `block_num=4` in every published checkpoint."""

Tensors = Iterator[tuple[str, TensorSpec]]


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
    """The architecture called `name` ("stdcnet813", "stdcnet1446", "stdc1-seg", "stdc2-seg").

    `num_classes` defaults to upstream's: 1000 for a backbone, 19 for a segmentation network (whose backbone
    has an ImageNet head of `imagenet_classes`); a backbone without its head has none. Raises KeyError for
    another name.
    """
    seg = name in BACKBONE
    depth = BACKBONE.get(name, name)
    classes = num_classes if num_classes is not None else 19 if seg else 1000
    head_classes = imagenet_classes if seg else classes
    prefix = "cp.backbone." if seg else ""
    tensors = dict(_backbone(prefix, depth, base, block, head_classes if imagenet_head else None))
    backbone_norms = _norms(tensors)
    if seg:
        tensors |= _seg_parts(base, classes, use_conv_last)
    known = classes if seg or imagenet_head else 0
    words = [f"{known} classes"] if known else []
    words += [f"base {base}", f"{block} blocks", "with ImageNet head" if imagenet_head else "without ImageNet head"]
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
        },
        tensors=tensors,
        aliases=_aliases(prefix, _stages(LAYERS[depth]), tensors),
        abn_norms=_norms(tensors) - backbone_norms,
        other_norms=backbone_norms,
        groups=_stages(LAYERS[depth]),
    )


def every_tensor(model: str) -> Architecture:
    """The network with all tensors that a variant may have: "add" blocks have all that "cat" blocks have."""
    return architecture(model, block="add")


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

    Names decide which network it is; shapes only tell the numbers that the names leave open (classes,
    base width). A checkpoint that lacks some tensors or has foreign ones is still recognised: the plan
    reports them.
    """
    seg = any(key.startswith("cp.backbone.") for key in shapes)
    prefix = "cp.backbone." if seg else ""
    stem = shapes.get(f"{prefix}features.0.conv.weight")
    names = {_feature_index(key, prefix) for key in shapes} - {-1}
    depth = next((name for name, layers in LAYERS.items() if names == set(range(2 + sum(layers)))), None)
    if stem is None or len(stem) != 4 or depth is None:
        return None
    name = next(n for n, d in BACKBONE.items() if d == depth) if seg else depth
    base = stem[0] * 2
    linear = shapes.get(f"{prefix}linear.weight", ())
    imagenet_classes = _classes(linear if side == "torch" else linear[::-1], max(1024, base * 16))
    conv_out = shapes.get("conv_out.conv_out.weight")
    classes = (conv_out[0] if conv_out else None) if seg else imagenet_classes
    arm32 = shapes.get("cp.arm32.conv.conv.weight", ())
    head = ("fc.", "bn.", "linear.")  # a conv_last alone is none
    return architecture(
        name,
        num_classes=classes,
        imagenet_classes=imagenet_classes or 1000,
        base=base,
        block="add" if f"{prefix}features.2.skip.0.weight" in shapes else "cat",
        imagenet_head=any(key.startswith(tuple(prefix + part for part in head)) for key in shapes),
        use_conv_last=len(arm32) == 4 and arm32[1] == max(1024, base * 16) != base * 16,
    )


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


def _backbone(prefix: str, depth: str, base: int, block: str, imagenet_classes: int | None) -> Tensors:
    yield from _conv_bn(f"{prefix}features.0", 3, base // 2, 3)
    yield from _conv_bn(f"{prefix}features.1", base // 2, base, 3)
    index, width = 2, base
    for stage, count in enumerate(LAYERS[depth]):
        for position in range(count):
            out = base * 4 * 2**stage
            yield from _block(f"{prefix}features.{index}", width, out, block, first=position == 0)
            index, width = index + 1, out
    if imagenet_classes is not None:
        last = max(1024, base * 16)
        yield from _conv_bn(f"{prefix}conv_last", width, last, 1)
        yield f"{prefix}fc.weight", TensorSpec("linear", (last, last))
        yield from _norm(f"{prefix}bn", last)
        yield f"{prefix}linear.weight", TensorSpec("linear", (imagenet_classes, last))


def _block(path: str, width: int, out: int, block: str, *, first: bool) -> Tensors:
    """A `CatBottleneck` or `AddBottleneck`; the first of a stage has stride 2 and so an `avd_layer`."""
    widths = [width, *(out // 2**i for i in range(1, BLOCK_CONVS)), out // 2 ** (BLOCK_CONVS - 1)]
    for i in range(BLOCK_CONVS):
        yield from _conv_bn(f"{path}.conv_list.{i}", widths[i], widths[i + 1], 1 if i == 0 else 3)
    if first:
        yield from _conv(f"{path}.avd_layer.0", 1, out // 2, 3)
        yield from _norm(f"{path}.avd_layer.1", out // 2)
    if first and block == "add":
        yield from _conv(f"{path}.skip.0", 1, width, 3)
        yield from _norm(f"{path}.skip.1", width)
        yield from _conv(f"{path}.skip.2", width, out, 1)
        yield from _norm(f"{path}.skip.3", out)


def _seg_parts(base: int, classes: int, use_conv_last: bool) -> Tensors:
    """Context path, feature fusion and heads; widths at base 64 are upstream's."""
    feat32 = max(1024, base * 16) if use_conv_last else base * 16
    for arm, width in (("cp.arm16", base * 8), ("cp.arm32", feat32)):
        yield from _conv_bn(f"{arm}.conv", width, base * 2, 3)
        yield from _conv(f"{arm}.conv_atten", base * 2, base * 2, 1)
        yield from _norm(f"{arm}.bn_atten", base * 2)
    yield from _conv_bn("cp.conv_head32", base * 2, base * 2, 3)
    yield from _conv_bn("cp.conv_head16", base * 2, base * 2, 3)
    yield from _conv_bn("cp.conv_avg", feat32, base * 2, 1)
    yield from _conv_bn("ffm.convblk", base * 6, base * 4, 1)
    yield from _conv("ffm.conv1", base * 4, base, 1)
    yield from _conv("ffm.conv2", base, base * 4, 1)
    yield from _head("conv_out", base * 4, base * 4, classes)
    yield from _head("conv_out16", base * 2, base, classes)
    yield from _head("conv_out32", base * 2, base, classes)
    for head, width in (("sp16", base * 8), ("sp8", base * 4), ("sp4", base), ("sp2", base // 2)):
        yield from _head(f"conv_out_{head}", width, base, 1)


def _head(path: str, width: int, mid: int, out: int) -> Tensors:
    yield from _conv_bn(f"{path}.conv", width, mid, 3)
    yield from _conv(f"{path}.conv_out", mid, out, 1)


def _conv_bn(path: str, width: int, out: int, kernel: int) -> Tensors:
    yield from _conv(f"{path}.conv", width, out, kernel)
    yield from _norm(f"{path}.bn", out)


def _conv(path: str, width: int, out: int, kernel: int) -> Tensors:
    yield f"{path}.weight", TensorSpec("conv", (out, width, kernel, kernel))


def _norm(path: str, width: int) -> Tensors:
    kinds: tuple[Kind, ...] = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    for kind in kinds:
        yield f"{path}.{kind.removeprefix('norm.')}", TensorSpec(kind, (width,))
    yield f"{path}.num_batches_tracked", TensorSpec("norm.batches", ())


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
