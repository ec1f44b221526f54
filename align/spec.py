"""What one align run is asked to do, as data that travels to the two sides' processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Side = Literal["torch", "paddle", "onnx", "onnx-plain", "torchscript", "torch-export", "paddle-inference"]
"""Who computes in a run: a framework with its network; ONNX Runtime, which runs a graph as it optimises it (onnx) or
as it stands in the file (onnx-plain); or what runs the other files that a network is deployed as."""
Mode = Literal["eval", "train"]
Dtype = Literal["float32", "float64"]
TapLevel = Literal["outputs", "stages", "modules"]


@dataclass(frozen=True)
class Own:
    """A user's own two implementations, as text that travels to the sides' processes.

    `file` is the path of a pair file; without one `torch` and `paddle` are BUILDs, `module:function` or
    `path/to/file.py:name`, and `inputs` what the networks are called with, as `inputs.py` reads it. The paths are
    folders that come first where a side imports from. `arguments` are JSON objects of keyword arguments for both
    builders, for torch's and for Paddle's. `losses` are BUILDs of each side's loss, `target` what it is given beside
    the outputs, `rules` the path of a rules file.
    """

    file: str = ""
    torch: str = ""
    paddle: str = ""
    inputs: tuple[str, ...] = ()
    torch_path: str = ""
    paddle_path: str = ""
    arguments: tuple[str, str, str] = ("", "", "")
    losses: tuple[str, str] = ("", "")
    target: tuple[str, ...] = ()
    rules: str = ""

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Own:
        """What `asdict` made of one."""
        known: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return Own(**known)


@dataclass(frozen=True)
class RunSpec:
    """The options of a run. `size` is (height, width) in pixels; `weights` the path of a checkpoint of
    either framework, None for seeded weights; `key` the path of keys to its state dict; `converted` a checkpoint
    that the side whose names it has loads instead, to prove its conversion. `exact_batch` says
    that stages which train take no more than `batch`. `steps` and `lr`
    (the peak of its schedule) are those of a short training, `scenes` how many images a metric sees. `plant`
    names port bugs to put into a side, to see what they look like. `graph` is the path of the file (an .onnx)
    that sides without a network run, None for one that is exported from a framework. `own` is where a user's own
    pair is, which `pair` is then no more than a name of.
    """

    pair: str
    size: tuple[int, int]
    weights: str | None = None
    key: str | None = None
    base: int = 64
    batch: int = 1
    exact_batch: bool = False
    seed: int = 0
    mode: Mode = "eval"
    dtype: Dtype = "float32"
    taps: TapLevel = "stages"
    steps: int = 6
    lr: float = 1e-5
    scenes: int = 4
    plant: tuple[str, ...] = ()
    converted: str | None = None
    graph: str | None = None
    own: Own | None = None

    def to_json(self) -> dict[str, Any]:
        """The spec as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RunSpec:
        """The spec that `to_json` wrote."""
        own = Own.from_json(data["own"]) if data.get("own") else None
        return RunSpec(**{**data, "size": tuple(data["size"]), "plant": tuple(data["plant"]), "own": own})
