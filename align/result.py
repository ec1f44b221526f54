"""The one result model: what was compared, how far apart it is, and the verdict. Renderers only show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from typing import Any, Literal

from stdc_parity.align.evidence import Evidence
from stdc_parity.align.record import TapKind
from stdc_parity.align.spec import RunSpec, Side


class Verdict(str, Enum):
    """PASS: within the tolerance. ROUNDING: over it, but explained by float32 rounding (a float64 run of
    both sides agrees). WAIVED: it differs, and a reviewed waiver accepts that for a time. BLOCKED: not judged
    as a whole, for a rung that it needs failed. DIVERGED: anything else, a crash of one side included.
    """

    PASS = "PASS"
    ROUNDING = "ROUNDING"
    WAIVED = "WAIVED"
    BLOCKED = "BLOCKED"
    DIVERGED = "DIVERGED"

    def __bool__(self) -> bool:
        """Whether the two sides compute the same."""
        return self in (Verdict.PASS, Verdict.ROUNDING, Verdict.WAIVED)


@dataclass(frozen=True)
class Waiver:
    """Leave for taps to fail: patterns of the tap's and the rung's name, why, who answers for it, and until when.

    `expired` says that the last day is over.
    """

    tap: str
    stage: str
    reason: str
    owner: str
    expires: date
    expired: bool = False


@dataclass(frozen=True)
class WaiverUse:
    """What became of a waiver in a run: the (stage, tap) that it waived; "not asked" if no rung of its was judged."""

    waiver: Waiver
    state: Literal["used", "unmatched", "expired", "not asked"]
    taps: Sequence[tuple[str, str]] = ()

    def __bool__(self) -> bool:
        """Whether the waiver is in order: an expired one and one for nothing fail the run."""
        return self.state in ("used", "not asked")


@dataclass(frozen=True)
class Change:
    """A difference from a baseline, of one tap or, where `tap` is empty, of a whole rung.

    `before` and `after` are the errors as fractions of the scale, where there are both.
    """

    stage: str
    tap: str
    what: Literal["fails now", "grew", "appeared", "vanished"]
    before: float = 0.0
    after: float = 0.0


@dataclass(frozen=True)
class BaselineResult:
    """A run held against an accepted one: where that came from, how far errors may grow, and what changed."""

    source: str
    factor: float
    changes: Sequence[Change] = ()
    remarks: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Whether nothing changed that counts."""
        return not self.changes


@dataclass(frozen=True)
class Arbitration:
    """What the float64 run said of a float32 tap, all as fractions of the tap's scale.

    `gap64` is the distance of the two sides in float64, NaN if one has no float64, `agreed` the largest that counts
    as agreement. `noise` is each side's own distance from its float32 to its float64 result.
    """

    gap64: float
    agreed: float
    noise: Mapping[Side, float]


@dataclass(frozen=True)
class Comparison:
    """One tap on both sides, the reference (PyTorch) first.

    `error` is max|a - b| over finite elements and `scale` max|reference|; `relative` is their quotient,
    the smallest `--tol` that would pass. `index` is where the worst element is. `why` says what is wrong
    beyond the size of the error: a shape, a dtype, NaN on one side, a tap missing. `arbiter` is there if a
    float64 run was asked about this tap, `waiver` if one accepts that it fails.
    """

    tap: str
    kind: TapKind
    paths: Mapping[Side, str]
    types: Mapping[Side, str]
    verdict: Verdict
    shape: tuple[int, ...] = ()
    dtype: str = ""
    error: float = 0.0
    scale: float = 0.0
    relative: float = 0.0
    index: tuple[int, ...] = ()
    values: Mapping[Side, float] = field(default_factory=dict)
    why: str = ""
    arbiter: Arbitration | None = None
    waiver: Waiver | None = None

    @property
    def path(self) -> str:
        """The place that the tap was taken at, by the reference's name if it has it; "" is the network itself."""
        return next(iter(self.paths.values()))

    def __bool__(self) -> bool:
        """Whether the tap agrees."""
        return bool(self.verdict)


@dataclass(frozen=True)
class Failure:
    """A side that gave no record: it crashed, or its own code raised."""

    side: Side
    message: str
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Why the two sides differ at one place, as far as a change was tried and helped.

    `place` is what is explained: a module's path, or a tap. `cause` is a sentence, empty if nothing that was
    tried explains the difference; `fix` the line to write, or what to do. `before` and `after` are the
    difference, as a fraction of the reference's scale, without and with what `cause` says undone; `after` is
    rounding. `tried` names what was tried, in words.
    """

    place: str
    cause: str = ""
    fix: str = ""
    before: float = 0.0
    after: float = 0.0
    tried: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Whether the difference is explained."""
        return bool(self.cause)


