"""`strata track`: sends what trackers miss of a run."""

from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands.arguments import Overrides, config_of
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import reader_of

ConfigOrRun = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG | RUN", parser=reader_of("CONFIG"), help="YAML file of a run, or its folder: runs/demo."
    ),
]


def track(path: ConfigOrRun, overrides: Overrides) -> None:
    """Send the trackers of a run what they miss: --set tracking.to=[mlflow] names others than its config does."""
    folder = outside_stores(path, "RUN") if path.is_dir() else None
    config = config_of(path / "config.yaml" if folder else path, overrides)
    run_path = folder or config.run_path()
    if not config.tracking.to:
        raise ConfigError("tracking.to: names no tracker; add --set tracking.to=[tensorboard], or wandb, mlflow")
    from strata_sae.pipeline.runs.folders import RunFolder
    from strata_sae.pipeline.tracking.follow import following

    with following(RunFolder(run_path), config.tracking) as follower:
        pass
    if follower.problems:
        raise CheckpointError(f"{run_path}: not everything was sent, for the reasons above")
