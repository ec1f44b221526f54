"""Why a loaded tensor differs: what a checkpoint's way into a network does to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from stdc_parity.align.diagnosis.elementwise import factors, functions
from stdc_parity.align.diagnosis.misplaced import describe_source, is_telling, sources
from stdc_parity.align.diagnosis.rearranged import rearrangements
from stdc_parity.align.diagnosis.relations import Pair, Relation, explain, is_constant, nothing, numbers
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

PLACES, LOOKED_AT = 5, 30
"""How many places are explained at most, and how many failing tensors are looked at for causes of their own."""

RELATED = 20
"""Tensors of the same kind that a relation is held against too."""

STATISTICS = ("running_mean", "running_var")
FRESH = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
"""What a new norm has in both frameworks."""

ABN_EPSILON = 1e-5
"""What InPlaceABN adds to |weight| (upstream's modules/functions.py)."""

FEW = 1e-3
"""The fraction of a tensor's elements that may differ for it to be called a copy that was touched."""


def explain_weights(failing: Sequence[Comparison], reference: Record, other: Record) -> list[Diagnosis]:
    """A diagnosis for the first tensor that differs, and for those after it that have a cause of another kind."""
    found: dict[tuple[str, ...], Diagnosis] = {}
    elsewhere = sources(failing, reference, other)
    for comparison in failing[:LOOKED_AT]:
        diagnosis = _explain(comparison.tap, failing, elsewhere, reference, other)
        kind = tuple(diagnosis.tried) if diagnosis else ("unexplained",)
        found.setdefault(kind, diagnosis)
    return list(found.values())[:PLACES]


def _explain(
    name: str, failing: Sequence[Comparison], elsewhere: dict[str, str], reference: Record, other: Record
) -> Diagnosis:
    if name not in reference.arrays or name not in other.arrays:
        return _on_one_side(name, reference, other)
    pair = reference.arrays[name], other.arrays[name]
    related = [pair, *_related(name, failing, reference, other)]
    return explain(name, _relations(name, failing, elsewhere, reference, other), related)


def _related(name: str, failing: Sequence[Comparison], reference: Record, other: Record) -> Iterator[Pair]:
    """The pairs of other failing tensors of the same role and number of axes."""
    role, axes = name.rpartition(".")[2], reference.arrays[name].ndim
    names = [c.tap for c in failing if c.tap != name and c.tap.rpartition(".")[2] == role and not c.why]
    for like in [n for n in names if reference.arrays[n].ndim == axes][:RELATED]:
        yield reference.arrays[like], other.arrays[like]


def _relations(
    name: str, failing: Sequence[Comparison], elsewhere: dict[str, str], reference: Record, other: Record
) -> Iterator[Relation]:
    a, b = reference.arrays[name], other.arrays[name]
    if a.dtype != b.dtype:
        yield _other_dtype(name, a, b)
    yield from _not_loaded(name, failing, reference, other)
    if name in elsewhere:
        cause, fix = describe_source(name, elsewhere, reference, other)
        source = reference.arrays[elsewhere[name]]
        yield Relation("another tensor's values", cause, fix, lambda _: source, forward=True, exact=True)
    else:
        yield nothing("another tensor's values")
    kind = next((tap.type for tap in other.taps if tap.name == name), "")
    yield from _as_stored(name, kind, other.side, a)
    yield from rearrangements(name, a, b)
    yield from _of_norms(name)
    yield from _folded(name, reference)
    yield from functions(name)
    yield from _redrawn(name, a, b)
    yield from factors(name, a, b)
    yield from _touched(name, a, b)


def _other_dtype(name: str, a: Array, b: Array) -> Relation:
    cause = f"{name} has the dtype {b.dtype}, the reference's is {a.dtype}."
    cast = partial(np.ndarray.astype, dtype=a.dtype)
    return Relation("its dtype", cause, f".astype('{a.dtype}')", cast, certain=True)


def _on_one_side(name: str, reference: Record, other: Record) -> Diagnosis:
    """A tensor that one network lacks is no value's fault, but a layer's."""
    there, absent = (other, reference) if name in other.arrays else (reference, other)
    if name.endswith(".bias"):
        cause = (
            f"Only the {there.side} network has {name}: its layer was built with a bias, its twin without."
        )
        if there.side == "paddle":
            cause += " Paddle's bias_attr=None creates a bias; bias=False in PyTorch is bias_attr=False."
        fix = "bias_attr=False" if there.side == "paddle" else "bias=False"
        return Diagnosis(name, cause, fix)
    twin = next((n for n, array in absent.arrays.items() if _is_same(array, there.arrays[name])), "")
    if twin:
        return Diagnosis(
            name, f"{name} is called {twin} on the {absent.side} side: its values are there.", "Use one name."
        )
    return Diagnosis(name, tried=("the same values under another name",))


def _is_same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and is_telling(a) and np.array_equal(a, b)


def _not_loaded(
    name: str, failing: Sequence[Comparison], reference: Record, other: Record
) -> Iterator[Relation]:
    """The tensor still has what its layer was made with; how much else has tells what went wrong."""
    fresh = [c.tap for c in failing if _is_fresh(c.tap, reference, other)]
    if name not in fresh:
        yield nothing("its initial value")
        return
    everything = [tap.name for tap in other.taps if tap.kind == "tensor"]
    if len(fresh) == len(everything):
        cause = f"Nothing was loaded: all {len(fresh)} tensors have their initial values, so no name fitted."
        fix = (
            "Strip the prefix ('module.') from the checkpoint's names, and check what set_state_dict returns."
        )
    elif all(n.endswith(STATISTICS) for n in fresh):
        cause = (
            f"{name} was not loaded: all {len(fresh)} running statistics have their initial values, mean 0 and "
            "variance 1. Paddle calls running_mean and running_var _mean and _variance."
        )
        fix = "Rename running_mean to _mean and running_var to _variance before set_state_dict."
    else:
        more = f", and so have {len(fresh) - 1} others" if len(fresh) > 1 else ""
        cause = f"{name} was not loaded: it has its initial value{more}."
        fix = (
            f"Load {name}: its name and its shape must fit, for set_state_dict only warns about what does not. "
            "Account for every name, and compare all shapes."
        )
    array = other.arrays[name]
    yield Relation("its initial value", cause, fix, lambda _: array, forward=True, certain=True)


def _is_fresh(name: str, reference: Record, other: Record) -> bool:
    """Whether the other side's tensor is as its layer was made, and the reference's is not."""
    initial = f"{name}, initial"
    if name not in other.arrays or initial in reference.arrays:
        return False
    if initial in other.arrays:
        return True
    a, b = reference.arrays.get(name), other.arrays[name]
    value = FRESH.get(name.rpartition(".")[2])
    return a is not None and b.ndim == 1 and b.size > 1 and bool((b == value).all()) and not is_constant(a)


def _as_stored(name: str, kind: str, side: str, a: Array) -> Iterator[Relation]:
    """What layouts of other frameworks and files make of a weight."""
    tried = "the layouts of files and frameworks"
    if a.ndim == 2:
        cause = f"{name} is transposed"
        cause += (
            ": Paddle keeps a Linear weight as (in, out), PyTorch as (out, in)." if kind == "Linear" else "."
        )
        fix = "linear.weight.set_value(weight.T)" if side == "paddle" else "linear.weight.copy_(weight.T)"
        yield Relation(tried, cause, fix, np.transpose, exact=True)
    if a.ndim < 3:
        return
    turned = tuple(range(2, a.ndim))
    cause = (
        f"{name}: its input and output channels are exchanged (transposed), as only a Linear weight's may be."
    )
    fix = "Transpose nn.Linear weights and nothing else: both frameworks keep a kernel as (out, in, h, w)."
    yield Relation(tried, cause, fix, lambda b: b.swapaxes(0, 1), exact=True)
    cause = (
        f"{name}: kernels are turned by 180 degrees (flipped); both frameworks compute a cross-correlation."
    )
    yield Relation(tried, cause, "weight[..., ::-1, ::-1]", partial(np.flip, axis=turned), exact=True)
    cause = f"{name}: rows and columns of each kernel are exchanged (transposed in space), as in column-major files."
    yield Relation(tried, cause, "weight.swapaxes(2, 3)", lambda b: b.swapaxes(-1, -2), exact=True)
    if a.shape[1] == 3:
        cause = (
            f"{name}: its input channels are reversed, as for images in BGR where the reference takes RGB."
        )
        yield Relation(tried, cause, "weight[:, ::-1]", lambda b: b[:, ::-1], exact=True)
    if a.ndim == 4:
        height_first = tuple(a.shape[axis] for axis in (2, 3, 1, 0))
        cause = (
            f"{name} was stored as (h, w, in, out), as TensorFlow has it, and reshaped where it should be "
            "transposed: the numbers kept their order and landed in other places."
        )
        fix = "weight.transpose(3, 2, 0, 1)"
        restore = partial(_unshape, shape=height_first)
        yield Relation(tried, cause, fix, restore, exact=True)
    if a.shape[0] > 2:
        for by in (1, -1):
            cause = (
                f"{name}: its rows, the output channels, are shifted by {by:+d}: class {max(0, by)} is where the "
                f"reference has class {max(0, -by)}, as when one side counts a background class."
            )
            yield Relation(
                tried,
                cause,
                f"np.roll(weight, {-by}, axis=0)",
                partial(np.roll, shift=-by, axis=0),
                exact=True,
            )


def _unshape(b: Array, shape: tuple[int, ...]) -> Array:
    return np.asarray(np.ascontiguousarray(b).reshape(shape).transpose(3, 2, 0, 1))


def _of_norms(name: str) -> Iterator[Relation]:
    """What other norms and their kernels keep in place of what a batch norm does."""
    role = name.rpartition(".")[2]
    if role == "weight":
        yield Relation(
            "InPlaceABN's |weight| + 1e-5",
            f"{name} comes from InPlaceABN, which scales by |weight| + 1e-5: a plain batch norm takes the sign.",
            "gamma = abs(weight) + 1e-5",
            lambda b: np.abs(b) + np.asarray(ABN_EPSILON, b.dtype),
        )
    if role == "running_var":
        yield Relation(
            "the deviation for the variance",
            f"{name} holds the standard deviation, the square root of the variance.",
            "Load running_var itself; _variance is a variance (square what you have).",
            lambda a: np.sqrt(np.maximum(a, 0)),
            forward=True,
        )
        for epsilon in (1e-5, 1e-3, 0.0):
            yield Relation(
                "the inverse deviation for the variance",
                f"{name} holds 1 / sqrt(variance + {epsilon:g}), the inverse deviation, which fused kernels save.",
                f"Load running_var itself: 1 / saved**2 - {epsilon:g}.",
                partial(_inverse_deviation, epsilon=epsilon),
                forward=True,
            )


def _inverse_deviation(a: Array, epsilon: float) -> Array:
    return np.asarray(1 / np.sqrt(np.maximum(a, 1e-30) + np.asarray(epsilon, a.dtype)))


def _folded(name: str, reference: Record) -> Iterator[Relation]:
    """A kernel with its norm folded in: each output channel times gamma / sqrt(variance + epsilon)."""
    a = reference.arrays[name]
    if a.ndim < 2:
        return
    norms = [n[: -len(".running_var")] for n in reference.arrays if n.endswith(".running_var")]
    stem = name.rpartition(".")[0].rpartition(".")[0]
    for norm in sorted(norms, key=lambda n: not n.startswith(f"{stem}.")):
        gamma, variance = reference.arrays.get(f"{norm}.weight"), reference.arrays[f"{norm}.running_var"]
        if gamma is None or gamma.shape != a.shape[:1]:
            continue
        scale = numbers(gamma) / np.sqrt(numbers(variance) + ABN_EPSILON)
        cause = (
            f"{name} has its batch norm {norm} folded in (weight * gamma / sqrt(variance + 1e-5)), and the norm is "
            "still there."
        )
        fix = "Load the training checkpoint, or remove the norm and take its folded bias too."
        folded = numbers(a) * scale.reshape(-1, *[1] * (a.ndim - 1))
        yield Relation("a norm folded in", cause, fix, partial(_given, given=folded), forward=True)


def _given(_: Array, given: Array) -> Array:
    return given


def _redrawn(name: str, a: Array, b: Array) -> Iterator[Relation]:
    """Factors that initialisers differ by, which depend on the shape."""
    if a.ndim < 2 or a.shape != b.shape or a.shape[0] == a.shape[1]:
        return
    ratio = (a.shape[0] / a.shape[1]) ** 0.5
    for factor, words in ((ratio, "sqrt(out / in)"), (1 / ratio, "sqrt(in / out)")):
        wrong, right = ("fan_in", "fan_out") if factor == ratio else ("fan_out", "fan_in")
        yield _scaled(name, words, factor, wrong, right)


def _scaled(name: str, words: str, factor: float, wrong: str, right: str) -> Relation:
    fan_out = "KaimingNormal(fan_in=out_channels * kernel_height * kernel_width)"
    return Relation(
        "Kaiming's other fan",
        f"{name} is {words} = {factor:.6g} times the reference's: drawn with Kaiming's {wrong} (Paddle's "
        f"KaimingNormal takes fan_in) in place of {right}.",
        fan_out if right == "fan_out" else "KaimingNormal()",
        lambda b: b / factor,
    )


def _touched(name: str, a: Array, b: Array) -> Iterator[Relation]:
    """A copy of which hardly any element differs."""
    if a.shape != b.shape:
        return
    differing = np.flatnonzero(a.reshape(-1) != b.reshape(-1))
    if not 0 < len(differing) <= max(1, FEW * a.size) or a.size < 16:
        return
    at = [int(i) for i in np.unravel_index(differing[0], a.shape)]
    count = "one element differs" if len(differing) == 1 else f"{len(differing)} elements differ"
    cause = (
        f"{name} is a copy that was touched: only {count} of {a.size}, first at {at}; others are equal to the bit. "
        "It was edited, printed and read again, or trained for a moment."
    )

    def restored(b: Array) -> Array:
        copy = b.copy()
        copy.reshape(-1)[differing] = a.reshape(-1)[differing]
        return np.asarray(copy)

    yield Relation("a few elements", cause, "Copy the checkpoint's bytes.", restored, certain=True)
