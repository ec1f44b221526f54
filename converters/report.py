"""What the converter tells people and programs: summary, plan, inspection, certificate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stdc_parity.converters.architecture import Side
from stdc_parity.converters.atomic import atomic_write
from stdc_parity.converters.convert import Conversion, open_state_dict, remarks
from stdc_parity.converters.errors import ParityError, shown
from stdc_parity.converters.hashing import Hashing
from stdc_parity.converters.pieces import memory_of
from stdc_parity.converters.plan import (
    Entry,
    Rule,
    choose_architecture,
    make_plan,
    recognise,
    recognise_layout,
)
from stdc_parity.converters.sniffing import MXNET
from stdc_parity.converters.version import VERSION

CERTIFICATE_SCHEMA = 1

_CHANGES: Mapping[Rule, str] = {
    "permute": "permuted", "reshape": "reshaped", "split": "split off", "pack": "packed", "create": "created",
}  # fmt: skip


def summary_lines(conversion: Conversion, targets: Sequence[Path]) -> Iterator[str]:
    """What was done, in a few lines; `targets` are the files written, none in a dry run."""
    plan, state = conversion.plan, conversion.state
    layouts = "" if plan.is_between_twins else f", {plan.source.name} -> {plan.target.name}"
    yield f"{shown(conversion.source.name)}: {conversion.contents.container}, {plan.architecture.describe()}{layouts}"
    size = sum(array.nbytes for array in conversion.tensors.values())
    changed = [f"{plan.count('transpose')} transposed"] if plan.count("transpose") else []
    changed += [f"{plan.count(rule)} {word}" for rule, word in _CHANGES.items() if plan.count(rule)]
    aliases = sum(entry.reason.startswith("alias") and entry.target is None for entry in plan.entries)
    counters = sum((entry.source or "").endswith("num_batches_tracked") and not entry.reason.startswith("alias")
                   and entry.target is None for entry in plan.entries)  # fmt: skip
    changed += [f"{aliases} aliases dropped (equal bytes)"] if aliases else []
    changed += [f"{counters} batch counters dropped"] if counters else []
    kept = len(conversion.tensors)
    yield f"{len(state.original)} tensors -> {kept} ({_megabytes(size)}); {', '.join(changed) or 'all copied'}"
    yield from conversion.remarks
    if targets and conversion.target_side == "paddle" and conversion.batches and targets[0].suffix.lower() == ".npz":
        yield f"An npz has no place for the {len(conversion.batches)} batch counters: they are lost."
    yield written_line(targets) if targets else "Dry run: nothing was converted."


def written_line(targets: Sequence[Path]) -> str:
    """The file that was written, or the first of several, and the size of all."""
    more = f" and {len(targets) - 1} shards" if len(targets) > 1 else ""
    return f"Wrote {shown(str(targets[0]))}{more} ({_megabytes(sum(path.stat().st_size for path in targets))})."


def plan_lines(conversion: Conversion) -> Iterator[str]:
    """A line for every key: source, rule, target, and the reason if it is not a copy."""
    for entry in conversion.plan.entries:
        source = shown(conversion.state.original.get(entry.source or "", entry.source or "-"))
        target = shown(entry.target or "-")
        shapes = "" if entry.source_shape == entry.target_shape else f" {entry.source_shape} -> {entry.target_shape}"
        reason = f"  # {'; '.join(filter(None, (entry.reason, entry.loss)))}" if entry.reason else ""
        yield f"{entry.rule:<9} {source} -> {target}{shapes if entry.source and entry.target else ''}{reason}"


def inspect_lines(
    source: Path, key: str | None, member: str | None = None, *, list_keys: bool = False
) -> Iterator[str]:
    """Everything that is known of a checkpoint without converting it. Raises CheckpointError."""
    contents, state, side = open_state_dict(source, key, member)
    tensors = state.tensors
    yield f"file          {shown(str(source))} ({_megabytes(contents.size)})"
    if contents.member:
        yield f"member        {shown(contents.member)}"
    yield f"container     {contents.container}, {contents.version}"
    yield f"state dict    {shown(state.where) if state.where else 'at the top'}, {len(tensors)} tensors"
    if state.others:
        yield from (f"also under    {line} (--key)" for line in _some(path or "the top" for path in state.others))
    yield from (f"beside        {line}" for line in _some(state.beside))
    yield f"names         {side} (norm statistics are called {'running_mean' if side == 'torch' else '_mean'})"
    architecture, layout = recognise(tensors, side), recognise_layout(tensors, side)
    title = architecture.whose.get(layout.name, layout.title) if architecture else ""
    yield f"layout        {f'{layout.name} ({title})' if architecture else 'not recognised'}"
    yield f"architecture  {architecture.describe() if architecture else 'not recognised'}"
    values = sum(tensor.size for tensor in tensors.values())
    dtypes = Counter(tensor.dtype.name for tensor in tensors.values())
    yield f"values        {values:,} in {_megabytes(sum(t.nbytes for t in tensors.values()))} of tensors by name"
    yield f"dtypes        {', '.join(f'{count} {name}' for name, count in dtypes.most_common())}"
    for line in _odd(state, side, architecture is not None, contents.container == MXNET):
        yield f"note          {line}"
    if list_keys:
        for name, tensor in tensors.items():
            yield f"  {shown(state.original[name])}  {tensor.shape}  {tensor.dtype.name}"


def _some(lines: Iterable[str], limit: int = 20) -> Iterator[str]:
    """The first lines, fit to print, and how many more there are."""
    every = list(lines)
    yield from map(shown, every[:limit])
    if len(every) > limit:
        yield f"… and {len(every) - limit:,} more"


def _odd(state: Any, side: Side, recognised: bool, flat: bool) -> Iterator[str]:
    """What is odd about it, as the plan of a conversion finds it."""
    renamed = sum(short != name for short, name in state.original.items())
    if renamed:
        what = "a flat name or arg:, aux:" if flat else "a wrapper's prefix (module., model., …)"
        yield f"{renamed} keys have {what}, which is {'undone' if flat else 'stripped'}"
    yield from _some(f"{name} in the state dict is not a tensor: {what}" for name, what in state.dropped.items())
    if not recognised:
        return
    try:
        plan = make_plan(state, choose_architecture(state.tensors, side, None), side, drop_nonzero_bias=True)
    except ParityError as error:
        yield from error.message.splitlines()
        return
    aliases = sum(entry.reason.startswith("alias") for entry in plan.entries)
    if aliases:
        yield f"{aliases} tensors are second names (x2. … x32.) of others, with equal bytes"
    yield from remarks(state, plan)


def begin_hashing(conversion: Conversion, hashing: Hashing) -> None:
    """Begin to hash what a certificate of `conversion` needs; `hashing.follow` is for `write_conversion`."""
    tensors = (*conversion.state.tensors.values(), *conversion.tensors.values())
    contents = conversion.contents
    hashing.begin(
        contents.files[1:], {memory_of(tensor): tensor for tensor in tensors}, contents.mapped.passed
    )


def write_certificate(
    conversion: Conversion, targets: Sequence[Path], path: Path, hashing: Hashing, *, force: bool
) -> None:
    """Write the account of a conversion as JSON; `targets` are the files written, none in a dry run.

    It has every key with its rule, shapes and the sha256 of its C-ordered little-endian bytes before and
    after, and the hashes of all files. Raises UsageError if `path` may not be written.
    """
    digests = hashing.tensors()
    dtype_name = cache(lambda dtype: str(dtype.name))  # numpy makes the name anew each time
    entries = [_entry_account(entry, conversion, digests, dtype_name) for entry in conversion.plan.entries]
    account = {
        "schema_version": CERTIFICATE_SCHEMA,
        "tool": f"stdc-parity {VERSION}",
        "direction": f"{conversion.plan.source_side}2{conversion.target_side}",
        "source_layout": conversion.plan.source.name,
        "target_layout": conversion.plan.target.name,
        "architecture": {"name": conversion.plan.architecture.name, **conversion.plan.architecture.facts},
        "inplace_abn": conversion.plan.abn,
        "source": _files_account(hashing.sources())
        | ({"member": conversion.contents.member} if conversion.contents.member else {})
        | {"container": conversion.contents.container, "state_dict": conversion.state.where},
        "target": _files_account([hashing.target(each) for each in targets]) if targets else None,
        "entries": entries,
        "batches": dict(conversion.batches),
        "dtype": None if conversion.loss is None else conversion.loss.account(),
        "remarks": list(conversion.remarks),
    }
    with atomic_write(path, force=force, source=conversion.source) as file:
        # A name that is no UTF-8 becomes JSON's \udcff.
        file.write(_json_lines(account).encode(errors="backslashreplace"))


def _json_lines(account: Mapping[str, Any]) -> str:
    """JSON with a line for every key at the top, and for every entry (json's own indenting is slow)."""
    lines = []
    for key, value in account.items():
        rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in value) if key == "entries" else ""
        text = f"[\n  {rows}\n ]" if rows else json.dumps(value, ensure_ascii=False)
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _entry_account(
    entry: Entry, conversion: Conversion, digests: Mapping[Hashable, str], dtype_name: Callable[[Any], str]
) -> dict[str, Any]:
    before = conversion.state.tensors.get(entry.source or "")
    after = conversion.tensors.get(entry.target or "")
    return {
        "source": entry.source and conversion.state.original.get(entry.source, entry.source),
        "target": entry.target,
        "rule": entry.rule,
        "reason": entry.reason,
        **({"loss": entry.loss} if entry.loss else {}),
        "dtype": next((dtype_name(a.dtype) for a in (before, after) if a is not None), None),
        "target_dtype": None if after is None else dtype_name(after.dtype),
        "source_shape": entry.source_shape,
        "target_shape": entry.target_shape,
        "source_sha256": None if before is None else digests[memory_of(before)],
        "target_sha256": None if after is None else digests[memory_of(after)],
    }


def _files_account(files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The account of a checkpoint: its file's, with those of its shards."""
    return files[0] | ({"shards": files[1:]} if len(files) > 1 else {})


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size:,} bytes"
