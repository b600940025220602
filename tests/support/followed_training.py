"""The process of a kill test: training whose trackers are sent each line as it is written, killed (-9) at one of them.

python followed_training.py STORE TRACKER NOTES: in the working folder; dies when TRACKER was sent the lines of its note
number NOTES, and before that is written. Three trackers follow, in the order of the config.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.tracking import link
from strata_sae.pipeline.tracking.follow import Follower
from strata_sae.pipeline.trainer.session import Curves
from strata_sae.pipeline.trainer.train import train
from support.small_run import RELU, SITE, TOPK, run_data

TRACKERS = ["tensorboard", "wandb", "mlflow"]
SAES = [f"topk@{SITE}", f"relu@{SITE}"]


def config_of(store: Path, trackers: list[str]) -> RunConfig:
    data = run_data(store, {"topk": TOPK, "relu": RELU}, n_steps=30, calibration_rows=128, window_rows=512)
    return RunConfig.model_validate({**data, "tracking": {"to": trackers}})


def results(run: RunFolder) -> dict[str, bytes]:
    """The bytes of config, curves, weights and ending of every SAE, by path."""
    files = [path for path in sorted(run.path.glob("variants/**/*")) if path.is_file()]
    assert len(files) == 4 * len(SAES)
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def main(store: str, tracker: str, notes: str) -> None:
    torch.set_num_threads(1)
    config = config_of(Path(store), TRACKERS)
    follower = Follower(RunFolder(config.run_path()), config.tracking)
    write, write_record, written = Curves.write, link.write_record, []

    def followed(curves: Curves, line: Any) -> None:
        write(curves, line)
        follower.send_curves()

    def dying(path: Path, record: Any) -> None:
        written.append(path.stem)
        if written.count(tracker) == int(notes):
            os.kill(os.getpid(), signal.SIGKILL)
        write_record(path, record)

    Curves.write, link.write_record = followed, dying  # type: ignore[method-assign]
    train(config, show_progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
