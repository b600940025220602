"""`strata evaluate`: stage 3."""

from functools import partial
from typing import Annotated

import typer

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, config_of, guard

WithModel = Annotated[
    bool,
    typer.Option(
        "--with-model", help="Also what needs the model: its losses with each SAE spliced in, rows of labelled texts."
    ),
]


def evaluate(context: typer.Context, config: ConfigFile, overrides: Overrides, with_model: WithModel = False) -> None:
    """Stage 3: scores of every SAE on held-out rows."""
    guard(context, config, overrides)
    from strata_sae.pipeline.commands.judging import judge_alone
    from strata_sae.pipeline.config.run import TrainConfig

    settings = TrainConfig.of(config_of(config, overrides), config)
    with stages.trackers(settings):
        judge_alone(settings.run_path(), partial(stages.judge_saes, settings, with_model=with_model))
