"""Reading certificates, and holding two files against one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdc_parity.converters.casting import DTYPES
from stdc_parity.converters.containers import Contents
from stdc_parity.converters.convert import Conversion
from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.families import MODELS
from stdc_parity.converters.hashing import hash_file, sha256
from stdc_parity.converters.layouts import all_layouts
from stdc_parity.converters.pieces import Progress
from stdc_parity.converters.report import CERTIFICATE_SCHEMA
from stdc_parity.converters.statedict import StateDict

MAX_BYTES = 512 << 20
"""A certificate has some 600 bytes a key, so this is room for more than 800,000."""

_FIELDS = {"source": str, "target": str, "source_shape": list, "target_shape": list, "dtype": str,
           "source_sha256": str, "target_sha256": str, "rule": str}  # fmt: skip


@dataclass(frozen=True)
class Certificate:
    """The account of a conversion, checked for its form alone."""

    path: Path
    account: Mapping[str, Any]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The account of every key."""
        entries: list[dict[str, Any]] = self.account["entries"]
        return entries

    def options(self) -> dict[str, str | None]:
        """The options of the conversion, by name, as far as the account tells them."""
        account, source = self.account, self.account["source"]
        from_torch = str(account.get("direction")).startswith("torch")
        target = account.get("target_layout")
        network = account.get("architecture")
        model = network.get("name") if isinstance(network, dict) else None
        return {
            "model": model if model in MODELS else None,
            "key": source.get("state_dict") or None,
            "member": source.get("member") or None,
            "abn": ("yes" if account.get("inplace_abn") else "no") if from_torch else None,
            "dtype": account["dtype"]["dtype"] if account.get("dtype") else None,
            "layout": target if target in all_layouts() else None,
        }


def read_certificate(path: Path) -> Certificate:
    """The certificate at `path`; raises CheckpointError if it is none."""
    name = shown(str(path))
    try:
        if path.stat().st_size > MAX_BYTES or not path.is_file():
            raise CheckpointError(f"{name}: this is no certificate")
        account = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{name}: the file cannot be read: {shown(error.strerror or error)}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{name}: this is no certificate: it is not JSON") from None
    if not _is_certificate(account):
        raise CheckpointError(
            f"{name}: this is no certificate of schema {CERTIFICATE_SCHEMA}",
            "`stdc-convert torch2paddle SRC --certificate FILE` writes them.",
        )
    return Certificate(path, account)


def _is_certificate(account: Any) -> bool:
    if not isinstance(account, dict) or account.get("schema_version") != CERTIFICATE_SCHEMA:
        return False
    forms: Mapping[str, Any] = {"entries": list, "batches": dict, "source": dict}
    if not all(isinstance(account.get(field), form) for field, form in forms.items()):
        return False
    if not all(isinstance(account.get(field), dict | None) for field in ("target", "dtype")):
        return False
    entries, dtype = account["entries"], account.get("dtype")
    if dtype is not None and dtype.get("dtype") not in DTYPES:
        return False
    if not all(_is_file(file) for file in (account["source"], account["target"]) if file is not None):
        return False
    return all(isinstance(entry, dict) and all(isinstance(entry.get(field), kind | None)
               for field, kind in _FIELDS.items()) for entry in entries)  # fmt: skip


def _is_file(file: Mapping[str, Any]) -> bool:
    shards = file.get("shards", [])
    texts = all(isinstance(file.get(field), str | None) for field in ("state_dict", "member"))
    return texts and isinstance(shards, list) and all(isinstance(shard, dict) for shard in shards)


def against_certificate(
    certificate: Certificate,
    conversion: Conversion,
    target: Contents,
    held: StateDict,
    batches: Mapping[str, int],
) -> Iterator[str]:
    """What does not fit: `target` holds the tensors of `held`, and the counters `batches`."""
    account, plan = certificate.account, conversion.plan
    for which, contents in (("source", conversion.contents), ("target", target)):
        yield from _against_files(which, account[which], contents.files)
    facts = {
        "direction": f"{plan.source_side}2{conversion.target_side}",
        "source_layout": plan.source.name,
        "target_layout": plan.target.name,
    }
    for field, fact in facts.items():
        if account.get(field) != fact:
            yield f"the certificate is of {shown(account.get(field))}, not of {fact}"
    if account["batches"] != dict(batches):
        yield "the counters of batches are not the certified ones"
    if account.get("dtype") != (None if conversion.loss is None else conversion.loss.account()):
        yield "what rounding lost is not what is certified"
    yield from _against_keys("source", certificate, conversion.state, conversion.contents.mapped.passed)
    yield from _against_keys("target", certificate, held, target.mapped.passed)


def _against_files(which: str, certified: Mapping[str, Any] | None, paths: Sequence[Path]) -> Iterator[str]:
    """Every file of a checkpoint, an index and its shards for instance, against what is certified of it."""
    if certified is None:
        yield f"the certificate is of a dry run: it knows no {which}"
        return
    files = [certified, *certified.get("shards", [])]
    if len(files) != len(paths):
        yield f"the {which} is {len(paths)} files, certified are {len(files)}"
    for file, path in zip(files, paths, strict=False):
        found = hash_file(path)
        if any(found[fact] != file.get(fact) for fact in ("sha256", "bytes")):
            yield (
                f"{shown(path.name)} is not the certified {which}: sha256 {found['sha256'][:12]}… of "
                f"{found['bytes']:,} bytes, certified is {shown(file.get('sha256'))[:12]}… of "
                f"{shown(file.get('bytes'))}"
            )


def _against_keys(which: str, certificate: Certificate, state: StateDict, used: Progress) -> Iterator[str]:
    """Every key of one file against its entries."""
    tensors = {state.original[name]: tensor for name, tensor in state.tensors.items()}
    packed = {entry[which] for entry in certificate.entries if entry.get("rule") == "pack"}
    certified = Counter(entry[which] for entry in certificate.entries if entry.get(which) is not None)
    yield from (f"{shown(name)} of the {which} is certified twice" for name, n in certified.items() if n > 1
                and which == "target" and name not in packed)  # fmt: skip
    yield from (f"{shown(name)} of the {which} is not certified" for name in tensors if name not in certified)
    for entry in certificate.entries:
        name = entry.get(which)
        if name is None or name in state.dropped:
            continue
        if name not in tensors:
            yield f"{shown(name)} is certified, but the {which} lacks it"
            continue
        tensor, shape = tensors[name], entry.get(f"{which}_shape")
        if shape != list(tensor.shape) or _dtype(entry, which) != tensor.dtype.name:
            certified_facts = shown(f"{shape} {_dtype(entry, which)}")
            yield (
                f"{shown(name)} of the {which} is {tensor.shape} {tensor.dtype.name}, "
                f"certified is {certified_facts}"
            )
        elif sha256(tensor, used) != entry.get(f"{which}_sha256"):
            yield f"{shown(name)} of the {which} does not have the certified sha256"


def _dtype(entry: Mapping[str, Any], which: str) -> Any:
    """The dtype that an entry certifies of one side."""
    return entry.get(f"{which}_dtype") or entry.get("dtype")
