"""`strata explore`: the latents of runs as pages, served to this machine or written as files."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import Overrides, config_file_of, guard
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.paths import reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.queries.asked_model import AskedModel

CodedRuns = Annotated[
    list[Path], typer.Argument(metavar="RUN...", parser=reader_of("RUN"), help="Folders of runs whose codes are made.")
]
LATENTS = 100
MOST_LATENTS = 10_000
"""Of an SAE, as pages of an export: about 100 kB each."""
MISSING = "transformers is not installed: pip install 'strata-sae[extract]'"
"""Stands on the screen of prompts; every other screen works without."""


def explore(
    context: typer.Context,
    runs: CodedRuns,
    overrides: Overrides,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, metavar="N", show_default="8340, or a free one", help="To listen on, on 127.0.0.1."
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", parser=reader_of("--export"), help="Write the pages as files instead, into a new folder."
        ),
    ] = None,
    latents: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_LATENTS,
            metavar="N",
            show_default=str(LATENTS),
            help="Of each SAE, in an export: the most dense and best labelled.",
        ),
    ] = None,
) -> None:
    """Read the latents of runs in a browser: a local app, which loads the model for prompts only; or pages as files."""
    if export is None and latents is not None:
        raise ConfigError("--latents: says how many latents an export has; give --export DIR too")
    if export is not None and port is not None:
        raise ConfigError("--port: an export is not served; leave one of --port and --export out")
    guard(context, config_file_of(runs[0]), overrides)
    from strata_sae.pipeline.explore.screen import World
    from strata_sae.pipeline.queries.opened import open_coded

    if export is None:
        from strata_sae.pipeline.explore.serving import listening, serve

        with listening(port) as opened:  # a port that is taken is told before runs are opened
            coded = [open_coded(run, overrides) for run in runs]
            models, missing = models_of(runs, overrides), None if find_spec("transformers") else MISSING
            serve(World.of(coded, models, missing), opened, typer.echo)
        return
    from strata_sae.pipeline.explore.static import export_pages, new_folder

    folder = new_folder(export)
    n_latents = LATENTS if latents is None else latents
    typer.echo(export_pages(World.of([open_coded(run, overrides) for run in runs]), folder, n_latents))


def models_of(runs: Sequence[Path], overrides: Sequence[str]) -> "list[AskedModel]":
    """The model of each run, to be loaded at its first prompt. Raises: ConfigError."""
    from strata_sae.pipeline.intervention.run_model import RunModel
    from strata_sae.pipeline.runs.folders import RunFolder

    return [RunModel(RunFolder(run), overrides) for run in runs]
