"""The loop: read batch t once, step every variant of the group, then the next."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts import RunFolder
from pipeline.config.training import TrainingSettings
from pipeline.progress import Progress
from pipeline.rows import to_tensor
from pipeline.saes import initial_weights
from pipeline.saes.base import Workspace
from pipeline.trainer.curves import is_logged
from pipeline.trainer.initialise import geometric_median, weight_generator
from pipeline.trainer.loader_log import LoaderLog
from pipeline.trainer.pending import Pending
from pipeline.trainer.session import Session
from pipeline.trainer.trainee import Trainee
from stores import ActivationStore, Batches
from stores.diagnostics import BatchMixing, batch_mixing


def train_group(
    pending: Pending, store: ActivationStore, training: TrainingSettings, device: torch.device, *, show_progress: bool
) -> None:
    """Train a group's unfinished jobs, each from its own last checkpoint, and write their final files."""
    group = pending.group
    with ExitStack() as stack:
        batches = stack.enter_context(_batches(pending, store, training))
        mixing = batch_mixing(store, group.site, "train", pending.filters, group.batch_size)
        loader = LoaderLog(_run(pending).loader(group.site), group, batches, mixing)

        def batch_of(step: int) -> tuple[Tensor, np.ndarray]:
            rows, numbers = batches.batch(step)
            return to_tensor(rows, device) * pending.input_scale, numbers

        sessions = _sessions(pending, store.plan.sites[group.site], training, device, stack)
        _start_at_the_median([session for session in sessions if session.fresh], lambda: batch_of(0)[0])
        start = min(session.trainee.step for session in sessions)
        title = f"{group.site}: train"
        progress = stack.enter_context(Progress(title, training.n_steps, "step", start=start, shown=show_progress))
        for step in range(start, training.n_steps):
            due = [session for session in sessions if session.trainee.is_due(step)]
            if due:
                x_BM, numbers = batch_of(step)
                mixed = _mixed(mixing, numbers, step + 1, training)
                for session in due:
                    session.advance(x_BM, mixed)
                loader.step()
            if (step + 1) % training.checkpoint_every_steps == 0:
                loader.write()
            progress.advance(1)
        loader.write()
        calibration = _calibration(batches, pending, training, device)
        for session in sessions:
            if session.trainee.diverged is None:
                session.finish(calibration)


def _run(pending: Pending) -> RunFolder:
    return RunFolder(pending.jobs[0][1].path.parents[1])


def _batches(pending: Pending, store: ActivationStore, training: TrainingSettings) -> Batches:
    group = pending.group
    row_bytes = store.plan.bytes_per_row(group.site)
    return Batches(
        store,
        group.site,
        split="train",
        filters=pending.filters,
        seed=group.seed,
        batch_size=group.batch_size,
        shared=None if training.shared_windows is None else Path(training.shared_windows),
        window_rows=min(training.window_rows, max(training.window_bytes // (2 * row_bytes), group.batch_size)),
    )


def _sessions(
    pending: Pending, d_model: int, training: TrainingSettings, device: torch.device, stack: ExitStack
) -> list[Session]:
    workspace = Workspace()
    sessions = []
    for job, folder, record in pending.jobs:
        sae = job.variant.sae
        weights = initial_weights(sae, d_model, weight_generator(job.seed, sae.d_sae, d_model))
        trainee = Trainee(job, training, {name: tensor.to(device) for name, tensor in weights.items()}, workspace)
        sessions.append(stack.enter_context(closing(Session(trainee, folder, record))))
    return sessions


def _mixed(mixing: BatchMixing | None, numbers: np.ndarray, step: int, training: TrainingSettings) -> dict[str, float]:
    """How well a batch is mixed, for the curves; nothing where no line is written."""
    if mixing is None or not is_logged(step, training.log_every_steps, training.n_steps):
        return {}
    return {f"mixing/{name}": value for name, value in mixing.measure(numbers).items()}


def _start_at_the_median(fresh: list[Session], first_batch: Callable[[], Tensor]) -> None:
    """Put the decoder bias of new SAEs at the geometric median of the first batch."""
    if fresh:
        median_M = geometric_median(first_batch())
        for session in fresh:
            session.trainee.sae.b_dec.copy_(median_M)


def _calibration(
    batches: Batches, pending: Pending, training: TrainingSettings, device: torch.device
) -> Callable[[], Iterable[Tensor]]:
    """The rows that come after training's, read once; call the result for an iterator of scaled batches."""
    n_rows = min(training.calibration_rows, batches.n_rows)
    parts: list[np.ndarray] = []
    while (missing := n_rows - sum(len(part) for part in parts)) > 0:
        rows, _ = batches.batch(training.n_steps + len(parts))
        parts.append(rows[:missing].copy())

    def scaled() -> Iterator[Tensor]:
        return (to_tensor(part, device) * pending.input_scale for part in parts)

    return scaled
