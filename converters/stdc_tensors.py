"""The tensors of STDC networks as upstream builds them, block by block, in the order of its state dicts."""

from __future__ import annotations

from collections.abc import Iterator

from stdc_parity.converters.architecture import Kind, TensorSpec

BLOCK_CONVS = 4
"""Convolutions of a block: `block_num=4` in every published checkpoint."""

Tensors = Iterator[tuple[str, TensorSpec]]


def backbone(
    prefix: str, layers: tuple[int, ...], base: int, block: str, imagenet_classes: int | None
) -> Tensors:
    """The backbone with so many blocks in its last three stages, its ImageNet head unless there are no classes."""
    yield from _conv_bn(f"{prefix}features.0", 3, base // 2, 3)
    yield from _conv_bn(f"{prefix}features.1", base // 2, base, 3)
    index, width = 2, base
    for stage, count in enumerate(layers):
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


def seg_parts(base: int, classes: int, use_conv_last: bool, variant: str, fusion: int) -> Tensors:
    """Context path, feature fusion of `fusion` times `base` channels, and heads; widths at base 64 are upstream's."""
    feat32 = max(1024, base * 16) if use_conv_last else base * 16
    heavy = _dw_conv_bn if variant == "dw" else _conv_bn
    arms = {"cp.arm16": base * 8} | ({} if variant == "del" else {"cp.arm32": feat32})
    for arm, width in arms.items():
        yield from heavy(f"{arm}.conv", width, base * 2, 3)
        yield from _conv(f"{arm}.conv_atten", base * 2, base * 2, 1)
        yield from _norm(f"{arm}.bn_atten", base * 2)
    if variant != "del":
        yield from heavy("cp.conv_head32", base * 2, base * 2, 3)
    yield from heavy("cp.conv_head16", base * 2, base * 2, 3)
    yield from _conv_bn("cp.conv_avg", base * 8 if variant == "del" else feat32, base * 2, 1)
    fused = base * fusion
    yield from _conv_bn("ffm.convblk", base * 6, fused, 1)
    yield from _conv("ffm.conv1", fused, fused // 4, 1)
    yield from _conv("ffm.conv2", fused // 4, fused, 1)
    yield from heavy("conv_out.conv", fused, fused, 3)
    yield from _conv("conv_out.conv_out", fused, classes, 1)
    for head in ("conv_out16",) if variant == "del" else ("conv_out16", "conv_out32"):
        yield from _head(head, base * 2, base, classes)
    for head, width in (("sp16", base * 8), ("sp8", base * 4), ("sp4", base), ("sp2", base // 2)):
        yield from _head(f"conv_out_{head}", width, base, 1)


def _head(path: str, width: int, mid: int, out: int) -> Tensors:
    yield from _conv_bn(f"{path}.conv", width, mid, 3)
    yield from _conv(f"{path}.conv_out", mid, out, 1)


def _conv_bn(path: str, width: int, out: int, kernel: int) -> Tensors:
    yield from _conv(f"{path}.conv", width, out, kernel)
    yield from _norm(f"{path}.bn", out)


def _dw_conv_bn(path: str, width: int, out: int, kernel: int) -> Tensors:
    """A depthwise separable convolution, under the names of the deployment fork's block."""
    yield from _conv(f"{path}.conv_dw", 1, width, kernel)
    yield from _conv(f"{path}.conv_point", width, out, 1)
    yield from _norm(f"{path}.bn", out)


def _conv(path: str, width: int, out: int, kernel: int) -> Tensors:
    yield f"{path}.weight", TensorSpec("conv", (out, width, kernel, kernel))


def _norm(path: str, width: int) -> Tensors:
    kinds: tuple[Kind, ...] = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    for kind in kinds:
        yield f"{path}.{kind.removeprefix('norm.')}", TensorSpec(kind, (width,))
    yield f"{path}.num_batches_tracked", TensorSpec("norm.batches", ())
