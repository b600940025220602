"""The command line: its commands and global options, and what it tells of an error or of a machine it cannot run on."""

import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from strata_sae.pipeline.commands.analyze import analyze
from strata_sae.pipeline.commands.codes import codes
from strata_sae.pipeline.commands.evaluate import evaluate
from strata_sae.pipeline.commands.explore import explore
from strata_sae.pipeline.commands.export import export
from strata_sae.pipeline.commands.extract import extract, plan
from strata_sae.pipeline.commands.init import init
from strata_sae.pipeline.commands.interpret import interpret
from strata_sae.pipeline.commands.prompt import prompt
from strata_sae.pipeline.commands.pull import pull
from strata_sae.pipeline.commands.push import push
from strata_sae.pipeline.commands.report import report
from strata_sae.pipeline.commands.run import run
from strata_sae.pipeline.commands.runs import runs_app
from strata_sae.pipeline.commands.schema import schema
from strata_sae.pipeline.commands.sigbus_guard import supervise
from strata_sae.pipeline.commands.slurm import slurm
from strata_sae.pipeline.commands.store import store_app
from strata_sae.pipeline.commands.store_import import store_import
from strata_sae.pipeline.commands.torchrun import only_train
from strata_sae.pipeline.commands.toy import toy
from strata_sae.pipeline.commands.track import track
from strata_sae.pipeline.commands.train import train
from strata_sae.pipeline.errors import ConfigError, StoppedError
from strata_sae.pipeline.explained import explained
from strata_sae.pipeline.stopping import listen


class Guarded(TyperGroup):
    """Turns the errors that a user can cause into lines on stderr and an exit code; others keep their traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The options of all commands are taken after the command, too."""
        return super().parse_args(ctx, global_options_first(args))

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Leaves the process with exit code 1, 2 or 130 where it fails for a reason that is told."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("\ninterrupted; the same command goes on from what is finished", err=True)
            sys.exit(130)
        except Exception as error:
            message, code = explained(error)
            if message is None:
                raise
            if ctx.params["debug"]:
                traceback.print_exc()
            typer.echo(message, err=True)
            sys.exit(code)


def global_options_first(args: list[str]) -> list[str]:
    """The arguments with `--quiet`, `--log-level LEVEL` and `--debug` before the command; what follows `--` stays."""
    here, end = (args[: args.index("--")], args[args.index("--") :]) if "--" in args else (args, [])
    first: list[str] = []
    rest: list[str] = []
    words = iter(here)
    for word in words:
        word = f"--log-level={next(words, '')}" if word == "--log-level" else word
        moved = word in ("--quiet", "--debug") or word.startswith("--log-level=")
        (first if moved else rest).append(word)
    return [*first, *rest, *end]


DEMO = Path("configs/demo.yaml")

app = typer.Typer(
    cls=Guarded,
    help="Extract a language model's activations once, train many sparse autoencoders on them. "
    "With no command: run configs/demo.yaml, where it is.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (
    init,
    run,
    plan,
    extract,
    toy,
    train,
    evaluate,
    codes,
    analyze,
    interpret,
    explore,
    prompt,
    report,
    slurm,
    track,
    export,
    push,
    pull,
    schema,
):
    app.command()(_command)
store_app.command("import")(store_import)
app.add_typer(store_app, name="store")
app.add_typer(runs_app, name="runs")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("strata-sae"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = "info",
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of any error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    if log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"--log-level: {log_level!r} is not allowed; allowed: debug, info, warning, error")
    logging.basicConfig(format="%(message)s", force=True)  # other libraries: warnings and errors only
    logging.getLogger("strata_sae").setLevel("WARNING" if quiet else log_level.upper())
    only_train(context.invoked_subcommand)
    if context.invoked_subcommand is None and not DEMO.is_file():
        typer.echo(context.get_help())
    elif context.invoked_subcommand is None:
        run(context, DEMO, [])


def main() -> None:
    """Run the command line. Exit code: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 stopped."""
    if why := why_not_here(sys.platform, os.environ):
        print(why, file=sys.stderr)
        sys.exit(2)
    # Set before torch is loaded: its threads spin while they wait for each other, and where another process has one of
    # the cores every step then takes many times as long (measured: docs/log.md). A sleeping thread loses nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8, and are still to be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    listen()
    try:
        app(obj=supervise)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(STOPPED)


STOPPED = 128 + signal.SIGTERM
"""Exit code: what a shell says of a process that SIGTERM killed."""
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Libraries read them while they are loaded: one ignores nonsense with a line of its own, one ends in a traceback."""
MOST_THREADS = 4096


def why_not_here(platform: str, environment: Mapping[str, str]) -> str | None:
    """What stands against running here, in a line; None if nothing does. platform: as `sys.platform` has it."""
    if platform == "win32":
        return (
            "Windows is not supported, because it has no flock, on which the locks of stores and runs rest; "
            "use WSL 2, Linux or macOS"
        )
    for name in THREADS:
        if (text := environment.get(name)) and not all(_is_count(part) for part in text.split(",")):
            return f"{name}: {text[:60]!r} is no number of threads; set it to 1 to {MOST_THREADS}, or unset it"
    return None


def _is_count(text: str) -> bool:
    digits = text.strip()
    return digits.isascii() and digits.isdecimal() and len(digits) <= 4 and 0 < int(digits) <= MOST_THREADS
