"""The process that the kill test kills: training with a random pause at every step of the file system.

python killed_training.py STORE VARIANTS_JSON READY SEED: makes the file READY, then trains in the working folder.
"""

import functools
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_run import run_data

from pipeline.config import RunConfig
from pipeline.trainer.train import train
from stores import joined

LONGEST_PAUSE_SECONDS = 0.004


def paused(function: Callable[..., Any], noise: random.Random) -> Callable[..., Any]:
    """Without pauses a kill would hardly ever fall between two of these steps."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        time.sleep(noise.random() * LONGEST_PAUSE_SECONDS)
        return function(*arguments, **named)

    return wrapper


def main(store: str, variants: str, ready: str, seed: str) -> None:
    noise = random.Random(int(seed))
    torch.set_num_threads(1)
    for name in ("fsync", "replace", "rename", "mkdir", "rmdir", "unlink"):
        setattr(os, name, paused(getattr(os, name), noise))
    joined.Batches = functools.partial(joined.Batches, threads=noise.choice([1, 2, 4]))  # type: ignore[misc]
    torch.rand(noise.randrange(10))  # a global stream that is never where it was
    config = RunConfig.model_validate(run_data(Path(store), json.loads(variants), checkpoint_every_steps=5))
    Path(ready).touch()
    train(config, report_progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
