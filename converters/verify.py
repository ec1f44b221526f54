"""Proving after the fact that one checkpoint holds exactly the tensors of another, as the rules convert them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdc_parity.converters.certificate import Certificate, against_certificate, read_certificate
from stdc_parity.converters.closeness import gap_between
from stdc_parity.converters.convert import Conversion, open_state_dict, plan_conversion
from stdc_parity.converters.diff_report import describe_gap
from stdc_parity.converters.errors import shown
from stdc_parity.converters.plan import Abn, Plan, recognise_layout
from stdc_parity.converters.statedict import Array, StateDict

SCHEMA = 1
SHOWN = 20
RELEASE = 64 << 20


@dataclass(frozen=True)
class Verification:
    """What was found; true if the target holds exactly the source's tensors.

    `problems` are lines, in no case clipped; `dropped` and `created` name keys with their reasons.
    """

    source: Path
    target: Path
    certificate: Path | None
    plan: Plan
    held: int
    problems: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]
    created: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return not self.problems


def verify(
    source: Path,
    target: Path,
    certificate: Path | None = None,
    *,
    model: str | None = None,
    key: str | None = None,
    abn: Abn | None = None,
) -> Verification:
    """Convert `source` in memory and hold `target` against the result, key by key and bit for bit.

    With a certificate both files' hashes and every key's are held against that too, and it says whether
    InPlaceABN's weights were rewritten. Raises CheckpointError if a file cannot be read or converted,
    UsageError if both have one layout.
    """
    certified = None if certificate is None else read_certificate(certificate)
    contents, held, side = open_state_dict(target)
    conversion = _planned(source, side, held, certified, model, key, abn)
    batches = contents.batches if side == "paddle" else conversion.batches
    problems = [*_against_tensors(conversion, held, contents.release), *_beside(held)]
    if side == "paddle" and contents.batches != conversion.batches:
        problems.append(f"the counters of batches behind the tensors are not {shown(source.name)}'s")
    if certified is not None:
        problems += against_certificate(certified, conversion, target, held, batches)
    entries, original = conversion.plan.entries, conversion.state.original
    dropped = tuple(
        (original.get(e.source, e.source), "; ".join(filter(None, (e.reason, e.loss))))
        for e in entries
        if e.source and not e.target
    )
    created = tuple((e.target, e.reason) for e in entries if e.target and not e.source)
    return Verification(source, target, certificate, conversion.plan, len(conversion.tensors), tuple(problems),
                        dropped, created)  # fmt: skip


def _planned(
    source: Path,
    side: Any,
    held: StateDict,
    certified: Certificate | None,
    model: str | None,
    key: str | None,
    abn: Abn | None,
) -> Conversion:
    """The conversion of `source` to what `held` is: with aliases if it has some, its InPlaceABN as certified."""
    if certified is not None and key is None:
        key = certified.account["source"].get("state_dict") or None
    if certified is not None and abn is None and certified.account.get("direction") == "torch2paddle":
        abn = "yes" if certified.abn else "no"
    layout = recognise_layout(held.tensors, side)
    options: dict[str, Any] = {"target": layout, "model": model, "key": key, "drop_nonzero_bias": True}
    conversion = plan_conversion(source, None, abn=abn or "auto", **options)
    if layout.name == "official" and any(name in conversion.plan.architecture.aliases for name in held.tensors):
        return plan_conversion(source, None, aliases=True, **options)
    return conversion


def _against_tensors(conversion: Conversion, held: StateDict, release: Any) -> Iterator[str]:
    found = {held.original[name]: tensor for name, tensor in held.tensors.items()}
    read = 0
    for name, tensor in conversion.tensors.items():
        other = found.get(name)
        problem = "missing" if other is None else _difference(tensor, other)
        if problem:
            yield f"{shown(name)}: {problem}"
        read += tensor.nbytes
        if read > RELEASE:
            read = 0
            conversion.contents.release()
            release()
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
    yield from (f"  {problem}" for problem in found.problems[:SHOWN])
    if len(found.problems) > SHOWN:
        yield f"  … and {len(found.problems) - SHOWN:,} more (--json has all)"
    if found:
        certified = "" if found.certificate is None else ", and both are as certified"
        yield f"Verified: {shown(found.target.name)} holds exactly these tensors, bit for bit{certified}."
    else:
        yield f"Not verified: {len(found.problems):,} problem{'s' if len(found.problems) != 1 else ''}."


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
