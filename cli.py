"""The two commands, stdc-convert and stdc-align: parse, call, print, exit. Everything else is imported when used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click

EPILOG = "Exit codes: 0 parity, 1 diverged, 2 usage, 3 unreadable or unsafe input, 4 framework missing."
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def fails_clearly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that a user can cause into one message and the exit code of their kind."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from stdc_parity.converters.errors import ParityError

        try:
            command(*args, **kwargs)
        except ParityError as error:
            _stop(f"Error: {error}", error.exit_code)

    return run


def _stop(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)


@click.group(context_settings=SETTINGS, epilog=EPILOG)
@click.version_option(package_name="stdc-parity", prog_name="stdc-convert")
def convert() -> None:
    """Move checkpoints between PyTorch and Paddle: every key accounted for, nothing in a file ever executed."""


def _conversion_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.argument("source", metavar="SRC", type=click.Path(path_type=Path)),
        click.argument("target", metavar="[DST]", required=False, type=click.Path(path_type=Path)),
        click.option("--model", metavar="NAME", help="The architecture, if it is not to be recognised."),
        click.option(
            "--key", metavar="PATH", help="Where the state dict is in the file (ema, checkpoint.model, …)."
        ),
        click.option("--dry-run", is_flag=True, help="Print the plan, a line a key, and write nothing."),
        click.option("--force", is_flag=True, help="Replace DST if it exists."),
        click.option(
            "--certificate",
            metavar="PATH",
            type=click.Path(path_type=Path),
            help="Write the account as JSON.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@convert.command("torch2paddle", context_settings=SETTINGS)
@_conversion_options
@click.option(
    "--abn",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Rewrite InPlaceABN weights as |weight| + 1e-5; auto tells them by their missing counters.",
)
@fails_clearly
def torch2paddle(source: Path, target: Path | None, abn: Any, **options: Any) -> None:
    """Convert a PyTorch checkpoint (.tar, .pth, …) into a .pdparams.

    \b
    Example: stdc-convert torch2paddle STDCNet1446_76.47.tar
    """
    _convert(source, target, "paddle", {"abn": abn}, options)


@convert.command("paddle2torch", context_settings=SETTINGS)
@_conversion_options
@click.option(
    "--aliases", is_flag=True, help="Write upstream's second names (x2. … x32.) of the backbone too."
)
@click.option(
    "--wrap", metavar="KEY", help="Put the state dict under KEY; upstream's backbones want state_dict."
)
@fails_clearly
def paddle2torch(source: Path, target: Path | None, aliases: bool, wrap: str | None, **options: Any) -> None:
    """Convert a .pdparams into a PyTorch checkpoint.

    \b
    Example: stdc-convert paddle2torch STDCNet1446_76.47.pdparams --wrap state_dict
    """
    _convert(source, target, "torch", {"aliases": aliases}, options, wrap)


def _convert(
    source: Path,
    target: Path | None,
    to: Any,
    planning: dict[str, Any],
    options: dict[str, Any],
    wrap: str | None = None,
) -> None:
    from stdc_parity.converters import report
    from stdc_parity.converters.atomic import check_target
    from stdc_parity.converters.convert import default_target, plan_conversion, write_conversion

    target = target or default_target(source, to)
    certificate, force = options["certificate"], options["force"]
    if not options["dry_run"]:
        check_target(target, force=force, source=source)
    if certificate is not None:
        file = check_target(certificate, force=force, source=source)
        if not options["dry_run"] and file == target.resolve():
            raise click.UsageError("DST and --certificate name the same file.")
        if not file.parent.is_dir():
            raise click.UsageError("--certificate: its folder does not exist.")
    conversion = plan_conversion(source, to, model=options["model"], key=options["key"], **planning)
    if options["dry_run"]:
        click.echo("\n".join(report.plan_lines(conversion)))
    else:
        write_conversion(conversion, target, force=force, wrap=wrap)
    if certificate is not None:
        report.write_certificate(conversion, None if options["dry_run"] else target, certificate, force=force)
    click.echo("\n".join(report.summary_lines(conversion, None if options["dry_run"] else target)))


@convert.command(context_settings=SETTINGS)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.option("--key", metavar="PATH", help="Where the state dict is in the file (ema, checkpoint.model, …).")
@click.option("--keys", is_flag=True, help="List every tensor: name, shape, dtype.")
@fails_clearly
def inspect(source: Path, key: str | None, keys: bool) -> None:
    """Say what a checkpoint is: container, where its state dict is, architecture, counts, anything odd.

    \b
    Example: stdc-convert inspect STDCNet1446_76.47.tar
    """
    from stdc_parity.converters import report

    click.echo("\n".join(report.inspect_lines(source, key, list_keys=keys)))


@click.group(context_settings=SETTINGS, epilog=EPILOG)
@click.version_option(package_name="stdc-parity", prog_name="stdc-align")
def align() -> None:
    """Prove that two implementations of a network compute the same, or show where they start to differ."""


class Size(click.ParamType):  # type: ignore[type-arg]
    """HxW in pixels, such as 512x1024."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse it; a tuple stays as it is."""
        if isinstance(value, tuple):
            return value
        height, _, width = str(value).lower().partition("x")
        if not (
            height.isdecimal()
            and width.isdecimal()
            and 0 < int(height) < 1 << 16
            and 0 < int(width) < 1 << 16
        ):
            self.fail(f"{value!r} is not HxW in pixels, such as 512x1024", param, ctx)
        return int(height), int(width)


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    positive = click.FloatRange(min=0)
    options = [
        click.option("--pair", metavar="NAME", help="The pair; that of the weights, or stdc2-seg."),
        click.option(
            "--weights", metavar="PATH", help="A checkpoint of either framework; seeded weights otherwise."
        ),
        click.option("--key", metavar="PATH", help="Where the state dict is in the checkpoint."),
        click.option(
            "--base",
            type=click.IntRange(4, 256),
            default=64,
            help="Width of a seeded network (64 is official).",
        ),
        click.option("--size", type=Size(), help="Input height and width; the pair's own by default."),
        click.option("--batch", type=click.IntRange(1), help="Images at once (1; 2 in train mode)."),
        click.option(
            "--seed", type=click.IntRange(0), default=0, help="Seed of the image and of seeded weights."
        ),
        click.option("--mode", type=click.Choice(["eval", "train"]), default="eval", show_default=True),
        click.option(
            "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True
        ),
        click.option(
            "--tol", type=positive, default=1e-5, show_default=True, help="max|a-b| <= tol * max|reference|"
        ),
        click.option("--atol", type=positive, help="With --rtol: numpy.allclose's rule instead of --tol."),
        click.option("--rtol", type=positive),
        click.option(
            "--arbiter",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            help="Ask a float64 run of both sides about what exceeds the tolerance, about every tap, or never.",
        ),
        click.option("--strict", is_flag=True, help="Fail on ROUNDING too."),
        click.option("--threads", type=click.IntRange(1), help="CPU threads of each side (half the cores)."),
        click.option(
            "--json", "json_path", metavar="PATH", type=click.Path(path_type=Path), help="Write all figures."
        ),
        click.option("-v", "--verbose", is_flag=True, help="Show every tap."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@align.command(context_settings=SETTINGS)
@_run_options
@click.option(
    "--taps",
    type=click.Choice(["outputs", "stages", "modules"]),
    default="stages",
    show_default=True,
    help="What to compare: the outputs, the stages of the network, or every module.",
)
@fails_clearly
def forward(**options: Any) -> None:
    """Run both sides forward and compare them tap by tap; on a divergence, name the modules that cause it.

    \b
    Examples: stdc-align forward --tol 1e-5
              stdc-align forward --weights model_maxmIOU75.pth --size 768x1536
    """
    from stdc_parity.align.run import run_forward

    _run(run_forward, options)


def _run(stage: Callable[..., Any], options: dict[str, Any]) -> None:
    from rich.console import Console

    from stdc_parity.align.judge import Tolerance
    from stdc_parity.align.render_json import write_json
    from stdc_parity.align.render_terminal import render
    from stdc_parity.align.run import Judging, choose_spec

    tolerance = Tolerance(*(options.pop(name) for name in ("tol", "atol", "rtol")))
    judging = Judging(tolerance, options.pop("arbiter"), options.pop("strict"))
    threads, json_path, verbose = (options.pop(name) for name in ("threads", "json_path", "verbose"))
    spec = choose_spec(**options)
    with Console(stderr=True).status(f"both sides run {spec.pair} …"):
        result = stage(spec, judging, threads)
    if json_path is not None:
        write_json(result, json_path)
    render(result, Console(highlight=False), verbose=verbose)
    sys.exit(0 if result else 1)
