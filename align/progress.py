"""Progress for people: a live view on a terminal, plain lines in a log. It goes to standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from stdc_parity.align.render_terminal import COLOURS
from stdc_parity.align.result import StageResult
from stdc_parity.align.spec import Side
from stdc_parity.converters.errors import shown

MAX_TAP = 60
"""The most characters of a tap's name in the live view."""


class Silent:
    """Progress that nobody sees; the others have its verbs."""

    def begin(self, rung: str, doing: str) -> None:
        """Say what is being done now, and for which rung ("" for none)."""

    def tap(self, side: Side, name: str) -> None:
        """Say which tap a side has just recorded; comes from other threads, a few times a second."""

    def judged(self, result: StageResult) -> None:
        """Say what a rung gave."""


class Lines(Silent):
    """A line for each thing that begins or ends, with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        """Print to `console`, and start the clock."""
        self._console, self._start = console, time.monotonic()

    def begin(self, rung: str, doing: str) -> None:
        """Print it."""
        self._print(f"{rung}: {doing}" if rung else doing)

    def judged(self, result: StageResult) -> None:
        """Print the verdict."""
        self._print(f"{result.stage}: {result.verdict.value}")

    def _print(self, text: str) -> None:
        line = f"[{time.monotonic() - self._start:7.1f} s] {shown(text, 300)}"
        self._console.print(line, markup=False, soft_wrap=True)


class View(Silent):
    """The current rung, tap and elapsed time, and under it the verdicts so far; `show` draws it at any time."""

    def __init__(self) -> None:
        """Start the clock."""
        self._start = time.monotonic()
        self._rung = self._doing = ""
        self._taps: dict[Side, str] = {}
        self._verdicts: list[tuple[str, str, str]] = []
        self._spinner = Spinner("dots")

    def begin(self, rung: str, doing: str) -> None:
        """Remember it, and forget the taps of what came before."""
        self._rung, self._doing, self._taps = rung, doing, {}

    def tap(self, side: Side, name: str) -> None:
        """Remember it."""
        self._taps = {**self._taps, side: name}

    def judged(self, result: StageResult) -> None:
        """Remember the verdict."""
        verdict = result.verdict
        self._verdicts.append((result.stage, verdict.value, COLOURS[verdict]))

    def show(self) -> Group:
        """Two lines to draw: what is being done, and the verdicts so far."""
        line = Text(f"{time.monotonic() - self._start:5.1f} s  ").append(self._rung, "bold")
        line.append(f"{'  ' if self._rung else ''}{self._doing}")
        for side, name in sorted(self._taps.items(), reverse=True):
            line.append(f" · {side} {shown(name, MAX_TAP)}", "dim")
        line.no_wrap = True
        self._spinner.update(text=line)
        done = Text("  ")
        for number, (stage, verdict, colour) in enumerate(self._verdicts):
            done.append(f"{' · ' if number else ''}{stage} ").append(verdict, colour)
        return Group(self._spinner, done) if self._verdicts else Group(self._spinner)


@contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[Silent]:
    """Progress on standard error: a view that goes when the block ends on a terminal, lines elsewhere, or nothing."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield Silent()
    elif console.is_terminal:
        view = View()
        with Live(get_renderable=view.show, console=console, refresh_per_second=8, transient=True):
            yield view
    else:
        yield Lines(console)
