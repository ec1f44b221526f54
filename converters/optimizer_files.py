"""Optimizer state from file to file: what `stdc-convert optimizer` does."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdc_parity.converters.architecture import Side
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.containers import read_container
from stdc_parity.converters.convert import other
from stdc_parity.converters.errors import CheckpointError, UsageError, shown
from stdc_parity.converters.opened import open_checkpoint
from stdc_parity.converters.optimizer_state import (
    Momentum,
    Order,
    from_paddle,
    from_torch,
    parameters_of,
    to_paddle,
    to_torch,
)
from stdc_parity.converters.paddle_pickle import NAME_TABLE, PADDLE, write_paddle_object
from stdc_parity.converters.pickle_vm import load
from stdc_parity.converters.plan import torch_name
from stdc_parity.converters.sniffing import PADDLE_PICKLE
from stdc_parity.converters.torch_write import write_torch_zip

MAX_ORDER_BYTES = 64 << 20


@dataclass(frozen=True)
class OptimizerConversion:
    """An optimizer's state that was read and converted, and not written yet. `to` is the side it is for."""

    source: Path
    to: Side
    momentum: Momentum
    root: Mapping[str, Any]
    named: bool


def convert_optimizer(
    source: Path,
    net: Path | None,
    *,
    key: str | None = None,
    names: Path | None = None,
    order: Path | None = None,
    iteration: int | None = None,
    settings: Mapping[str, Any],
) -> OptimizerConversion:
    """Read the state in `source` for the network in `net` (or in `source` itself) and convert it.

    `names` is a .pdparams that `paddle.save(layer.state_dict())` wrote, for Paddle's own names. `order` is a
    text file with the parameters' names in the optimizer's order, groups divided by an empty line. Raises
    CheckpointError for what the files are or lack, UsageError for options that do not fit.
    """
    contents = read_container(source)
    to: Side = other(contents.framework)
    if net is None and to == "torch":
        raise UsageError("--net is missing: a .pdopt does not name its parameters", "Give the .pdparams.")
    try:
        parameters = parameters_of(open_checkpoint(net or source, key))
        table = None if names is None else _read_names(names)
        given = None if order is None else _read_order(order)
        if to == "paddle":
            momentum = from_torch(contents.root, parameters, given)
        else:
            momentum = from_paddle(contents.root, parameters, table, given, settings)
    except CheckpointError as error:
        said = error.message if error.message.startswith(shown(str(net or source))) else None
        raise CheckpointError(said or f"{shown(source.name)}: {error.message}", error.note) from None
    if iteration is not None:
        momentum = Momentum(momentum.buffers, momentum.order, momentum.groups, iteration, momentum.scheduler)
    root = to_paddle(momentum, parameters, table) if to == "paddle" else to_torch(momentum)
    return OptimizerConversion(source, to, momentum, root, table is not None)


def write_optimizer(conversion: OptimizerConversion, target: Path, *, force: bool = False) -> None:
    """Write it in one step; raises UsageError if `target` may not be written."""
    with atomic_write(target, force=force, source=conversion.source) as file:
        if conversion.to == "paddle":
            write_paddle_object(file.write, dict(conversion.root))
        else:
            write_torch_zip(file.write, dict(conversion.root))


def optimizer_lines(conversion: OptimizerConversion, target: Path) -> Iterator[str]:
    """What was done, for people."""
    momentum = conversion.momentum
    due = sum(map(len, momentum.order))
    sizes = " + ".join(str(len(group)) for group in momentum.order)
    never = due - len(momentum.buffers)
    held = len(momentum.buffers)
    yield f"{shown(conversion.source.name)}: momentum of {held} parameters, {due} in groups ({sizes})"
    if never and conversion.to == "paddle":
        yield f"{never} parameters were never updated: zeros, which mean the same."
    if conversion.to == "paddle":
        for settings, group in zip(momentum.groups, momentum.order, strict=True):
            said = ", ".join(
                f"{k} {settings[k]:g}" for k in ("lr", "momentum", "weight_decay") if k in settings
            )
            nesterov = ", nesterov" if settings.get("nesterov") else ""
            yield f"settings of {len(group)} parameters, for Paddle's constructor: {said}{nesterov}"
        if not conversion.named:
            yield "Accumulators have the net's names, for models_paddle.optim (--names: for Paddle's own Momentum)."
    yield f"Wrote {shown(str(target))} ({target.stat().st_size:,} bytes)."


def _read_names(path: Path) -> dict[str, str]:
    """PyTorch's name of each parameter -> Paddle's, from the table that paddle.save puts into a layer's file."""
    if read_container(path).container != PADDLE_PICKLE:
        raise UsageError(f"--names: {shown(path.name)} is no file of paddle.save")
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    root, _end = load(data, 0, PADDLE)
    table = root.get(NAME_TABLE) if isinstance(root, dict) else None
    if not isinstance(table, dict) or not all(type(part) is str for item in table.items() for part in item):
        raise UsageError(
            f"--names: {shown(path.name)} has no {NAME_TABLE}",
            "paddle.save(layer.state_dict(), path) writes it.",
        )
    return {torch_name(name, "paddle"): own for name, own in table.items()}


def _read_order(path: Path) -> Order:
    """Groups of names, one a line, an empty line between groups."""
    try:
        if path.stat().st_size > MAX_ORDER_BYTES:
            raise UsageError(f"--order: {shown(path.name)} is too large")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"--order: {shown(path.name)} cannot be read ({shown(error)})") from None
    groups = [tuple(line.strip() for line in part.splitlines()) for part in text.strip().split("\n\n")]
    if any(not name for group in groups for name in group):
        raise UsageError(f"--order: {shown(path.name)} has more than one empty line between groups")
    return tuple(groups)
