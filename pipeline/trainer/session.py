"""A trainee and its folder: opened where the last checkpoint left it, advanced, logged, saved, finished."""

import logging
import time
from collections.abc import Callable, Iterable

from torch import Tensor

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs import VariantFolder, read_record, write_record
from strata_sae.pipeline.runs.chain import UNHASHED, check_curves, read_training
from strata_sae.pipeline.runs.records import CurveLine, SAERecord
from strata_sae.pipeline.trainer import checkpoint
from strata_sae.pipeline.trainer.calibrate import calibrate
from strata_sae.pipeline.trainer.curves import Curves, batch_r2, decoder_max_cosine_mean, has_cosines, is_logged
from strata_sae.pipeline.trainer.finish import finish, remove_checkpoints
from strata_sae.pipeline.trainer.record import refuse_change
from strata_sae.pipeline.trainer.trainee import Trainee, Update

log = logging.getLogger(__name__)


def is_done(folder: VariantFolder, record: SAERecord) -> bool:
    """Whether this very SAE is trained already. Raises: CheckpointError if the folder holds another one."""
    if folder.config.exists():
        config = read_record(folder.config, SAERecord)
        refuse_change(config.record, record, str(folder.path))
    elif folder.training.exists() or folder.checkpoints.exists():
        raise CheckpointError(f"{folder.config}: missing, so what made the folder is unknown; delete {folder.path}")
    if not folder.training.exists():
        return False
    ending = read_training(folder, config.record)
    check_curves(folder, ending.record)
    if not (config.is_hashed and ending.is_hashed):
        log.info("%s: %s", folder.name, UNHASHED)
    remove_checkpoints(folder)
    return True


class Session:
    """One SAE being trained into its folder."""

    def __init__(self, trainee: Trainee, folder: VariantFolder, record: SAERecord) -> None:
        self.trainee = trainee
        self.folder = folder
        self.record = record
        self.training: TrainingSettings = trainee.training
        write_record(folder.config, record)
        saved = checkpoint.newest(folder.checkpoints, record, folder.curves)
        if saved is not None:
            trainee.load_state(saved.tensors, saved.scalars)
            log.info("%s: goes on from step %d", folder.name, saved.step)
        self.fresh = saved is None
        self.last: CurveLine | None = None
        self._seconds, self._updates = 0.0, 0
        self.curves = Curves(folder.curves, 0 if saved is None else saved.curves.n_bytes)

    def advance(self, x_BM: Tensor, mixed: dict[str, float], target_BM: Tensor | None = None) -> None:
        """Learn from one batch of scaled rows; log, together with how well the batch was `mixed`, save, or freeze.

        target_BM: what is to be reconstructed, where that is not x_BM.
        """
        began = time.perf_counter()
        update = self.trainee.update(x_BM, target_BM)
        self._seconds, self._updates = self._seconds + time.perf_counter() - began, self._updates + 1
        if update is None:
            log.warning("%s: diverged at step %d: %s", self.folder.name, self.trainee.step, self.trainee.diverged)
            self.finish(None)
            return
        step, training = self.trainee.step, self.training
        if is_logged(step, training.log_every_steps, training.n_steps):
            self.last = self._line(x_BM if target_BM is None else target_BM, update, mixed)
            self.curves.write(self.last)
        if step % training.checkpoint_every_steps == 0 or step == training.n_steps:
            self._save()

    def finish(self, calibration: Callable[[], Iterable[Tensor]] | None) -> None:
        """Write the final files; `calibration` yields the batches of scaled rows that set the threshold."""
        self.curves.close()
        k = self.trainee.sae.target_l0(1.0)
        calibrated = None if calibration is None or k is None else calibrate(self.trainee.sae, calibration, k)
        finish(self.trainee, self.folder, self.record, calibrated, self.curves.sha256())

    def rows_per_second(self) -> float | None:
        """Rows learnt from per second spent on this SAE's updates; None where there was no update."""
        return self._updates * self.trainee.job.batch_size / self._seconds if self._updates else None

    def note(self) -> str:
        """How it does, for the progress bar."""
        if self.trainee.diverged is not None:
            return f"{self.trainee.job.variant_name} diverged"
        r2 = self.last and self.last.batch_r2
        return f"{self.trainee.job.variant_name} {'-' if r2 is None else format(r2, '.3f')}"

    def close(self) -> None:
        """Let go of the files; a later session goes on from the last checkpoint."""
        self.curves.close()

    def _save(self) -> None:
        tensors, scalars = self.trainee.state()
        state = checkpoint.Checkpoint(
            step=self.trainee.step, tensors=tensors, scalars=scalars, curves=self.curves.sync()
        )
        checkpoint.save(self.folder.checkpoints, state, self.record)

    def _line(self, target_BM: Tensor, update: Update, mixed: dict[str, float]) -> CurveLine:
        """What curves.jsonl says of an update; like the loss, in units of scaled rows."""
        trainee, result, step = self.trainee, update.result, self.trainee.step
        further: dict[str, float | int] = {f"loss/{name}": float(loss) for name, loss in result.losses.items()}
        further |= {name: float(value) for name, value in result.monitors.items()} | mixed
        if trainee.job.variant.resampling is not None:
            further["resampled_latents"] = update.resampled_latents
        if has_cosines(step, self.training.log_every_steps, self.training.n_steps):
            further["decoder_max_cosine_mean"] = decoder_max_cosine_mean(trainee.sae.W_dec)
        line = CurveLine(
            step=step,
            rows=step * trainee.job.batch_size,
            loss=float(result.loss),
            l0=result.codes.n_active() / target_BM.shape[0],
            batch_r2=batch_r2(target_BM, result.xhat_BM),
            dead_latents=int(trainee.dead_clock.dead().sum()),
            learning_rate=update.learning_rate,
            threshold=trainee.threshold.value(),
            gradient_norm=update.gradient_norm,
        )
        return line.with_further(further)
