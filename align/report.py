"""Publishing a run: the terminal always, and the files that were asked for."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from stdc_parity.align.render_json import write_json
from stdc_parity.align.render_terminal import render
from stdc_parity.align.result import RunResult
from stdc_parity.converters.errors import MissingFramework, UsageError


def publish(
    result: RunResult,
    *,
    json_path: Path | None = None,
    report_folder: Path | None = None,
    verbose: bool = False,
) -> None:
    """Print the run, and write its JSON and its report folder. Raises UsageError for what cannot be written."""
    render(result, Console(highlight=False), verbose=verbose)
    if json_path is not None:
        write_json(result, json_path)
    if report_folder is not None:
        write_report(result, report_folder)


def write_report(result: RunResult, folder: Path) -> None:
    """Write report.json, junit.xml, summary.md, taps.csv and report.html into `folder`, over older ones.

    Without what report.html needs the others are written, and a line on stderr says what is missing. Raises
    UsageError.
    """
    from stdc_parity.align.render_csv import write_csv
    from stdc_parity.align.render_html import write_html
    from stdc_parity.align.render_junit import write_junit
    from stdc_parity.align.render_markdown import write_markdown

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--report {folder}: {error.strerror}") from None
    write_json(result, folder / "report.json")
    write_junit(result, folder / "junit.xml")
    write_markdown(result, folder / "summary.md")
    write_csv(result, folder / "taps.csv")
    try:
        write_html(result, folder / "report.html")
    except MissingFramework as error:
        note = f"Note: {error.message} ({error.note})"
        Console(stderr=True, highlight=False).print(note, markup=False, soft_wrap=True)
