"""One pass over the store: SAEs start, then each batch is read once and updates every one of them."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline import stopping
from strata_sae.pipeline.config.training import ResolvedTraining
from strata_sae.pipeline.errors import ConfigError, StoppedError
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.document_units import DocumentUnits, document_units
from strata_sae.pipeline.reading.feed import Feed, Rows
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import line_of
from strata_sae.pipeline.runs.records import LoaderLine
from strata_sae.pipeline.saes import initial_weights
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.sharding.ranks import ONE, Ranks
from strata_sae.pipeline.trainer.centres import start_at_a_centre
from strata_sae.pipeline.trainer.extend import begin_at_parent, weights_of_parent
from strata_sae.pipeline.trainer.heldout import measure
from strata_sae.pipeline.trainer.jobs import Job
from strata_sae.pipeline.trainer.passes import Pass
from strata_sae.pipeline.trainer.session import Session, is_logged
from strata_sae.pipeline.trainer.trainee import Trainee
from strata_sae.stores import Together
from strata_sae.stores.files.filesystem import make_folder, naming


def run_pass(
    pass_: Pass,
    stores: Together,
    run: RunFolder,
    device: torch.device,
    *,
    show_progress: bool,
    check_held: Callable[[], None] = lambda: None,
    ranks: Ranks = ONE,
) -> dict[str, float]:
    """Train the jobs of a pass, each from its own last checkpoint, and write their final files.

    check_held: called before results are written; raises if another process has taken over one of the SAEs.
    ranks: the processes that hold each SAE together.
    Returns: rows per second of each that made more than one update, by name.
    Raises: StoppedError if this process was asked to end; each SAE has a checkpoint of its last step then.
    """
    training, name = pass_.training, pass_.route.name
    with ExitStack() as stack:
        documents = _documents(pass_, stores, run)
        feed = stack.enter_context(closing(Feed(pass_.route, stores, pass_.stream, pass_.scaling, device, documents)))
        loader = LoaderLog(run.loader(name), pass_, feed, is_kept=ranks.rank == 0)
        heldout = _heldout(pass_, feed)  # before a record is written that names what is refused here
        sessions = _sessions(pass_, stores, device, stack, ranks)
        _begin([session for session in sessions if session.fresh], feed, run)
        for session in sessions:
            session.keep_initial(lambda: feed.batch(pass_.first_batch).x_BM)
        start = min((s.trainee.step for s in sessions if not s.trainee.stopped_early), default=training.n_steps)
        bar = stack.enter_context(
            Progress(f"{name}: train", training.n_steps, "step", start=start, shown=show_progress)
        )
        with stopping.between_steps():
            for step in range(start, training.n_steps):
                if all(session.trainee.ended_early for session in sessions):
                    break
                if ranks.any(stopping.asked()):  # all stop after the same update
                    _save_all(sessions, loader, check_held)
                    raise StoppedError
                is_line = is_logged(step + 1, training.log_every_steps, training.n_steps)
                measures, saves = _is_measured(training, step + 1), (step + 1) % training.checkpoint_every_steps == 0
                if is_line or measures or saves:
                    check_held()
                if due := [session for session in sessions if session.trainee.is_due(step)]:
                    _advance(due, feed, pass_.first_batch + step, heldout if measures else None, is_line)
                    loader.step()
                    if is_line:
                        bar.note("r2: " + ", ".join(session.note() for session in sessions))
                if saves:
                    loader.write()
                bar.advance(1)
        loader.write()
        check_held()
        calibration = feed.calibration(pass_.first_batch + training.n_steps, training.calibration_rows)
        for session in sessions:
            if session.trainee.diverged is None:
                session.finish(calibration)
        speeds = {session.job.name: session.rows_per_second() for session in sessions}
        return {name: speed for name, speed in speeds.items() if speed is not None}


def _documents(pass_: Pass, stores: Together, run: RunFolder) -> DocumentUnits | None:
    """The units of the documents, where rows are standardised by them."""
    if pass_.training.input_scale != "per_document":
        return None
    (site,) = pass_.route.reads
    return document_units(stores.at(site), site, pass_.stream.filters, run.documents(site))


def _sessions(pass_: Pass, stores: Together, device: torch.device, stack: ExitStack, ranks: Ranks) -> list[Session]:
    """A session of every job, closed with the stack. All share one workspace, since they encode the same rows."""
    workspace = Workspace(pass_.training.encoder)
    sessions = []
    for job in pass_.jobs:
        trainee = new_trainee(job, pass_, stores, device, workspace, ranks)
        sessions.append(stack.enter_context(closing(Session(job, trainee))))
    return sessions


def new_trainee(
    job: Job, pass_: Pass, stores: Together, device: torch.device, workspace: Workspace, ranks: Ranks = ONE
) -> Trainee:
    """The trainee of a job before its first update, with weights that are drawn; of ranks, the part of this one."""
    sae = job.variant.sae
    generator = weight_generator(job.seed, sae.d_sae, pass_.d_out)
    weights = initial_weights(sae, pass_.d_out, generator, pass_.d_in, ranks)
    on_device = {name: tensor.to(device) for name, tensor in weights.items()}
    extends = job.record.parent is not None
    trainee = Trainee(job.variant, job.training, on_device, workspace, seed=job.seed, extends=extends, ranks=ranks)
    trainee.sae.blocks = [stores.sites[site] for site in pass_.route.writes]
    return trainee


def _begin(fresh: list[Session], feed: Feed, run: RunFolder) -> None:
    """Give new SAEs the weights that they start from, where those are not drawn: a centre of rows, or a parent's."""
    start_at_a_centre([session.trainee.sae for session in fresh if session.job.record.parent is None], feed)
    for session in fresh:
        if session.job.record.parent is not None:
            begin_at_parent(session.trainee.sae.parameters(), weights_of_parent(session.job, run))


