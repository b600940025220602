"""What a worker trains: again and again, of the SAEs of a pass, those that no other process holds and that are left.

The run folder is the queue: a claim for each SAE says who works on it (runs/claims.py), and training.json that it is
done. So workers need not know of each other, and what a dead one held is taken over at its last checkpoint.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs import claims
from strata_sae.pipeline.runs.claims import Hold, claim_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.failures import MOST_FAILURES, fails, failures, note_failure, refuse_failing
from strata_sae.pipeline.trainer.jobs import Job, is_done
from strata_sae.pipeline.trainer.passes import Pass
from strata_sae.stores import StoreError
from strata_sae.stores.files.beats import Beat

log = logging.getLogger(__name__)

TrainPass = Callable[[Pass, Callable[[], None]], dict[str, float]]
"""Trains the SAEs of a pass, and calls the function that it is given before it writes. Returns: rows per second."""
_CAN_PASS = (CheckpointError, StoreError, OSError, RuntimeError, MemoryError)
"""What may go well when it is tried again, perhaps by another worker, such as memory of a device that is full."""


class TakenOverError(Exception):
    """Another process has taken an SAE, because this one showed no life for long."""


@dataclass(frozen=True)
class Taken:
    """SAEs of a pass that this process holds."""

    pass_: Pass
    holds: list[Hold]

    def check_held(self) -> None:
        """Raises: TakenOverError."""
        for hold in self.holds:
            if hold.is_lost():
                raise TakenOverError(hold.name)


def lots_of(passes: Sequence[Pass], n_workers: int) -> list[Pass]:
    """The passes; while there are more workers, the SAEs of each in so many even parts that all have something."""
    if not passes:
        return []
    n_parts = -(-n_workers // len(passes))
    return [replace(pass_, jobs=jobs) for pass_ in passes for jobs in _parts(pass_.jobs, n_parts)]


def train_lots(passes: Sequence[Pass], run: RunFolder, share: Share, train_pass: TrainPass) -> dict[str, float]:
    """Train until every SAE of the passes is trained, here or by others, whose SAEs are waited for.

    Returns: what `train_pass` does, of all that were trained here.
    Raises: CheckpointError naming an SAE that failed too often, when nothing else is left. What `train_pass` raises, if
        this is the only worker.
    """
    whole = lots_of(passes, share.of)
    first = len(whole) * share.index // share.of
    lots, waits = [*whole[first:], *whole[:first]], False
    speeds: dict[str, float] = {}
    while lots := [lot for lot in map(_left, lots) if lot.jobs]:
        with _first_taken(lots, run, share) as taken:
            if taken is not None:
                speeds |= _trained(taken, share, train_pass)
                continue
        left = [job for lot in lots for job in lot.jobs]
        if all(fails(job.folder, share.run) for job in left):
            refuse_failing(left[0].name, left[0].folder, share.run)
        if not waits:
            names = [job.name for job in left]
            log.info("waiting for what other processes train: %s", ", ".join(dict.fromkeys(names)))
        waits = True
        claims.pause()
    return speeds


def _trained(taken: Taken, share: Share, train_pass: TrainPass) -> dict[str, float]:
    """Train what was taken. What fails is counted, unless this worker is the only one: then it is told at once."""
    try:
        return train_pass(taken.pass_, taken.check_held)
    except TakenOverError as lost:
        log.warning("%s: another process has taken it over, since this one showed no life for long", lost)
    except _CAN_PASS as error:
        if share.of == 1:
            raise
        for job in _left(taken.pass_).jobs:
            log.warning("%s: failed: %s", job.name, error)
            note_failure(job.folder, share.run, error)
    return {}


def _left(lot: Pass) -> Pass:
    """The SAEs of a lot that are not trained yet."""
    return replace(lot, jobs=tuple(job for job in lot.jobs if not job.folder.training.exists()))


@contextmanager
def _first_taken(lots: list[Pass], run: RunFolder, share: Share) -> Iterator[Taken | None]:
    """What can be taken of the first lot in which something can; given back after the block. None: others hold all.

    An SAE that has one failure left is tried alone, so that it is known which one of a pass fails.
    """
    with ExitStack() as stack:
        for lot in lots:
            jobs: list[Job] = []
            holds: list[Hold] = []
            for job in lot.jobs:
                alone = len(failures(job.folder, share.run)) == MOST_FAILURES - 1
                if (alone and jobs) or (hold := _hold_of(job, run, share)) is None:
                    continue
                stack.enter_context(hold)
                jobs.append(job)
                holds.append(hold)
                if alone:
                    break
            if jobs:
                yield Taken(replace(lot, jobs=tuple(jobs)), holds)
                return
        yield None


def _hold_of(job: Job, run: RunFolder, share: Share) -> Hold | None:
    """The claim of an SAE; None where it has failed too often, or another process holds it or has trained it meanwhile.

    Raises: CheckpointError if its folder holds another SAE.
    """
    if fails(job.folder, share.run):
        return None
    hold = claim_in(run, job.name, engine_run=share.run, buried=partial(_note_death, job, share))
    if hold is None:
        return None
    try:
        if not is_done(job) and not fails(job.folder, share.run):
            return hold
    except BaseException:
        hold.release()
        raise
    hold.release()
    return None


def _note_death(job: Job, share: Share, beat: Beat | None) -> None:
    """Count the death of a worker of the same run of an engine."""
    if beat is not None and beat.run == share.run:
        note_failure(job.folder, share.run, "its process died")


def _parts(jobs: tuple[Job, ...], n_parts: int) -> Iterator[tuple[Job, ...]]:
    """In order, as even as can be, none of them empty."""
    n = min(n_parts, len(jobs))
    for part in range(n):
        yield jobs[len(jobs) * part // n : len(jobs) * (part + 1) // n]