@dataclass(frozen=True)
class StageResult:
    """One rung: its comparisons in execution order, and what is to blame, first one first.

    `blamed` is what differs by itself: of a rung with modules those that were given equal inputs and still
    differ, and of whose children none does. `isolated` says whether parts were run by themselves. `again`
    are modules that differ by themselves too, but were named before, with the rung that did. `blocked_by`
    names the rung that failed and that this one needs: it was judged part by part, if at all, and
    `comparisons` are those of its parts. `remarks` are sentences for people. `diagnoses` say
    why, a place each. `limit` is the fraction of its scale that most taps may differ by, if the rung has such a
    limit. `parts` are the comparisons of its parts run by themselves, all of them. `evidence` is what a report
    shows of failing taps, if it was asked for. `sides` are the two that it compares in a run of more than two.
    """

    stage: str
    comparisons: Sequence[Comparison]
    tolerance: str
    seconds: Mapping[Side, float] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    blamed: Sequence[Comparison] = ()
    isolated: bool = False
    again: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    blocked_by: str = ""
    diagnoses: Sequence[Diagnosis] = ()
    facts: Mapping[Side, Mapping[str, Any]] = field(default_factory=dict)
    limit: float | None = None
    parts: Sequence[Comparison] = ()
    evidence: Sequence[Evidence] = ()
    sides: tuple[Side, ...] = ()

    @property
    def title(self) -> str:
        """The rung's name, with the two sides that it is about in a run of more."""
        return f"{self.stage} {'/'.join(self.sides)}" if self.sides else self.stage

    @property
    def verdict(self) -> Verdict:
        """The worst tap's verdict; DIVERGED if a side failed or nothing was compared.

        A blocked rung is DIVERGED if a part of it is to blame.
        """
        if self.blocked_by:
            return Verdict.DIVERGED if self.blamed else Verdict.BLOCKED
        if self.failures or not self.comparisons:
            return Verdict.DIVERGED
        order = list(Verdict)
        return max((c.verdict for c in self.comparisons), key=order.index)

    @property
    def first(self) -> Comparison | None:
        """What is named first: the first module to blame, or else the first tap that differs."""
        return next((c for c in (*self.blamed, *self.comparisons) if not c), None)

    @property
    def worst(self) -> Comparison | None:
        """The tap that is furthest beyond what is allowed, the first of equals."""
        return max(self.comparisons, key=badness, default=None)

    def __bool__(self) -> bool:
        """Whether the rung holds."""
        return bool(self.verdict)


@dataclass(frozen=True)
class Vote:
    """One tap on which not all sides agree: those that agree with each other and are more than half, and the rest.

    Without a majority `agreeing` is empty and `odd` has every side; `pairs` are the sides that agree all the same.
    """

    tap: str
    agreeing: tuple[Side, ...]
    odd: tuple[Side, ...]
    pairs: tuple[tuple[Side, Side], ...] = ()


@dataclass(frozen=True)
class Majority:
    """What a run of three or more sides says of them.

    `votes` are of the taps on which not all agree, in execution order. `source` is the framework that the graph of
    the onnx sides was exported from, None for a file. `failed` are sides that gave no record.
    """

    sides: tuple[Side, ...]
    votes: Sequence[Vote]
    source: Side | None = None
    failed: tuple[Side, ...] = ()

    @property
    def odd(self) -> tuple[Side, ...]:
        """The sides that are not of the majority at the first tap where one is; () if all agree, or none do."""
        return next((vote.odd for vote in self.votes if vote.agreeing), ())


@dataclass(frozen=True)
class RunResult:
    """One run: what was asked, with which weights, and a result for every rung that was climbed.

    `groups` are the dotted paths of the network's stages, in execution order: a table has a row for each.
    `waivers` says what became of each waiver, `baseline` what changed since an accepted run. `left_out` are the
    rungs that were asked for and that the pair cannot climb, each with the reason. `sides` are those of
    the run, the reference first; `majority` is what more than two of them say.
    """

    spec: RunSpec
    weights: str
    groups: Sequence[str]
    stages: Sequence[StageResult]
    waivers: Sequence[WaiverUse] = ()
    baseline: BaselineResult | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    sides: tuple[Side, ...] = ("torch", "paddle")
    majority: Majority | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst rung's verdict."""
        order = list(Verdict)
        return max((stage.verdict for stage in self.stages), key=order.index)

    def __bool__(self) -> bool:
        """Whether every rung holds, every waiver is in order, and nothing is worse than the baseline."""
        return bool(self.verdict) and all(self.waivers) and (self.baseline is None or bool(self.baseline))


def badness(comparison: Comparison) -> tuple[bool, bool, float]:
    """A key that orders comparisons from good to bad."""
    return (not comparison, bool(comparison.why), comparison.relative)
