"""Why parameters differ after steps on the same gradients: settings, or another rule of update."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import combinations
from typing import Any

import numpy as np

from stdc_parity.align.diagnosis.clipping import explain_clipping
from stdc_parity.align.diagnosis.settings import explain_settings, settings_of
from stdc_parity.align.diagnosis.updates import Case, Rule, simulate
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record, Tap
from stdc_parity.align.result import Comparison, Diagnosis
from stdc_parity.align.stages.optimizer import BEFORE, official_gradient

LOOKED_AT = 8
"""Parameters that a rule is held against, small ones."""

CLOSE = {"parameter": 5e-7, "momentum": 2e-6}
"""How near to a float32 record a rule in float64 comes, as a fraction of scale: some steps' rounding."""

POWERS = 1e-4
"""What an adaptive update may be off by, as a fraction of it: Paddle has 1 - 0.999**t in float32."""

GAIN = 0.25
"""What part of the difference a rule may leave."""

TRIED = (
    "settings", "clipping", "nesterov", "dampening", "coupled and decoupled decay", "L1 decay",
    "rate in the velocity", "averaged velocity", "amsgrad", "centered", "epsilon under the root",
    "gradients kept or zero", "lost state",
)  # fmt: skip

WORDS: Mapping[str, tuple[str, str]] = {
    "nesterov": (
        "Nesterov's momentum is {other} where the reference's is {reference} (nesterov)", "use_nesterov={reference}",
    ),
    "dampening": (
        "the velocity takes the whole gradient: dampening is {other:g}, the reference's {reference:g}",
        "v = m * v + (1 - {reference:g}) * g",
    ),
    "decay": (
        "weight decay is {other}, the reference's is {reference}: L2 adds decay * weight to the gradient, L1 "
        "(absolute) its sign, a decoupled one (AdamW) makes the weights smaller beside the update",
        "{reference} weight decay",
    ),
    "velocity": (
        "the velocity (momentum buffer) is built as '{other}', the reference's as '{reference}': with the learning "
        "rate inside, or averaged as m * v + (1 - m) * g, it differs from v = m * v + g",
        "v = m * v + g; w -= lr * v",
    ),
    "amsgrad": (
        "amsgrad, which keeps the largest second moment, is {other} and the reference's {reference}",
        "amsgrad={reference}",
    ),
    "centered": (
        "centered, the variance around the mean gradient, is {other} and the reference's {reference}",
        "centered={reference}",
    ),
    "root": (
        "epsilon is added {other} of the square root, on the reference side {reference} of it",
        "write the update with epsilon {reference} of the root: g / (sqrt(v) + eps) is outside",
    ),
    "first_sum": (
        "the sum of squares starts at {other:g} (initial accumulator), the reference's at {reference:g}",
        "initial_accumulator_value={reference:g}",
    ),
    "gradients": (
        "gradients are {other}, the reference's are {reference}: kept ones accumulate from step to step, zeroed ones "
        "let a parameter without a gradient decay and keep its momentum going, where absent (None) it is not touched",
        "optimizer.clear_grad(set_to_zero=False) before every step",
    ),
    "every": ("an update takes {other} steps, the reference's {reference}", "optimizer.step() after every batch"),
    "lost": (
        "the optimizer's state (its momentum buffers) is lost before step {other}, as in a training that is resumed "
        "without it",
        "optimizer.set_state_dict(paddle.load('….pdopt'))",
    ),
    "restarted": (
        "the bias correction starts anew before step {other}: the powers of beta are lost, the moments are not",
        "beta1_pow_acc = beta1 ** t, beta2_pow_acc = beta2 ** t",
    ),
    "half": (
        "the parameters are kept in float16 (half precision) between the steps",
        "master_weight=True, multi_precision=True",
    ),
}  # fmt: skip
"""What a difference in a field of a rule means, and what to write."""


def explain_optimizer(failing: Sequence[Comparison], reference: Record, other: Record) -> list[Diagnosis]:
    """Why parameters differ: by their settings, if those do, else by the rule that makes what was recorded."""
    stated = explain_settings(failing, reference, other)
    if stated:
        return stated
    first = next((c for c in failing if c.kind in CLOSE), failing[0])
    clipped = explain_clipping(first, reference, other, _gradients(reference, 1))
    if clipped is not None:
        return [clipped]
    found = _explain_rule(first, failing, reference, other)
    return [found if found is not None else Diagnosis(first.tap, tried=TRIED)]


def _explain_rule(
    first: Comparison, failing: Sequence[Comparison], reference: Record, other: Record
) -> Diagnosis | None:
    names = list(_names(first, failing, reference, other))
    if not names:
        return None
    cases = [[_case(record, reference, name) for name in names] for record in (reference, other)]
    figures = set(settings_of(reference, names[0])[1])
    right = next((rule for rule in _rules(figures, None) if _makes(rule, cases[0], names, reference)), None)
    if right is None:
        return None
    wrong = next((rule for rule in _rules(figures, right) if _makes(rule, cases[1], names, other)), None)
    if wrong is None or wrong == right:
        return None
    changed = [f.name for f in fields(Rule) if getattr(wrong, f.name) != getattr(right, f.name)]
    causes, fixes = zip(*(_in_words(name, right, wrong) for name in changed), strict=True)
    before, after = _fall(first, names, cases[1], right, wrong, other)
    if after > GAIN * before:
        return None
    return Diagnosis(
        first.tap, f"On the {other.side} side {', and '.join(causes)}.", "; ".join(fixes), before, after
    )


def _in_words(name: str, right: Rule, wrong: Rule) -> tuple[str, str]:
    given = {"reference": getattr(right, name), "other": getattr(wrong, name)}
    cause, fix = WORDS[name]
    return cause.format(**given), fix.format(**given)


