"""`strata plan` and `strata extract`: what stage 1 would do, and stage 1."""

from typing import Annotated

import typer

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, Rehash, config_of


def plan(config: ConfigFile, overrides: Overrides, rehash: Rehash = False) -> None:
    """What extract would do: tokens, bytes, free space, and the time, from a few forward passes that are timed."""
    from strata_sae.pipeline.config.run import ExtractConfig

    settings = ExtractConfig.of(config_of(config, overrides, rehash), config)
    from strata_sae.pipeline.extractor.estimate import measured_rate
    from strata_sae.pipeline.extractor.extract import describe_plan

    typer.echo(describe_plan(settings, show_progress=stages.shows_progress(), measure=measured_rate))
    from strata_sae.pipeline.reading.outlier_norms import stored_outlier_norms

    if line := stored_outlier_norms(settings):
        typer.echo(line)


def extract(
    config: ConfigFile,
    overrides: Overrides,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as the command plan.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, metavar="N", help="Processes on this machine that share the work: engine.workers."
        ),
    ] = None,
    rehash: Rehash = False,
) -> None:
    """Stage 1: corpus and language model to store."""
    if dry_run:
        plan(config, overrides, rehash)
    else:
        from strata_sae.pipeline.config.run import ExtractConfig

        settings = ExtractConfig.of(config_of(config, overrides, rehash), config)
        stages.extract_activations(settings, workers)
