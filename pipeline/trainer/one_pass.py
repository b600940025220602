"""The loop: read batch t once, step every variant of the group, then the next."""

from collections.abc import Callable
from contextlib import ExitStack, closing

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.runs import RunFolder
from strata_sae.pipeline.saes import initial_weights
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.trainer.curves import is_logged
from strata_sae.pipeline.trainer.feed import Feed
from strata_sae.pipeline.trainer.initialise import CENTRES, weight_generator
from strata_sae.pipeline.trainer.loader_log import LoaderLog
from strata_sae.pipeline.trainer.pending import Pending
from strata_sae.pipeline.trainer.session import Session
from strata_sae.pipeline.trainer.trainee import Trainee
from strata_sae.stores.front.aligned import Together
from strata_sae.stores.serving.mixing import BatchMixing


def train_group(
    pending: Pending, stores: Together, training: TrainingSettings, device: torch.device, *, show_progress: bool
) -> dict[str, float]:
    """Train a group's unfinished jobs, each from its own last checkpoint, and write their final files.

    Returns: rows per second of each that made an update, by name.
    """
    group = pending.group
    with ExitStack() as stack:
        feed = stack.enter_context(closing(Feed(pending, stores, training, device)))
        loader = LoaderLog(_run(pending).loader(group.site), group, feed.batches, feed.mixing)
        sessions = _sessions(pending, stores, device, stack)
        _start_at_a_centre([session for session in sessions if session.fresh], lambda: feed.batch(0).target)
        start = min(session.trainee.step for session in sessions)
        title = f"{group.site}: train"
        bar = stack.enter_context(Progress(title, training.n_steps, "step", start=start, shown=show_progress))
        for step in range(start, training.n_steps):
            due = [session for session in sessions if session.trainee.is_due(step)]
            if due:
                x_BM, target_BM, numbers = feed.batch(step)
                mixed = _mixed(feed.mixing, numbers, step + 1, training)
                for session in due:
                    session.advance(x_BM, mixed, target_BM)
                loader.step()
                if is_logged(step + 1, training.log_every_steps, training.n_steps):
                    bar.note("r2: " + ", ".join(session.note() for session in sessions))
            if (step + 1) % training.checkpoint_every_steps == 0:
                loader.write()
            bar.advance(1)
        loader.write()
        calibration = feed.calibration(training.n_steps, training.calibration_rows)
        for session in sessions:
            if session.trainee.diverged is None:
                session.finish(calibration)
        speeds = {session.trainee.job.name: session.rows_per_second() for session in sessions}
        return {name: speed for name, speed in speeds.items() if speed is not None}


def _run(pending: Pending) -> RunFolder:
    return RunFolder(pending.jobs[0][1].path.parents[1])


def _sessions(pending: Pending, stores: Together, device: torch.device, stack: ExitStack) -> list[Session]:
    workspace = Workspace(pending.jobs[0][0].training.encoder)
    sessions = []
    route = pending.group.route
    d_in, d_out = route.d_in(stores.sites), route.d_out(stores.sites)
    for job, folder, record in pending.jobs:
        sae = job.variant.sae
        weights = initial_weights(sae, d_out, weight_generator(job.seed, sae.d_sae, d_out), d_in)
        trainee = Trainee(job, {name: tensor.to(device) for name, tensor in weights.items()}, workspace)
        trainee.sae.blocks = [stores.sites[site] for site in route.writes]
        sessions.append(stack.enter_context(closing(Session(trainee, folder, record))))
    return sessions


def _mixed(mixing: BatchMixing | None, numbers: np.ndarray, step: int, training: TrainingSettings) -> dict[str, float]:
    """How well a batch is mixed, for the curves; nothing where no line is written."""
    if mixing is None or not is_logged(step, training.log_every_steps, training.n_steps):
        return {}
    return {f"mixing/{name}": value for name, value in mixing.measure(numbers).items()}


def _start_at_a_centre(fresh: list[Session], first_batch: Callable[[], Tensor]) -> None:
    """Put the decoder bias of new SAEs at the centre of the first batch that each asks for."""
    centres = {session.trainee.sae.settings.initial.b_dec for session in fresh}
    if centres - {"zero"}:
        x_BM = first_batch()
        points = {name: CENTRES[name](x_BM) for name in centres}
        for session in fresh:
            session.trainee.sae.b_dec.copy_(points[session.trainee.sae.settings.initial.b_dec])
