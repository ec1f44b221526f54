"""Diagnoses from recorded arrays: each relation is planted into random arrays and must be named, and no other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from stdc_parity.align.diagnosis import colours, resampling
from stdc_parity.align.diagnosis.curves import describe_curve
from stdc_parity.align.diagnosis.elementwise import factors, functions
from stdc_parity.align.diagnosis.jpeg import jpeg_relations
from stdc_parity.align.diagnosis.labels import label_relations
from stdc_parity.align.diagnosis.metric import iou
from stdc_parity.align.diagnosis.pixels import crop_relations, normalisations, resized
from stdc_parity.align.diagnosis.rearranged import rearrangements
from stdc_parity.align.diagnosis.records import explain_records
from stdc_parity.align.diagnosis.relations import Relation, explain
from stdc_parity.align.diagnosis.statistics import explain_each
from stdc_parity.align.diagnosis.updates import Case, Rule, simulate
from stdc_parity.align.framework import Array
from stdc_parity.align.judge import Tolerance, compare_records
from stdc_parity.align.judge_metric import judge_metric
from stdc_parity.align.record import Record, Tap, TapKind
from stdc_parity.align.result import Diagnosis

RANDOM = np.random.default_rng(5)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, np.float32)


def said(diagnosis: Diagnosis) -> str:
    return f"{diagnosis.cause} {diagnosis.fix}"


def record(side: str, arrays: dict[str, tuple[TapKind, Array]], stage: str = "weights") -> Record:
    taps = [Tap(name, kind, name.rpartition(".")[0], "") for name, (kind, _) in arrays.items()]
    given = {name: array for name, (_, array) in arrays.items()}
    return Record("torch" if side == "torch" else "paddle", stage, taps, given)


def weights(arrays: dict[str, Array], others: dict[str, Array]) -> list[Diagnosis]:
    pair = [
        record(side, {n: ("input" if n.endswith("initial") else "tensor", a) for n, a in given.items()})
        for side, given in (("torch", arrays), ("paddle", others))
    ]
    return explain_records("weights", compare_records(*pair, Tolerance(0.0)), *pair)


# --- relations by themselves ----------------------------------------------------------------------------------

KERNEL = normal(6, 5, 3, 3)
REARRANGED: list[tuple[str, Array, Array]] = [
    ("transposed", (m := normal(5, 7)), m.T),
    ("transposed", (s := normal(6, 6)), s.T),
    ("reversed along axis 1", KERNEL, KERNEL[:, ::-1]),
    ("reversed along axis 2 and 3", KERNEL, KERNEL[..., ::-1, ::-1]),
    ("shifted by 1 along axis 0", KERNEL, np.roll(KERNEL, 1, axis=0)),
    ("shifted by -1 along axis 0", KERNEL, np.roll(KERNEL, -1, axis=0)),
    ("1 and 4 are exchanged along axis 0", KERNEL, KERNEL[[0, 4, 2, 3, 1, 5]]),
    ("in another order", KERNEL, KERNEL[:, [2, 0, 1, 4, 3]]),
    ("reshape", KERNEL, np.ascontiguousarray(KERNEL.transpose(2, 3, 1, 0)).reshape(KERNEL.shape)),
]


@pytest.mark.parametrize(("words", "a", "b"), REARRANGED, ids=[row[0] for row in REARRANGED])
def test_numbers_in_other_places_are_found(words: str, a: Array, b: Array) -> None:
    diagnosis = explain("w", rearrangements("w", a, b), [(a, b)])
    assert words in diagnosis.cause and diagnosis.after == 0.0 < diagnosis.before


POSITIVE = np.abs(normal(8, 9)) + 0.2
ELEMENTWISE: list[tuple[str, Array, Array]] = [
    ("float16", normal(9, 9), np.zeros(0)),
    ("is the square root", POSITIVE, np.sqrt(POSITIVE)),
    ("is the square of", POSITIVE, np.square(POSITIVE)),
    ("1 / sqrt(x + 1e-05)", POSITIVE, 1 / np.sqrt(POSITIVE + np.float32(1e-5))),
    ("is the absolute value", (x := normal(8, 8)), np.abs(x)),
    ("255 (255)", x, 255 * x),
    ("1/255", x, x / np.float32(255)),
    ("1.2345", x, np.float32(1.2345) * x),
    ("plus 0.75", x, x + np.float32(0.75)),
    ("in each place of axis 0", x, x * (1 + np.arange(8, dtype=np.float32))[:, None] + 2),
]


@pytest.mark.parametrize(("words", "a", "b"), ELEMENTWISE, ids=[row[0] for row in ELEMENTWISE])
def test_functions_of_the_elements_are_found(words: str, a: Array, b: Array) -> None:
    b = a.astype(np.float16).astype(np.float32) if b.size == 0 else b.astype(np.float32)
    diagnosis = explain("w", (*functions("w"), *factors("w", a, b)), [(a, b)])
    assert words in diagnosis.cause and diagnosis.after < 2e-6


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4, 4), (6, 5, 3, 3), (64,)])
def test_other_numbers_have_no_cause(shape: tuple[int, ...]) -> None:
    for _ in range(20):
        a, b = normal(*shape), normal(*shape)
        relations = [*rearrangements("w", a, b), *functions("w"), *factors("w", a, b)]
        found = explain("w", relations, [(a, b)])
        assert not found and found.tried


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.ones(2, np.float32), np.full(2, 3, np.float32)),
        (np.array([1, 2], np.float32), np.array([2, 1], np.float32) * 2),
        (np.full((4, 4), 2.0, np.float32), np.full((4, 4), 5.0, np.float32)),
    ],
    ids=["two ones", "two numbers", "a constant"],
)
def test_little_is_no_evidence(a: Array, b: Array) -> None:
    assert not explain("w", (*functions("w"), *factors("w", a, b)), [(a, b)])


def test_a_relation_that_holds_nearly_everywhere_does_not_hold() -> None:
    b = np.ascontiguousarray(KERNEL[:, ::-1])
    b[3, 2, 1, 0] += 0.01
    flip: Callable[[Array], Array] = lambda other: other[:, ::-1]  # noqa: E731
    assert not explain("w", [Relation("flip", "flipped", "", flip)], [(KERNEL, b)])


# --- weights ----------------------------------------------------------------------------------------------------


def network() -> dict[str, Array]:
    return {
        "a.conv.weight": normal(4, 3, 3, 3), "a.bn.weight": POSITIVE[0, :4], "a.bn.bias": normal(4),
        "a.bn.running_mean": normal(4), "a.bn.running_var": POSITIVE[1, :4],
        "b.conv.weight": normal(4, 4, 1, 1), "b.bn.weight": POSITIVE[2, :4], "b.bn.bias": normal(4),
        "b.bn.running_mean": normal(4), "b.bn.running_var": POSITIVE[3, :4], "fc.weight": normal(8, 8),
    }  # fmt: skip


def folded(own: dict[str, Array]) -> Array:
    scale = own["a.bn.weight"] / np.sqrt(own["a.bn.running_var"] + 1e-5)
    return (own["a.conv.weight"] * scale[:, None, None, None]).astype(np.float32)


CHANGES: list[tuple[str, str, Callable[[dict[str, Array]], dict[str, Array]]]] = [
    ("a.bn.weight", r"weight and bias are exchanged", lambda o: {
        "a.bn.weight": o["a.bn.bias"], "a.bn.bias": o["a.bn.weight"]
    }),
    ("b.bn.running_var", r"reference has in a.bn.running_var", lambda o: {"b.bn.running_var": o["a.bn.running_var"]}),
    ("a.conv.weight", r"turned by 180 degrees", lambda o: {"a.conv.weight": o["a.conv.weight"][..., ::-1, ::-1]}),
    ("a.conv.weight", r"BGR", lambda o: {"a.conv.weight": o["a.conv.weight"][:, ::-1]}),
    ("a.conv.weight", r"batch norm a.bn folded in", lambda o: {"a.conv.weight": folded(o)}),
    ("a.bn.running_var", r"square root of the variance", lambda o: {
        "a.bn.running_var": np.sqrt(o["a.bn.running_var"])
    }),
    ("b.conv.weight", r"channels are exchanged", lambda o: {"b.conv.weight": o["b.conv.weight"].swapaxes(0, 1)}),
    ("a.bn.running_mean", r"not loaded", lambda o: {"a.bn.running_mean": np.zeros(4, np.float32)}),
    ("fc.weight", r"transposed", lambda o: {"fc.weight": o["fc.weight"].T}),
    ("fc.weight", r"has its initial value", lambda o: dict.fromkeys(
        ("fc.weight", "fc.weight, initial"), normal(8, 8)
    )),
]  # fmt: skip


@pytest.mark.parametrize(("place", "words", "change"), CHANGES, ids=[row[1] for row in CHANGES])
def test_a_tensor_that_was_loaded_wrongly_is_explained(
    place: str, words: str, change: Callable[[dict[str, Array]], dict[str, Array]]
) -> None:
    own = network()
    found = weights(own, own | change(own))
    assert found[0].place == place and words in said(found[0])


def test_tensors_of_another_checkpoint_have_no_cause() -> None:
    found = weights(network(), {name: normal(*a.shape) for name, a in network().items()})
    assert found and not any(found)


def test_one_element_is_told_from_another_tensor() -> None:
    own = network()
    touched = own["fc.weight"].copy()
    touched[3, 4] *= 1.01
    assert "one element differs of 64, first at [3, 4]" in weights(own, own | {"fc.weight": touched})[0].cause


def test_a_rung_that_holds_has_no_diagnosis() -> None:
    assert weights(network(), own := network()) and weights(own, own) == []


# --- images and labels ------------------------------------------------------------------------------------------


def picture(height: int = 48, width: int = 64) -> Array:
    rough = Image.fromarray(RANDOM.integers(50, 170, (6, 8, 3), np.uint8))
    return np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC))


FILTERS = {
    "PIL's BILINEAR": Image.Resampling.BILINEAR, "PIL's BICUBIC": Image.Resampling.BICUBIC,
    "PIL's NEAREST": Image.Resampling.NEAREST, "PIL's BOX": Image.Resampling.BOX,
    "PIL's LANCZOS": Image.Resampling.LANCZOS,
}  # fmt: skip


@pytest.mark.parametrize("way", FILTERS)
@pytest.mark.parametrize("size", [(31, 20), (90, 70), (64, 30)])
def test_resizing_is_pillows_to_the_bit(way: str, size: tuple[int, int]) -> None:
    image = picture()
    resized_by_pillow = np.asarray(Image.fromarray(image).resize(size, FILTERS[way]))
    assert np.array_equal(resampling.WAYS[way](image, size[1], size[0]), resized_by_pillow)


def test_another_way_to_resize_is_named() -> None:
    before = picture()
    a, b = (resampling.WAYS[way](before, 20, 31) for way in ("PIL's BILINEAR", "OpenCV's INTER_LINEAR"))
    assert "OpenCV's INTER_LINEAR" in explain("scale", resized("image", [(before, a, b)]), [(a, b)]).cause
    noise = RANDOM.integers(0, 256, a.shape, np.uint8)
    assert not explain("scale", resized("image", [(before, a, noise)]), [(a, noise)])


def test_enhancing_is_pillows() -> None:
    image, drawn = picture(), (1.31, 0.72, 1.44)
    expected = Image.fromarray(image)
    for kind, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), drawn, strict=True
    ):
        expected = kind(expected).enhance(factor)
    assert np.array_equal(colours.enhance(image, (0, 1, 2), drawn), np.asarray(expected))
    fitted, share = colours.fit(image, np.asarray(expected))
    assert share > 0.95 and np.allclose(fitted, drawn, atol=0.01)


def test_colours_that_changed_in_another_way_are_explained_or_not_at_all() -> None:
    random, right = np.random.default_rng(1), 0
    for _ in range(8):
        rough = Image.fromarray(random.integers(0, 256, (9, 16, 3), np.uint8))
        image = np.asarray(rough.resize((128, 64), Image.Resampling.BICUBIC))
        drawn = tuple(random.uniform(0.5, 1.5, 3))
        a = colours.enhance(image, (0, 1, 2), drawn)
        b = colours.enhance(image, (0, 1, 2), (*drawn[:2], 1.0))
        change = colours.explain_colours("jitter", [colours.Enhanced(image, a, b)], [])
        assert change is None or "saturation is not changed" in change.cause
        right += change is not None
        other = colours.Enhanced(image, a, random.integers(0, 256, image.shape, np.uint8))
        assert colours.explain_colours("jitter", [other], []) is None
    assert right >= 4


NORMALISED = [
    ("not divided by 255", 1.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
    ("divided by 256", 256.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
    ("std is left out", 255.0, (0.4, 0.5, 0.6), (1, 1, 1)),
    ("mean and std are 0.5", 255.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("BGR", 255.0, (0.6, 0.5, 0.4), (0.25, 0.3, 0.2)),
    ("normalised with mean (0.1, 0.2, 0.3)", 255.0, (0.1, 0.2, 0.3), (0.2, 0.3, 0.25)),
]


@pytest.mark.parametrize(("words", "scale", "mean", "std"), NORMALISED, ids=[row[0] for row in NORMALISED])
def test_another_normalisation_is_read_off_the_pixels(
    words: str, scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    before = picture()

    def made(by: float, m: tuple[float, ...], s: tuple[float, ...]) -> Array:
        pixels = (before.astype(np.float32) / np.float32(by) - np.array(m, np.float32)) / np.array(
            s, np.float32
        )
        return np.asarray(pixels.transpose(2, 0, 1))

    a, b = made(255.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)), made(scale, mean, std)
    found = explain("final", normalisations("image", [(before, a, b)]), [(a, b)])
    assert words in found.cause and found.after < 1e-6


def test_jpeg_is_told_from_blur_and_noise() -> None:
    import io

    image = (picture(64, 96) + RANDOM.integers(-30, 31, (64, 96, 3))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    copy = np.asarray(Image.open(file).convert("RGB"))
    noisy = np.clip(image + RANDOM.integers(-8, 9, image.shape), 0, 255).astype(np.uint8)
    blurred = resampling.WAYS["PIL's BILINEAR"](resampling.WAYS["PIL's BILINEAR"](image, 48, 72), 64, 96)
    assert "JPEG" in explain("open", jpeg_relations("image", image, copy), [(image, copy)]).cause
    for other in (noisy, blurred):
        assert not explain("open", jpeg_relations("image", image, other), [(image, other)])


def test_what_ids_became_is_explained() -> None:
    before = RANDOM.integers(0, 12, (40, 50)).astype(np.uint8)
    table = np.full(256, 255)
    table[2:10] = np.arange(8)
    a = table[before]
    shifted = table.copy()
    shifted[[9, 10]] = 255, 7
    for b, words in (
        (before.astype(np.int64), "not mapped"), (np.where(a == 255, -1, a), "-1 wherever"),
        (np.where(a == 255, 0, a), "class 0 wherever"), (shifted[before], "label id 9 becomes 255, not 7"),
        (np.where(a == 3, 4, np.where(a == 4, 3, a)), "classes 3 and 4 exchanged"),
    ):  # fmt: skip
        assert words in explain("ids", label_relations("label", [(before, a, b)]), [(a, b)]).cause
    other = RANDOM.integers(0, 19, a.shape)
    assert not explain("ids", label_relations("label", [(before, a, other)]), [(a, other)])


def test_padding_and_another_place_of_a_crop() -> None:
    before = picture(20, 64)
    a, b = picture(30, 32), np.full((30, 32, 3), 127, np.uint8)
    b[:20] = before[:, 5:37]
    assert (
        "padded with 127"
        in explain("crop", crop_relations("image", [(before, a, b)], [], "image"), [(a, b)]).cause
    )


# --- optimizers, schedules, metrics -----------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
def test_rules_of_update_are_torchs(nesterov: bool) -> None:
    torch = pytest.importorskip("torch")
    start, gradients = normal(5).astype(np.float64), [normal(5).astype(np.float64) for _ in range(4)]
    given = {
        Rule("sgd", nesterov=nesterov): lambda p: torch.optim.SGD(
            p, 0.1, 0.9, weight_decay=0.01, nesterov=nesterov
        ),
        Rule("adam", amsgrad=nesterov): lambda p: torch.optim.Adam(
            p, 0.1, weight_decay=0.01, amsgrad=nesterov
        ),
        Rule("adam", decay="decoupled"): lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01),
        Rule("rmsprop", centered=nesterov): lambda p: torch.optim.RMSprop(
            p, 0.1, weight_decay=0.01, centered=nesterov
        ),
        Rule("adagrad"): lambda p: torch.optim.Adagrad(p, 0.1, weight_decay=0.01),
        Rule("adadelta"): lambda p: torch.optim.Adadelta(p, 0.1, weight_decay=0.01),
    }
    epsilon = {"adagrad": 1e-10, "adadelta": 1e-6}
    for rule, build in given.items():
        parameter = torch.tensor(start, requires_grad=True)
        optimizer = build([parameter])
        for gradient in gradients:
            parameter.grad = torch.tensor(gradient)
            optimizer.step()
        settings = {"weight decay": 0.01, "momentum": 0.9 if rule.family == "sgd" else 0.0}
        settings["eps"] = epsilon.get(rule.family, 1e-8)
        made = simulate(rule, Case(start, gradients, [0.1] * 4, settings))[-1][0]
        assert np.allclose(made, parameter.detach().numpy(), rtol=1e-9, atol=1e-12), rule


def rates(
    start: float = 1e-5, warmup: int = 100, count: int = 2000, power: float = 0.9, end: float = 0.0
) -> Array:
    it = np.arange(2000.0)
    rising = start * (0.01 / start) ** (it / warmup)
    falling = (0.01 - end) * np.clip((count - it) / (count - warmup), 0, None) ** power + end
    return np.where(it <= warmup, rising, falling)


def test_a_curve_is_described_by_its_formula() -> None:
    curve = describe_curve(rates(1e-4, 150, 2500, 1.7))
    assert (curve.warmup.shape, curve.warmup.length, curve.decay.kind) == ("exponential", 150, "poly")
    assert np.allclose([curve.decay.power, curve.decay.ends, curve.decay.begins], [1.7, 2500, 150])
    assert describe_curve(np.abs(normal(2000)).astype(np.float64)).decay.kind == ""


def schedule(a: Array, b: Array) -> list[Diagnosis]:
    pair = [record(side, {"rate of x": ("rate", r)}, "schedule") for side, r in (("torch", a), ("paddle", b))]
    return explain_records("schedule", compare_records(*pair, Tolerance(atol=0.0, rtol=1e-12)), *pair)


RATES: list[tuple[str, Array]] = [
    ("one iteration late", np.concatenate([rates()[:1], rates()[:-1]])),
    ("held for 20 iterations", np.repeat(rates()[::20], 20)),
    ("0.5 times", 0.5 * rates()),
    ("lower bound", np.maximum(rates(), 1e-4)),
    ("float32", rates().astype(np.float32).astype(np.float64)),
    ("power is 1 (linear", rates(power=1.0)),
    ("end rate is 0.0001", rates(end=1e-4)),
    ("ends at iteration 2100, not 2000", rates(count=2100)),
    ("warm-up starts at 1e-06", rates(start=1e-6)),
]


@pytest.mark.parametrize(("words", "b"), RATES, ids=[row[0] for row in RATES])
def test_another_learning_rate_is_explained(words: str, b: Array) -> None:
    assert words in said(schedule(rates(), b)[0])


def test_a_rate_without_a_formula_has_no_cause() -> None:
    found = schedule(rates(), rates() * (1 + 0.01 * RANDOM.random(2000)))
    assert len(found) == 1 and not found[0] and found[0].tried


def counted() -> tuple[Array, Array, Array]:
    labels, prediction = RANDOM.integers(0, 5, 40000), RANDOM.integers(0, 6, 40000)
    labels[::9] = 255
    kept = labels != 255
    return prediction, labels, np.bincount(7 * labels[kept] + prediction[kept], minlength=49).reshape(7, 7)


def metric(change: Callable[[Array, Array, Array], dict[str, Array]]) -> list[Diagnosis]:
    prediction, labels, matrix = counted()
    score = iou(matrix)
    given: dict[str, tuple[TapKind, Array]] = {
        "given logits: classes": ("input", prediction), "given logits: labels": ("input", labels),
        "given logits: confusion matrix": ("count", matrix), "given logits: IoU by class": ("score", score),
        "given logits: mean IoU": ("score", np.array(np.nanmean(score))),
        "given logits: pixel accuracy": ("score", np.array(np.diag(matrix).sum() / matrix.sum())),
    }  # fmt: skip
    other = given | {n: (given[n][0], array) for n, array in change(prediction, labels, matrix).items()}
    pair = record("torch", given, "metric"), record("paddle", other, "metric")
    return explain_records("metric", judge_metric(*pair, Tolerance())[0], *pair)


def test_counts_and_scores_are_computed_again() -> None:
    matrix = "given logits: confusion matrix"
    swapped = [0, 1, 3, 2, 4, 5, 6]
    for words, change in (
        ("transposed", lambda p, y, m: {matrix: m.T}),
        ("classes 2 and 3 are exchanged (swapped) in predictions", lambda p, y, m: {matrix: m[:, swapped]}),
        ("255) are counted as class 0", lambda p, y, m: {
            matrix: np.bincount(7 * np.where(y == 255, 0, y) + p, minlength=49).reshape(7, 7)
        }),
        ("have 0 where the reference has NaN", lambda p, y, m: {"given logits: IoU by class": iou(m, 0.0)}),
    ):  # fmt: skip
        assert words in said(metric(change)[0]), words
    assert not any(metric(lambda p, y, m: {matrix: m + RANDOM.integers(0, 9, m.shape)}))


def test_statistics_that_moved_another_way_are_explained() -> None:
    old, batch = normal(16), np.abs(normal(16)) + 1
    name = "bn.running_var"
    a = (0.9 * old + 0.1 * batch).astype(np.float32)
    for words, b in (
        ("momentum=0.1", 0.1 * old + 0.9 * batch),
        ("not updated", old),
        ("n = 32", 0.9 * old + 0.1 * batch * 31 / 32),
    ):
        sides = {"torch": a, "paddle": b.astype(np.float32)}
        pair = [
            record(side, {f"{name} before": ("input", old), name: ("buffer", own)}, "forward")
            for side, own in sides.items()
        ]
        found = explain_records("forward-train", compare_records(*pair, Tolerance(1e-6)), *pair)
        assert words in said(found[0]), said(found[0])


def test_every_norm_with_paddles_variance_is_explained_by_itself() -> None:
    """In float64, where Paddle's kernel has a momentum of float32(0.9), and for a norm that was called twice."""
    sides: dict[str, dict[str, tuple[TapKind, Array]]] = {"torch": {}, "paddle": {}}
    keep = float(np.float32(0.9))
    for name, n in (("a", 16384), ("b", 512), ("b#2", 128)):
        old, batch = np.abs(RANDOM.standard_normal(32)) + 1, np.abs(RANDOM.standard_normal(32)) + 1
        tap = f"{name}.running_var"
        own = {"torch": 0.9 * old + 0.1 * batch, "paddle": keep * old + (1 - keep) * batch * (n - 1) / n}
        for side, values in own.items():
            sides[side] |= {f"{tap} before": ("input", old), tap: ("buffer", values)}
    pair = [record(side, arrays, "forward-train-isolated") for side, arrays in sides.items()]
    found = explain_each(compare_records(*pair, Tolerance(1e-9)), *pair)
    assert all(f"n = {n}" in said(each) for each, n in zip(found.values(), (16384, 512, 128), strict=True))
    assert len({tuple(diagnosis.tried) for diagnosis in found.values()}) == 1
