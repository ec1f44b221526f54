"""What a table's tensors are: units of tensors that belong together, each described as PyTorch has it.

A unit is one layer (its weight, bias, statistics), whatever its side calls and packs them, or one tensor that a
module of nobody's keeps for itself. A layer's type says what is transposed; shapes say nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from stdc_parity.align.derivation.table import ModuleRow, Reparameterised, Table, TensorRow
from stdc_parity.converters.rules import Rows, Shape, Transform

_NORMS = ("BatchNorm", "InstanceNorm")
KINDS: Mapping[str, str] = {
    "Linear": "linear", "Bilinear": "bilinear", "Embedding": "embedding", "PReLU": "prelu",
    "LayerNorm": "layer norm", "RMSNorm": "rms norm", "GroupNorm": "group norm",
    "SyncBatchNorm": "batch norm", "BatchNorm": "batch norm",
    "LSTM": "lstm", "GRU": "gru", "RNN": "rnn", "SimpleRNN": "rnn",
    "LSTMCell": "lstm", "GRUCell": "gru", "RNNCell": "rnn", "SimpleRNNCell": "rnn",
    "MultiheadAttention": "attention", "MultiHeadAttention": "attention",
    **{f"{name}{n}{d}": name.removesuffix("Norm").lower() + " norm" for name in _NORMS for n in "123" for d in "dD"},
    **{f"Conv{n}{d}": f"conv {n}d" for n in "123" for d in "dD"},
    **{f"ConvTranspose{n}d": f"transposed conv {n}d" for n in "123"},
    **{f"Conv{n}DTranspose": f"transposed conv {n}d" for n in "123"},
}  # fmt: skip
"""A layer's class, of either framework, and what it is. Norms of any number of dimensions have the same tensors."""

NORMS = ("batch norm", "instance norm", "layer norm", "group norm", "rms norm")
TENSOR = "tensor"
"""The kind of a tensor that no known layer owns."""
RECURRENT = ("lstm", "gru", "rnn")
PADDLE_ROLES: Mapping[str, Mapping[str, str]] = {
    "batch norm": {"_mean": "running_mean", "_variance": "running_var"},
    "instance norm": {"scale": "weight"},
    "prelu": {"_weight": "weight"},
}
"""What Paddle's layers call the tensors that PyTorch calls otherwise."""
_CELLS = re.compile(r"(\d+)\.cell(_fw|_bw)?\.(\w+)")


@dataclass(frozen=True)
class Part:
    """A tensor, or some rows of one, in a unit. `shape` is the whole tensor's own, `form` that of the part as PyTorch
    has it, `turn` what makes Paddle's of that, and `alias` the tensor that it is another name of. `fixed` says that
    the layer's type tells how it lies; of other tensors nothing but a run can tell.
    """

    tensor: str
    shape: Shape
    form: Shape
    turn: Transform = "copy"
    rows: Rows | None = None
    alias: str = ""
    fixed: bool = True
    dtype: str = "float32"
    buffer: bool = False


@dataclass(frozen=True)
class Unit:
    """A layer's tensors by what they are ("weight", "bias", "q.weight", …). `module` is the path of the module whose
    calls show what it is given, "" for none. `group` sorts units that could stand for each other.
    """

    path: str
    kind: str
    parts: Mapping[str, Part]
    module: str = ""

    @property
    def is_alias(self) -> bool:
        """Whether all of its tensors are second names."""
        return all(part.alias for part in self.parts.values())

    @property
    def signature(self) -> tuple[object, ...]:
        """What another unit has in common with this one if it may be the same layer: its kind, roles and forms."""
        if self.kind == TENSOR:
            part = self.parts["value"]
            whole = part.dtype.startswith(("int", "uint", "bool"))
            return TENSOR, whole, tuple(sorted(part.form))
        return (self.kind, *sorted((role, part.form) for role, part in self.parts.items() if role != COUNTER))

    @property
    def core(self) -> tuple[object, ...]:
        """The signature without what a layer may have or lack: its bias, affine weights or statistics."""
        if self.kind == TENSOR:
            return *self.signature[:2], tuple(sorted(n for n in self.parts["value"].form if n != 1))
        if self.kind in NORMS:
            return self.kind, next(part.form for role, part in self.parts.items() if role != COUNTER)
        weights = [(role, p.form) for role, p in self.parts.items() if role.partition(".")[0].startswith("weight")]
        return (self.kind, *sorted(weights)) if weights else self.signature


