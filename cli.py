"""The commands stdc-convert, stdc-align and stdc-infer: parse, call, print, exit. The rest is imported when used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
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


class Size(click.ParamType):  # type: ignore[type-arg]
    """HxW in pixels, such as 512x1024."""

    name = "HxW"

    def __init__(self, *, dynamic: bool = False) -> None:
        """With `dynamic`, that word is None."""
        self.dynamic = dynamic

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int] | None:
        """Parse it; a tuple stays as it is."""
        if isinstance(value, tuple):
            return value
        if self.dynamic and str(value).lower() == "dynamic":
            return None
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


_DTYPE = click.Choice(["float16", "bfloat16", "float32"])


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
            "--prove", is_flag=True, help="Then run both networks forward, each with its file (needs both)."
        ),
        click.option(
            "--dtype",
            type=_DTYPE,
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
        click.option(
            "--drop-nonzero-bias",
            is_flag=True,
            help="Let go of biases that the target has no place for, even if not zero.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


_rules_option = click.option(
    "--rules",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A rules file (TOML, docs/rules.md) of any network, which says what becomes of each key.",
)
_layout_option = click.option(
    "--to-layout",
    "layout",
    metavar="NAME",
    help="Whose names to write: official, mmseg (torch); paddle, paddleseg, stdcnet-paddle, stdcnet-paddle-bisenet.",
)
_abn_option = click.option(
    "--abn",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Rewrite InPlaceABN weights as |weight| + 1e-5; auto tells them by their missing counters.",
)
_aliases_option = click.option(
    "--aliases", is_flag=True, help="Write upstream's second names (x2. … x32.) of the backbone too."
)
_wrap_option = click.option(
    "--wrap", metavar="KEY", help="Put the state dict under KEY; upstream's backbones want state_dict."
)


@convert.command("torch2paddle", context_settings=SETTINGS, short_help="A PyTorch checkpoint to Paddle.")
@_conversion_options
@_rules_option
@_layout_option
@_abn_option
@fails_clearly
def torch2paddle(source: Path, target: Path | None, abn: Any, layout: str | None, **options: Any) -> None:
    """Convert a PyTorch checkpoint (.tar, .pth, .safetensors, .npz, …) into a .pdparams.

    DST may end in .safetensors or .npz instead, and then is that, with Paddle's names.

    \b
    Example: stdc-convert torch2paddle STDCNet1446_76.47.tar
             stdc-convert torch2paddle model_maxmIOU75.pth --to-layout paddleseg
             stdc-convert torch2paddle my_net.pth --rules rules.toml
    """
    _convert(source, target, "paddle", {"abn": abn, "layout": layout}, options)


@convert.command("paddle2torch", context_settings=SETTINGS, short_help="A Paddle checkpoint to PyTorch.")
@_conversion_options
@_rules_option
@_layout_option
@_aliases_option
@_wrap_option
@fails_clearly
def paddle2torch(
    source: Path, target: Path | None, aliases: bool, layout: str | None, wrap: str | None, **options: Any
) -> None:
    """Convert a Paddle checkpoint (.pdparams, .safetensors, .npz) into a PyTorch one.

    DST may end in .safetensors or .npz, and then is that, with PyTorch's names.

    \b
    Example: stdc-convert paddle2torch STDCNet1446_76.47.pdparams --wrap state_dict
             stdc-convert paddle2torch stdcseg.pdparams --to-layout mmseg
    """
    _convert(source, target, "torch", {"aliases": aliases, "layout": layout}, options, wrap)


@convert.command("relayout", context_settings=SETTINGS, short_help="Other names, container or dtype.")
@_conversion_options
@_rules_option
@click.option(
    "--to-layout",
    "layout",
    metavar="NAME",
    help="Whose names to write, of either framework: official, mmseg, paddle, paddleseg, stdcnet-paddle, "
    "stdcnet-paddle-bisenet. Without it the names stay, and DST's suffix says the container.",
)
@_abn_option
@_aliases_option
@_wrap_option
@fails_clearly
def relayout(
    source: Path,
    target: Path | None,
    layout: str | None,
    abn: Any,
    aliases: bool,
    wrap: str | None,
    **options: Any,
) -> None:
    """Give a checkpoint another code base's names, of either framework, or another container or dtype.

    \b
    Example: stdc-convert relayout model_maxmIOU75.pth --to-layout mmseg
             stdc-convert relayout model_maxmIOU75.pth model_maxmIOU75.safetensors
    """
    planning = {"layout": layout, "abn": abn, "aliases": aliases, "same_layout": target is not None}
    _convert(source, target, None, planning, options, wrap)


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
    from stdc_parity.converters.hashing import Hashing

    certificate, force, shard_size = options["certificate"], options["force"], options["shard_size"]
    hashing = None if certificate is None else Hashing(source)  # while numpy loads, and the rest

    from stdc_parity.converters import report
    from stdc_parity.converters.atomic import check_target
    from stdc_parity.converters.convert import (
        check_names,
        check_options,
        choose_target,
        default_target,
        plan_conversion,
        write_conversion,
    )

    if options["prove"] and options["dry_run"]:
        raise click.UsageError("--prove needs the file that --dry-run does not write.")
    if options["prove"] and options["member"] is not None:
        raise click.UsageError("--prove reads no member of an archive: unpack it first.")
    if options["prove"] and options["dtype"] in ("float16", "bfloat16"):
        raise click.UsageError(
            f"--prove wants both sides alike to 1e-5, which {options['dtype']} is not: prove it without --dtype."
        )
    rules = _rules(options | planning) if options["rules"] is not None else None
    layout = choose_target(to, planning.pop("layout"))
    if target is None:
        if layout is None:
            raise click.UsageError("relayout needs --to-layout NAME for other names, or DST for another container.")
        target = default_target(source, layout.side, "" if to else layout.name)
    check_options(target, wrap, shard_size)
    if not options["dry_run"]:
        check_target(target, force=force, source=source)
    if certificate is not None:
        file = check_target(certificate, force=force, source=source)
        if not options["dry_run"] and file == target.resolve():
            raise click.UsageError("DST and --certificate name the same file.")
        if not file.parent.is_dir():
            raise click.UsageError("--certificate: its folder does not exist.")
    planning |= {name: options[name] for name in ("model", "key", "member", "dtype", "drop_nonzero_bias")}
    targets: list[Path] = []
    with _progress() as phases:
        conversion = plan_conversion(source, to, target=layout, rules=rules, phases=phases, **planning)
        check_names(conversion, target, wrap)
        if hashing is not None:
            report.begin_hashing(conversion, hashing)
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
    if options["prove"]:
        taps = "stages" if conversion.plan.is_between_twins else "outputs"
        _prove(source, options["key"], target, conversion.plan.architecture.name, taps)


def _rules(options: dict[str, Any]) -> Any:
    """The rules of a command; what they leave open, and options that are for known networks, are refused at once."""
    from stdc_parity.converters.rules_file import load_rules
    from stdc_parity.converters.rules_plan import refuse_open

    known = {"--model": "model", "--to-layout": "layout", "--aliases": "aliases", "--prove": "prove",
             "--drop-nonzero-bias": "drop_nonzero_bias"}  # fmt: skip
    wrong = [option for option, name in known.items() if options.get(name)]
    wrong += ["--abn"] if options.get("abn") == "yes" else []
    if wrong:
        raise click.UsageError(f"{', '.join(wrong)}: for networks that are known, and --rules is for any.")
    rules = load_rules(options["rules"])
    refuse_open(rules)
    return rules


def _prove(source: Path, key: str | None, target: Path, model: str, taps: Any) -> None:
    from stdc_parity.align.progress import show_progress
    from stdc_parity.align.prove import prove
    from stdc_parity.align.report import publish

    with show_progress() as progress:
        result = prove(source, key, target, model, taps, progress)
    publish(result)
    sys.exit(0 if result else 1)


_positive_int = click.IntRange(0)
_export_options = [
    click.argument("files", metavar="[SRC] DST", nargs=-1, required=True, type=click.Path(path_type=Path)),
    click.option(
        "--size", metavar="HxW|dynamic", type=Size(dynamic=True), default="dynamic", show_default=True,
        help="The input's height and width in pixels, or any, with any batch.",
    ),
    click.option(
        "--outputs", type=click.Choice(["logits", "labels"]), default="logits", show_default=True,
        help="All that the network gives, or the winning class of each pixel alone (int64).",
    ),
    click.option(
        "--fold-bn", "fold", is_flag=True, help="Fold batch norms into the convolutions before them, and prove it."
    ),
    click.option("--pair", metavar="NAME", help="The network: SRC's by default, or a form for inference (…-infer)."),
    click.option("--base", type=click.IntRange(4, 256), default=64, help="Width of a seeded network (64)."),
    click.option("--seed", type=_positive_int, default=0, help="Seed of seeded weights."),
    click.option("--key", metavar="PATH", help="Where the state dict is in the file (ema, checkpoint.model, …)."),
    click.option("--force", is_flag=True, help="Replace DST if it exists."),
    click.option("-q", "--quiet", is_flag=True, help="Show results alone, no progress."),
]  # fmt: skip


@convert.command("onnx", context_settings=SETTINGS, short_help="A checkpoint to an ONNX graph, verified.")
@_with(_export_options)
@click.option(
    "--from", "framework", type=click.Choice(["torch", "paddle"]),
    help="Whose network to export (the one whose names SRC has).",
)
@click.option("--opset", type=int, default=17, show_default=True, help="The graph's version of ONNX's operators.")
@click.option("--lean", is_flag=True, help="Leave out tensors that no output needs; DST then does not convert back.")
@fails_clearly
def onnx(**options: Any) -> None:
    """Export a checkpoint of either framework as an ONNX graph; without SRC, seeded weights for a try.

    DST appears once onnx.checker passed it and ONNX Runtime computed with it what the framework does.

    \b
    Example: stdc-convert onnx model_maxmIOU75.pth stdc2.onnx --pair stdc2-seg-infer --size 512x1024
             stdc-convert onnx model_maxmIOU75.pdparams stdc2.onnx --from paddle --outputs labels --fold-bn
    """
    _export("onnx", options)


@convert.command("torchscript", context_settings=SETTINGS, short_help="A checkpoint to TorchScript, verified.")
@_with(_export_options)
@fails_clearly
def torchscript(**options: Any) -> None:
    """Export a checkpoint of either framework as TorchScript (.pt), verified in a fresh process.

    \b
    Example: stdc-convert torchscript model_maxmIOU75.pth stdc2.pt --fold-bn
    """
    _export("torchscript", options)


@convert.command("torch-export", context_settings=SETTINGS, short_help="A checkpoint to torch.export, verified.")
@_with(_export_options)
@fails_clearly
def torch_export(**options: Any) -> None:
    """Export a checkpoint of either framework as a program of torch.export (.pt2), verified in a fresh process.

    \b
    Example: stdc-convert torch-export model_maxmIOU75.pth stdc2.pt2 --size 512x1024
    """
    _export("torch-export", options)


@convert.command("paddle-inference", context_settings=SETTINGS, short_help="A checkpoint to Paddle inference.")
@_with(_export_options)
@fails_clearly
def paddle_inference(**options: Any) -> None:
    """Export a checkpoint of either framework for Paddle's inference engine: DST.json and DST.pdiparams.

    \b
    Example: stdc-convert paddle-inference model_maxmIOU75.pdparams inference/stdc2 --fold-bn
    """
    _export("paddle-inference", options)


def _export(kind: Any, options: dict[str, Any]) -> None:
    files = options.pop("files")
    if len(files) > 2:
        raise click.UsageError(f"SRC and DST, or DST alone: there are {len(files)} files.")
    source, target = files if len(files) == 2 else (None, files[0])
    if source is not None and (options["base"] != 64 or options["seed"]):
        raise click.UsageError("--base and --seed are for seeded weights, without SRC.")

    from stdc_parity.align.export.deploy import Wanted, deploy
    from stdc_parity.align.export.kinds import KINDS
    from stdc_parity.align.progress import show_progress

    wanted = Wanted(
        KINDS[kind], size=options.pop("size"), labels=options.pop("outputs") == "labels", fold=options.pop("fold"),
        **{name: options.pop(name) for name in ("framework", "opset", "lean") if name in options},
    )  # fmt: skip
    with show_progress(quiet=options.pop("quiet")) as progress:
        found = deploy(source, target, wanted, progress=progress, **options)
    click.echo("\n".join(found.lines))


@convert.command(context_settings=SETTINGS, short_help="What a checkpoint is, and holds.")
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


@convert.command(context_settings=SETTINGS, short_help="Compare two checkpoints tensor by tensor.")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option("--key-a", metavar="PATH", help="Where the state dict is in A.")
@click.option("--key-b", metavar="PATH", help="Where the state dict is in B.")
@click.option("--member-a", metavar="NAME", help="Which file of A, if that is a tar of several.")
@click.option("--member-b", metavar="NAME", help="Which file of B, if that is a tar of several.")
@click.option(
    "--tol",
    type=click.FloatRange(0),
    help="Agree to max|a-b| <= tol * max|a|; without it, only equal bits agree.",
)
@_rules_option
@click.option("--json", "json_path", metavar="PATH", type=click.Path(path_type=Path), help="Write every row.")
@click.option("-v", "--verbose", is_flag=True, help="Show every tensor.")
@fails_clearly
def diff(
    a: Path, b: Path, key_a: str | None, key_b: str | None, member_a: str | None, member_b: str | None,
    tol: float | None, rules: Path | None, json_path: Path | None, verbose: bool,
) -> None:  # fmt: skip
    """Compare two checkpoints tensor by tensor, of any framework and container; exit code 1 if they differ.

    \b
    Example: stdc-convert diff STDCNet1446_76.47.tar STDCNet1446_76.47.pdparams
    """
    from stdc_parity.converters import diff as comparing
    from stdc_parity.converters.diff_report import diff_account, diff_lines
    from stdc_parity.converters.json_file import write_json
    from stdc_parity.converters.opened import open_checkpoint

    ruled = _rules({"rules": rules}) if rules is not None else None
    with _progress() as phases:
        opened_a = open_checkpoint(a, key_a, member_a, phases, ruled)
        opened_b = open_checkpoint(b, key_b, member_b, phases, ruled)
        size = sum(t.nbytes for one in (opened_a, opened_b) for t in one.state.tensors.values())
        found = comparing.diff(opened_a, opened_b, tol, phases("comparing", size), ruled)
    if json_path is not None:
        write_json(diff_account(found), json_path, sources=(a, b))
    click.echo("\n".join(diff_lines(found, verbose=verbose)))
    sys.exit(0 if found else 1)


@convert.command(context_settings=SETTINGS, short_help="Prove that DST holds exactly SRC's tensors.")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--certificate", metavar="PATH", type=click.Path(path_type=Path), help="Hold both against it too.")
@click.option("--model", metavar="NAME", help="The architecture, if it is not to be recognised.")
@click.option("--key", metavar="PATH", help="Where the state dict is in SRC.")
@click.option("--member", metavar="NAME", help="Which file of SRC, if that is a tar of several.")
@click.option("--abn", type=click.Choice(["auto", "yes", "no"]), help="As the conversion had it (auto).")
@click.option("--to-layout", "layout", metavar="NAME", help="Whose names DST must have (those that it has).")
@click.option("--dtype", type=_DTYPE, help="As the conversion had it; else no value may be rounded.")
@_rules_option
@click.option("--json", "json_path", metavar="PATH", type=click.Path(path_type=Path), help="Write the findings.")
@fails_clearly
def verify(source: Path, target: Path, certificate: Path | None, json_path: Path | None, **options: Any) -> None:
    """Prove that DST holds exactly SRC's tensors, as the rules convert them; exit code 1 if not.

    With a certificate, options that are not given are those of the conversion.

    \b
    Example: stdc-convert verify STDCNet1446_76.47.tar STDCNet1446_76.47.pdparams --certificate FILE.json
    """
    from stdc_parity.converters import verify as verifying
    from stdc_parity.converters.json_file import write_json

    options["rules"] = _rules(options) if options["rules"] is not None else None
    with _progress() as phases:
        found = verifying.verify(source, target, certificate, phases=phases, **options)
    if json_path is not None:
        write_json(verifying.account(found), json_path, sources=(source, target))
    click.echo("\n".join(verifying.lines(found)))
    sys.exit(0 if found else 1)


@convert.command("optimizer", context_settings=SETTINGS, short_help="Momentum of torch's SGD <-> Paddle's.")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--net", metavar="PATH", type=click.Path(path_type=Path), help="The network's checkpoint, if not in SRC."
)
@click.option("--key", metavar="PATH", help="Where the state dict is in the network's checkpoint.")
@click.option(
    "--names",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A .pdparams of the Paddle network: use Paddle's own names of its parameters.",
)
@click.option(
    "--order",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Names in the optimizer's order, one a line, an empty line between groups.",
)
@click.option("--it", "iteration", type=click.IntRange(0), help="The next iteration, if SRC does not say it.")
@click.option("--lr", type=click.FloatRange(0), help="For torch's settings, if SRC does not keep them.")
@click.option("--momentum", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="As --lr.")
@click.option("--weight-decay", type=click.FloatRange(0), default=5e-4, show_default=True, help="As --lr.")
@click.option("--nesterov", is_flag=True, help="As --lr.")
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@fails_clearly
def optimizer(
    source: Path, target: Path, net: Path | None, key: str | None, names: Path | None, order: Path | None,
    iteration: int | None, force: bool, **settings: Any,
) -> None:  # fmt: skip
    """Convert the state of torch.optim.SGD into that of paddle.optimizer.Momentum, or back.

    \b
    Example: stdc-convert optimizer checkpoint.pth checkpoint.pdopt
             stdc-convert optimizer checkpoint.pdopt optimizer.pth --net checkpoint.pdparams
    """
    from stdc_parity.converters import optimizer_files
    from stdc_parity.converters.atomic import check_target

    check_target(target, force=force, source=source)
    conversion = optimizer_files.convert_optimizer(
        source, net, key=key, names=names, order=order, iteration=iteration, settings=settings
    )
    optimizer_files.write_optimizer(conversion, target, force=force)
    click.echo("\n".join(optimizer_files.optimizer_lines(conversion, target)))


@convert.command(context_settings=SETTINGS, short_help="Rules of two networks, for --rules.")
@click.option("--pair", metavar="NAME", help="A pair that is known (stdc-align pairs), or a pair file.")
@click.option("--torch", metavar="BUILD", help="Your own PyTorch network: module:function or file.py:name.")
@click.option("--paddle", metavar="BUILD", help="Your own Paddle network (docs/bring-your-own.md).")
@click.option(
    "--input", "inputs", metavar="SPEC", multiple=True,
    help="What they are called with: [NAME:]SHAPE[:DTYPE][:LOW..HIGH], such as 1x3x224x224 or ids:2x16:int64:0..99; "
    "once for each input. Without it nothing is run.",
)
@click.option("--torch-path", metavar="DIR", help="Where the torch side's imports come from first.")
@click.option("--paddle-path", metavar="DIR", help="Where the Paddle side's imports come from first.")
@click.option("--args", metavar="JSON", help="Keyword arguments for both, such as '{\"classes\": 10}'.")
@click.option("--torch-args", metavar="JSON", help="The same for --torch alone.")
@click.option("--paddle-args", metavar="JSON", help="The same for --paddle alone.")
@click.option("--base", type=click.IntRange(4, 256), default=8, show_default=True, help="Width of a known pair.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the inputs and of the weights to try.")
@click.option(
    "--tol", type=click.FloatRange(0, 1e-3), default=2e-5, show_default=True,
    help="How far outputs may differ, relative to each one's largest value.",
)
@click.option(
    "-o", "--output", "target", metavar="FILE", required=True, type=click.Path(path_type=Path),
    help="The rules file to write.",
)
@click.option("--force", is_flag=True, help="Replace it if it exists.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each side (half the cores).")
@fails_clearly
def derive(
    pair: str | None, inputs: tuple[str, ...], base: int, seed: int, tol: float, target: Path, force: bool,
    threads: int | None, **builds: str | None,
) -> None:  # fmt: skip
    """Write the rules of two implementations of a network: what each tensor is on the other side.

    Both are built in processes of their own and run with seeded weights. What names and types do not tell is settled
    by these runs, or listed as open. Exit code 1 if anything is open or the outputs differ.

    \b
    Example: stdc-convert derive --torch my_torch:build --paddle my_paddle:build --input 1x3x64x64 -o rules.toml
             stdc-convert derive --pair stdc1-seg -o rules.toml
    """
    from stdc_parity.align.derivation import command
    from stdc_parity.align.own import choose_own
    from stdc_parity.align.progress import show_progress
    from stdc_parity.converters.atomic import check_target

    if pair is None and None in (builds["torch"], builds["paddle"]):
        raise click.UsageError("Say --pair NAME, or both --torch and --paddle.")
    runs = pair is not None or bool(inputs)
    left_out = {"loss_torch": None, "loss_paddle": None, "target": (), "rules": None}
    own = choose_own(pair, {**builds, **left_out, "inputs": inputs or (() if pair else ("scalar",))})
    check_target(target, force=force)
    spec = command.spec_of(pair, own, base, seed)
    with show_progress(quiet=not sys.stderr.isatty()) as progress:
        said = partial(progress.begin, "derive")
        found = command.derive(spec, runs=runs, tol=tol, threads=threads, said=said)
    about = ["stdc-convert derive", *(f"--pair {pair}" for _ in [pair] if pair)]
    about += [f"--{name.replace('_', '-')} '{value}'" for name, value in builds.items() if value]
    about += [*(f"--input '{text}'" for text in inputs), f"--seed {seed}", *([] if own else [f"--base {base}"])]
    command.write_derivation(found, about, target, force=force)
    click.echo("\n".join([*command.describe(found), *command.open_lines(found), f"Wrote {target}."]))
    sys.exit(0 if found else 1)


@click.group(context_settings=SETTINGS, epilog=EPILOG)
@click.version_option(package_name="stdc-parity", prog_name="stdc-align")
def align() -> None:
    """Prove that two implementations of a network compute the same, or show where they start to differ."""


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
_accepting_options = _with([
    click.option(
        "--baseline", metavar="PATH", type=click.Path(path_type=Path),
        help="The report.json of an accepted run: fail on what is worse than it.",
    ),
    click.option(
        "--baseline-factor", metavar="F", type=click.FloatRange(1), default=10, show_default=True,
        help="How many times an error may grow beyond the baseline's.",
    ),
    click.option(
        "--waivers", metavar="PATH", type=click.Path(path_type=Path),
        help="A TOML file of taps that may fail for a time (docs/reports.md).",
    ),
])  # fmt: skip
_output_options = _with([
    click.option("--json", "json_path", metavar="PATH", type=click.Path(path_type=Path), help="Write all figures."),
    click.option(
        "--report", "report_folder", metavar="DIR", type=click.Path(path_type=Path),
        help="Write report.html, report.json, junit.xml, summary.md and taps.csv.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show every tap."),
    click.option("-q", "--quiet", is_flag=True, help="Show results alone, no progress."),
])  # fmt: skip
_spec_options = _with([
    click.option("--pair", metavar="NAME", help="The pair, or a pair file; that of the weights, or stdc2-seg."),
    click.option("--weights", metavar="PATH", help="A checkpoint of either framework (seeded weights)."),
    click.option("--key", metavar="PATH", help="Where the state dict is in the checkpoint."),
    click.option("--converted", metavar="PATH", help="What --weights became: loaded by the side that has its names."),
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


class Sides(click.ParamType):  # type: ignore[type-arg]
    """Different sides, such as torch,onnx: at least so many of those that are known."""

    name = "sides"

    def __init__(self, known: tuple[str, ...], least: int) -> None:
        """Take `least` or more of `known`."""
        self.known, self.least = known, least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Parse it; a tuple stays as it is."""
        sides = value if isinstance(value, tuple) else tuple(side.strip() for side in str(value).split(","))
        unknown = [side for side in sides if side not in self.known]
        if unknown:
            self.fail(f"there is no {self.name[:-1]} {unknown[0]!r}; there are {', '.join(self.known)}", param, ctx)
        if len(sides) < self.least or len(set(sides)) < len(sides):
            least = "two or more different" if self.least == 2 else "different"
            self.fail(f"{value!r} is not {least} {self.name}, such as torch,onnx", param, ctx)
        return sides


