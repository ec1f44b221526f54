"""Finding the state dict in what a checkpoint holds: wrappers, prefixes, and what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stdc_parity.converters.errors import CheckpointError, UsageError, shown

Array = npt.NDArray[Any]

Restructure = Callable[[Mapping[str, Array]], Mapping[str, str]]
"""What gives tensors by name other names."""

WRAPPERS = (
    "state_dict", "model", "model_state", "model_state_dict", "net", "network", "params", "weights", "module",
    "ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema",
)  # fmt: skip
"""Where training scripts put the state dict, the first that is there is taken (`--key` names another)."""

PREFIXES = ("model.", "net.", "network.")
"""Prefixes that wrappers (Lightning, training classes) put before every key."""

COMPONENTS = ("module", "_orig_mod")
"""What DataParallel, DDP and torch.compile put into the names of what they wrap, at any depth."""

MAX_DEPTH = 4
MAX_SHOWN = 10


@dataclass(frozen=True)
class StateDict:
    """A state dict, where it was, and what was set aside to get it.

    `tensors` maps names, prefixes stripped, to arrays (any dtype and shape). `original` maps those names
    to the names in the file. `where` is the path of keys to it, "" for a bare state dict. `others` are the
    paths of further state dicts in the file, `beside` describes what else the file holds, and `dropped`
    names the entries of the state dict itself that are not tensors.
    """

    tensors: Mapping[str, Array]
    original: Mapping[str, str]
    where: str
    others: tuple[str, ...]
    beside: tuple[str, ...]
    dropped: Mapping[str, str]


def find_state_dict(
    root: object, *, key: str | None = None, known: Set[str] = frozenset(), structured: Restructure | None = None
) -> StateDict:
    """The state dict in `root`, the object that a container holds.

    `key` is the path of keys to it ("ema", "checkpoint.model"); without it the root itself is taken if no
    other candidate is larger, else the first of `WRAPPERS`, else the only candidate. Of the names with and without
    wrappers' prefixes those are taken of which most are `known`, if any are; before that, `structured` gives those of
    a file that has them in another form. Raises CheckpointError when there is none or when several stand under
    unknown names, UsageError when `key` leads nowhere.
    """
    if not isinstance(root, Mapping):
        raise CheckpointError(
            f"the file holds {_describe(root)}, not a state dict",
            note="Save a state dict: torch.save(model.state_dict(), path) or paddle.save(layer.state_dict(), path).",
        )
    found: dict[str, dict[str, object]] = {}
    for path, candidate in _candidates(root, ""):
        if path in found:
            raise CheckpointError(f"two state dicts in the file have the path {shown(path)}")
        found[path] = candidate
    where = _choose(found, key)
    raw = found[where]
    unsupported = {str(k): _refusal(v) for k, v in raw.items() if _refusal(v)}
    if unsupported:
        lines = "\n".join(f"  {shown(name)}: {why}" for name, why in list(unsupported.items())[:MAX_SHOWN])
        raise CheckpointError(
            f"tensors of a kind that is not converted: {len(unsupported)}\n{lines}",
            note="Make them plain where they come from (.float(), .to_dense(), .dequantize()) and save again.",
        )
    tensors: dict[str, Any] = {name: value for name, value in raw.items() if isinstance(value, np.ndarray)}
    first = {name: name for name in tensors} if structured is None else structured(tensors)
    best = _best_names(list(first.values()), known)
    names = {name: best[plain] for name, plain in first.items()}
    _refuse_collisions(names)
    return StateDict(
        tensors={short: raw[name] for name, short in names.items()},  # type: ignore[misc]
        original={short: name for name, short in names.items()},
        where=where,
        others=tuple(path for path in found if path != where),
        beside=tuple(_beside(root, found)) if where else (),
        dropped={str(k): _describe(v) for k, v in raw.items() if not isinstance(v, np.ndarray)},
    )


def _candidates(node: Mapping[object, object], path: str, depth: int = 0) -> Iterator[tuple[str, dict[str, object]]]:
    """Every dict with names and tensors in it, but for optimizers' states, with the path of keys to it."""
    if "param_groups" in node:
        return
    if any(isinstance(k, str) and (isinstance(v, np.ndarray) or _refusal(v)) for k, v in node.items()):
        yield path, {str(k): v for k, v in node.items()}
    if depth == MAX_DEPTH:
        return
    for k, child in node.items():
        if isinstance(child, Mapping) and isinstance(k, str) and "optim" not in k.lower():
            yield from _candidates(child, f"{path}.{k}" if path else k, depth + 1)


def _choose(found: Mapping[str, Mapping[str, object]], key: str | None) -> str:
    listed = ", ".join(shown(path) or "the top" for path in list(found)[:MAX_SHOWN])
    listed += ", …" if len(found) > MAX_SHOWN else ""
    if key is not None:
        if key not in found:
            raise UsageError(f"--key {shown(key)}: no state dict there", note=f"The file has: {listed or 'none'}.")
        return key
    if not found:
        raise CheckpointError("the file holds no tensors by name", note="Is it an optimizer's state or a log?")
    if "" in found and len(found[""]) == max(map(len, found.values())):
        return ""
    for wrapper in WRAPPERS:
        matches = [path for path in found if path.rpartition(".")[2] == wrapper]
        if matches:
            return min(matches, key=lambda path: path.count("."))
    if len(found) > 1:
        raise CheckpointError(
            f"the file holds {len(found)} state dicts: {listed}", note="Choose one with --key PATH."
        )
    return next(iter(found))


def _bare_name(name: str) -> str:
    """The name without the components that wrappers leave, wherever they stand."""
    return ".".join(part for part in name.split(".") if part not in COMPONENTS)


def _strip_common(names: dict[str, str]) -> Iterator[dict[str, str]]:
    """The names, then without each of the prefixes that all of them have."""
    yield names
    while prefix := next((p for p in PREFIXES if names and all(s.startswith(p) for s in names.values())), ""):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
        yield names


def _best_names(names: list[str], known: Set[str]) -> dict[str, str]:
    """Each name as it is taken: without any prefix of wrappers, unless more are known with some of them."""
    bare = list(_strip_common({name: _bare_name(name) for name in names}))
    candidates = [*reversed(bare), {name: name for name in names}]
    return max(candidates, key=lambda each: len(known & set(each.values())))  # the first of the best


def _refuse_collisions(names: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for name, short in names.items():
        if short in first:
            raise CheckpointError(
                f"two keys name one tensor: {shown(first[short])} and {shown(name)} are both {shown(short)}"
            )
        first[short] = name


def _beside(root: Mapping[object, object], found: Mapping[str, object]) -> Iterator[str]:
    """What stands at the top of the file beside the tensors, in words."""
    tops = {path.partition(".")[0] for path in found}
    for k, v in root.items():
        if not isinstance(v, np.ndarray) and str(k) not in tops:
            yield f"{k!s}: {_describe(v)}"


def _refusal(value: object) -> str:
    """Why a value that stands for a tensor can't be converted; "" for anything else."""
    return str(getattr(value, "unsupported", ""))


def _describe(value: object) -> str:
    """`dict of 3`, `int 12`, `Namespace`: a few words that fit a line, control characters escaped."""
    if isinstance(value, Mapping | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"one tensor {value.shape}"
    if isinstance(value, np.generic):
        return f"{type(value).__name__} {value!s}"[:60]
    if isinstance(value, bool | int | float):
        return f"{type(value).__name__} {value!r}"[:60]
    if isinstance(value, str):
        return repr(value)[:60]
    return str(getattr(value, "kind", type(value).__name__))
