"""The HTML report's plots as inline SVG: coloured by the page's style sheet, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from stdc_parity.align.evidence import Evidence
from stdc_parity.align.render_html_words import both_svg
from stdc_parity.align.result import Comparison, StageResult

WIDTH, HEIGHT = 920.0, 370.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 18.0, 128.0
SMALLEST = 1e-17
"""What is smaller is drawn here: float64 has no meaning under it, as a fraction of scale."""

MOST_LABELS = 26
"""Names along the axis of depth, if they are evenly spread."""

LONGEST = 24
"""Characters of a name along the axis; of a longer one the end is shown."""

NUMBERED = 8
"""How many of those to blame get a number, the one that they have in the text."""

CIRCLE = '<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">{title}</circle>'
SHAPES = {
    "pass": (CIRCLE, 2.4),
    "rounding": ('<path class="mark {kind}" d="M{x:.1f} {y:.1f}m-3-3h6v6h-6z">{title}</path>', 3),
    "waived": ('<path class="mark {kind}" d="M{x:.1f} {y:.1f}m-4-4l8 8m0-8l-8 8">{title}</path>', 4),
    "inherited": (CIRCLE, 4.0),
    "own": ('<path class="mark {kind}" d="M{x:.1f} {y:.1f}m0-7l7 7l-7 7l-7-7z">{title}</path>', 7),
    "part": ('<path class="mark {kind}" d="M{x:.1f} {y:.1f}m0-3l3 5h-6z">{title}</path>', 3),
}  # fmt: skip
"""How a kind of mark is drawn, and its radius: shapes differ, not colours alone."""


@dataclass(frozen=True)
class Frame:
    """A plot's area in SVG units: where values of x, 0..1, and logarithms of y between `low` and `high` go."""

    low: float
    high: float
    width: float = WIDTH
    height: float = HEIGHT
    bottom: float = BOTTOM

    def x(self, share: float) -> float:
        """The place of a share of the width."""
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """The place of a value on a logarithmic scale: zero on the lowest line, what has no figure on the highest."""
        if not math.isfinite(value):
            return TOP
        if value <= 0:
            return self.height - self.bottom
        share = (math.log10(max(value, SMALLEST)) - self.low) / (self.high - self.low)
        share = min(max(share, 0.0), 1.0)
        return self.height - self.bottom - 14 - share * (self.height - self.bottom - TOP - 28)

    def decades(self) -> Iterator[int]:
        """The powers of ten that get a line."""
        low, high = math.ceil(self.low), math.floor(self.high)
        step = max(1, -(-(high - low) // 8))
        yield from range(-(-low // step) * step, high + 1, step)


def frame_of(values: Sequence[float], **sizes: float) -> Frame:
    """A frame in whole decades around the positive values."""
    logs = [math.log10(max(value, SMALLEST)) for value in values if 0 < value < math.inf] or [-8.0]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return Frame(low, max(high, low + 1), **sizes)


def mark(kind: str, x: float, y: float, title: str) -> str:
    """One mark with the words that a pointer or a screen reader gets."""
    shape, size = SHAPES[kind]
    inner = f"<title>{escape(title)}</title>" if title else ""
    return shape.format(kind=kind, x=x, y=y, size=size, title=inner)


def legend_mark(kind: str) -> str:
    """A mark of a legend, or a line's sample, as an SVG of its own."""
    if kind in SHAPES:
        inner = mark(kind, 9, 9, "")
    else:
        inner = f'<path class="line {kind}" d="M1 9h16"/>'
    return f'<svg class="key" viewBox="0 0 18 18" aria-hidden="true">{inner}</svg>'


def depth_plot(stage: StageResult, groups: Sequence[str]) -> str:
    """A rung's errors along the network's depth; "" if nothing differs at all."""
    stage = _plotted(stage)
    shown = [*stage.comparisons, *stage.parts, *stage.blamed]
    if not any(c.relative or c.why for c in shown):
        return ""
    places = {path: i for i, path in enumerate(_by_depth(stage, groups))}
    frame = frame_of([*_figures(stage), *([stage.limit] if stage.limit else [])])
    count = max(len(places) - 1, 1)

    def at(comparison: Comparison) -> float:
        return frame.x(places[comparison.path] / count)

    body = [*_axis(frame), *_place_names(frame, list(places), groups)]
    if stage.limit:
        body.append(f'<path class="line limit" d="M{LEFT} {frame.y(stage.limit):.1f}H{WIDTH - RIGHT}"/>')
    if any(math.isinf(_height(c)) for c in shown):
        body.append(both_svg("beyond", f'class="tick" x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end"'))
    body += _lines(stage, frame, at)
    body += _marks(stage, frame, at)
    return _svg(frame, body, f"{stage.stage}: error of each tap")


def kinds_in(stage: StageResult) -> list[str]:
    """The marks and lines that a rung's plot has, in the order of a legend."""
    stage = _plotted(stage)
    found = {_kind(c, stage) for c in stage.comparisons}
    found |= {"own"} if stage.blamed or any(_named_before(c, stage) for c in stage.parts) else set()
    found |= {"part"} if stage.parts and not stage.blocked_by else set()
    lines = {"limit"} if stage.limit else set()
    if any(c.arbiter for c in stage.comparisons):
        lines |= {"control", "allowed"} if stage.stage == "train" else {"noise", "gap64"}
    order = (
        "pass",
        "rounding",
        "waived",
        "inherited",
        "own",
        "part",
        "limit",
        "noise",
        "gap64",
        "control",
        "allowed",
    )
    return [kind for kind in order if kind in found | lines]


def _plotted(stage: StageResult) -> StageResult:
    """Of a training the parameters that it leads to: its losses have plots of their own."""
    if stage.stage != "train":
        return stage
    last = [c for c in stage.comparisons if c.kind == "parameter" and c.tap.endswith("at the end")]
    return replace(stage, comparisons=last, blamed=[c for c in stage.blamed if c in last])


def _by_depth(stage: StageResult, groups: Sequence[str]) -> list[str]:
    """The places of a rung from the network's input to its output, then those outside of it, in their order."""
    paths = dict.fromkeys(c.path for c in (*stage.parts, *stage.comparisons, *stage.blamed))
    depth = {path: _group(path, groups) for path in paths}
    return sorted(paths, key=lambda path: depth[path])


def _group(path: str, groups: Sequence[str]) -> int:
    """The number of the stage that a path is in, or of the last one that it contains; len(groups) for neither."""
    inside = [i for i, group in enumerate(groups) if path == group or path.startswith(f"{group}.")]
    outer = [i for i, group in enumerate(groups) if group.startswith(f"{path}.")]
    return max(inside, key=lambda i: len(groups[i]), default=max(outer, default=len(groups)))


def _figures(stage: StageResult) -> Iterator[float]:
    for comparison in (*stage.comparisons, *stage.parts, *stage.blamed):
        yield comparison.relative
        if comparison.arbiter is not None:
            figures = (comparison.arbiter.gap64, *comparison.arbiter.noise.values())
            yield from (figure for figure in figures if not math.isnan(figure))


def _kind(comparison: Comparison, stage: StageResult) -> str:
    return "own" if comparison in stage.blamed else kind_of(comparison)


def kind_of(comparison: Comparison) -> str:
    """What a tap is drawn as, unless it is to blame itself."""
    return "inherited" if not comparison else comparison.verdict.value.lower()


def _axis(frame: Frame) -> Iterator[str]:
    right = frame.width - RIGHT
    for decade in frame.decades():
        y = frame.y(10.0**decade)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{decade}</text>'
    bottom = frame.y(0.0)
    yield f'<path class="axis" d="M{LEFT} {bottom:.1f}H{right}"/>'
    yield both_svg("zero", f'class="tick" x="{LEFT - 6}" y="{bottom + 4:.1f}" text-anchor="end"')


def _place_names(frame: Frame, places: Sequence[str], groups: Sequence[str]) -> Iterator[str]:
    """The network's stages along the axis, and what is in none: as many as there is room for, slanted."""
    names = [groups[i] if i < len(groups) else place for place in places for i in [_group(place, groups)]]
    last = -math.inf
    for i, name in enumerate(names):
        x, y = frame.x(i / max(len(places) - 1, 1)), frame.y(0.0) + 12
        if x < last + WIDTH / MOST_LABELS / 2 or (i and name == names[i - 1]):
            continue
        last, name = x, name or "output"
        short = name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
        yield (
            f'<text class="place" text-anchor="end" transform="translate({x:.1f} {y:.1f}) rotate(-60)">'
            f"{escape(short)}</text>"
        )


def _lines(stage: StageResult, frame: Frame, at: Callable[[Comparison], float]) -> Iterator[str]:
    """What float64 said along the depth: each side's rounding, and the gap; of a training the control's envelope."""
    asked = [c for c in stage.comparisons if c.arbiter is not None]
    trains = stage.stage == "train"
    noises = [max(c.arbiter.noise.values()) for c in asked if c.arbiter]
    others = [c.arbiter.agreed if trains else c.arbiter.gap64 for c in asked if c.arbiter]
    names = ("control", "allowed") if trains else ("noise", "gap64")
    for name, figures in zip(names, (noises, others), strict=True):
        highest: dict[float, float] = {}
        for comparison, figure in zip(asked, figures, strict=True):
            x = at(comparison)
            highest[x] = max(highest.get(x, 0.0), figure)
        points = " ".join(f"{x:.1f},{frame.y(value):.1f}" for x, value in sorted(highest.items()))
        if points:
            yield f'<polyline class="line {name}" points="{points}"/>'


def _named_before(comparison: Comparison, stage: StageResult) -> bool:
    """Whether a part differs by itself on this rung too, but was named with another."""
    return not comparison and (comparison.path or "network") in stage.again


def _marks(stage: StageResult, frame: Frame, at: Callable[[Comparison], float]) -> Iterator[str]:
    """Every tap, the parts that ran by themselves, and on top what is to blame."""
    blamed = list(stage.blamed)
    if not stage.blocked_by:
        for comparison in stage.parts:
            if comparison not in blamed:
                title = f"{comparison.tap}, by itself: {_figure(comparison)}"
                kind = "own" if _named_before(comparison, stage) else "part"
                yield mark(kind, at(comparison), frame.y(_height(comparison)), title)
    for kind in ("pass", "rounding", "waived", "inherited"):
        for comparison in stage.comparisons:
            if _kind(comparison, stage) == kind:
                title = f"{comparison.tap}: {_figure(comparison)}"
                yield mark(kind, at(comparison), frame.y(_height(comparison)), title)
    for number, comparison in enumerate(blamed, 1):
        x, y = at(comparison), frame.y(_height(comparison))
        yield mark("own", x, y, f"{comparison.tap}, by itself: {_figure(comparison)}")
        if number <= NUMBERED:
            yield f'<text class="name" x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{number}</text>'


def _height(comparison: Comparison) -> float:
    return math.inf if comparison.why and not comparison.relative else comparison.relative


def _figure(comparison: Comparison) -> str:
    return comparison.why or f"{comparison.relative:.1e}"


def _svg(frame: Frame, body: Sequence[str], label: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{"".join(body)}</svg>'
    )


def histogram(evidence: Evidence) -> str:
    """Both sides' histograms over one another, the first filled, the second a line; counts on a log scale."""
    width, height, base = 320.0, 120.0, 100.0
    most = (
        max((math.log1p(int(n)) for counts in evidence.counts.values() for n in counts), default=1.0) or 1.0
    )
    body = [f'<path class="axis" d="M4 {base}H{width - 4}"/>']
    for number, (side, counts) in enumerate(evidence.counts.items()):
        cell = (width - 8) / len(counts)
        path = f"M4 {base}"
        for i, count in enumerate(counts):
            path += f"V{base - 92 * math.log1p(int(count)) / most:.1f}H{4 + (i + 1) * cell:.1f}"
        body.append(f'<path class="side{number}" d="{path}V{base}"><title>{escape(side)}</title></path>')
    for x, anchor, value in ((4.0, "start", evidence.bounds[0]), (width - 4, "end", evidence.bounds[1])):
        body.append(f'<text class="tick" x="{x}" y="{base + 15}" text-anchor="{anchor}">{value:.4g}</text>')
    size = f"0 0 {width:g} {height:g}"
    return f'<svg class="histogram" viewBox="{size}" role="img" aria-label="histogram">{"".join(body)}</svg>'


def loss_curves(stage: StageResult) -> tuple[str, str]:
    """The losses of both sides, and their gap with the control's envelope; "" where there are no losses."""
    totals = [c for c in stage.comparisons if c.kind == "loss" and c.tap.endswith(": total") and c.values]
    if not totals or any(not math.isfinite(value) for c in totals for value in c.values.values()):
        return "", ""
    return _losses(totals), _loss_gaps(totals)


def _losses(totals: Sequence[Comparison]) -> str:
    values = [value for c in totals for value in c.values.values()]
    low, high = min(values), max(values)
    spread = (high - low) or max(abs(high), 1.0)
    frame = Frame(0, 1, 460, 240, 44)

    def y(value: float) -> float:
        return 190 - 160 * (value - low) / spread

    xs = [frame.x(i / max(len(totals) - 1, 1)) for i in range(len(totals))]
    body = list(_iterations(frame, xs))
    for value in (low, (low + high) / 2, high):
        body.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{frame.width - RIGHT}"/>')
        body.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    for number, side in enumerate(totals[0].values):
        points = [(x, y(c.values[side]), c.values[side]) for x, c in zip(xs, totals, strict=True)]
        line = " ".join(f"{x:.1f},{height:.1f}" for x, height, _ in points)
        body.append(f'<polyline class="curve side{number}" points="{line}"/>')
        body += [
            f'<circle class="dot side{number}" cx="{x:.1f}" cy="{height:.1f}" r="{5 - 2 * number}">'
            f"<title>{escape(side)}: {value:.9g}</title></circle>"
            for x, height, value in points
        ]
    return _svg(frame, body, "loss of each iteration on both sides")


def _loss_gaps(totals: Sequence[Comparison]) -> str:
    lines: Mapping[str, list[float]] = {
        "control": [max(c.arbiter.noise.values()) if c.arbiter else 0.0 for c in totals],
        "allowed": [c.arbiter.agreed if c.arbiter else 0.0 for c in totals],
    }
    figures = [*(c.relative for c in totals), *lines["control"], *lines["allowed"]]
    frame = frame_of(figures, width=460, height=240, bottom=44)
    xs = [frame.x(i / max(len(totals) - 1, 1)) for i in range(len(totals))]
    body = [*_axis(frame), *_iterations(frame, xs)]
    control = [f"{x:.1f},{frame.y(value):.1f}" for x, value in zip(xs, lines["control"], strict=True)]
    ground = f"{xs[-1]:.1f},{frame.y(0.0):.1f} {LEFT},{frame.y(0.0):.1f}"
    body.append(f'<polygon class="envelope" points="{" ".join(control)} {ground}"/>')
    for name, values in lines.items():
        points = " ".join(f"{x:.1f},{frame.y(value):.1f}" for x, value in zip(xs, values, strict=True))
        body.append(f'<polyline class="line {name}" points="{points}"/>')
    for x, comparison in zip(xs, totals, strict=True):
        kind = "pass" if comparison else "inherited"
        body.append(mark(kind, x, frame.y(_height(comparison)), f"{comparison.tap}: {_figure(comparison)}"))
    return _svg(frame, body, "gap of the losses against the control's envelope")


def _iterations(frame: Frame, xs: Sequence[float]) -> Iterator[str]:
    step = max(1, -(-len(xs) // 12))
    for i in range(0, len(xs), step):
        yield f'<text class="tick" x="{xs[i]:.1f}" y="{frame.height - 24}" text-anchor="middle">{i}</text>'
    middle = (xs[0] + xs[-1]) / 2
    yield both_svg("iteration", f'class="tick" x="{middle:.1f}" y="{frame.height - 6}" text-anchor="middle"')