COUNTER = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var", COUNTER)
_OWN = re.compile(r"(weight|bias)(\..+)?|running_(mean|var)|num_batches_tracked")
_OWN_RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?(\..+)?")
_OWN_ATTENTION = re.compile(r"(q|k|v|out)\.(weight|bias)|bias_[kv]")


def _is_own(kind: str, role: str) -> bool:
    """Whether a layer of that kind has such a tensor; what subclasses add is a tensor of nobody's."""
    own = _OWN_RECURRENT if kind in RECURRENT else _OWN_ATTENTION if kind == "attention" else _OWN
    return own.fullmatch(role) is not None


def units_of(table: Table) -> list[Unit]:
    """The units of a network, in the order of its state dict."""
    return list(_Units(table).all())


class _Units:
    def __init__(self, table: Table) -> None:
        self.table = table
        self.modules = {row.path: row for row in table.modules}
        self.kinds = {path: kind_of(row) for path, row in self.modules.items()}
        self.by_owner: dict[str, list[TensorRow]] = {}
        for row in table.tensors:
            self.by_owner.setdefault(self._owner(row.module), []).append(row)
        self.computed = {
            tensor: (each, short) for each in table.reparameterised for short, tensor in each.tensors.items()
        }

    def _owner(self, path: str) -> str:
        """The path of the known layer that a tensor's module is a part of, or the module's own."""
        parts = path.split(".")
        for length in range(len(parts)):
            outer = ".".join(parts[:length])
            inside = parts[length]
            kind = self.kinds.get(outer, "")
            is_cell = kind in RECURRENT and inside.isdecimal()
            if kind == "attention" or is_cell or (kind and inside == "parametrizations"):
                return outer
        return path

    def all(self) -> Iterator[Unit]:
        for path, rows in self.by_owner.items():
            kind = self.kinds.get(path, "")
            if kind:
                yield from self._layer(path, kind, rows)
            else:
                yield from map(_alone, rows)

    def _layer(self, path: str, kind: str, rows: list[TensorRow]) -> Iterator[Unit]:
        parts: dict[str, Part] = {}
        local_of = {row.name: row.name[len(path) + 1 :] if path else row.name for row in rows}
        cells = {row.alias or row.name: match for row in rows if (match := _CELLS.fullmatch(local_of[row.name]))}
        for row in rows:
            local = local_of[row.name]
            if kind in RECURRENT and cells:
                # Paddle lists a cell's tensors a second time, and with proj_size only those names are right
                if row.name not in cells:
                    continue
                cell = cells[row.name]
                local = f"{cell[3]}_l{cell[1]}{'_reverse' if cell[2] == '_bw' else ''}"
            for role, part in self._parts(kind, local, row):
                if _is_own(kind, role):
                    parts[role] = replace(part, alias=row.alias, dtype=row.dtype, buffer=row.buffer)
                else:
                    yield _alone(row)
        if kind in RECURRENT:
            parts = _as_cell(parts)
        if parts:
            yield Unit(path, kind, parts, "" if all(row.alias for row in rows) else path)

    def _parts(self, kind: str, local: str, row: TensorRow) -> Iterator[tuple[str, Part]]:
        """The roles that a tensor of a known layer plays, and its parts that play them."""
        if row.name in self.computed:
            yield self._computed(kind, row)
            return
        paddle = self.table.side == "paddle"
        if kind == "attention":
            yield from _attention(local, row, paddle)
        elif paddle and kind in RECURRENT and local.startswith("weight_ho"):
            yield local.replace("ho", "hr"), Part(row.name, row.shape, row.shape[::-1], "transpose")
        elif kind == "bilinear" and local == "bias":
            yield "bias", Part(row.name, row.shape, row.shape[-1:], "reshape" if paddle else "copy")
        else:
            role = PADDLE_ROLES.get(kind, {}).get(local, local) if paddle else local
            yield role, self._plain(kind, role, row)

    def _plain(self, kind: str, role: str, row: TensorRow) -> Part:
        if self.table.side == "paddle" and kind == "linear" and role == "weight":
            return Part(row.name, row.shape, row.shape[::-1], "transpose")
        if kind == "layer norm":  # of several axes: one axis in Paddle
            return Part(row.name, row.shape, (math.prod(row.shape),), "reshape")
        return Part(row.name, row.shape, row.shape)

    def _computed(self, kind: str, row: TensorRow) -> tuple[str, Part]:
        """A tensor that weight norm or spectral norm computes another of."""
        each, short = self.computed[row.name]
        role = PADDLE_ROLES.get(kind, {}).get(each.name, each.name) if self.table.side == "paddle" else each.name
        axis = self._axis(each, kind, role)
        name = f"{role}.{each.what} over {'all' if axis == -1 else f'axis {axis}'}.{short}"
        if each.what == "weight_norm" and short == "g":  # as many as there are norms, in whatever shape
            return name, Part(row.name, row.shape, (math.prod(row.shape),), "reshape")
        whole = row if short in ("v", "orig") and not (each.what == "spectral_norm" and short == "v") else None
        return name, self._plain(kind, role, row) if whole else Part(row.name, row.shape, row.shape)

    def _axis(self, each: Reparameterised, kind: str, role: str) -> int:
        """The axis of the norms as PyTorch has the tensor: a Linear weight's two are turned in Paddle."""
        turned = self.table.side == "paddle" and kind == "linear" and role == "weight"
        return 1 - each.dim if turned and each.dim in (0, 1) else each.dim


