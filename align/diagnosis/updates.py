"""Rules by which optimizers change a parameter, in float64: what would each have made of the gradients?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stdc_parity.align.framework import Array

SQUARED = 1e-16
"""The epsilon under a root that comes nearest to 1e-8 beside it."""


@dataclass(frozen=True)
class Rule:
    """One optimizer's way, every field a thing that ports get wrong.

    `family` is "sgd", "adam", "rmsprop", "adagrad" or "adadelta". `decay` says how weight decay acts: "coupled"
    (added to the gradient), "decoupled" (beside the update), "absolute" (the weights' signs), "coupled and absolute",
    "times the rate". `velocity` is "plain", "rate inside" or "averaged". `root` says whether epsilon is "outside" or
    "inside" of the square root. `gradients` are "cleared" after a step, "kept" (they add up) or "zeroed" (zero where
    absent). `every` is how many steps an update takes; before step `lost` the state is forgotten, before step
    `restarted` the count of steps.
    """

    family: str
    decay: str = "coupled"
    nesterov: bool = False
    dampening: float = 0.0
    velocity: str = "plain"
    amsgrad: bool = False
    centered: bool = False
    root: str = "outside"
    first_sum: float = 0.0
    gradients: str = "cleared"
    every: int = 1
    lost: int = 0
    restarted: int = 0
    half: bool = False


@dataclass(frozen=True)
class Case:
    """One parameter's way: its value before, its gradient in every step (None: absent), and each step's rate."""

    start: Array
    gradients: Sequence[Array | None]
    rates: Sequence[float]
    settings: Mapping[str, float]


@dataclass
class _State:
    """What an optimizer remembers of a parameter."""

    first: Array
    second: Array
    third: Array
    steps: int = 0
    begun: bool = False


def simulate(rule: Rule, case: Case) -> list[tuple[Array, Array]]:
    """The parameter and the buffer that is compared (velocity, first moment, mean square) after every step."""
    value = case.start.astype(np.float64)
    zero = np.zeros_like(value)
    state = _State(zero, zero + rule.first_sum if rule.family == "adagrad" else zero, zero)
    given: Array | None = None
    history = []
    for number, (gradient, rate) in enumerate(zip(case.gradients, case.rates, strict=True), 1):
        given = _given(rule, given, gradient)
        if number == rule.lost:
            state = _State(zero, zero, zero)
        if number == rule.restarted:
            state.steps = 0
        if given is not None and number % rule.every == 0:
            value = _step(rule, case.settings, value, given, state, rate)
            if rule.half:
                value = value.astype(np.float16).astype(np.float64)
        history.append(
            (value, state.second if rule.family in ("rmsprop", "adagrad", "adadelta") else state.first)
        )
    return history


def _given(rule: Rule, before: Array | None, gradient: Array | None) -> Array | None:
    """The gradient that a step sees."""
    fresh = gradient.astype(np.float64) if gradient is not None else None
    if rule.gradients == "kept" and before is not None:
        return before + fresh if fresh is not None else before
    if rule.gradients == "zeroed" and before is not None and fresh is None:
        return np.zeros_like(before)
    return fresh


def _step(
    rule: Rule, settings: Mapping[str, float], value: Array, gradient: Array, state: _State, rate: float
) -> Array:
    decay = settings.get("weight decay", 0.0)
    shrunk = value
    if rule.decay == "decoupled":
        shrunk = value * (1 - rate * decay)
    else:
        sign = np.sign(value)
        kinds = {"absolute": sign, "coupled and absolute": value + sign, "times the rate": rate * value}
        of = kinds.get(rule.decay, value)
        gradient = gradient + decay * of
    state.steps += 1
    if rule.family == "sgd":
        return shrunk - _sgd(rule, settings.get("momentum", 0.0), gradient, state, rate)
    if rule.family == "adam":
        return shrunk - rate * _adam(rule, settings, gradient, state)
    if rule.family == "rmsprop":
        return shrunk - _rmsprop(rule, settings, gradient, state, rate)
    epsilon = settings.get("eps", 1e-10)
    if rule.family == "adagrad":
        state.second = state.second + gradient**2
        return shrunk - rate * gradient / (np.sqrt(state.second) + epsilon)
    rho = settings.get("rho", 0.9)
    state.second = rho * state.second + (1 - rho) * gradient**2
    change = np.sqrt(state.first + epsilon) / np.sqrt(state.second + epsilon) * gradient
    state.first = rho * state.first + (1 - rho) * change**2
    return shrunk - rate * change


def _sgd(rule: Rule, momentum: float, gradient: Array, state: _State, rate: float) -> Array:
    """What is subtracted."""
    taken = {"rate inside": rate, "averaged": 1 - momentum}.get(rule.velocity, 1.0) * gradient
    damped = taken * (1 - rule.dampening) if state.begun else taken
    state.first, state.begun = momentum * state.first + damped, True
    update = gradient + momentum * state.first if rule.nesterov else state.first
    return np.asarray(update if rule.velocity == "rate inside" else rate * update)


def _adam(rule: Rule, settings: Mapping[str, float], gradient: Array, state: _State) -> Array:
    beta1, beta2 = settings.get("beta1", 0.9), settings.get("beta2", 0.999)
    state.first = beta1 * state.first + (1 - beta1) * gradient
    state.second = beta2 * state.second + (1 - beta2) * gradient**2
    state.third = np.maximum(state.third, state.second)
    root = np.sqrt((state.third if rule.amsgrad else state.second) / (1 - beta2**state.steps))
    return np.asarray(state.first / (1 - beta1**state.steps) / (root + settings.get("eps", 1e-8)))


def _rmsprop(rule: Rule, settings: Mapping[str, float], gradient: Array, state: _State, rate: float) -> Array:
    alpha = settings.get("alpha", 0.99)
    epsilon = settings.get("eps", SQUARED if rule.root == "inside" else 1e-8)
    state.second = alpha * state.second + (1 - alpha) * gradient**2
    state.third = alpha * state.third + (1 - alpha) * gradient
    square = state.second - state.third**2 if rule.centered else state.second
    root = np.sqrt(square + epsilon) if rule.root == "inside" else np.sqrt(square) + epsilon
    inside = rate if rule.velocity == "rate inside" else 1.0
    state.first = settings.get("momentum", 0.0) * state.first + inside * gradient / root
    return np.asarray(state.first if rule.velocity == "rate inside" else rate * state.first)
