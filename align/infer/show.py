"""What people see while files are predicted: a bar on a terminal, results as lines, bad files on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stdc_parity.align.infer.run import Outcome, Watch
from stdc_parity.align.infer.sources import Item
from stdc_parity.align.spec import Side
from stdc_parity.converters.errors import shown


class Shown(Watch):
    """Bars for the files and a video's frames if standard error is a terminal; lines in any case."""

    def __init__(self, progress: Progress, files: int, *, quiet: bool) -> None:
        """Draw with `progress`, which may be disabled; `quiet` leaves results out."""
        self._progress, self._quiet, self._live = progress, quiet, not progress.disable
        self._files = progress.add_task("files", total=files)
        self._frames = progress.add_task("frames", total=None, visible=False)
        self._begun = -1

    def begin(self, item: Item, frames: int) -> None:
        """Name it."""
        self._begun += 1
        self._progress.update(self._files, description=shown(item.name, 40), completed=self._begun)
        self._progress.reset(self._frames, total=frames or None, visible=item.is_video)

    def step(self) -> None:
        """Count a frame."""
        self._progress.advance(self._frames)

    def say(self, line: str) -> None:
        """Print it to standard output, above the bars if that is the terminal too."""
        if not self._quiet:
            self._print(line, sys.stdout.isatty())

    def warn(self, line: str) -> None:
        """Print it to standard error."""
        if self._live:
            self._print(line, True)
        else:
            print(line, file=sys.stderr)

    def end(self, outcome: Outcome, seconds: Mapping[Side, float]) -> None:
        """Say how many there were, and where the time went."""
        bad, differ = len(outcome.bad), len(outcome.differ)
        counts = {"done": outcome.done, "skipped": bad, "differ": differ}
        words = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "done")
        self.say(" · ".join([words, *(f"{side} {spent:.2f} s" for side, spent in seconds.items())]))

    def _print(self, line: str, terminal: bool) -> None:
        if terminal and self._live:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)


@contextmanager
def show(files: int, *, quiet: bool) -> Iterator[Shown]:
    """What is shown of the prediction of so many files."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal,
        redirect_stdout=False, redirect_stderr=False,
    ) as progress:  # fmt: skip
        yield Shown(progress, files, quiet=quiet)
