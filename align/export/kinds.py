"""What a network can be written as to deploy it: each kind's files, and who writes and who runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stdc_parity.align.spec import Side
from stdc_parity.converters.errors import UsageError, shown

KindName = Literal["onnx", "torchscript", "torch-export", "paddle-inference"]


@dataclass(frozen=True)
class Kind:
    """A kind of file: the frameworks that can write it, and its suffixes, one a file.

    `optional` says that the first suffix may be left out of the name that the user gives.
    """

    name: KindName
    frameworks: Sequence[Literal["torch", "paddle"]]
    suffixes: Sequence[str]
    optional: bool = False

    @property
    def side(self) -> Side:
        """The side that runs it."""
        return self.name


KINDS: Mapping[KindName, Kind] = {
    "onnx": Kind("onnx", ("torch", "paddle"), (".onnx",)),
    "torchscript": Kind("torchscript", ("torch",), (".pt",)),
    "torch-export": Kind("torch-export", ("torch",), (".pt2",)),
    "paddle-inference": Kind("paddle-inference", ("paddle",), (".json", ".pdiparams"), optional=True),
}


def files_of(kind: Kind, target: Path) -> list[Path]:
    """The files that a target is in. Raises UsageError for a suffix that is not the kind's."""
    suffix = target.suffix.lower()
    if kind.optional and suffix in kind.suffixes:
        target = target.with_suffix("")
    elif not kind.optional and suffix in kind.suffixes:
        return [target]
    elif not kind.optional or suffix in (".pdmodel", ".onnx", ".pt", ".pt2"):
        wanted = " and ".join(kind.suffixes)
        note = "Paddle 3 writes its programs as .json." if suffix == ".pdmodel" else None
        raise UsageError(f"{shown(target)}: a target of {kind.name} ends in {wanted}", note)
    return [target.with_name(target.name + suffix) for suffix in kind.suffixes]
