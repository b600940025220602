"""Weights of shares of the run (`training.keep`): lean files beside the final ones, each loadable by itself.

checkpoints/kept_00000010/{weights.safetensors, training.json}; resumable checkpoints, which are deleted at the end, lie
beside them as step_*.
"""

import torch

from strata_sae.pipeline.runs.record_files import write_record
from strata_sae.pipeline.runs.records import Ending, FinalHashes, Thresholds
from strata_sae.pipeline.trainer.finish import calibrate, write_weights
from strata_sae.pipeline.trainer.jobs import Job
from strata_sae.pipeline.trainer.trainee import Trainee


def steps_kept(shares: list[float], n_steps: int) -> set[int]:
    """The steps (updates done) of these shares of a run, rounded down as dictionary_learning does."""
    # A share such as .316 is no whole number of steps in binary: 1e-9 of a step is more than that error.
    return {int(share * n_steps + 1e-9) for share in shares}


def keep(trainee: Trainee, job: Job, x_BM: torch.Tensor, curves_sha256: str) -> None:
    """Write the weights as they are now, in raw units. Kept again after a kill, they have the same bytes.

    The threshold is calibrated on the batch of this step alone, or the running mean where the config says so: the rows
    after training are not read yet.
    """
    folder = job.folder.kept(trainee.step)
    running = trainee.threshold.value() if trainee.threshold.is_set() else None
    k = trainee.sae.target_l0(1.0)
    calibrated = None if k is None else calibrate(trainee.sae, lambda: [x_BM], k)
    use_running = job.training.threshold_from == "running_mean" and running is not None
    scale = job.record.input_scale
    threshold = running if use_running else calibrated
    sha256 = write_weights(folder.weights, trainee.sae, trainee.objective.for_readers(), job.record, threshold)
    thresholds = Thresholds(
        calibrated=None if calibrated is None else calibrated / scale,
        running_mean=None if running is None else running / scale,
    )
    ending = Ending(
        fingerprint=job.record.fingerprint,
        status="kept",
        diverged_at_step=None,
        stopped_at_step=None,
        best_step=None,
        reason=None,
        n_steps=trainee.step,
        rows=trainee.step * job.training.batch_size,
        threshold=thresholds,
        kept=[],
        sha256=FinalHashes(weights=sha256, curves=curves_sha256, state=None),
    )
    write_record(folder.training, ending)