class Runtimes(Sides):
    """One or more of the sides, those that run what a framework deploys among them."""

    name = "runtimes"


_RECORDED = ("torch", "paddle", "onnx", "onnx-plain")
_RUNTIMES = (*_RECORDED, "torchscript", "torch-export", "paddle-inference")

_sides_options = _with([
    click.option(
        "--sides", type=Sides(_RECORDED, 2), default="torch,paddle", show_default=True,
        help="Who computes, the reference first: two or more of torch, paddle, onnx (ONNX Runtime), onnx-plain (the "
        "same without its graph optimisations). Three or more have a majority. For weights and forward.",
    ),
])  # fmt: skip
_graph_options = _with([
    click.option(
        "--onnx", "graph", metavar="FILE", help="The graph of the onnx sides; exported from a framework by default."
    ),
    click.option(
        "--onnx-from", type=click.Choice(["torch", "paddle"]),
        help="The framework to export it from (torch if it is there).",
    ),
])  # fmt: skip


_own_options = _with([
    click.option("--torch", metavar="BUILD", help="Your own PyTorch network: module:function or file.py:name."),
    click.option("--paddle", metavar="BUILD", help="Your own Paddle network (docs/bring-your-own.md)."),
    click.option(
        "--input", "inputs", metavar="SPEC", multiple=True,
        help="What they are called with: [NAME:]SHAPE[:DTYPE][:LOW..HIGH], such as 1x3x224x224 or "
        "ids:2x16:int64:0..99; once for each input.",
    ),
    click.option("--torch-path", metavar="DIR", help="Where the torch side's imports come from first."),
    click.option("--paddle-path", metavar="DIR", help="Where the Paddle side's imports come from first."),
    click.option("--args", metavar="JSON", help="Keyword arguments for both, such as '{\"classes\": 10}'."),
    click.option("--torch-args", metavar="JSON", help="The same for --torch alone."),
    click.option("--paddle-args", metavar="JSON", help="The same for --paddle alone."),
    click.option("--loss-torch", metavar="BUILD", help="Your loss: loss(outputs, target)."),
    click.option("--loss-paddle", metavar="BUILD", help="The same on Paddle's side."),
    click.option("--target", metavar="SPEC", multiple=True, help="What the loss is given, as --input."),
    click.option("--rules", metavar="FILE", help="A rules file for the weights (docs/rules.md)."),
])  # fmt: skip
OWN = ("torch", "paddle", "inputs", "torch_path", "paddle_path", "args", "torch_args", "paddle_args", "loss_torch",
       "loss_paddle", "target", "rules")  # fmt: skip


