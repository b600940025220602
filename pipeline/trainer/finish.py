"""From a trainee to its final files: a calibrated threshold, weights in raw units, and training.json last."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from torch import Tensor

from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.record_files import read_record, write_record
from strata_sae.pipeline.runs.records import Ending, FinalHashes, KeptPart, SAERecord, SitePart, Thresholds
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.sharding.cut import kth_largest
from strata_sae.pipeline.sharding.ranks import ONE, Ranks
from strata_sae.pipeline.trainer import checkpoint
from strata_sae.pipeline.trainer.jobs import Job, remove_checkpoints
from strata_sae.pipeline.trainer.optimiser import Tensors
from strata_sae.pipeline.trainer.shards import write_together
from strata_sae.pipeline.trainer.trainee import Trainee
from strata_sae.stores.files.filesystem import write_bytes

FIRST_KEPT_MULTIPLE = 2
"""Activations kept at first, in multiples of the number wanted; doubled while the threshold lies below them."""


class PreActivations(Protocol):
    """Anything that encodes rows."""

    def pre_activations(self, x_BM: Tensor) -> Tensor:
        """The encoder product of rows."""


def calibrate(sae: PreActivations, batches: Callable[[], Iterable[Tensor]], k: float, ranks: Ranks = ONE) -> float:
    """The threshold above which a row has k positive pre-activations of all ranks on average over all the batches.

    Only values above a floor are kept in memory. The result is exact: if more than k per row lie above the floor, the
    threshold does, too; otherwise the floor is lowered and the rows are encoded again. 0 where no more than k per row
    are positive.
    """
    keep = FIRST_KEPT_MULTIPLE * k
    while True:
        floor: float | None = None
        n_rows = 0
        kept: list[Tensor] = []
        for x_BM in batches():
            values = sae.pre_activations(x_BM).reshape(-1)
            if floor is None:
                floor = _value_at_rank(values, round(keep * x_BM.shape[0]), ranks)
            kept.append(values[values > floor])
            n_rows += x_BM.shape[0]
        assert floor is not None, "calibration needs at least one batch"
        values = torch.cat(kept)
        wanted = round(k * n_rows)
        if ranks.count(values.numel()) > wanted:
            if ranks.n > 1:
                return (kth_largest(ranks, values, wanted) + kth_largest(ranks, values, wanted + 1, or_last=True)) / 2
            between = values.topk(wanted + 1).values[-2:].double()
            return float(between.mean())
        if floor == 0.0:
            return 0.0
        keep *= 2


def _value_at_rank(values: Tensor, rank: int, ranks: Ranks) -> float:
    """The rank-th largest positive value of all ranks; 0 where fewer are positive."""
    if ranks.n > 1:
        return kth_largest(ranks, values, rank, or_last=True)
    positive = values[values > 0]
    return float(positive.topk(rank).values[-1]) if rank <= positive.numel() else 0.0


def in_raw_units(weights: Tensors, input_scale: float, scales_with_x: Collection[str]) -> Tensors:
    """Weights for rows x, made from weights for scaled rows s * x: activations come out divided by s.

    Exact but for rounding: relu(W (s x - b_dec) + b_enc) = s relu(W (x - b_dec / s) + b_enc / s), and a cut scales too.
    """
    return {name: tensor / input_scale if name in scales_with_x else tensor for name, tensor in weights.items()}


def fold(weights: Mapping[str, Tensor], record: SAERecord) -> Tensors:
    """Weights for the raw rows of several sites, from weights that `in_raw_units` has put into units of codes.

    With x' = S x, y' = T y and codes' = c codes: W_enc' S / c, c W_dec' / T and (b_dec' / c) c / T. All of these
    factors would be 1 for an SAE.
    """
    codes = record.input_scale
    read_M = _columns(record.reads) / codes
    written_M = codes / _columns(record.writes)
    by_name = {"W_enc": read_M, "W_dec": written_M, "b_dec": written_M}
    return {name: tensor * by_name[name].to(tensor) if name in by_name else tensor for name, tensor in weights.items()}


def unfold(weights: Mapping[str, Tensor], record: SAERecord) -> Tensors:
    """The inverse of `fold`."""
    codes = record.input_scale
    by_name = {"W_enc": codes / _columns(record.reads), "W_dec": _columns(record.writes) / codes}
    by_name["b_dec"] = by_name["W_dec"]
    return {name: tensor * by_name[name].to(tensor) if name in by_name else tensor for name, tensor in weights.items()}


def _columns(sites: Sequence[SitePart]) -> Tensor:
    """The scale of every column: float64."""
    return torch.cat([torch.full((site.width,), site.scale, dtype=torch.float64) for site in sites])


def write_weights(path: Path, sae: SAE, for_readers: Tensors, record: SAERecord, threshold: float | None) -> str:
    """Write the weights in raw units, and what readers get of the loss terms.

    threshold: for inference, in scaled units. Returns: the file's sha256.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in (sae.weights() | for_readers).items()}
    if sae.target_l0(1.0) is not None and threshold is not None:
        weights["threshold"] = torch.tensor(threshold, dtype=torch.float64)
    raw = in_raw_units(weights, record.input_scale, sae.scales_with_x)
    if record.reads:
        raw = fold(raw, record)
    if sae.ranks.n > 1:
        return write_together(path, raw, sae.ranks, path.parent / "checkpoints")
    data = safetensors.torch.save(raw)
    write_bytes(path, data)
    # Of what was handed to the disk, not of what is read back: damage by the disk is then found later.
    return hashlib.sha256(data).hexdigest()


