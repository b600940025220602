"""Trains the small run in the working folder; a process of its own, for what happens when it starts."""

import sys
from pathlib import Path

import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.trainer.train import train
from support.small_run import ALL, run_data
from support.trained_run import hashes

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(RunConfig.model_validate(run_data(Path(sys.argv[1]), ALL, n_steps=12)), show_progress=False)
    print(sorted(hashes().items()))
