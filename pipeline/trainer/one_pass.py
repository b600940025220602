"""The loop: read batch t once, step every variant of the group, then the next."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing

import numpy as np
import torch
from torch import Tensor

from pipeline.config.training import TrainingSettings
from pipeline.progress import Progress
from pipeline.rows import to_tensor
from pipeline.saes.base import Workspace, initial_weights
from pipeline.trainer.initialise import geometric_median, weight_generator
from pipeline.trainer.pending import Pending
from pipeline.trainer.session import Session
from pipeline.trainer.trainee import Trainee
from stores import ActivationStore, Batches


def train_group(
    pending: Pending, store: ActivationStore, training: TrainingSettings, device: torch.device, *, show_progress: bool
) -> None:
    """Train a group's unfinished jobs, each from its own last checkpoint, and write their final files."""
    group = pending.group
    with ExitStack() as stack:
        batches = stack.enter_context(_batches(pending, store, training))

        def rows_of(step: int) -> Tensor:
            return to_tensor(batches.batch(step)[0], device) * pending.input_scale

        sessions = _sessions(pending, store.plan.sites[group.site], training, device, stack)
        _start_at_the_median([session for session in sessions if session.fresh], rows_of)
        start = min(session.trainee.step for session in sessions)
        title = f"{group.site}: train"
        progress = stack.enter_context(Progress(title, training.n_steps, "step", start=start, shown=show_progress))
        for step in range(start, training.n_steps):
            due = [session for session in sessions if session.trainee.is_due(step)]
            if due:
                x_BM = rows_of(step)
                for session in due:
                    session.advance(x_BM)
            progress.advance(1)
        calibration = _calibration(batches, pending, training, device)
        for session in sessions:
            if session.trainee.diverged is None:
                session.finish(calibration)


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


def _start_at_the_median(fresh: list[Session], rows_of: Callable[[int], Tensor]) -> None:
    """Put the decoder bias of new SAEs at the geometric median of the first batch."""
    if fresh:
        median_M = geometric_median(rows_of(0))
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
