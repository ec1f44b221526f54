"""How each side clipped its gradients, read off the first step: by a norm of all, of each tensor, or by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stdc_parity.align.diagnosis.relations import distance
from stdc_parity.align.diagnosis.settings import settings_of
from stdc_parity.align.framework import Array
from stdc_parity.align.record import Record
from stdc_parity.align.result import Comparison, Diagnosis

CLOSE = 3e-5
"""How near two ratios of float32 arrays are to be the same, and to 1."""

Clip = tuple[str, str]
"""What a side does in words, and how it is written in Paddle."""

NOTHING: Clip = ("does not clip gradients", "grad_clip=None")
BY_VALUE = "ClipGradByValue"


def explain_clipping(
    first: Comparison, reference: Record, other: Record, gradients: Mapping[str, Array]
) -> Diagnosis | None:
    """How the sides differ in what they made of the gradients, None if that is not by clipping."""
    a, b = (effective(record, gradients) for record in (reference, other))
    if len(a) < 3 or a.keys() != b.keys():
        return None
    used = {name: gradients[name].astype(np.float64) for name in a}
    clips = [_clip_of(side, used, record) for side, record in ((a, reference), (b, other))]
    right, wrong = clips
    if right is None or wrong is None or right == wrong:
        return None
    cause = f"The {other.side} side {wrong[0]}; the reference {right[0]}."
    name = next(iter(first.paths.values()))
    name = name if name in b else next(iter(b))
    return Diagnosis(
        first.tap, cause, right[1], distance(a[name], b[name]), _left(b[name], used[name], wrong)
    )


def _left(taken: Array, given: Array, clip: Clip) -> float:
    """What a clip leaves unexplained of one gradient, as a fraction of its scale."""
    limit = float(np.abs(taken).max())
    by_value = clip[1].startswith(BY_VALUE)
    made = np.clip(given, -limit, limit) if by_value else given * ((taken * given).sum() / (given**2).sum())
    return distance(taken, made)


def effective(record: Record, gradients: Mapping[str, Array]) -> dict[str, Array]:
    """Each gradient as the first step of SGD took it: the velocity, or the change by the rate, without the decay."""
    found = {}
    for name in gradients:
        group, settings = settings_of(record, name)
        start, after = record.arrays.get(f"{name} before step 1"), record.arrays.get(f"{name} after step 1")
        rate = record.arrays.get(f"learning rate of {group} in step 1")
        velocity = record.arrays.get(f"momentum of {name} after step 1")
        if start is None or after is None or rate is None or "beta1" in settings or not gradients[name].any():
            continue
        if velocity is None:
            continue
        found[name] = velocity.astype(np.float64) - settings.get("weight decay", 0.0) * start
    return found


def _clip_of(taken: Mapping[str, Array], given: Mapping[str, Array], record: Record) -> Clip | None:
    """The clip that makes `taken` of `given`, None if none does."""
    norms = {name: float(np.sqrt((g**2).sum())) for name, g in given.items()}
    ratios = {name: float((taken[name] * g).sum()) / norms[name] ** 2 for name, g in given.items()}
    gaps = [np.abs(taken[name] - ratios[name] * g).max() / np.abs(g).max() for name, g in given.items()]
    if max(gaps) > CLOSE:
        return _by_value(taken, given)
    changed = [name for name, ratio in ratios.items() if abs(ratio - 1) > CLOSE]
    if not changed:
        return NOTHING
    if _same([ratios[name] for name in changed]):
        limit = ratios[changed[0]] * _norm(changed, norms)
        if len(changed) == len(ratios):
            return (
                f"clips by the global norm of all gradients, to {limit:.4g}",
                f"ClipGradByGlobalNorm({limit:.4g})",
            )
        shared = _subset(changed, list(ratios))
        where = f"the norm of {shared}, to {limit:.4g}"
        return f"clips only {len(changed)} of {len(ratios)} gradients, by {where}", (
            f"need_clip=False for all parameters but {shared}; ClipGradByGlobalNorm({limit:.4g})"
        )
    if _same([ratios[name] * norms[name] for name in changed]):
        limit = ratios[changed[0]] * norms[changed[0]]
        return f"clips each gradient by its own norm, to {limit:.4g}", f"ClipGradByNorm({limit:.4g})"
    return _by_group(ratios, norms, record)


def _by_group(ratios: Mapping[str, float], norms: Mapping[str, float], record: Record) -> Clip | None:
    groups: dict[str, list[str]] = {}
    for name in ratios:
        groups.setdefault(settings_of(record, name)[0], []).append(name)
    limits = []
    for names in groups.values():
        if not _same([ratios[name] for name in names]):
            return None
        if abs(ratios[names[0]] - 1) > CLOSE:
            limits.append(ratios[names[0]] * _norm(names, norms))
    if not limits or not _same(limits):
        return None
    return f"clips each group by the norm of its own gradients, to {limits[0]:.4g}", (
        f"ClipGradByGlobalNorm({limits[0]:.4g}) for one optimizer of that group"
    )


def _by_value(taken: Mapping[str, Array], given: Mapping[str, Array]) -> Clip | None:
    limit = max(float(np.abs(t).max()) for t in taken.values())
    gaps = [np.abs(np.clip(g, -limit, limit) - taken[name]).max() for name, g in given.items()]
    if max(gaps) > CLOSE * limit:
        return None
    return f"clips every element to ±{limit:.4g} (by value)", f"{BY_VALUE}({limit:.4g})"


def _same(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= CLOSE * max(abs(v) for v in values)


def _norm(names: Sequence[str], norms: Mapping[str, float]) -> float:
    return float(np.sqrt(sum(norms[name] ** 2 for name in names)))


def _subset(names: Sequence[str], every: Sequence[str]) -> str:
    """Names by their common beginning, if no other has it."""
    start = names[0]
    while start and not all(name.startswith(start) for name in names):
        start = start.rpartition(".")[0]
    only = start and sum(name.startswith(f"{start}.") for name in every) == len(names)
    return f"those below {start}" if only else f"{names[0]} and others"
