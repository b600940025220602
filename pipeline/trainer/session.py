"""One SAE being trained into its folder: opened at the last checkpoint, advanced, logged, saved, finished."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from strata_sae.pipeline.reading.feed import Rows
from strata_sae.pipeline.runs.record_files import line_of, write_record
from strata_sae.pipeline.runs.records import CurveLine
from strata_sae.pipeline.trainer.checkpoint import Checkpoint, Prefix, newest, save, save_shard
from strata_sae.pipeline.trainer.finish import calibrate, finish
from strata_sae.pipeline.trainer.jobs import Job
from strata_sae.pipeline.trainer.ladder import keep, steps_kept
from strata_sae.pipeline.trainer.snapshots import share_due, snapshot, watched_latents
from strata_sae.pipeline.trainer.trainee import Trainee, Update
from strata_sae.stores.files.filesystem import make_folder, naming, sync

log = logging.getLogger(__name__)

COSINE_LINES = 20
"""About how many lines of a run carry `decoder_max_cosine_mean`, which costs as much as a few steps."""


class Session:
    """A trainee and the folder of its job."""

    def __init__(self, job: Job, trainee: Trainee) -> None:
        self.job, self.trainee, self._ranks = job, trainee, trainee.ranks
        if self._ranks.rank == 0:
            write_record(job.folder.config, job.record)
        saved = newest(job.folder.checkpoints, job.record, job.folder.curves, self._ranks)
        if saved is not None:
            trainee.load_state(saved.tensors, saved.step, job.name)
            log.info("%s: goes on from step %d", job.name, saved.step)
        self.fresh = saved is None
        self._last: CurveLine | None = None
        self._keeps = steps_kept(job.training.keep, job.training.n_steps)
        self._unwritten: CurveLine | None = None
        self._seconds, self._updates, self._warm = 0.0, 0, False
        self._curves = (
            Curves(job.folder.curves, 0 if saved is None else saved.curves.n_bytes)
            if self._ranks.rank == 0
            else CurvesElsewhere()
        )

    def keep_initial(self, first_batch: Callable[[], Tensor]) -> None:
        """Keep the initial weights, if they are to be kept and training begins."""
        if self.fresh and 0 in self._keeps:
            keep(self.trainee, self.job, first_batch(), self._curves.sha256())

    def advance(self, rows: Rows, mixed: dict[str, float], *, measures: bool = False) -> None:
        """Learn from one batch; a line says how well it was `mixed`. `settle` follows. Freeze an SAE that diverged.

        measures: whether the held-out rows are measured after it.
        """
        training = self.job.training
        is_line = measures or is_logged(self.trainee.step + 1, training.log_every_steps, training.n_steps)
        began = time.perf_counter()
        update = self.trainee.update(rows.x_BM, rows.target_BM, monitored=is_line)
        if self._warm:  # the first update of a process compiles loops, which takes longer than hundreds of others
            self._seconds, self._updates = self._seconds + time.perf_counter() - began, self._updates + 1
        self._warm = True
        if update is None:
            log.warning("%s: diverged at step %d: %s", self.job.name, self.trainee.step, self.trainee.diverged)
            self.finish(None)
            return
        if is_line:
            self._last = self._unwritten = self._line(rows.target, update, mixed)

    def settle(self, x_BM: Tensor, heldout: dict[str, float] | None = None) -> None:
        """What comes after the update on x_BM: keep its weights, write the line, with what was measured, and save."""
        trainee, training, step = self.trainee, self.job.training, self.trainee.step
        if step in self._keeps:
            keep(trainee, self.job, x_BM, self._curves.sha256())
        if heldout is not None:
            trainee.measured(heldout["heldout/loss"])
        if self._unwritten is not None:
            self._curves.write(self._unwritten.with_further(heldout or {}))
            self._unwritten = None
        if trainee.best is not None and trainee.stopped_early and step < training.n_steps:
            log.info("%s: stops at step %d: %s", self.job.name, step, trainee.best.reason())
        if step % training.checkpoint_every_steps == 0 or step == training.n_steps or trainee.stopped_early:
            self._save()

    def finish(self, calibration: Callable[[], Iterable[Tensor]] | None) -> None:
        """Write the final files; `calibration` yields the batches of scaled rows that set the threshold."""
        self._curves.close()
        k = self.trainee.sae.target_l0(1.0)
        calibrated = (
            None if calibration is None or k is None else calibrate(self.trainee.sae, calibration, k, self._ranks)
        )
        finish(self.trainee, self.job, calibrated, self._curves.sha256())

    def rows_per_second(self) -> float | None:
        """Rows learnt from per second spent on this SAE's updates but its first; None where there was no other."""
        return self._updates * self.job.training.batch_size / self._seconds if self._updates else None

    def note(self) -> str:
        """Its last R2, or that it diverged or stopped, for the progress bar."""
        if self.trainee.diverged is not None:
            return f"{self.job.label} diverged"
        r2 = self._last and self._last.batch_r2
        return f"{self.job.label} {'-' if r2 is None else format(r2, '.3f')}"

    def save_here(self) -> None:
        """Save after whatever update was the last one; nothing before the first, nor of an SAE that has ended."""
        if self.trainee.step and not self.trainee.ended_early:
            self._save()

    def close(self) -> None:
        """Close the files; a later session goes on from the last checkpoint."""
        self._curves.close()

    def _save(self) -> None:
        state = Checkpoint(step=self.trainee.step, tensors=self.trainee.state(), curves=self._curves.sync())
        if self._ranks.n == 1:
            save(self.job.folder.checkpoints, state, self.job.record)
        else:
            save_shard(self.job.folder.checkpoints, state, self.job.record, self._ranks)

    def _line(self, target_BM: Tensor, update: Update, mixed: dict[str, float]) -> CurveLine:
        """What curves.jsonl says of an update; like the loss, in units of scaled rows."""
        trainee, training, result, step = self.trainee, self.job.training, update.result, self.trainee.step
        further: dict[str, float | int] = {f"loss/{name}": float(loss) for name, loss in result.losses.items()}
        further |= {name: float(value) for name, value in result.monitors.items()} | mixed
        if self.job.variant.resampling is not None:
            further["resampled_latents"] = update.resampled_latents
        # Cosines are of pairs of latents, which lie on different ranks: to exchange them costs as much as many updates.
        is_whole = self._ranks.n == 1
        if is_whole and has_cosines(step, training.log_every_steps, training.n_steps):
            further["decoder_max_cosine_mean"] = decoder_max_cosine_mean(trainee.sae.W_dec)
        share = share_due(step, training.log_every_steps, training.n_steps) if is_whole else None
        watched = watched_latents(trainee.objective.terms)
        line = CurveLine(
            step=step,
            rows=step * training.batch_size,
            loss=float(result.loss),
            l0=self._ranks.count(result.codes.n_active()) / target_BM.shape[0],
            batch_r2=batch_r2(target_BM, result.xhat_BM),
            dead_latents=self._ranks.count(int(trainee.dead_clock.dead().sum())),
            learning_rate=update.learning_rate,
            threshold=trainee.threshold.value(),
            gradient_norm=update.gradient_norm,
            similarity=None if share is None else snapshot(trainee.sae.W_dec, share, watched),
        )
        return line.with_further(further)


