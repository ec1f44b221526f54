"""A network's tables: its modules and its tensors, as plain data that travels between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stdc_parity.converters.architecture import Side


@dataclass(frozen=True)
class ModuleRow:
    """One module: its dotted path ("" is the network), the class that it is, and the names of the framework's own
    classes among that one's bases, the nearest first. `settings` are numbers, booleans and texts that it keeps.
    """

    path: str
    type: str
    bases: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorRow:
    """One tensor of the state dict. `module` is the path of the module that owns it, `alias` the name of the
    tensor listed before that is the same one ("" if none). A `buffer` is not trained.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    dtype: str
    buffer: bool = False
    alias: str = ""


@dataclass(frozen=True)
class Reparameterised:
    """A tensor that is computed from others: by weight norm ("weight_norm": g, v) or spectral norm ("spectral_norm":
    orig, u, v). `name` is its name in `module`, `dim` the axis whose slices have norms of their own (-1: none),
    `tensors` the names of those others in the state dict.
    """

    module: str
    name: str
    what: str
    dim: int
    tensors: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """One side's network. `unsaved` are buffers that its state dict leaves out."""

    side: Side
    modules: Sequence[ModuleRow]
    tensors: Sequence[TensorRow]
    reparameterised: Sequence[Reparameterised] = ()
    unsaved: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """The table as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Table:
        """The table that `to_json` wrote."""
        return Table(
            data["side"],
            [ModuleRow(**{**row, "bases": tuple(row["bases"])}) for row in data["modules"]],
            [TensorRow(**{**row, "shape": tuple(row["shape"])}) for row in data["tensors"]],
            [Reparameterised(**row) for row in data["reparameterised"]],
            tuple(data["unsaved"]),
        )
