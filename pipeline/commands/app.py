"""The command line: its commands, its global options, its exit codes."""

import io
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands.errors import Guarded
from strata_sae.pipeline.commands.evaluate import evaluate
from strata_sae.pipeline.commands.extract import extract, plan
from strata_sae.pipeline.commands.report import report
from strata_sae.pipeline.commands.run import run
from strata_sae.pipeline.commands.sigbus_guard import supervise
from strata_sae.pipeline.commands.store import store_app
from strata_sae.pipeline.commands.system import why_not_here
from strata_sae.pipeline.commands.train import train
from strata_sae.pipeline.errors import ConfigError

app = typer.Typer(
    cls=Guarded,
    help="Extract a language model's activations once, train many sparse autoencoders on them. "
    "With no command: run configs/demo.yaml.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (run, plan, extract, train, evaluate, report):
    app.command()(_command)
app.add_typer(store_app, name="store")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = "info",
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of any error.")] = False,
) -> None:
    if log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"--log-level: {log_level!r} is not allowed; allowed: debug, info, warning, error")
    logging.basicConfig(format="%(message)s", force=True)  # other libraries: warnings and errors only
    logging.getLogger("strata_sae").setLevel("WARNING" if quiet else log_level.upper())
    if context.invoked_subcommand is None:
        run(context, Path("configs/demo.yaml"), [])


def main() -> None:
    """Run the command line. Exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    if why := why_not_here(sys.platform, os.environ):
        print(why, file=sys.stderr)
        sys.exit(2)
    # Set before torch is loaded: its threads spin while they wait for each other, and where another process has one of
    # the cores every step then takes many times as long (measured: docs/log.md). A sleeping thread loses nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8, and are still to be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(obj=supervise)
