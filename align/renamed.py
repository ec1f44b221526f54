"""A framework whose networks' modules go by the other side's names, for pairs whose module trees differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from stdc_parity.align.framework import Array, Framework, Names, Network

TensorNames = Mapping[str, tuple[str, bool]]
"""The other side's name of each tensor, and whether it lies transposed, by this side's names."""


class Renamed:
    """`framework` with other paths of modules and other names of tensors; all else is its own."""

    def __init__(self, framework: Framework, modules: Mapping[str, str], tensors: TensorNames) -> None:
        """Take the paths of modules, of which those inside follow, and the names that go before these."""
        self._framework, self._modules, self._tensors = framework, modules, tensors
        self._paths: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        """Whatever is not renamed is the framework's."""
        return getattr(self._framework, name)

    def modules(self, network: Network) -> Iterator[tuple[str, Any]]:
        """Every module of the network with its path on the other side."""
        start = self._paths.get(network, "")
        for path, module in self._framework.modules(network):
            whole = ".".join(filter(None, (start, path)))
            self._paths[module] = whole
            yield self._relative(rename(whole, self._modules), start), module

    def buffers(self, network: Network) -> dict[str, Array]:
        """A copy of the norms' running statistics, by the other side's paths."""
        start = self._paths.get(network, "")
        found = {}
        for name, array in self._framework.buffers(network).items():
            path, _, last = name.rpartition(".")
            whole = rename(".".join(filter(None, (start, path))), self._modules)
            found[".".join(filter(None, (self._relative(whole, start), last)))] = array
        return found

    def official_names(self, network: Network) -> Names:
        """What each tensor is, by this side's names: its name on the other side, and its kind."""
        start = self._paths.get(network, "")
        found = {}
        for own, (official, kind) in self._framework.official_names(network).items():
            path, _, last = official.rpartition(".")
            whole_own = ".".join(filter(None, (start, own)))
            if whole_own in self._tensors:
                name, turned = self._tensors[whole_own]
                kind = "linear" if turned else "conv" if kind == "linear" else kind
            else:
                inside = rename(".".join(filter(None, (start, path))), self._modules)
                name = ".".join(filter(None, (inside, last)))
            found[own] = self._relative(name, start), kind
        return found

    def _relative(self, path: str, start: str) -> str:
        """A path of the other side, relative to what the module at `start` on this side is called there."""
        whole = rename(start, self._modules)
        return path.removeprefix(f"{whole}.") if whole and path != whole else "" if path == whole else path


def rename(path: str, names: Mapping[str, str]) -> str:
    """The path with its longest known beginning exchanged."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        known = ".".join(parts[:count])
        if known in names:
            return ".".join([names[known], *parts[count:]])
    return path
