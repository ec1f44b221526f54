"""Reading certificates, and holding two files against one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stdc_parity.converters.convert import Conversion
from stdc_parity.converters.errors import CheckpointError, shown
from stdc_parity.converters.report import CERTIFICATE_SCHEMA
from stdc_parity.converters.statedict import Array, StateDict

MAX_BYTES = 512 << 20
"""A certificate has some 600 bytes a key, so this is room for more than 800,000."""

_CHUNK = 1 << 18
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

    @property
    def abn(self) -> bool:
        """Whether InPlaceABN's weights were rewritten."""
        return bool(self.account.get("inplace_abn"))


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
    entries, batches = account.get("entries"), account.get("batches")
    if (
        not isinstance(entries, list)
        or not isinstance(batches, dict)
        or not isinstance(account.get("source"), dict)
    ):
        return False
    if not isinstance(account.get("target"), dict | None):
        return False
    return all(isinstance(entry, dict) and all(isinstance(entry.get(field), kind | None)
               for field, kind in _FIELDS.items()) for entry in entries)  # fmt: skip


def against_certificate(
    certificate: Certificate,
    conversion: Conversion,
    target: Path,
    held: StateDict,
    batches: Mapping[str, int],
) -> Iterator[str]:
    """What does not fit: `target` holds the tensors of `held`, and the counters `batches`."""
    account = certificate.account
    for which, path in (("source", conversion.source), ("target", target)):
        yield from _against_file(which, account[which], path)
    sides = f"{conversion.plan.source_side}2{conversion.target_side}"
    if account.get("direction") != sides:
        yield f"the certificate is of {shown(account.get('direction'))}, not of {sides}"
    if account["batches"] != dict(batches):
        yield "the counters of batches are not the certified ones"
    yield from _against_keys("source", certificate, conversion.state)
    yield from _against_keys("target", certificate, held)


def _against_file(which: str, certified: Mapping[str, Any] | None, path: Path) -> Iterator[str]:
    if certified is None:
        yield f"the certificate is of a dry run: it knows no {which}"
        return
    digest, size = _sha256_of_file(path), path.stat().st_size
    if (digest, size) != (certified.get("sha256"), certified.get("bytes")):
        yield (
            f"{shown(path.name)} is not the certified {which}: sha256 {digest[:12]}… of {size:,} "
            f"bytes, certified is {shown(certified.get('sha256'))[:12]}… of {shown(certified.get('bytes'))}"
        )


def _against_keys(which: str, certificate: Certificate, state: StateDict) -> Iterator[str]:
    """Every key of one file against its entries."""
    tensors = {state.original[name]: tensor for name, tensor in state.tensors.items()}
    certified = Counter(entry[which] for entry in certificate.entries if entry.get(which) is not None)
    yield from (f"{shown(name)} of the {which} is certified twice" for name, n in certified.items() if n > 1
                and which == "target")  # fmt: skip
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
        elif _sha256(tensor) != entry.get(f"{which}_sha256"):
            yield f"{shown(name)} of the {which} does not have the certified sha256"


def _dtype(entry: Mapping[str, Any], which: str) -> Any:
    """The dtype that an entry certifies of one side."""
    return entry.get(f"{which}_dtype") or entry.get("dtype")


def _sha256_of_file(path: Path) -> str:
    digest, chunk = hashlib.sha256(), bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(chunk):
            digest.update(memoryview(chunk)[:size])
    return digest.hexdigest()


def _sha256(tensor: Array) -> str:
    """The hash of a tensor's C-ordered little-endian bytes, as certificates have it."""
    native = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(native).reshape(-1).view(np.uint8).data).hexdigest()
