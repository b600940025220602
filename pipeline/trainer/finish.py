"""From a trainee to its final files: raw units, checksums, and training.json last."""

import hashlib
import shutil
from collections.abc import Collection

import safetensors.torch
import torch

from strata_sae.pipeline.runs import VariantFolder, sha256_of, write_bytes, write_record
from strata_sae.pipeline.runs.records import Ending, FinalHashes, SAERecord, Thresholds
from strata_sae.pipeline.trainer import checkpoint
from strata_sae.pipeline.trainer.optimiser import Tensors
from strata_sae.pipeline.trainer.scaling import fold
from strata_sae.pipeline.trainer.trainee import Trainee


def in_raw_units(weights: Tensors, input_scale: float, scales_with_x: Collection[str]) -> Tensors:
    """Weights for rows x, made from weights for scaled rows s * x: activations come out divided by s.

    Exact but for rounding: relu(W (s x - b_dec) + b_enc) = s relu(W (x - b_dec / s) + b_enc / s), and a cut scales too.
    """
    return {name: tensor / input_scale if name in scales_with_x else tensor for name, tensor in weights.items()}


def finish(
    trainee: Trainee, folder: VariantFolder, record: SAERecord, calibrated: float | None, curves_sha256: str
) -> None:
    """Write the final weights, then training.json, then drop the checkpoints. `curves` must be closed.

    `calibrated`: the threshold that gives the wanted l0 (scaled units), or None where there is none.
    """
    running = trainee.threshold.value() if trainee.threshold.is_set() else None
    threshold = running if calibrated is None or trainee.training.threshold_from == "running_mean" else calibrated
    weights = {name: tensor.detach().cpu() for name, tensor in trainee.sae.weights().items()}
    if trainee.sae.target_l0(1.0) is not None and threshold is not None:
        weights["threshold"] = torch.tensor(threshold, dtype=torch.float64)
    scale = record.input_scale
    raw = in_raw_units(weights, scale, trainee.sae.scales_with_x)
    if record.reads:
        raw = fold(raw, record)
    data = safetensors.torch.save(raw)
    write_bytes(folder.weights, data)
    finished = trainee.diverged is None
    last = folder.checkpoints / checkpoint.name_of(trainee.step) / checkpoint.TENSORS
    ending = Ending(
        fingerprint=record.fingerprint,
        status="finished" if finished else "diverged",
        diverged_at_step=None if finished else trainee.step,
        reason=trainee.diverged,
        n_steps=trainee.step,
        rows=trainee.step * trainee.job.batch_size,
        threshold=Thresholds(
            calibrated=None if calibrated is None else calibrated / scale,
            running_mean=None if running is None else running / scale,
        ),
        sha256=FinalHashes(
            # Of what was written, not of what can be read back: a disk that damages a file meanwhile is found later.
            weights=hashlib.sha256(data).hexdigest(),
            curves=curves_sha256,
            state=sha256_of(last) if finished else None,  # optimiser and all: equal states, equal training
        ),
    )
    write_record(folder.training, ending)
    remove_checkpoints(folder)


def remove_checkpoints(folder: VariantFolder) -> None:
    """Drop the checkpoints of an SAE that is done."""
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
