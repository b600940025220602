"""A run that was really trained and scored, small enough for every test to have a copy."""

import contextlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.trainer.train import train
from support.small_run import BATCH_TOPK, RELU, SITE, TOPK, run_data, store_for_training

VARIANTS: dict[str, Any] = {
    "topk": TOPK,
    "batch": BATCH_TOPK,
    "relu": RELU,
    "wild": {**TOPK, "training": {"learning_rate": 1e30, "clip_norm": None}},  # diverges
}
RUN = Path("runs/run")
SAES = [f"{name}@{SITE}" for name in VARIANTS]


class Made(NamedTuple):
    folder: Path
    config: RunConfig


def make(folder: Path, **training: Any) -> RunConfig:
    """Train and score in `folder`, which then holds the store and runs/run."""
    store = store_for_training(folder / "store", n_rows=1500)
    settings = {"n_steps": 20, "calibration_rows": 128, "window_rows": 512, **training}
    data = run_data(store, VARIANTS, **settings)
    config = RunConfig.model_validate({**data, "evaluation": {"batch_size": 64, "context_tokens": 3}})
    with contextlib.chdir(folder):
        train(config, show_progress=False)
        evaluate(config)
    return config


def copy(made: Path, to: Path) -> Path:
    """A copy of the run folder to damage; the store stays where it is. Returns: its path."""
    shutil.copytree(made / RUN, to / RUN)
    return to / RUN
