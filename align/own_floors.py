"""The frameworks' own differences in float64, as floors for a pair of one's own: those whose functions it calls.

docs/ladder.md has what was measured. A pair file that says its floors gets none of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from stdc_parity.align.pair import Floor

RESIZING = re.compile(r"interpolate|upsample\w*|grid_sample|affine_grid")
AVERAGING = re.compile(r"(adaptive_)?avg_pool\dd")
CONSTANT = re.compile(r"selu|hardsigmoid|hardswish")

STATISTICS = re.compile(r"batch_norm|instance_norm")

BILINEAR = "Paddle computes interpolation ratios in float32 even for float64 tensors"
AVGPOOL = "the gradients of Paddle's average pools divide in float32"
MOMENTUM = "Paddle's norms take their momentum in float32"
CONSTANTS = "Paddle has the constants of SELU, Hardsigmoid and Hardswish in float32"


def floors_of(calls: Sequence[tuple[str, str]]) -> list[Floor]:
    """The floors of a network by what it calls in a forward pass, in order: (function, path of the module that calls
    it), and ("", path) where a module is done. The gradients of all that is called before a function pass through it.
    """
    found: dict[str, tuple[float, str]] = {}
    later: tuple[float, str] | None = None
    gradients: list[tuple[float, str]] = []
    for function, path in calls:
        if RESIZING.fullmatch(function):
            later = (2e-5, BILINEAR)
            gradients.append((5e-5, BILINEAR))
            found |= dict.fromkeys(_outer(path), later)
        elif AVERAGING.fullmatch(function):
            gradients.append((2e-7, AVGPOOL))
        elif CONSTANT.fullmatch(function):
            gradients.append((2e-7, CONSTANTS))
            found |= {outer: found.get(outer, (2e-7, CONSTANTS)) for outer in _outer(path)}
            later = later or (2e-7, CONSTANTS)
        elif not function and later is not None:
            found.setdefault(path, later)
    tracks = any(STATISTICS.fullmatch(function) for function, _ in calls)
    statistics = [Floor(r".*running_(mean|var)", 5e-7, MOMENTUM)] if tracks else []
    return [*statistics, *_of_gradients(gradients), *_of_values(found, later)]


def _outer(path: str) -> Iterator[str]:
    """The module and all that it is in."""
    parts = path.split(".") if path else []
    yield from (".".join(parts[:count]) for count in range(len(parts), 0, -1))


def _of_gradients(gradients: Sequence[tuple[float, str]]) -> Iterator[Floor]:
    if gradients:
        yield Floor(r"(own )?grad .*", *max(gradients))


def _of_values(found: Mapping[str, tuple[float, str]], later: tuple[float, str] | None) -> Iterator[Floor]:
    for path, (size, reason) in found.items():
        if path:
            yield Floor(rf"{re.escape(path)}(#\d+)?(\[.*|\.(running_\w+))?", size, reason)
    if later is not None:
        yield Floor(r"(output|loss ).*|total|term\d+", *later)
