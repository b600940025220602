"""Experiment trackers: what a run's folder holds, sent to TensorBoard, wandb or MLflow. None of them is needed."""

from collections.abc import Callable
from pathlib import Path

from strata_sae.pipeline.tracking.to_mlflow import ToMLflow
from strata_sae.pipeline.tracking.to_tensorboard import ToTensorBoard
from strata_sae.pipeline.tracking.to_wandb import ToWandb
from strata_sae.pipeline.tracking.tracker import Tracker

TRACKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": ToTensorBoard,
    "wandb": ToWandb,
    "mlflow": ToMLflow,
}
"""Name in the config, and of the package that is imported -> opens the tracker, by its folder and the project."""