def _own(options: dict[str, Any]) -> None:
    """Turn the options of a pair of one's own into one, `own`."""
    from stdc_parity.align.own import choose_own

    options["own"] = choose_own(options["pair"], {name: options.pop(name) for name in OWN})


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    return _spec_options(_own_options(_graph_options(_judging_options(_accepting_options(_output_options(command))))))


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
        "stdc-align forward --tol 1e-5   (or --mode train, --weights model_maxmIOU75.pth)\n"
        "         stdc-align forward --torch my_torch.net:build --paddle my_paddle.net:build --input 1x3x224x224",
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
        "Climb the whole ladder, float64 included, and name every fault, where none follows from another.",
        "stdc-align all --size 256x512 --report parity-report/",
    ),
}


def _stage_command(name: str, about: str, example: str) -> None:
    """Add `stdc-align NAME`."""

    @align.command(
        name, context_settings=SETTINGS, help=f"{about}\n\n\b\nExample: {example}", short_help=about
    )
    @_run_options
    @_sides_options
    @click.option(
        "--repro",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Write a script for each module to blame that shows its difference alone.",
    )
    @fails_clearly
    def run(**options: Any) -> None:
        _run(name, options)


for _name, (_about, _example) in STAGES.items():
    _stage_command(_name, _about, _example)


