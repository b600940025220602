"""Strata: extract a language model's activations once, train many sparse autoencoders on them.

This file is the table of contents. `run` names the four stages in order; each stage is one function of a config that
reads files and writes files, so any of them can be stopped, repeated, or run on another machine.
"""

import io
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.errors import Guarded
from strata_sae.pipeline.commands.sigbus_guard import supervise
from strata_sae.pipeline.commands.store import store_app
from strata_sae.pipeline.commands.system import why_not_here
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.paths import reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.config import RunConfig

# Imports that take seconds (torch, zarr, transformers) stand inside the functions that need them, so --help is quick.


def run_stages(config: "RunConfig") -> None:
    """The pipeline. A part that is already finished is recognised and skipped."""
    config.run_path()  # refused now where it cannot be, and not when the store is made
    extract_activations(config)
    train_saes(config)
    evaluate_saes(config)
    write_report(config)


def extract_activations(config: "RunConfig", n_workers: int = 1) -> None:
    """Stage 1: corpus and language model -> activation store. The only stage that loads a language model."""
    if "://" in (config.store.path or ""):
        logging.getLogger("strata_sae").info(
            "%s: a store that is read where it lies; nothing to extract", config.store.path
        )
        return
    from strata_sae.pipeline.extractor.workers import extract_with_workers
    from strata_sae.pipeline.reading.outlier_norms import stored_outlier_norms
    from strata_sae.pipeline.runs import naming

    with naming(config.store_path()):
        extract_with_workers(config, n_workers, show_progress=_shows_progress())
    if line := stored_outlier_norms(config):
        logging.getLogger("strata_sae").warning("%s", line)


def train_saes(config: "RunConfig", stage: Path | None = None, only: Sequence[str] = ()) -> None:
    """Stage 2: store -> one SAE per variant and site."""
    from strata_sae.pipeline.trainer.train import train

    train(config, stage=stage, only=only, show_progress=_shows_progress())


def evaluate_saes(config: "RunConfig") -> None:
    """Stage 3: held-out rows of the store -> scores of every SAE."""
    from strata_sae.pipeline.evaluation.evaluate import evaluate

    evaluate(config, show_progress=_shows_progress())


def write_report(config: "RunConfig") -> None:
    """Stage 4: run folder -> one HTML page and one CSV table."""
    from strata_sae.pipeline.report.write import write_report

    page = write_report(config.run_path(), config.report.title or config.name)
    logging.getLogger("strata_sae").info("report: %s", page)


ConfigFile = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", parser=reader_of("CONFIG"), help="YAML file, for example configs/demo.yaml."),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        default_factory=list,
        show_default=False,
        help="Change one value; may be repeated.",
    ),
]

Rehash = Annotated[
    bool,
    typer.Option("--rehash", help="Read every input file again, also those that look as they did when last hashed."),
]

app = typer.Typer(
    cls=Guarded,
    help="Extract a language model's activations once, train many sparse autoencoders on them. "
    "With no command: run configs/demo.yaml.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
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


@app.command()
def run(context: typer.Context, config: ConfigFile, overrides: Overrides, rehash: Rehash = False) -> None:
    """All four stages; finished parts are skipped."""
    _supervise(context, config, overrides)
    _forget_hashes(rehash)
    run_stages(_load(config, overrides))


@app.command()
def plan(config: ConfigFile, overrides: Overrides, rehash: Rehash = False) -> None:
    """What extract would do: tokens, bytes, free space."""
    _forget_hashes(rehash)
    settings = _load(config, overrides)
    from strata_sae.pipeline.extractor.plan import describe_plan

    typer.echo(describe_plan(settings, show_progress=_shows_progress()))
    from strata_sae.pipeline.reading.outlier_norms import stored_outlier_norms

    if line := stored_outlier_norms(settings):
        typer.echo(line)


@app.command()
def extract(
    config: ConfigFile,
    overrides: Overrides,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as the command plan.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=1024, metavar="N", help="Processes on this machine that share the work.")
    ] = 1,
    rehash: Rehash = False,
) -> None:
    """Stage 1: corpus and language model to store."""
    _forget_hashes(rehash)
    if dry_run:
        plan(config, overrides)
    else:
        extract_activations(_load(config, overrides), workers)


@app.command()
def train(
    context: typer.Context,
    config: ConfigFile,
    overrides: Overrides,
    stage: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=reader_of("--stage"),
            help="Copy what is read to this nearer disk first; jobs share it.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Train this variant now, or all of a pattern; repeatable.")
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", parser=reader_of("--add"), help="Train the variants of this YAML file, too; repeatable."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and what it takes.")] = False,
) -> None:
    """Stage 2: store to trained SAEs, without the model. What is trained already stays as it is."""
    _supervise(context, config, overrides)
    from strata_sae.pipeline.config import load

    settings = load(config, overrides, add or ())
    if dry_run:
        from strata_sae.pipeline.trainer.train import describe_training

        typer.echo(describe_training(settings, only or ()))
    else:
        train_saes(settings, stage, only or ())


@app.command()
def evaluate(context: typer.Context, config: ConfigFile, overrides: Overrides) -> None:
    """Stage 3: scores of every SAE on held-out rows."""
    _supervise(context, config, overrides)
    evaluate_saes(_load(config, overrides))


@app.command()
def report(config: ConfigFile, overrides: Overrides) -> None:
    """Stage 4: one HTML page and one CSV table."""
    write_report(_load(config, overrides))


def _load(path: Path, overrides: list[str]) -> "RunConfig":
    from strata_sae.pipeline.config import load

    return load(path, overrides)


def _forget_hashes(rehash: bool) -> None:
    from strata_sae.pipeline.input_files import forget

    if rehash:
        forget()


def _shows_progress() -> bool:
    return logging.getLogger("strata_sae").isEnabledFor(logging.INFO)


def main() -> None:
    """Run the command line. Exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    if why := why_not_here(sys.platform, os.environ):
        print(why, file=sys.stderr)
        sys.exit(2)
    # Before torch is loaded: its threads spin while they wait for each other, and where another process has one of the
    # cores every step then takes many times as long (measured: docs/log.md). Asleep they lose nothing worth measuring.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8, and are still to be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(obj=supervise)


def _supervise(context: typer.Context, config: Path, overrides: list[str]) -> None:
    """The first act of a command that maps a store's files: while nothing is loaded, this process may still fork.

    Only `main` hands over the supervisor: whoever calls the commands from a process of his own, as tests do, has
    threads.
    """
    if context.obj is not None:
        context.obj(partial(_damaged_files, config, overrides))


def _damaged_files(path: Path, overrides: list[str]) -> str | None:
    """Which files of the store that a command reads are not what they should be; None if all are."""
    from strata_sae.pipeline.reading.which_store import find_store
    from strata_sae.stores import verify

    return "\n".join(verify(find_store(_load(path, overrides)))) or None


if __name__ == "__main__":
    main()
