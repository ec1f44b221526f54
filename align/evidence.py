"""What a report shows of a tap beyond its figures: small data, taken from the records before they go.

Nothing here judges. Pictures are shrunk so that no differing pixel is lost: a cell shows the worst of its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stdc_parity.align.framework import Array
from stdc_parity.align.spec import Side

PictureKind = Literal["scene", "image", "classes", "label", "error", "disagreement"]


@dataclass(frozen=True)
class Numbers:
    """One side's values of a tap; mean, deviation, minimum and maximum are those of its finite elements."""

    size: int
    minimum: float
    maximum: float
    mean: float
    deviation: float
    zeros: int
    not_finite: int


@dataclass(frozen=True, eq=False)
class Picture:
    """A small picture of one side, or of both together (`side` None).

    `pixels` are uint8 (h, w, 3) for a scene or an image, class ids uint8 (h, w) for classes and labels (255 is
    ignored), float32 (h, w) for an error, as fractions of the tap's scale, and bool (h, w) for a disagreement.
    `share` is the fraction of pixels, before shrinking, that disagree.
    """

    kind: PictureKind
    pixels: Array
    side: Side | None = None
    share: float = 0.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a failing tap looks like on both sides.

    `own` says that the tap is of a part run by itself, on the reference's inputs. `counts` are histograms of each
    side's finite elements over equal cells of `bounds`. `elements` are the values themselves where there are few,
    `confusion` both sides' confusion matrices int64 (classes, classes).
    """

    tap: str
    own: bool
    numbers: Mapping[Side, Numbers]
    bounds: tuple[float, float]
    counts: Mapping[Side, Array]
    pictures: Sequence[Picture] = ()
    elements: Mapping[Side, Array] = field(default_factory=dict)
    confusion: Mapping[Side, Array] = field(default_factory=dict)