def _run(name: str, options: dict[str, Any]) -> None:
    from stdc_parity.align import report
    from stdc_parity.align.progress import show_progress
    from stdc_parity.align.run import choose_rungs, choose_spec
    from stdc_parity.align.several import run_sides

    judging, threads, outputs = _judging(name, options), options.pop("threads"), _outputs(options)
    repro, sides, onnx_from = options.pop("repro"), options.pop("sides"), options.pop("onnx_from")
    _check_graph(sides, options["graph"], onnx_from)
    hold_against, quiet = _baseline(options), options.pop("quiet")
    _own(options)
    rungs, options = choose_rungs(name, options)
    spec = choose_spec(**options)
    with show_progress(quiet=quiet) as progress:
        wanted = outputs["report_folder"] is not None
        result = run_sides(
            sides, rungs, spec, judging, threads, progress, onnx_from=onnx_from, repro=repro, evidence=wanted
        )
    result = hold_against(result)
    report.publish(result, **outputs)
    sys.exit(0 if result else 1)


def _check_graph(sides: tuple[str, ...], graph: str | None, onnx_from: str | None) -> None:
    """Raise UsageError if a graph is named that no side runs, or a framework to export one that is there."""
    if (graph or onnx_from) and not {"onnx", "onnx-plain"} & set(sides):
        option = "--onnx" if graph else "--onnx-from"
        raise click.UsageError(f"{option} is for sides that run a graph, such as --sides torch,paddle,onnx.")
    if graph and onnx_from:
        raise click.UsageError("--onnx brings a graph and --onnx-from has one exported: say one of them.")


