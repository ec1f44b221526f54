"""Proving after the fact that one checkpoint holds exactly the tensors of another, as the rules convert them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdc_parity.converters.casting import DTYPES
from stdc_parity.converters.certificate import against_certificate, read_certificate
from stdc_parity.converters.closeness import gap_between
from stdc_parity.converters.containers import Contents
from stdc_parity.converters.convert import Conversion, open_state_dict, other, plan_conversion
from stdc_parity.converters.diff_report import describe_gap
from stdc_parity.converters.errors import shown
from stdc_parity.converters.families import part_of
from stdc_parity.converters.layouts import get_layout
from stdc_parity.converters.pieces import Phases, no_phases
from stdc_parity.converters.plan import Abn, Plan, recognise, recognise_layout
from stdc_parity.converters.rules import Rules
from stdc_parity.converters.rules_plan import side_of
from stdc_parity.converters.sniffing import NPZ
from stdc_parity.converters.statedict import Array, StateDict

SCHEMA = 1
SHOWN = 20


@dataclass(frozen=True)
class Verification:
    """What was found; true if the target holds exactly the source's tensors.

    `problems` are lines, in no case clipped; `dropped` and `created` name keys with their reasons. `rounded` says
    what another dtype cost, "" if none was asked for; `hint` what else the conversion may have been, if it failed.
    """

    source: Path
    target: Path
    certificate: Path | None
    plan: Plan
    held: int
    problems: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]
    created: tuple[tuple[str, str], ...]
    rounded: str = ""
    hint: str = ""

    def __bool__(self) -> bool:
        return not self.problems


def verify(
    source: Path,
    target: Path,
    certificate: Path | None = None,
    *,
    model: str | None = None,
    key: str | None = None,
    member: str | None = None,
    abn: Abn | None = None,
    layout: str | None = None,
    dtype: str | None = None,
    rules: Rules | None = None,
    phases: Phases = no_phases,
) -> Verification:
    """Convert `source` in memory and hold `target` against the result, key by key and bit for bit.

    The options are those of the conversion; `layout` is the target's, by default the one that its names have;
    `rules`, if it had some, stand for a layout.
    With a certificate both files' hashes and every key's are held against that too, and options that are not
    given are taken from it. Raises CheckpointError if a file cannot be read or converted, UsageError for
    options that do not fit.
    """
    certified = None if certificate is None else read_certificate(certificate)
    contents, held, side = open_state_dict(target, rules=rules)
    given = {"model": model, "key": key, "member": member, "abn": abn, "dtype": dtype, "layout": layout}
    if certified is not None:
        given = {name: certified.options().get(name) if value is None else value for name, value in given.items()}
    conversion = _planned(source, side, held, given, rules, phases)
    side = conversion.target_side
    counts = side == "paddle" and contents.container != NPZ  # which has no place for counters
    size = sum(tensor.nbytes for tensor in conversion.tensors.values())
    conversion.contents.mapped.watch = phases("comparing", size)
    problems = [*_against_tensors(conversion, held, contents), *_beside(held)]
    if counts and contents.batches != conversion.batches:
        problems.append(f"the counters of batches behind the tensors are not {shown(source.name)}'s")
    if certified is not None:
        batches = contents.batches if counts else conversion.batches
        problems += against_certificate(certified, conversion, contents, held, batches)
    entries, original = conversion.plan.entries, conversion.state.original
    dropped = tuple(
        (original.get(e.source, e.source), "; ".join(filter(None, (e.reason, e.loss))))
        for e in entries
        if e.source and not e.target
    )
    created = tuple((e.target, e.reason) for e in entries if e.target and not e.source)
    return Verification(
        source, target, certificate, conversion.plan, len(conversion.tensors), tuple(problems), dropped, created,
        rounded="" if conversion.loss is None else conversion.loss.describe(),
        hint=(_model_hint(conversion, held) or _dtype_hint(conversion, held)) if problems else "",
    )  # fmt: skip


def _planned(
    source: Path,
    side: Any,
    held: StateDict,
    given: dict[str, Any],
    rules: Rules | None,
    phases: Phases,
) -> Conversion:
    """The conversion of `source` to what `held` is: with aliases if it has some."""
    if rules is not None:
        options = {name: given[name] for name in ("key", "member", "dtype")}
        own = open_state_dict(source, options["key"], options["member"], rules=rules)[2]
        went_across = side_of(rules, held.tensors, other(own)) != own
        to = other(own) if went_across else None
        return plan_conversion(source, to, rules=rules, phases=phases, **options)
    name, abn, options = given.pop("layout"), given.pop("abn") or "auto", {**given}
    layout = recognise_layout(held.tensors, side) if name is None else get_layout(name)
    options |= {"target": layout, "abn": abn, "drop_nonzero_bias": True, "phases": phases}
    conversion = plan_conversion(source, None, same_layout=True, **options)
    if layout.name == "official" and any(name in conversion.plan.architecture.aliases for name in held.tensors):
        return plan_conversion(source, None, same_layout=True, aliases=True, **options)
    return conversion


def _model_hint(conversion: Conversion, held: StateDict) -> str:
    """Which --model might explain what `held` is, if any."""
    found = recognise(held.tensors, conversion.target_side)
    if found is None or part_of(conversion.plan.architecture, found.name) is None:
        return ""
    return f"Was it converted with --model {found.name}? Then give that here too."


def _dtype_hint(conversion: Conversion, held: StateDict) -> str:
    """Which --dtype might explain what `held` is, if any."""
    names = {tensor.dtype.name for tensor in held.tensors.values() if tensor.dtype.kind not in "iub"}
    ours = {tensor.dtype.name for tensor in conversion.tensors.values() if tensor.dtype.kind not in "iub"}
    if len(names) != 1 or names == ours or not names <= set(DTYPES):
        return ""
    return f"Was it converted with --dtype {names.pop()}? Then give that here too."


def _against_tensors(conversion: Conversion, held: StateDict, contents: Contents) -> Iterator[str]:
    found = {held.original[name]: tensor for name, tensor in held.tensors.items()}
    for name, tensor in conversion.tensors.items():
        other = found.get(name)
        problem = "missing" if other is None else _difference(tensor, other)
        if problem:
            yield f"{shown(name)}: {problem}"
        conversion.contents.mapped.used(tensor.nbytes)
        contents.mapped.passed(tensor.nbytes)
    yield from (f"{shown(name)}: not of the source" for name in found if name not in conversion.tensors)


def _difference(tensor: Array, other: Array) -> str:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return f"{other.shape} {other.dtype.name}, must be {tensor.shape} {tensor.dtype.name}"
    gap = gap_between(tensor, other)
    return "" if gap is None else f"not the source's bits, {describe_gap(gap)}"


def _beside(held: StateDict) -> Iterator[str]:
    yield from (
        f"{shown(name)}: not of the source, no tensor ({shown(what)})" for name, what in held.dropped.items()
    )
    yield from (f"another state dict stands under {shown(path) or 'the top'}" for path in held.others)


def lines(found: Verification) -> Iterator[str]:
    """What was found, for people."""
    plan = found.plan
    yield f"{shown(found.source.name)} -> {shown(found.target.name)}: {plan.architecture.describe()}"
    transposed = f", {plan.count('transpose')} of them transposed" if plan.count("transpose") else ""
    transposed += f", {plan.count('abs')} as |weight| + 1e-5" if plan.count("abs") else ""
    yield f"{found.held:,} tensors are due{transposed}"
    for verb, keys in (("dropped", found.dropped), ("created", found.created)):
        for reason, count in _reasons(keys).items():
            yield f"{count:,} {verb}: {shown(reason)}"
    if found.rounded:
        yield found.rounded
    yield from (f"  {problem}" for problem in found.problems[:SHOWN])
    if len(found.problems) > SHOWN:
        yield f"  … and {len(found.problems) - SHOWN:,} more (--json has all)"
    if found:
        certified = "" if found.certificate is None else ", and both are as certified"
        yield f"Verified: {shown(found.target.name)} holds exactly these tensors, bit for bit{certified}."
    else:
        yield f"Not verified: {len(found.problems):,} problem{'s' if len(found.problems) != 1 else ''}."
        if found.hint:
            yield f"Note: {found.hint}"


def _reasons(keys: tuple[tuple[str, str], ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _name, reason in keys:
        kind = "alias, equal bytes" if reason.startswith("alias of") else reason
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def account(found: Verification) -> dict[str, Any]:
    """What was found, for programs."""
    return {
        "schema_version": SCHEMA,
        "verified": bool(found),
        "source": str(found.source),
        "target": str(found.target),
        "certificate": None if found.certificate is None else str(found.certificate),
        "architecture": found.plan.architecture.name,
        "tensors": found.held,
        "problems": list(found.problems),
        "dropped": [{"key": key, "reason": reason} for key, reason in found.dropped],
        "created": [{"key": key, "reason": reason} for key, reason in found.created],
    }
