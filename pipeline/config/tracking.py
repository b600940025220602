"""Which experiment trackers are sent what a run's folder holds. It decides no bit and no identity of anything."""

from typing import Annotated, Literal

from pydantic import Field

from strata_sae.pipeline.settings import Settings

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


class TrackingSettings(Settings):
    """Experiment trackers, which show what the run's folder holds. Keys and servers stand in their own variables."""

    to: list[TrackerName] = Field(default=[])
    """Each is sent curves, config, scores and report. [tensorboard, wandb, mlflow]; []: none."""
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "strata"
    """The project of wandb, the experiment of MLflow: what runs are shown beside each other in."""
    every_seconds: float = Field(default=10.0, gt=0.0, le=86_400.0)
    """Time between looks at what is new while SAEs are trained (seconds)."""