def _judging(command: str, options: dict[str, Any]) -> Any:
    from stdc_parity.align.compare import Judging
    from stdc_parity.align.judge import Tolerance
    from stdc_parity.align.waivers import load_waivers

    tolerance = Tolerance(*(options.pop(name) for name in ("tol", "atol", "rtol")))
    arbiter: Any = options.pop("arbiter") or ("always" if command == "all" else "auto")
    file = options.pop("waivers")
    waivers = load_waivers(file) if file is not None else ()
    return Judging(tolerance, arbiter, options.pop("strict"), options.pop("isolate"), waivers)


def _baseline(options: dict[str, Any]) -> Callable[[Any], Any]:
    """What holds a result against the baseline that was asked for, which is read at once."""
    from stdc_parity.align.baseline import hold_against, load_baseline

    path, factor = options.pop("baseline"), options.pop("baseline_factor")
    if path is None:
        return lambda result: result
    baseline = load_baseline(path)
    return lambda result: hold_against(result, baseline, path.name, factor)


def _outputs(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.pop(name) for name in ("json_path", "report_folder", "verbose")}


@align.command(context_settings=SETTINGS)
@_run_options
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--side", type=click.Choice(_RECORDED), required=True, help="Which side to record.")
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
    _baseline(options)
    options.pop("quiet")
    onnx_from = options.pop("onnx_from")
    _check_graph((side,), options["graph"], onnx_from)
    _own(options)
    rungs, options = choose_rungs(stage, options)
    for line in record_side(side, rungs, choose_spec(**options), run, judging, threads, onnx_from):
        click.echo(line)