def _names(
    first: Comparison, failing: Sequence[Comparison], reference: Record, other: Record
) -> Iterator[str]:
    """The parameter that failed first and others that failed, small ones, and those that skip steps first."""
    own = next(iter(first.paths.values()))
    wrong = dict.fromkeys(next(iter(c.paths.values())) for c in failing if c.kind in CLOSE)
    known = [n for n in wrong if all(f"{n} {BEFORE}" in record.arrays for record in (reference, other))]
    if own not in known:
        return
    yield own
    skips = sorted(
        known,
        key=lambda n: (all(g is not None for g in _of(reference, n)), reference.arrays[f"{n} {BEFORE}"].size),
    )
    yield from [n for n in skips if n != own][: LOOKED_AT - 1]


def _case(record: Record, reference: Record, name: str) -> Case:
    group, settings = settings_of(record, name)
    steps = _steps(reference)
    rates = [float(record.arrays[f"learning rate of {group} in step {step}"]) for step in range(1, steps + 1)]
    return Case(record.arrays[f"{name} {BEFORE}"], _of(reference, name), rates, settings)


def _steps(record: Record) -> int:
    found = [re.search(r" in step (\d+)$", tap.name) for tap in record.taps]
    return max((int(match[1]) for match in found if match), default=0)


def _of(reference: Record, name: str) -> list[Array | None]:
    """A parameter's gradient in every step."""
    return [_gradients(reference, step, name).get(name) for step in range(1, _steps(reference) + 1)]


def _gradients(reference: Record, step: int, only: str = "") -> dict[str, Array]:
    """The gradients that were given in a step, in the official shapes."""
    spec = reference.facts.get("spec")
    seed = int(spec["seed"]) if isinstance(spec, dict) else 0
    taps = [tap for tap in reference.taps if tap.kind == "input" and tap.name.endswith(f" {BEFORE}")]
    found = {}
    for tap in taps:
        name = tap.name.removesuffix(f" {BEFORE}")
        if not only or name == only:
            array = reference.arrays[tap.name]
            gradient = official_gradient(name, array.shape, step, seed, array.dtype.name)
            if gradient is not None:
                found[name] = gradient
    return found


def _rules(figures: set[str], right: Rule | None) -> Iterator[Rule]:
    """Rules that may be at work, simple ones first: without `right` those that an optimizer of these figures may
    have, else what differs from it in one thing or two."""
    if right is None:
        family = (
            "adam" if "beta1" in figures else "rmsprop" if "alpha" in figures else "adadelta" if "rho" in figures
            else "adagrad" if "eps" in figures else "sgd"
        )  # fmt: skip
        right = Rule(family)
        yield right
    changes = list(_changes(right))
    for change in changes:
        yield replace(right, **change)
    for one, two in combinations(changes, 2):
        if not one.keys() & two.keys():
            yield replace(right, **one, **two)


def _changes(rule: Rule) -> Iterator[dict[str, Any]]:
    """What may be different about a rule."""
    for decay in ("coupled", "decoupled", "absolute", "coupled and absolute", "times the rate"):
        yield {"decay": decay}
    for gradients in ("cleared", "kept", "zeroed"):
        yield {"gradients": gradients}
    if rule.family == "sgd":
        yield {"nesterov": not rule.nesterov}
        for dampening in (0.0, 0.1, 0.9, 0.5):
            yield {"dampening": dampening}
    if rule.family in ("sgd", "rmsprop"):
        for velocity in ("plain", "rate inside", "averaged"):
            yield {"velocity": velocity}
    if rule.family == "adam":
        yield {"amsgrad": not rule.amsgrad}
    if rule.family == "rmsprop":
        yield {"centered": not rule.centered}
        yield {"root": "inside" if rule.root == "outside" else "outside"}
    if rule.family == "adagrad":
        yield {"first_sum": 0.1}
    yield {"every": 2}
    yield {"half": True}
    for step in (2, 3, 4, 5):
        yield {"lost": step}
        if rule.family == "adam":
            yield {"restarted": step}


def _makes(rule: Rule, cases: Sequence[Case], names: Sequence[str], record: Record) -> bool:
    """Whether a rule makes what a side recorded of all these parameters, to rounding."""
    for case, name in zip(cases, names, strict=True):
        history = simulate(rule, case)
        for tap, made in _recorded(name, history, record):
            array = record.arrays[tap.name].astype(np.float64)
            scale, change = float(np.abs(array).max()) or 1.0, float(np.abs(array - case.start).max())
            powers = rule.family != "sgd" and tap.kind == "parameter" and record.side == "paddle"
            slack = POWERS * change if powers else 0.0
            if not np.abs(array - made).max() <= CLOSE[tap.kind] * scale + slack:
                return False
    return True


def _recorded(
    name: str, history: Sequence[tuple[Array, Array]], record: Record
) -> Iterator[tuple[Tap, Array]]:
    for tap in record.taps:
        found = re.search(r" after step (\d+)$", tap.name)
        if tap.path == name and tap.kind in CLOSE and found:
            yield tap, history[int(found[1]) - 1][tap.kind == "momentum"]


def _fall(
    first: Comparison, names: Sequence[str], cases: Sequence[Case], right: Rule, wrong: Rule, other: Record
) -> tuple[float, float]:
    """How far the other side's array is from what each of two rules makes, as fractions of scale."""
    found = []
    for rule in (right, wrong):
        made = {tap.name: array for tap, array in _recorded(names[0], simulate(rule, cases[0]), other)}
        array = other.arrays[first.tap].astype(np.float64)
        found.append(float(np.abs(array - made[first.tap]).max() / (np.abs(array).max() or 1.0)))
    return found[0], found[1]