def kept(folder: VariantFolder) -> list[KeptPart]:
    """The weights of shares of the run that lie in a variant's folder, by step. Raises: CheckpointError."""
    records = [read_record(path, Ending).record for path in folder.checkpoints.glob("kept_*/training.json")]
    parts = (KeptPart(step=record.n_steps, sha256=record.sha256.weights) for record in records)
    return sorted(parts, key=lambda part: part.step)


def finish(trainee: Trainee, job: Job, calibrated: float | None, curves_sha256: str) -> None:
    """Write the final weights, then training.json, then delete the checkpoints. `Curves` must be closed.

    `calibrated`: the threshold that gives the wanted l0 (scaled units), or None where there is none.
    """
    folder, record = job.folder, job.record
    running = trainee.threshold.value() if trainee.threshold.is_set() else None
    threshold = running if calibrated is None or job.training.threshold_from == "running_mean" else calibrated
    weights_sha256 = write_weights(folder.weights, trainee.sae, trainee.for_readers(), record, threshold)
    scale = record.input_scale
    finished, best = trainee.diverged is None, trainee.best
    stopped = finished and trainee.stopped_early and trainee.step < job.training.n_steps
    if trainee.ranks.rank > 0:
        return  # the first writes what follows
    last = folder.checkpoints / checkpoint.name_of(trainee.step)
    ending = Ending(
        fingerprint=record.fingerprint,
        status="finished" if finished else "diverged",
        diverged_at_step=None if finished else trainee.step,
        stopped_at_step=trainee.step if stopped else None,
        best_step=None if best is None else best.step,
        reason=best.reason() if stopped and best is not None else trainee.diverged,
        n_steps=trainee.step,
        rows=trainee.step * job.training.batch_size,
        threshold=Thresholds(
            calibrated=None if calibrated is None else calibrated / scale,
            running_mean=None if running is None else running / scale,
        ),
        kept=kept(folder),
        sha256=FinalHashes(
            weights=weights_sha256,
            curves=curves_sha256,
            state=checkpoint.state_sha256(last)
            if finished
            else None,  # equal states, optimiser included, mean equal training
        ),
    )
    write_record(folder.training, ending)
    remove_checkpoints(folder)