@align.command(context_settings=SETTINGS)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("other", required=False, type=click.Path(path_type=Path))
@_judging_options
@_accepting_options
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

    judging, outputs, hold_against = _judging("compare", options), _outputs(options), _baseline(options)
    options.pop("quiet")  # there is no progress to show
    result = hold_against(compare_folders(run, other or run, judging))
    report.publish(result, **outputs)
    sys.exit(0 if result else 1)


@align.command(context_settings=SETTINGS)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--list", "listed", is_flag=True, help="Name the port bugs and what they are, and stop.")
@click.option(
    "--triples",
    metavar="N",
    type=click.IntRange(1),
    help="Plant N random triples instead, three bugs at once.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="What --triples are drawn from."
)
@click.option("--jobs", type=click.IntRange(1), help="Entries at a time (as many as there are cores).")
@click.option("--json", "json_path", metavar="PATH", type=click.Path(path_type=Path), help="Write the score.")
@fails_clearly
def selftest(
    ids: tuple[str, ...], listed: bool, triples: int | None, seed: int, jobs: int | None, json_path: Path | None
) -> None:
    """Plant every known port bug (or those named), and print how many are found and named at the right place.

    \b
    Example: stdc-align selftest
             stdc-align selftest --triples 100
    """
    from rich.console import Console

    from stdc_parity.align import selftest as singles
    from stdc_parity.align import triples as threes

    if listed:
        click.echo("\n".join(singles.listing(ids)))
        return
    if triples and ids:
        raise click.UsageError("--triples draws its bugs itself; name none.")
    score: Any
    with Console(stderr=True).status("both sides import their frameworks …") as status:
        score = threes.run(triples, seed, status.update) if triples else singles.run(ids, status.update, jobs)
    corpus: Any = threes if triples else singles
    if json_path is not None:
        corpus.write_json(score, json_path)
    click.echo("\n".join(corpus.describe(score)))
    sys.exit(0 if score else 1)


