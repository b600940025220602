"""`strata train`: stage 2, or what it would take."""

from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, guard
from strata_sae.pipeline.commands.torchrun import refuse_with_torchrun
from strata_sae.pipeline.errors import LARGEST_INT
from strata_sae.pipeline.paths import reader_of


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
    extend: Annotated[
        int | None,
        typer.Option(
            metavar="STEPS",
            min=1,
            max=LARGEST_INT,
            help="Go on from finished variants for so many steps, as new ones: topk+500.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, and what it takes of time, memory and disk.")
    ] = False,
) -> None:
    """Stage 2: store to trained SAEs, without the model. What is trained already stays as it is."""
    guard(context, config, overrides)
    from strata_sae.pipeline.config import load
    from strata_sae.pipeline.config.run import TrainConfig

    settings = TrainConfig.of(load(config, overrides, add or ()), config)
    refuse_with_torchrun(settings, extend=extend is not None, dry_run=dry_run)
    if dry_run:
        from strata_sae.pipeline.commands.searches import expected_trainings, matchings, next_trials
        from strata_sae.pipeline.imports.saes import describe_imports
        from strata_sae.pipeline.trainer.estimate import measured_rates
        from strata_sae.pipeline.trainer.train import describe_training

        for line in describe_imports(settings, only or ()):
            typer.echo(line)
        searches = [] if extend is not None else matchings(settings, only or ())
        for line in expected_trainings(searches):
            typer.echo(line)
        trials = None if extend is not None else next_trials(searches)
        typer.echo(describe_training(settings, only or (), measured_rates, extend, trials))
    else:
        with stages.trackers(settings):
            unmatched = stages.train_saes(settings, stage, only or (), extend)
        stages.refuse_unmatched(unmatched)
