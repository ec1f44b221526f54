"""What two optimizers say of themselves: each parameter's group, rate, decay and other figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

PLACES = 5
FIX: Mapping[str, str] = {
    "lr": "Groups with 'learning_rate', a multiplier of the optimizer's rate in Paddle: {ratio:g} times what is now.",
    "weight decay": "weight_decay={reference:g}",
    "momentum": "momentum={reference:g}",
    "eps": "epsilon={reference:g}",
    "beta1": "beta1={reference:g}",
    "beta2": "beta2={reference:g}",
    "rho": "rho={reference:g}",
    "alpha": "rho={reference:g}",
}  # fmt: skip

KNOWN: Mapping[tuple[str, float], str] = {
    ("weight decay", 4e-5): "PaddleSeg's",
    ("weight decay", 0.01): "AdamW's default",
    ("momentum", 0.9): "Momentum's default",
    ("rho", 0.95): "Paddle's default",
    ("alpha", 0.95): "Paddle's default (rho)",
    ("eps", 1e-6): "Paddle's default",
}
"""Figures that have a source."""


def settings_of(record: Record, name: str) -> tuple[str, dict[str, float]]:
    """A parameter's group and its figures by their names; ("", {}) if it is in no group."""
    for tap in record.taps:
        if tap.kind == "setting" and tap.path == name:
            found = re.fullmatch(rf"{re.escape(name)} (.+) \((.*)\)", tap.name)
            if found:
                values = np.atleast_1d(record.arrays[tap.name])
                return found[2], dict(zip(found[1].split(", "), map(float, values), strict=True))
    return "", {}


def explain_settings(failing: Sequence[Comparison], reference: Record, other: Record) -> list[Diagnosis]:
    """The settings that differ, a diagnosis for each kind of difference; parameters that one optimizer lacks."""
    wrong: dict[tuple[str, float, float], list[str]] = {}
    absent: list[str] = []
    places: dict[str, str] = {}
    names = dict.fromkeys(path for c in failing if c.kind == "setting" for path in c.paths.values())
    every = [tap.path for tap in reference.taps if tap.kind == "setting" and settings_of_tap(tap.name)]
    for name in names:
        (group, a), (other_group, b) = settings_of(reference, name), settings_of(other, name)
        places[name] = next(c.tap for c in failing if name in c.paths.values())
        if bool(a) != bool(b):
            absent.append(name)
        for figure in a.keys() & b.keys():
            if a[figure] != b[figure]:
                wrong.setdefault((figure, a[figure], b[figure]), []).append(name)
        if a and b and group != other_group and a == b:
            wrong.setdefault(("group", 0.0, 0.0), []).append(name)
    found = [_lacking(absent, places, reference, other)] if absent else []
    for (figure, a_value, b_value), own in wrong.items():
        found.append(_differing(figure, a_value, b_value, own, places, every, other))
    return sorted(found, key=lambda d: list(places.values()).index(d.place))[:PLACES]


def settings_of_tap(tap: str) -> bool:
    """Whether a tap tells a parameter's settings, not a rate."""
    return not tap.startswith("learning rate of ")


def _lacking(absent: Sequence[str], places: Mapping[str, str], reference: Record, other: Record) -> Diagnosis:
    side = other.side if settings_of(reference, absent[0])[1] else reference.side
    cause = (
        f"{absent[0]} is in no group of the {side} side's optimizer (missing), and so it is not trained: "
        f"{which(absent, absent)}."
    )
    fix = (
        "Give every trainable parameter to the optimizer: parameters=[*net.parameters(), *loss.parameters()]."
    )
    return Diagnosis(places[absent[0]], cause, fix)


def _differing(
    figure: str,
    a: float,
    b: float,
    own: Sequence[str],
    places: Mapping[str, str],
    every: Sequence[str],
    other: Record,
) -> Diagnosis:
    place = places[own[0]]
    if figure == "group":
        return Diagnosis(
            place, f"{own[0]} is in another group, with the same settings.", "Put it into the same group."
        )
    called = {"lr": "learning rate", "eps": "epsilon (eps)"}.get(figure, figure)
    whose = KNOWN.get((figure, b), "")
    value = f"{b:g} ({whose})" if whose else f"{b:g}"
    cause = f"The {called} of {which(own, every)} is {value} on the {other.side} side, not {a:g}"
    if figure == "lr" and b:
        cause += f": it is multiplied by {b / a:.4g}" if a else ""
    fix = FIX.get(figure, "{reference:g}").format(reference=a, ratio=a / b if b else 0.0)
    return Diagnosis(place, f"{cause}.", fix, abs(a - b) / (abs(a) or abs(b)), 0.0)


def which(names: Sequence[str], every: Sequence[str]) -> str:
    """Parameters in words: all, those of norms and biases, those with a common beginning, or how many."""
    if len(names) == len(every) and len(names) > 1 and names is not every:
        return f"all {len(every)} parameters"
    if len(names) == 1:
        return names[0]
    small = all(n.endswith(".bias") or re.search(r"(bn|norm)\w*\.weight$", n) for n in names)
    if small:
        return f"{len(names)} norms' and biases' parameters, {names[0]} first"
    start = _common_start(names)
    return f"{len(names)} parameters{f' below {start}' if start else ''}, {names[0]} first"


def _common_start(names: Sequence[str]) -> str:
    parts = [name.split(".") for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared)
