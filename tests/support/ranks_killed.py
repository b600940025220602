"""What torchrun's processes do in the test of kills: `strata train`, but rank 1 dies while checkpoint 3 is made.

torchrun --nproc-per-node N ranks_killed.py train CONFIG
"""

import os
import signal
from pathlib import Path

from torch import Tensor

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.sharding.launch import launch
from strata_sae.pipeline.trainer import checkpoint

written = checkpoint.write_tensors
n_written = 0


def dies_at_the_third(path: Path, state: dict[str, Tensor]) -> None:
    """Write a shard, or die."""
    global n_written
    n_written += 1
    if n_written == 3 and launch().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    written(path, state)


if __name__ == "__main__":
    checkpoint.write_tensors = dies_at_the_third
    app()