def _alone(row: TensorRow) -> Unit:
    part = Part(row.name, row.shape, row.shape, alias=row.alias, fixed=False, dtype=row.dtype, buffer=row.buffer)
    return Unit(row.name, TENSOR, {"value": part})


def kind_of(row: ModuleRow) -> str:
    """What a module is by its framework's classes among its bases, "" if nothing known."""
    return next((KINDS[base] for base in row.bases if base in KINDS), "")


def _attention(local: str, row: TensorRow, paddle: bool) -> Iterator[tuple[str, Part]]:
    """A multi-head attention's tensors: PyTorch packs what makes queries, keys and values if they are equal."""
    packed = {"in_proj_weight": "weight", "in_proj_bias": "bias"}
    if not paddle and local in packed:
        rows = row.shape[0] // 3
        for i, letter in enumerate("qkv"):
            part = Part(row.name, row.shape, (rows, *row.shape[1:]), rows=(i * rows, (i + 1) * rows))
            yield f"{letter}.{packed[local]}", part
        return
    role = re.sub(r"^(q|k|v|out)_proj[._]", r"\1.", local)
    if paddle and role.endswith(".weight"):
        yield role, Part(row.name, row.shape, row.shape[::-1], "transpose")
    else:
        yield role, Part(row.name, row.shape, row.shape)


def _as_cell(parts: dict[str, Part]) -> dict[str, Part]:
    """Roles of one layer in one direction as a cell has them: `weight_ih`, not `weight_ih_l0`."""
    if all(role.endswith("_l0") for role in parts):
        return {role.removesuffix("_l0"): part for role, part in parts.items()}
    return parts


def as_linears(unit: Unit) -> list[Unit]:
    """An attention as the linear layers that it is made of, for an implementation that has them one by one."""
    found: dict[str, dict[str, Part]] = {}
    for role, part in unit.parts.items():
        letter, _, rest = role.partition(".")
        found.setdefault(letter if rest else role, {})[rest or "value"] = part
    linears = []
    for name, parts in found.items():
        kind = "linear" if "weight" in parts else TENSOR
        module = ""
        if kind == "linear" and "weight" in parts and parts["weight"].rows is None:
            module = parts["weight"].tensor.removesuffix(".weight")
        linears.append(Unit(f"{unit.path}.{name}" if unit.path else name, kind, parts, module))
    return linears


def as_tensors(unit: Unit) -> list[Unit]:
    """A unit as one for each of its tensors."""
    return [Unit(part.tensor, TENSOR, {"value": part}) for part in unit.parts.values()]


def as_rows(unit: Unit, count: int) -> list[Unit]:
    """A linear layer or convolution as `count` of equal numbers of rows."""
    size = unit.parts["weight"].form[0] // count
    return [
        Unit(
            f"{unit.path}[{i * size}:{(i + 1) * size}]",
            unit.kind,
            {role: replace(part, form=(size, *part.form[1:]), rows=(i * size, (i + 1) * size))
             for role, part in unit.parts.items()},
        )
        for i in range(count)
    ]  # fmt: skip