def _heldout(pass_: Pass, feed: Feed) -> Callable[[], Iterator[Rows]] | None:
    """Reads the held-out rows that are measured during training, each time anew; None where none are.

    Raises: ConfigError if there are none.
    """
    settings = pass_.training.heldout
    if settings is None:
        return None
    read = partial(feed.heldout, pass_.training.batch_size, settings.max_rows)
    if next(read(), None) is None:
        raise ConfigError(
            f"training.heldout: the held-out split of {pass_.route.name} has no rows after training.filters; "
            "raise heldout_fraction (of corpus or toy) and make the store again, or set training.heldout to null"
        )
    return read


def _is_measured(training: ResolvedTraining, step: int) -> bool:
    """Whether the held-out rows are measured after `step` updates."""
    heldout = training.heldout
    return heldout is not None and (step % heldout.every_steps == 0 or step == training.n_steps)


def _advance(
    due: list[Session], feed: Feed, batch: int, heldout: Callable[[], Iterator[Rows]] | None, is_line: bool
) -> None:
    """One update of each of these SAEs by the same batch. heldout: reads what is measured after it; None: nothing."""
    rows, measures = feed.batch(batch), heldout is not None
    mixed = _mixed(feed, rows.numbers) if is_line or measures else {}
    for session in due:
        session.advance(rows, mixed, measures=measures)
    _settle(due, rows.x_BM, heldout)


def _settle(due: list[Session], x_BM: Tensor, heldout: Callable[[], Iterator[Rows]] | None) -> None:
    """Measure the held-out rows, if that is due, for all that learnt from x_BM, in one read; then log and save."""
    alive = [session for session in due if session.trainee.diverged is None]
    measured = measure([session.trainee for session in alive], heldout()) if heldout is not None and alive else []
    for number, session in enumerate(alive):
        session.settle(x_BM, measured[number] if measured else None)


def _save_all(sessions: list[Session], loader: "LoaderLog", check_held: Callable[[], None]) -> None:
    """Save where every SAE is, so that a process that was asked to end loses no update."""
    check_held()
    for session in sessions:
        session.save_here()
    loader.write()


def _mixed(feed: Feed, numbers: np.ndarray) -> dict[str, float]:
    """How well a batch is mixed, for the curves; empty where that is not known."""
    if feed.mixing is None:
        return {}
    return {f"mixing/{name}": value for name, value in feed.mixing.measure(numbers).items()}


def weight_generator(seed: int, d_sae: int, d_out: int) -> torch.Generator:
    """The random stream of initial weights. Variants of one seed and shape start equal, so comparisons are paired."""
    digest = hashlib.sha256(f"weights {seed} {d_sae} {d_out}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


class LoaderLog:
    """loader/<site>.jsonl: how reading batches went, by the clock, and so no part of any identity.

    A line holds what was added since the line before, so lines add up. A kill loses what came after the last line.
    """

    def __init__(self, path: Path, pass_: Pass, feed: Feed, *, is_kept: bool = True) -> None:
        """is_kept: whether the lines are written; of ranks, the first keeps those of its own reading."""
        self._path, self._stream, self._batches, self._mixing = path, pass_.stream, feed.batches, feed.mixing
        self._is_kept = is_kept
        self._before, self._since, self._steps = self._batches.clock.totals(), time.perf_counter(), 0
        if is_kept:
            make_folder(path.parent)
        if is_kept and path.exists() and not path.read_bytes().endswith(b"\n"):
            self._append(b"\n")  # ends a line that a kill cut off

    def step(self) -> None:
        """Count a step."""
        self._steps += 1

    def write(self) -> None:
        """Write a line about the steps since the last one; none if there was no step."""
        if not self._steps or not self._is_kept:
            return
        totals, now = self._batches.clock.totals(), time.perf_counter()
        added, mixing, window_blocks = totals.since(self._before), self._mixing, self._batches.blocks_per_window
        line = LoaderLine(
            batch_size=self._stream.batch_size,
            seed=self._stream.seed,
            epoch_rows=self._batches.n_rows,
            window_blocks=window_blocks,
            perfect_documents=None if mixing is None else mixing.documents,
            perfect_positions=None if mixing is None else mixing.positions,
            predicted_variance_ratio=None if mixing is None else mixing.predicted_variance_ratio(window_blocks),
            fill_seconds=added.fill_seconds,
            thread_seconds=added.thread_seconds,
            decode_seconds=added.decode_seconds,
            wait_seconds=added.wait_seconds,
            waits=added.waits,
            n_bytes=added.n_bytes,
            seconds=now - self._since,
            steps=self._steps,
        )
        self._append(line_of(line))
        self._before, self._since, self._steps = totals, now, 0

    def _append(self, data: bytes) -> None:
        with naming(self._path), open(self._path, "ab") as file:
            file.write(data)
