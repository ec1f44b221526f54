"""The network's modules as a tree for the HTML report: what each rung said of each module, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stdc_parity.align.render_html_plots import kind_of
from stdc_parity.align.result import Comparison, RunResult

ORDER = ("unknown", "pass", "rounding", "waived", "inherited", "own")
"""What can be said of a module, from good to bad."""

PARAMETERS = ("parameter", "momentum", "setting")
"""Kinds of taps whose path is a parameter's: its module is one step up."""

ELSEWHERE = ("sample", "rate", "count", "score", "prediction")
"""Kinds of taps that belong to no module."""


@dataclass
class Node:
    """A module: its dotted path, its class, what was said of it, on which rungs, and its children by name.

    `said` has a kind of ORDER for each rung, and `figures` its largest error there; `own` says that the module is
    to blame on some rung.
    """

    path: str
    type: str = ""
    said: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def kind(self) -> str:
        """The worst that was said of the module itself."""
        return max(self.said.values(), key=ORDER.index, default="unknown")

    @property
    def worst(self) -> str:
        """The worst that was said of the module and all below it."""
        return max([self.kind, *(child.worst for child in self.children.values())], key=ORDER.index)

    @property
    def sign(self) -> str:
        """What the module's row shows: its own kind, or that it contains one that is wrong by itself."""
        if self.kind != "own" and self.worst == "own":
            return "contains"
        return self.worst if self.kind == "unknown" else self.kind

    @property
    def marks(self) -> list[tuple[str, str, str]]:
        """The rungs on which the module does not simply agree: (rung, kind, figure)."""
        return [
            (rung, kind, self.figures.get(rung, "")) for rung, kind in self.said.items() if kind != "pass"
        ]


def build_tree(result: RunResult) -> Node:
    """The modules that any rung has a tap of, under a root that is the network itself."""
    root = Node("")
    for stage in result.stages:
        blamed = {_module(c) for c in stage.blamed} | {"" if p == "network" else p for p in stage.again}
        worst: dict[str, float] = {}
        for comparison in (*stage.comparisons, *stage.parts, *stage.blamed):
            path = _module(comparison)
            if path is None:
                continue
            node = _find(root, path)
            node.type = node.type or _type(comparison)
            kind = "own" if path in blamed else _kind(comparison, comparison in stage.parts)
            node.said[stage.stage] = max(node.said.get(stage.stage, "unknown"), kind, key=ORDER.index)
            if not comparison and (comparison.why or comparison.relative >= worst.get(path, 0.0)):
                worst[path] = comparison.relative
                node.figures[stage.stage] = "" if comparison.why else f"{comparison.relative:.1e}"
    _order(root, result.groups)
    return root


def _kind(comparison: Comparison, is_part: bool) -> str:
    kind = kind_of(comparison)
    return "pass" if is_part and kind == "rounding" else kind


def _module(comparison: Comparison) -> str | None:
    """The path of the module that a tap is of, None if it is of none."""
    path = comparison.path
    if comparison.kind in ELSEWHERE or path.startswith("iteration "):
        return None
    if comparison.kind in PARAMETERS and path != "loss":
        return path.rpartition(".")[0]
    return "" if path == "network" else path


def _type(comparison: Comparison) -> str:
    if comparison.kind in PARAMETERS:
        return ""
    return " / ".join(dict.fromkeys(filter(None, comparison.types.values())))


def _find(root: Node, path: str) -> Node:
    """The node of `path`, made with all above it if need be."""
    node, seen = root, ""
    for part in path.split(".") if path else ():
        seen = f"{seen}.{part}" if seen else part
        node = node.children.setdefault(part, Node(seen))
    return node


def _order(root: Node, groups: Sequence[str]) -> None:
    """Sort the children as the network runs them, the loss last; numbers as numbers."""
    places = {group: i for i, group in enumerate(groups)}

    def key(item: tuple[str, Node]) -> tuple[float, int]:
        name, node = item
        inside = [i for group, i in places.items() if group == node.path or group.startswith(f"{node.path}.")]
        return min(inside, default=len(places)), int(name) if name.isdecimal() else 0

    for node in walk(root):
        node.children = dict(sorted(node.children.items(), key=key))


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it, from the top."""
    yield node
    for child in node.children.values():
        yield from walk(child)


def count_signs(root: Node) -> Mapping[str, int]:
    """How many modules there are of each sign."""
    signs = [node.sign for node in walk(root)]
    return {sign: signs.count(sign) for sign in (*ORDER, "contains") if sign in signs}
