"""Why a total differs whose terms agree: a term that is left out, counted twice, or with another weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations

from stdc_parity.align.framework import Array
from stdc_parity.align.result import Diagnosis

WEIGHTS = tuple(sorted({n / d for d in (1, 2, 3, 4, 5, 10) for n in range(-3 * d, 3 * d + 1) if n}, key=abs))
"""What a term's weight may be off by: fractions of small numbers."""

EXACT = 1e-9
"""How near a weight must come to one of WEIGHTS; the terms are compared in float64."""


Terms = Mapping[str, Array]


def explain_total(place: str, total: tuple[Array, Array], terms: tuple[Terms, Terms]) -> Diagnosis | None:
    """Explain `total` (the reference's and ours, 0-d) by `terms` (0-d), None if it is no sum of them.

    As few terms as possible, all with one weight: by chance a sum of three terms would hit one of the weights to
    nine digits once in a million.
    """
    sums = [sum(float(term) for term in side.values()) for side in terms]
    if abs(sums[0] - float(total[0])) > EXACT * abs(sums[0]):
        return None
    gap = float(total[1]) - sums[1]
    for count in range(1, len(terms[1]) + 1):
        for names in combinations(terms[1], count):
            part = sum(float(terms[1][name]) for name in names)
            weight = next((w for w in WEIGHTS if part and abs(gap / part - w) < EXACT), None)
            if weight is not None:
                scale = abs(sums[1])
                return _told(place, names, weight, abs(gap) / scale, abs(gap - weight * part) / scale)
    for one, other in permutations(terms[1], 2):
        left = gap - float(terms[1][one]) + float(terms[1][other])
        if abs(left) < EXACT * abs(sums[1]):
            cause = f"the term {one} is in the total twice, {other} is left out: one stands where the other belongs"
            scale = abs(sums[1])
            return Diagnosis(place, cause, f"total = … + {one} + {other}", abs(gap) / scale, abs(left) / scale)
    return None


def _told(place: str, names: Sequence[str], weight: float, before: float, after: float) -> Diagnosis:
    what = " and ".join(names)
    if weight == -1:
        cause = f"the term {what} is left out of the total"
    elif weight == 1:
        cause = f"the term {what} is in the total once more than in the original (twice)"
    else:
        cause = f"the term {what} has the weight (factor) {1 + weight:.6g} in the total, in the original 1"
    return Diagnosis(place, cause, f"total = … + {' + '.join(names)}, each with weight 1", before, after)
