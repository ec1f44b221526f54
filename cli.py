"""The two commands, stdc-convert and stdc-align: parse, call, print, exit. Everything else is imported when used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import click

EPILOG = "Exit codes: 0 parity, 1 diverged, 2 usage, 3 unreadable or unsafe input, 4 framework missing."
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def fails_clearly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that a user can cause into one message and the exit code of their kind."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from stdc_parity.converters.errors import ParityError

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a terminal may lack characters of a name, or our "…"
                stream.reconfigure(errors="backslashreplace")
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


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, such as 2GB, 500MB or 4GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse it; a number stays as it is."""
        text = str(value).strip().lower()
        number = text.rstrip("bgikm")
        units = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
        unit = units.get(text[len(number) :])
        if unit is None or not number.strip().isdecimal() or not 0 < int(number) * unit < 1 << 60:
            self.fail(f"{value!r} is no size, such as 2GB or 500MB", param, ctx)
        return int(number) * unit


def _conversion_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.argument("source", metavar="SRC", type=click.Path(path_type=Path)),
        click.argument("target", metavar="[DST]", required=False, type=click.Path(path_type=Path)),
        click.option("--model", metavar="NAME", help="The architecture, if it is not to be recognised."),
        click.option(
            "--key", metavar="PATH", help="Where the state dict is in the file (ema, checkpoint.model, …)."
        ),
        click.option("--member", metavar="NAME", help="Which file of a tar it is, if it holds several checkpoints."),
        click.option("--dry-run", is_flag=True, help="Print the plan, a line a key, and write nothing."),
        click.option("--force", is_flag=True, help="Replace DST if it exists."),
        click.option(
            "--dtype",
            type=click.Choice(["float16", "bfloat16", "float32"]),
            help="Round floating-point tensors to it, and say what that loses; they are copied as they are else.",
        ),
        click.option(
            "--shard-size",
            metavar="SIZE",
            type=Bytes(),
            help="Spread a .safetensors DST over files of at most SIZE (2GB, 500MB), with an index.",
        ),
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
    """Convert a PyTorch checkpoint (.tar, .pth, .safetensors, .npz, …) into a .pdparams.

    DST may end in .safetensors or .npz instead, and then is that, with Paddle's names.

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
    """Convert a Paddle checkpoint (.pdparams, .safetensors, .npz) into a PyTorch one.

    DST may end in .safetensors or .npz, and then is that, with PyTorch's names.

    \b
    Example: stdc-convert paddle2torch STDCNet1446_76.47.pdparams --wrap state_dict
    """
    _convert(source, target, "torch", {"aliases": aliases}, options, wrap)


@contextmanager
def _progress() -> Iterator[Callable[[str, int], Callable[[int], object]]]:
    """Phases that show a bar of bytes on a terminal once a second has gone by, and nothing elsewhere."""
    start, bars = monotonic(), ExitStack()
    shown: list[Any] = []

    def begin(name: str, size: int) -> Callable[[int], object]:
        done, task = 0, None

        def advance(more: int) -> None:
            nonlocal done, task
            done += more
            if not sys.stderr.isatty() or monotonic() - start < 1:
                return
            if not shown:
                from rich.console import Console
                from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

                columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
                console = Console(stderr=True)
                shown.append(bars.enter_context(Progress(*columns, console=console, transient=True)))
            if task is None:
                task = shown[0].add_task(name, total=max(size, 1))
            shown[0].update(task, completed=min(done, size))

        return advance

    with bars:
        yield begin


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
    from stdc_parity.converters.convert import (
        check_options,
        default_target,
        plan_conversion,
        write_conversion,
    )

    target = target or default_target(source, to)
    certificate, force, shard_size = options["certificate"], options["force"], options["shard_size"]
    check_options(target, wrap, shard_size)
    if not options["dry_run"]:
        check_target(target, force=force, source=source)
    if certificate is not None:
        file = check_target(certificate, force=force, source=source)
        if not options["dry_run"] and file == target.resolve():
            raise click.UsageError("DST and --certificate name the same file.")
        if not file.parent.is_dir():
            raise click.UsageError("--certificate: its folder does not exist.")
    planning |= {name: options[name] for name in ("model", "key", "member", "dtype")}
    targets: list[Path] = []
    with _progress() as phases:
        conversion = plan_conversion(source, to, phases=phases, **planning)
        hashing = report.begin_hashing(conversion) if certificate is not None else None
        if not options["dry_run"]:
            following = {"follow": hashing.follow} if hashing else {}
            targets = write_conversion(
                conversion, target, force=force, wrap=wrap, shard_size=shard_size, phases=phases, **following
            )
        if certificate is not None and hashing is not None:
            report.write_certificate(conversion, targets, certificate, hashing, force=force)
    if options["dry_run"]:
        click.echo("\n".join(report.plan_lines(conversion)))
    click.echo("\n".join(report.summary_lines(conversion, targets)))


@convert.command(context_settings=SETTINGS)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.option("--key", metavar="PATH", help="Where the state dict is in the file (ema, checkpoint.model, …).")
@click.option("--member", metavar="NAME", help="Which file of a tar, if it holds several checkpoints.")
@click.option("--keys", is_flag=True, help="List every tensor: name, shape, dtype.")
@fails_clearly
def inspect(source: Path, key: str | None, member: str | None, keys: bool) -> None:
    """Say what a checkpoint is: container, where its state dict is, architecture, counts, anything odd.

    \b
    Example: stdc-convert inspect STDCNet1446_76.47.tar
    """
    from stdc_parity.converters import report

    click.echo("\n".join(report.inspect_lines(source, key, member, list_keys=keys)))


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


def _with(options: list[Callable[..., Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that adds click options, in their order."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_positive = click.FloatRange(min=0)
_judging_options = _with([
    click.option("--tol", type=_positive, default=1e-5, show_default=True, help="max|a-b| <= tol * max|reference|"),
    click.option("--atol", type=_positive, help="With --rtol: numpy.allclose's rule instead of --tol."),
    click.option("--rtol", type=_positive, help="See --atol."),
    click.option(
        "--arbiter",
        type=click.Choice(["auto", "always", "never"]),
        help="Ask float64 runs of both sides about what exceeds the tolerance (auto), about every tap (always; "
        "what `all` does), or never.",
    ),
    click.option("--strict", is_flag=True, help="Fail on ROUNDING too."),
    click.option("--isolate/--no-isolate", default=None, help="Look at modules one by one (on a divergence)."),
])  # fmt: skip
_output_options = _with([
    click.option("--json", "json_path", metavar="PATH", type=click.Path(path_type=Path), help="Write all figures."),
    click.option(
        "--report", "report_folder", metavar="DIR", type=click.Path(path_type=Path),
        help="Write report.json, junit.xml and summary.md.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show every tap."),
])  # fmt: skip
_spec_options = _with([
    click.option("--pair", metavar="NAME", help="The pair; that of the weights, or stdc2-seg."),
    click.option("--weights", metavar="PATH", help="A checkpoint of either framework (seeded weights)."),
    click.option("--key", metavar="PATH", help="Where the state dict is in the checkpoint."),
    click.option("--base", type=click.IntRange(4, 256), default=64, help="Width of a seeded network (64)."),
    click.option("--size", type=Size(), help="Input height and width; the pair's own by default."),
    click.option("--batch", type=click.IntRange(1), help="Images at once (1; 2 in train mode)."),
    click.option("--seed", type=click.IntRange(0), default=0, help="Seed of inputs and of seeded weights."),
    click.option("--mode", type=click.Choice(["eval", "train"]), default="eval", help="For the forward stage."),
    click.option("--dtype", type=click.Choice(["float32", "float64"]), help="float32; float64 for train."),
    click.option(
        "--taps", type=click.Choice(["outputs", "stages", "modules"]), default="stages", show_default=True,
        help="What of a forward pass to compare: outputs, the network's stages, or every module.",
    ),
    click.option("--steps", type=click.IntRange(1, 1000), default=6, help="Steps of optimizer and train (6)."),
    click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-5, help="Peak rate of train (1e-5)."),
    click.option("--scenes", type=click.IntRange(1, 5000), default=4, help="Scenes of metric and data (4)."),
    click.option("--plant", metavar="ID", multiple=True, help="Put a port bug into a side (selftest --list)."),
    click.option("--threads", type=click.IntRange(1), help="CPU threads of each side (half the cores)."),
])  # fmt: skip


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    return _spec_options(_judging_options(_output_options(command)))


STAGES = {
    "weights": (
        "Compare the two loaded networks tensor by tensor, bit for bit, under the official names.",
        "stdc-align weights --weights STDCNet1446_76.47.tar",
    ),
    "data": (
        "Compare samples after every transform, then the loaders' batches: pixels, labels, order.",
        "stdc-align data --size 256x512 --batch 4",
    ),
    "forward": (
        "Run both sides forward and compare them tap by tap; on a divergence, name the modules that cause it.",
        "stdc-align forward --tol 1e-5   (or --mode train, --weights model_maxmIOU75.pth)",
    ),
    "loss": (
        "Compare every term of the training loss, and the targets it builds, on the same logits.",
        "stdc-align loss --size 256x512",
    ),
    "backward": (
        "Compare every gradient from the loss back; on a divergence, name the modules that cause it.",
        "stdc-align backward --size 256x512",
    ),
    "optimizer": (
        "Compare parameters, momentum buffers and settings after one step and after more, on the same gradients.",
        "stdc-align optimizer --steps 5",
    ),
    "schedule": (
        "Compare the effective learning rate of every group for each of a run's 60,000 iterations.",
        "stdc-align schedule",
    ),
    "metric": (
        "Compare confusion matrices, IoU and accuracy over scenes, and explain every pixel that changes class.",
        "stdc-align metric --scenes 50 --size 256x512",
    ),
    "train": (
        "Train both sides for a few steps from one start, and hold the gap against a control with rounding noise.",
        "stdc-align train --steps 6 --dtype float64 --size 256x512",
    ),
    "all": (
        "Climb the whole ladder, float64 included, and stop explaining at the first rung that fails.",
        "stdc-align all --size 256x512 --report parity-report/",
    ),
}


def _stage_command(name: str, about: str, example: str) -> None:
    """Add `stdc-align NAME`."""

    @align.command(
        name, context_settings=SETTINGS, help=f"{about}\n\n\b\nExample: {example}", short_help=about
    )
    @_run_options
    @fails_clearly
    def run(**options: Any) -> None:
        _run(name, options)


for _name, (_about, _example) in STAGES.items():
    _stage_command(_name, _about, _example)


def _run(name: str, options: dict[str, Any]) -> None:
    from rich.console import Console

    from stdc_parity.align import report
    from stdc_parity.align.run import choose_rungs, choose_spec, run_rungs

    judging, threads, outputs = _judging(name, options), options.pop("threads"), _outputs(options)
    rungs, options = choose_rungs(name, options)
    spec = choose_spec(**options)
    with Console(stderr=True).status("both sides import their frameworks …") as status:
        result = run_rungs(rungs, spec, judging, threads, status.update)
    report.publish(result, **outputs)
    sys.exit(0 if result else 1)


def _judging(command: str, options: dict[str, Any]) -> Any:
    from stdc_parity.align.compare import Judging
    from stdc_parity.align.judge import Tolerance

    tolerance = Tolerance(*(options.pop(name) for name in ("tol", "atol", "rtol")))
    arbiter: Any = options.pop("arbiter") or ("always" if command == "all" else "auto")
    return Judging(tolerance, arbiter, options.pop("strict"), options.pop("isolate"))


def _outputs(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.pop(name) for name in ("json_path", "report_folder", "verbose")}


@align.command(context_settings=SETTINGS)
@_run_options
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--side", type=click.Choice(["torch", "paddle"]), required=True, help="Which side to record.")
@click.option(
    "--stage",
    type=click.Choice(list(STAGES)),
    default="forward",
    show_default=True,
    help="Which stage to record.",
)
@fails_clearly
def record(run: Path, side: Any, stage: str, **options: Any) -> None:
    """Record one side of a stage into the folder RUN, to be compared elsewhere; needs that side's framework only.

    \b
    Example: stdc-align record --side torch --stage forward RUN
             stdc-align record --side paddle --stage forward RUN    (on the other machine)
             stdc-align compare RUN
    """
    from stdc_parity.align.apart import record_side
    from stdc_parity.align.run import choose_rungs, choose_spec

    judging, threads, _ = _judging(stage, options), options.pop("threads"), _outputs(options)
    rungs, options = choose_rungs(stage, options)
    for line in record_side(side, rungs, choose_spec(**options), run, judging, threads):
        click.echo(line)


@align.command(context_settings=SETTINGS)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("other", required=False, type=click.Path(path_type=Path))
@_judging_options
@_output_options
@fails_clearly
def compare(run: Path, other: Path | None, **options: Any) -> None:
    """Compare what was recorded: a folder with both sides, one folder each, or two .npy dictionaries (reprod_log).

    \b
    Example: stdc-align compare RUN
             stdc-align compare torch.npy paddle.npy
    """
    from stdc_parity.align import report
    from stdc_parity.align.apart import compare_folders

    judging, outputs = _judging("compare", options), _outputs(options)
    result = compare_folders(run, other or run, judging)
    report.publish(result, **outputs)
    sys.exit(0 if result else 1)


@align.command(context_settings=SETTINGS)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--list", "listed", is_flag=True, help="Name the port bugs and what they are, and stop.")
@click.option("--json", "json_path", metavar="PATH", type=click.Path(path_type=Path), help="Write the score.")
@fails_clearly
def selftest(ids: tuple[str, ...], listed: bool, json_path: Path | None) -> None:
    """Plant every known port bug (or those named), and print how many are found and named at the right place.

    \b
    Example: stdc-align selftest
    """
    from rich.console import Console

    from stdc_parity.align import selftest as corpus

    if listed:
        click.echo("\n".join(corpus.listing(ids)))
        return
    with Console(stderr=True).status("both sides import their frameworks …") as status:
        score = corpus.run(ids, status.update)
    if json_path is not None:
        corpus.write_json(score, json_path)
    click.echo("\n".join(corpus.describe(score)))
    sys.exit(0 if score else 1)


@align.command(context_settings=SETTINGS)
@fails_clearly
def doctor() -> None:
    """Print what can disturb parity on this machine, and what to set.

    \b
    Example: stdc-align doctor
    """
    from stdc_parity.align.doctor import diagnose_machine

    for line in diagnose_machine():
        click.echo(line)