class Curves:
    """curves.jsonl: one line per logged step, without a clock, so that a kill leaves no trace in it.

    It is first cut to `offset` bytes: lines after the last checkpoint are written again.
    """

    def __init__(self, path: Path, offset: int) -> None:
        make_folder(path.parent)
        self._path = path
        self._file = open(path, "ab")  # noqa: SIM115 - lives as long as this object
        try:
            self._file.truncate(offset)
            self._digest = hashlib.sha256(path.read_bytes())
            sync(path.parent)  # a checkpoint that counts on this file must not outlive it in a power cut
        except OSError:
            self._file.close()
            raise

    def write(self, line: CurveLine) -> None:
        """Add one line, whole for whoever reads the file meanwhile, such as trackers."""
        data = line_of(line)
        self._digest.update(data)
        with naming(self._path):
            self._file.write(data)
            self._file.flush()

    def sync(self) -> Prefix:
        """Flush to the disk. Returns: what was written so far."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return Prefix(os.fstat(self._file.fileno()).st_size, self._digest.hexdigest())

    def sha256(self) -> str:
        """Hash (hex) of what was handed to `write`, whatever a disk made of it."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Flush to the disk and close; a second call does nothing."""
        if self._file.closed:
            return
        try:
            self.sync()
        except OSError:
            with suppress(OSError):  # closing flushes once more, which fails once more
                self._file.close()
            raise
        self._file.close()


class CurvesElsewhere:
    """On ranks other than the first, which alone writes curves.jsonl."""

    def write(self, line: CurveLine) -> None:
        """Nothing: the first rank has the same line."""

    def sync(self) -> Prefix:
        """Of no file."""
        return Prefix(0, "")

    def sha256(self) -> str:
        """Of no file."""
        return ""

    def close(self) -> None:
        """Nothing is open."""


def is_logged(step: int, every_steps: int, n_steps: int) -> bool:
    """Whether the line of `step` (updates done, 1-based) is written: the first, each `every_steps`-th, the last."""
    return step == 1 or step % every_steps == 0 or step == n_steps


def has_cosines(step: int, every_steps: int, n_steps: int) -> bool:
    """Whether the line of `step` carries the decoder's cosines: about COSINE_LINES lines, first and last included."""
    stride = max(1, round(n_steps / every_steps / COSINE_LINES)) * every_steps
    return step == 1 or step % stride == 0 or step == n_steps


def batch_r2(x_BM: Tensor, xhat_BM: Tensor) -> float:
    """1 - sum |x - xhat|^2 / sum |x - mean of the batch|^2: share of this batch's variance explained."""
    error = (x_BM - xhat_BM).double().square().sum()
    spread = (x_BM - x_BM.mean(dim=0)).double().square().sum()
    return float(1.0 - error / spread)


def decoder_max_cosine_mean(W_dec: Tensor, tile_rows: int = 1024) -> float:
    """Mean over latents of the largest cosine of its decoder row with any other row, in tiles (never all pairs)."""
    unit_EM = torch.nn.functional.normalize(W_dec, dim=1)
    largest_E = unit_EM.new_full((unit_EM.shape[0],), -1.0)
    for start in range(0, unit_EM.shape[0], tile_rows):
        # Each pair is computed once: a tile with all rows from its own on, and the result counts for both sides.
        cosine_RE = unit_EM[start : start + tile_rows] @ unit_EM[start:].T
        cosine_RE.diagonal().fill_(-1.0)
        tile_E, later_E = largest_E[start : start + tile_rows], largest_E[start:]
        torch.maximum(tile_E, cosine_RE.amax(dim=1), out=tile_E)
        torch.maximum(later_E, cosine_RE.amax(dim=0), out=later_E)
    return float(largest_E.double().mean())
