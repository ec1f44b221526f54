"""The rules of sameness on tables with answers worked out by hand: judge, arbiter, localise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stdc_parity.align.arbiter import AGREED, NOISE_FACTOR, arbitrate
from stdc_parity.align.judge import CHUNK, Tolerance, compare_records, compare_tap
from stdc_parity.align.localise import blame
from stdc_parity.align.pair import Floor
from stdc_parity.align.record import Record, Tap, TapKind
from stdc_parity.align.result import Comparison, Verdict

NAN, INF = float("nan"), float("inf")


def record(side: Any, stage: str = "forward", kind: TapKind = "module", **arrays: Any) -> Record:
    return Record(side, stage, [Tap(name, kind, name, "Layer") for name in arrays], arrays)


def compared(a: Any, b: Any, tolerance: Tolerance, dtype: Any = np.float32, kind: TapKind = "module") -> Comparison:
    tap = Tap("tap", kind, "path", "Layer")
    return compare_tap(tap, tap, (np.array(a, dtype), np.array(b, dtype)), ("torch", "paddle"), tolerance)


TOL, EXACT = Tolerance(1e-2), Tolerance(0.0)
CLOSE = Tolerance(atol=1.0, rtol=0.5)

CASES: list[tuple[Sequence[float], Sequence[float], Tolerance, bool, tuple[int, ...]]] = [
    # max|a-b| <= tol * max|reference|: 1 <= 1e-2 * 100
    ([100, 0], [100, 1], TOL, True, (1,)),
    ([100, 0], [100, 1.01], TOL, False, (1,)),
    ([-100, 0], [-100, 1], TOL, True, (1,)),
    # the scale is the reference's, not the other side's
    ([1, 0], [100, 0], TOL, False, (0,)),
    ([0, 0], [0, 1e-30], TOL, False, (1,)),
    ([0, 0], [0, 0], TOL, True, (0,)),
    # tiny tensors have their own scale: no absolute bound lets them pass
    ([1e-20, 0], [1.1e-20, 0], TOL, False, (0,)),
    ([1e-20, 0], [1.009e-20, 0], TOL, True, (0,)),
    # nothing is averaged: the one that is wrong counts
    ([1, 1, 1, 1], [1, 1, 1, 1.02], TOL, False, (3,)),
    # equality
    ([1, 2], [1, 2], EXACT, True, (0,)),
    ([1, 2], [1, np.nextafter(np.float32(2), np.float32(3))], EXACT, False, (1,)),
    ([0.0], [-0.0], EXACT, True, (0,)),
    # |a-b| <= atol + rtol*|a| in every element: 2 <= 1 + 0.5*2, but 2 > 1 + 0.5*1
    ([2, 100], [4, 100], CLOSE, True, (0,)),
    ([1, 100], [3, 100], CLOSE, False, (0,)),
    # the worst is what breaks its own bound most, not the largest error: 3 - 1 against 40 - 51
    ([0, 100], [3, 140], CLOSE, False, (0,)),
    # the bound is the reference's, numpy.allclose(b, a) and not (a, b): 4 <= 1 + 0.5*6, 4 > 1 + 0.5*2
    ([6], [2], CLOSE, True, (0,)),
    ([2], [6], CLOSE, False, (0,)),
    ([1], [1.5], Tolerance(atol=0.5), True, (0,)),
    ([2], [3], Tolerance(rtol=0.5), True, (0,)),
    ([2], [3.1], Tolerance(rtol=0.5), False, (0,)),
    # NaN and Inf must be in the same places; what is finite is judged
    ([NAN, 1], [NAN, 1], TOL, True, (1,)),
    ([INF, -INF, 1], [INF, -INF, 1], TOL, True, (2,)),
    ([NAN, 1], [1, 1], TOL, False, (0,)),
    ([1, 1], [1, NAN], TOL, False, (1,)),
    ([INF, 1], [-INF, 1], TOL, False, (0,)),
    ([INF, 1], [NAN, 1], TOL, False, (0,)),
    ([1, INF], [1, 3e38], TOL, False, (1,)),
    ([NAN, 1], [NAN, 1.02], TOL, False, (1,)),
    ([INF, 1], [INF, 1], CLOSE, True, (1,)),
    ([INF, 1], [1, 1], CLOSE, False, (0,)),
    ([1, 1], [INF, 1], CLOSE, False, (0,)),
    ([NAN, NAN], [NAN, NAN], TOL, False, (0,)),  # nothing was compared
    ([3e38, 0], [-3e38, 0], TOL, False, (0,)),  # the difference overflows
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "tolerance", "agrees", "worst"), CASES)
def test_the_rules(
    a: Sequence[float], b: Sequence[float], tolerance: Tolerance, agrees: bool, worst: tuple[int, ...]
) -> None:
    comparison = compared(a, b, tolerance)
    assert bool(comparison) is agrees
    assert comparison.index == worst or (comparison.error == 0 and not comparison.why)
    assert comparison.values == {"torch": pytest.approx(a[comparison.index[0]], nan_ok=True, rel=1e-6),
                                 "paddle": pytest.approx(b[comparison.index[0]], nan_ok=True, rel=1e-6)}  # fmt: skip
    if tolerance.elementwise and all(map(np.isfinite, [*a, *b])):
        assert np.allclose(np.float32(b), np.float32(a), tolerance.rtol or 0, tolerance.atol or 0) is agrees


@pytest.mark.parametrize("tolerance", [TOL, CLOSE, EXACT])
def test_the_smallest_tolerance_that_would_pass_passes(tolerance: Tolerance) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 50))
    figure = compared(a, b, tolerance).relative
    assert compared(a, b, Tolerance(figure * (1 + 1e-6)))
    assert not compared(a, b, Tolerance(figure * (1 - 1e-6)))


STRICT = [
    (np.zeros((2, 3)), np.zeros((3, 2)), "shape (2, 3) on torch, (3, 2) on paddle"),
    (np.zeros((1, 3)), np.zeros(3), "shape (1, 3) on torch, (3,) on paddle"),
    (np.zeros(1), np.zeros(()), "shape (1,) on torch, () on paddle"),
    (np.zeros((0, 3)), np.zeros((3, 0)), "shape (0, 3) on torch, (3, 0) on paddle"),
    (np.zeros(3, "f4"), np.zeros(3, "f8"), "dtype float32 on torch, float64 on paddle"),
    (np.zeros(3, "i4"), np.zeros(3, "i8"), "dtype int32 on torch, int64 on paddle"),
    (np.zeros(3, "?"), np.zeros(3, "u1"), "dtype bool on torch, uint8 on paddle"),
]


@pytest.mark.parametrize(("a", "b", "why"), STRICT, ids=[row[2] for row in STRICT])
def test_nothing_is_made_to_fit(a: np.ndarray, b: np.ndarray, why: str) -> None:
    (comparison,) = compare_records(record("torch", t=a), record("paddle", t=b), Tolerance(1e9))
    assert not comparison and comparison.why == why


@pytest.mark.parametrize(("dtype", "a", "b"), [
    (np.uint8, [0, 7], [255, 7]), (np.bool_, [True, False], [False, False]), (np.int8, [-128], [127]),
    (np.int64, [2**53 - 1], [2**53]), (np.float16, [60000], [-60000]),
])  # fmt: skip
def test_integers_are_compared_as_numbers(dtype: Any, a: list[int], b: list[int]) -> None:
    assert compared(a, a, EXACT, dtype)
    comparison = compared(a, b, EXACT, dtype)
    assert not comparison and comparison.error == abs(float(a[0]) - float(b[0]))
    assert comparison.values == {"torch": float(a[0]), "paddle": float(b[0])}


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4)])
def test_empty_tensors_agree(shape: tuple[int, ...]) -> None:
    assert compared(np.zeros(shape), np.zeros(shape), EXACT)


@pytest.mark.parametrize("tolerance", [Tolerance(1e-5), Tolerance(atol=1e-5, rtol=0.0)])
@pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 3 * CHUNK + 4])
def test_one_pixel_in_a_million_and_where_it_is(tolerance: Tolerance, at: int) -> None:
    a = np.random.default_rng(1).uniform(-1, 1, (3 * CHUNK + 5, 1)).astype(np.float32)
    a[7] = 1.0
    b = a.copy()
    b[at] += 2e-5 if at % 2 else -2e-5
    b[2 * CHUNK + 1] += 1e-6  # and a smaller one elsewhere
    comparison = compared(a, b, tolerance)
    assert not comparison and comparison.index == (at, 0)
    assert comparison.error == pytest.approx(2e-5, rel=0.01)
    b[at] = NAN
    assert compared(a, b, tolerance).index == (at, 0)


def test_the_scale_is_that_of_the_whole_tensor() -> None:
    a = np.zeros(2 * CHUNK + 3)
    a[-1] = 1000.0
    b = a.copy()
    b[0] = 9e-3
    assert compared(a, b, Tolerance(1e-5))
    assert not compared(a, b, Tolerance(8e-6))


def test_taps_of_one_side_alone_differ_and_inputs_are_not_judged() -> None:
    one = np.ones(2, np.float32)
    reference, other = record("torch", a=one, b=one), record("paddle", b=one, c=one)
    whys = {c.tap: c.why for c in compare_records(reference, other, Tolerance())}
    assert whys == {
        "a": "only the torch side has it, paddle does not",
        "b": "",
        "c": "only the paddle side has it, torch does not",
    }
    assert compare_records(record("torch", kind="input", a=one), record("paddle", kind="input", a=-one), EXACT) == []


def test_a_known_floor_counts_for_the_whole_name_only() -> None:
    floors = [Floor("logits", 1e-2, "")]
    a = {"logits": np.ones(1), "logits16": np.ones(1)}
    b = {name: array * 1.005 for name, array in a.items()}
    verdicts = [bool(c) for c in compare_records(record("torch", **a), record("paddle", **b), EXACT, floors)]
    assert verdicts == [True, False]


def test_float64_gradients_that_vanish_have_nothing_to_agree_on() -> None:
    a = {"real": np.array([1e-3]), "bias": np.array([1e-18]), "one sided": np.array([0.0])}
    b = {"real": np.array([1e-3]), "bias": np.array([-3e-18]), "one sided": np.array([1e-6])}
    found = compare_records(
        record("torch", kind="gradient", **a), record("paddle", kind="gradient", **b), Tolerance(1e-9)
    )
    assert {c.tap: bool(c) for c in found} == {"real": True, "bias": True, "one sided": False}


# --- the arbiter ------------------------------------------------------------------------------------------


def asked(
    narrow: tuple[Any, Any], wide: tuple[Any, Any], *, kind: TapKind = "module", every: bool = False
) -> Comparison:
    """One tap: float32 values of both sides, and their float64 values."""
    single = tuple(record(s, kind=kind, t=np.float32(x)) for s, x in zip(("torch", "paddle"), narrow, strict=True))
    double = tuple(record(s, kind=kind, t=np.float64(x)) for s, x in zip(("torch", "paddle"), wide, strict=True))
    (result,) = arbitrate(compare_records(*single, Tolerance()), single, double, (), every=every)  # type: ignore[arg-type]
    return result


P, R, D = Verdict.PASS, Verdict.ROUNDING, Verdict.DIVERGED
#   name, float32 of both, float64 of both, asked about every tap, verdict
ARBITRATIONS = [
    ("within tolerance", ([1.0], [1.0]), ([1.0], [1.0]), False, P),
    ("both round, apart from each other", ([1.0002], [0.9999]), ([1.0], [1.0]), False, R),
    ("a bug of the same size", ([1.0002], [0.9999]), ([1.0], [0.9999]), False, D),
    ("a bug under the float32 tolerance", ([1.0], [1.000001]), ([1.0], [1.000001]), True, D),
    ("that nobody asked about", ([1.0], [1.000001]), ([1.0], [1.000001]), False, P),
    ("one side in reduced precision", ([1.0], [1.001]), ([1.0], [1.0]), False, D),
    ("the reference in reduced precision", ([1.001], [1.0]), ([1.0], [1.0]), False, D),
    ("a gap beyond what either rounds", ([1.0], [1.01]), ([1.0], [1.0]), False, D),
    ("NaN in float64 on one side", ([1.0], [1.1]), ([1.0], [NAN]), False, D),
    ("infinite in the same places", ([1.0, INF], [1.0, INF]), ([1.0, INF], [1.0, INF]), True, P),
    ("NaN in the same places, a bug elsewhere", ([1.0, NAN], [1.1, NAN]), ([1.0, NAN], [1.1, NAN]), False, D),
    ("NaN in the same places, rounding", ([1.0002, NAN], [0.9999, NAN]), ([1.0, NAN], [1.0, NAN]), False, R),
]  # fmt: skip


@pytest.mark.parametrize(
    ("narrow", "wide", "every", "verdict"), [r[1:] for r in ARBITRATIONS], ids=[r[0] for r in ARBITRATIONS]
)
def test_the_arbiter(narrow: tuple[Any, Any], wide: tuple[Any, Any], every: bool, verdict: Verdict) -> None:
    assert asked(narrow, wide, every=every).verdict is verdict


def test_the_multiple_of_rounding_that_is_allowed() -> None:
    noise = 1e-4
    for factor, verdict in ((0.9, R), (1.2, D)):
        other = 1.0 + noise * (1 + NOISE_FACTOR * factor)
        wide = ([1.0], [1.0 + AGREED / 2])
        both = asked(([1.0 + noise], [other]), wide)
        assert both.verdict is verdict
        assert both.arbiter is not None and both.arbiter.noise["torch"] == pytest.approx(noise, rel=0.01)


VANISHING = [
    ("a bias before a norm", ([1e-9], [-2e-9]), ([1e-18], [-3e-18]), R),
    ("its gradient is real on one side", ([1e-9], [1e-3]), ([1e-18], [1.0000001e-3]), D),
    ("its gradient is real on the other", ([1e-3], [1e-9]), ([1.0000001e-3], [1e-18]), D),
    ("small, and wrong", ([1e-9], [2e-9]), ([1.0000001e-9], [2.0000001e-9]), D),
]  # fmt: skip


@pytest.mark.parametrize(("narrow", "wide", "verdict"), [r[1:] for r in VANISHING], ids=[r[0] for r in VANISHING])
def test_gradients_that_are_zero_but_for_rounding(
    narrow: tuple[Any, Any], wide: tuple[Any, Any], verdict: Verdict
) -> None:
    assert asked(narrow, wide, kind="gradient").verdict is verdict


def chain(kinds: tuple[TapKind, TapKind], narrow: Sequence[Any], wide: Sequence[Any]) -> list[Verdict]:
    """Two taps, one after the other: the values of each as ((torch, paddle), (torch, paddle)), in both widths."""
    taps = [Tap(str(i), kind, "", "") for i, kind in enumerate(kinds)]
    single, double = (
        tuple(
            Record(side, "stage", taps, {str(i): np.array([values[i][at]], dtype) for i in range(2)})
            for at, side in enumerate(("torch", "paddle"))  # type: ignore[arg-type]
        )
        for values, dtype in ((narrow, np.float32), (wide, np.float64))
    )
    found = arbitrate(compare_records(*single, Tolerance()), single, double, (), every=True)  # type: ignore[arg-type]
    return [comparison.verdict for comparison in found]


CHAINS: list[tuple[str, tuple[TapKind, TapKind], Any, Any, list[Verdict]]] = [
    ("what came before may round more, on both sides", ("module", "module"),
     ((1.01, 0.99), (1.0, 1.01)), ((1.0, 1.0), (1.0, 1.0)), [R, R]),
    ("or on one", ("module", "module"), ((1.0, 1.000005), (1.0, 1.01)), ((1.0, 1.0), (1.0, 1.0)), [P, D]),
    ("a zero that only rounding fills says nothing", ("gradient", "module"),
     ((1e-9, -2e-9), (1.0, 1.01)), ((1e-18, -3e-18), (1.0, 1.0)), [R, D]),
    ("nor does a pixel that is detail in float64 alone", ("target", "loss"),
     ((0.0, 0.0), (0.5, 0.51)), ((1.0, 1.0), (0.5, 0.5)), [P, D]),
    ("nor an overflow", ("module", "module"), ((INF, INF), (1.0, 1.01)), ((1e39, 1e39), (1.0, 1.0)), [D, D]),
]  # fmt: skip


@pytest.mark.parametrize(("kinds", "narrow", "wide", "verdicts"), [r[1:] for r in CHAINS], ids=[r[0] for r in CHAINS])
def test_rounding_is_inherited(kinds: Any, narrow: Any, wide: Any, verdicts: list[Verdict]) -> None:
    assert chain(kinds, narrow, wide) == verdicts


@pytest.mark.parametrize("dtype", ["?", "u1", "i8"])
def test_the_arbiter_takes_integers(dtype: str) -> None:
    for other, verdict in (([1, 0], P), ([1, 1], D)):
        records = (record("torch", t=np.array([1, 0], dtype)), record("paddle", t=np.array(other, dtype)))
        (found,) = arbitrate(compare_records(*records, EXACT), records, records, (), every=True)
        assert found.verdict is verdict


# --- own or inherited -------------------------------------------------------------------------------------

LOCALISE = [
    # paths that differ on equal inputs (with the size), and who is to blame
    ([("a", 1)], ["a"]),
    ([("a.b.c", 1), ("a.b", 2), ("a", 3), ("", 4)], ["a.b.c"]),
    ([("a", 1), ("", 1)], ["a"]),
    ([("", 1)], [""]),
    ([("a.b", 1), ("c", 1), ("", 1)], ["a.b", "c"]),
    ([("c", 1), ("a.b", 9)], ["c", "a.b"]),  # execution order, not size
    ([("a.b", 1), ("a.bc", 1)], ["a.b", "a.bc"]),  # a name that begins alike is not inside
    ([("a", 1), ("ab.c", 1)], ["a", "ab.c"]),
    ([("loss", 1), ("network", 1)], ["loss", "network"]),
    ([("loss", 1), ("network", 1), ("a", 1)], ["loss", "a"]),
    ([("loss", 1), ("loss.detail", 1), ("network", 1)], ["loss.detail", "network"]),
    ([("lossy.conv", 1), ("network", 1)], ["lossy.conv"]),
    ([], []),
]


@pytest.mark.parametrize(("bad", "guilty"), LOCALISE)
def test_the_innermost_module_is_to_blame(bad: list[tuple[str, float]], guilty: list[str]) -> None:
    isolated = [
        Comparison(f"tap {i}", "module", {"torch": path, "paddle": path}, {}, D, relative=size)
        for i, (path, size) in enumerate(bad)
    ]
    good = Comparison("good", "module", {"torch": "z.y", "paddle": "z.y"}, {}, P)
    assert [c.paths["torch"] for c in blame([good, *isolated, good])] == guilty


def test_a_module_is_named_once_by_its_worst_tap() -> None:
    sizes = {"x": 1, "y": 3, "z": 2}
    taps = [Comparison(name, "module", {"torch": "a"}, {}, D, relative=size) for name, size in sizes.items()]
    assert [c.tap for c in blame(taps)] == ["y"]
