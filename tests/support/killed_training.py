"""The process of the kill test: training that dies (-9) at a given step of the file system.

python killed_training.py STORE VARIANTS_JSON DIES_AT SEED [TRAINING_JSON [EXTEND]]: trains in the working folder,
with more settings or as `train --extend`, and prints how many steps the file system made. DIES_AT 0: it lives. What is
written between two steps counts from the second one on, so a death at each of them is a death at any moment.
"""

import functools
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores.serving import batches
from support.small_run import run_data


class Steps:
    """Counts steps of the file system, and dies before one of them."""

    def __init__(self, dies_at: int) -> None:
        self.n, self._dies_at, self._lock = 0, dies_at, threading.Lock()

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is a step."""

        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                self.n += 1
                if self.n == self._dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return wrapper


def main(store: str, variants: str, dies_at: str, seed: str, training: str = "{}", extend: str = "") -> None:
    noise, steps = random.Random(int(seed)), Steps(int(dies_at))
    torch.set_num_threads(1)
    for name in ("fsync", "replace", "rename", "mkdir", "rmdir", "unlink"):
        setattr(os, name, steps.counted(getattr(os, name)))
    batches.Batches = functools.partial(batches.Batches, threads=noise.choice([1, 2, 4]))  # type: ignore[misc]
    torch.rand(noise.randrange(10))  # a global stream that is never where it was
    config = RunConfig.model_validate(
        run_data(Path(store), json.loads(variants), checkpoint_every_steps=5, **json.loads(training))
    )
    train(config, extend=int(extend) if extend else None, show_progress=False)
    print(steps.n)


if __name__ == "__main__":
    main(*sys.argv[1:])