@align.command(context_settings=SETTINGS)
@click.option("--pair", "names", metavar="NAME", multiple=True, help="A network; again for more.")
@click.option("--size", "sizes", type=Size(), multiple=True, help="Input size (those of its paper's speeds).")
@click.option("--runtimes", type=Runtimes(_RUNTIMES, 1), default="torch,paddle,onnx", show_default=True,
    help="What runs them: " + ", ".join(_RUNTIMES) + ".",
)
@click.option("--weights", metavar="PATH", help="A checkpoint of either framework (seeded weights).")
@click.option("--key", metavar="PATH", help="Where the state dict is in the checkpoint.")
@click.option("--base", type=click.IntRange(4, 256), default=64, help="Width of a seeded network (64).")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images at once.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the input and of seeded weights.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each runtime (all cores).")
@click.option("--runs", type=click.IntRange(1, 10_000), default=30, show_default=True, help="Calls that count.")
@click.option("--warmup", type=click.IntRange(0, 1000), default=5, show_default=True, help="Calls before them.")
@click.option("--fold-bn", "fold", is_flag=True, help="Measure exports with folded batch norms besides.")
@click.option("--json", "json_path", metavar="PATH", type=click.Path(path_type=Path), help="Write all figures.")
@click.option("--plot", metavar="PATH", type=click.Path(path_type=Path), help="Draw them: .svg, .png or .pdf.")
@click.option("-q", "--quiet", is_flag=True, help="Show results alone, no progress.")
@fails_clearly
def latency(
    names: tuple[str, ...], sizes: tuple[tuple[int, int], ...], runtimes: Any, threads: int | None, runs: int,
    warmup: int, fold: bool, json_path: Path | None, plot: Path | None, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Time one forward pass on every runtime: the same input, the same threads, in turns, in one run.

    \b
    Example: stdc-align latency --pair stdc1-seg-infer --plot latency.svg
             stdc-align latency --runtimes torch,paddle,onnx,paddle-inference,torchscript --fold-bn
    """
    import os

    from stdc_parity.align import pairs, render_latency
    from stdc_parity.align.latency import Measuring, measure
    from stdc_parity.align.progress import show_progress
    from stdc_parity.converters.atomic import check_target

    for path in (json_path, plot):
        if path is not None and not check_target(path, force=True).parent.is_dir():
            raise click.UsageError(f"{path}: its folder does not exist.")
    if plot is not None and plot.suffix.lower() not in render_latency.FORMATS:
        raise click.UsageError(f"--plot: {plot.name} ends in none of {', '.join(render_latency.FORMATS)}.")
    measuring = Measuring(runtimes, threads or os.cpu_count() or 1, runs, warmup, fold)
    chosen = names or (() if options["weights"] is not None else pairs.timed_names())
    with show_progress(quiet=quiet) as progress:
        found = measure(chosen, sizes, measuring, progress=progress, **options)
    click.echo("\n".join(render_latency.latency_lines(found)))
    if json_path is not None:
        render_latency.write_latency(found, json_path)
    if plot is not None:
        render_latency.plot_latency(found, plot)
    sys.exit(0 if found else 1)


@align.command("pairs", context_settings=SETTINGS, short_help="The pairs that there are.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@fails_clearly
def list_pairs(names: tuple[str, ...], as_json: bool) -> None:
    """List the pairs, or those named: parameters, FLOPs, the layouts of their checkpoints, stages.

    NAME may be the beginning of several. FLOPs are twice the multiply-accumulates of one pass of one image at the
    pair's own size; torch counts them, on shapes alone.

    \b
    Example: stdc-align pairs
             stdc-align pairs stdc2-seg icnet --json
    """
    from stdc_parity.align import catalogue
    from stdc_parity.align.progress import show_progress

    with show_progress(quiet=as_json) as progress:
        rows = catalogue.rows(names, progress)
    if as_json:
        click.echo(catalogue.to_json(rows))
    else:
        catalogue.show(rows)


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


@click.command(context_settings=SETTINGS, epilog=EPILOG)
@click.version_option(package_name="stdc-parity", prog_name="stdc-infer")
@click.argument("sources", metavar="IMAGE|DIR|VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "out", metavar="OUT", required=True, type=click.Path(path_type=Path), help="Folder of the results."
)
@click.option(
    "--weights", metavar="PATH", type=click.Path(path_type=Path),
    help="A checkpoint of either framework, for any runtime; an .onnx is the graph of the onnx runtime too.",
)
@click.option("--key", metavar="PATH", help="Where the state dict is in the checkpoint.")
@click.option("--pair", metavar="NAME", help="The network; what inference needs of the one that the weights are of.")
@click.option(
    "--runtime", metavar="NAME", default="torch", show_default=True,
    help="torch, paddle, onnx (ONNX Runtime) or onnx-plain (that, without changes to the graph).",
)
@click.option(
    "--onnx", "graph", metavar="FILE", type=click.Path(path_type=Path), help="The graph of the onnx runtime."
)
@click.option("--compare", metavar="A,B", help="Predict with two runtimes, and show where they differ.")
@click.option(
    "--max-different", "most", metavar="SHARE", type=click.FloatRange(0, 1), default=1e-4, show_default=True,
    help="The share of a file's pixels that two runtimes may give other classes.",
)
@click.option(
    "--scale", type=click.FloatRange(0, 2, min_open=True), default=0.5, show_default=True,
    help="Of the image's sides, for the network: upstream evaluates at 0.5 and 0.75.",
)
@click.option(
    "--ids", type=click.Choice(["train", "label", "both"]), default="train", show_default=True,
    help="Numbers in the label maps: train ids, or Cityscapes' label ids.",
)
@click.option(
    "--opacity", type=click.FloatRange(0, 1), default=0.5, show_default=True,
    help="Of the classes' colours in overlays.",
)
@click.option("--seeded", is_flag=True, help="Use random weights, to see it work.")
@click.option("--base", type=click.IntRange(4, 256), default=64, help="Width of a seeded network (64).")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each runtime (half the cores).")
@click.option("--force", is_flag=True, help="Replace results that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Print bad files alone.")
@fails_clearly
def infer(sources: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Segment images and videos: label maps and overlays in Cityscapes' colours, by torch, Paddle or ONNX Runtime.

    Exit code 3 if a file could not be read (the others are done), 1 if --compare found more than --max-different.

    \b
    Example: stdc-infer street.jpg -o out --weights model_maxmIOU75.pth --scale 0.75
             stdc-infer photos/ -o out --weights model_maxmIOU75.pth --compare torch,paddle
    """
    from stdc_parity.align.infer import run
    from stdc_parity.align.infer.runtimes import choose, open_runtimes, parse_runtimes
    from stdc_parity.align.infer.show import show
    from stdc_parity.align.infer.sources import find_items

    compare, runtime, quiet, threads = (options.pop(name) for name in ("compare", "runtime", "quiet", "threads"))
    sides = parse_runtimes(compare or runtime, "--compare" if compare else "--runtime")
    if len(set(sides)) != (2 if compare else 1) or len(sides) != len(set(sides)):
        raise click.UsageError("--compare takes two different runtimes, such as torch,paddle; --runtime takes one.")
    how = run.Options(**{name: options.pop(name) for name in ("scale", "ids", "opacity", "most", "force")})
    items = find_items(sources, out)
    run.check(items, sides, how)
    chosen = choose(sides, **options)
    with show(len(items), quiet=quiet) as shown, open_runtimes(chosen, sides, threads) as runtimes:
        shown.say(f"{chosen.said} · {', '.join(sides)} · {runtimes.said(how.scale)}")
        outcome = run.predict_all(items, runtimes, how, shown)
        shown.end(outcome, runtimes.seconds)
    sys.exit(outcome.exit_code)
