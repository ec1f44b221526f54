"""Values for a run that is to tell tensors apart: seeded, different for each, and fit for what each one is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from zlib import crc32

import numpy as np

from stdc_parity.align.derivation.table import Table
from stdc_parity.align.derivation.units import COUNTER, NORMS, TENSOR, Part, units_of
from stdc_parity.align.framework import Array


def telling_values(
    table: Table, state: Mapping[str, Array], seed: int, kept: Collection[str] = (), zeros: Collection[str] = ()
) -> dict[str, Array]:
    """A value for every tensor of a PyTorch network. `state` is what it was built with: integers keep that, and so
    do the tensors named in `kept`; what was positive stays so. Those named in `zeros` are full of zeros."""
    values: dict[str, Array] = {}
    padding = {f"{row.path}.weight".removeprefix("."): row.settings["padding_idx"]
               for row in table.modules if isinstance(row.settings.get("padding_idx"), int)}  # fmt: skip
    for unit in units_of(table):
        for role, part in unit.parts.items():
            if part.alias or part.tensor in values:
                continue
            own = state[part.tensor]
            if own.dtype.kind != "f" or part.tensor in kept or role == COUNTER:
                values[part.tensor] = own
            elif part.tensor in zeros:
                values[part.tensor] = np.zeros_like(own)
            else:
                random = np.random.default_rng([seed, crc32(part.tensor.encode())])
                drawn = _drawn(random, unit.kind, role, part, own)
                if part.tensor in padding:  # Paddle's embedding gives zeros there, whatever the row holds
                    drawn[padding[part.tensor]] = 0
                values[part.tensor] = drawn.astype(own.dtype)
    return values | {row.name: values[row.alias] for row in table.tensors if row.alias}


def _drawn(random: np.random.Generator, kind: str, role: str, part: Part, own: Array) -> Array:
    shape, last = own.shape, role.rpartition(".")[2]
    if kind == TENSOR:
        return _of_nobody(random, part, own)
    if last in ("u", "v") and "spectral" in role:
        vector = random.standard_normal(shape)
        return np.asarray(vector / np.linalg.norm(vector))
    if last == "running_var" or last == "g" or (last == "weight" and kind in NORMS):
        return np.asarray(random.uniform(0.5, 1.5, shape))
    if kind == "prelu":
        return np.asarray(random.uniform(0.05, 0.5, shape))
    if last.startswith("bias") or last == "running_mean":
        return np.asarray(0.3 * random.standard_normal(shape))
    if kind == "embedding":
        return np.asarray(random.standard_normal(shape))
    fan_in = max(1, math.prod(part.form[1:]))
    return np.asarray(random.standard_normal(shape) * math.sqrt(2 / fan_in))


def _of_nobody(random: np.random.Generator, part: Part, own: Array) -> Array:
    """A tensor whose meaning is not known: near what it was if that says something."""
    if not np.isfinite(own).all():
        return np.array(own)
    if own.size and own.min() > 0:
        return np.asarray(own * random.uniform(0.5, 1.5, own.shape))
    if part.buffer:
        spread = float(own.std()) or 1.0
        return np.asarray(own + 0.1 * spread * random.standard_normal(own.shape))
    scale = 1 / math.sqrt(max(1, *own.shape[-2:])) if own.ndim > 1 else 0.5
    return np.asarray(scale * random.standard_normal(own.shape))
