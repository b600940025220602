"""One process at a time judges a run: a claim in its folder says who, and which of a job's processes has done it.

What is judged and reported does not depend on who does it, so a process that dies is followed by any other one.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.claims import Hold, claim_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores.files.beats import Beat, read_beat
from strata_sae.stores.files.claims import lock_of
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.locks import looked_at, take

log = logging.getLogger(__name__)

JUDGING = "judging"
"""The name of the claim."""
Wait = Callable[[float], None]
_LOOK_SECONDS = 1.0
"""Between two looks at a name that another process holds."""


def judge_alone(run: Path, judge: Callable[[], None]) -> None:
    """Call `judge`, which writes scores or the report of a run, while no other process does.

    Raises: CheckpointError if one does.
    """
    if not run.is_dir():  # nothing is trained, which `judge` says
        judge()
        return
    with _claimed(RunFolder(run), "") as holder:
        if holder is not None:
            raise _busy(run)
        judge()


def judge_once(run: Path, share: Share, judge: Callable[[], None]) -> None:
    """The same of all processes of a job that come here when everything is trained: one of them calls `judge`.

    Raises: CheckpointError if a process that is none of this job judges the run.
    """
    folder = RunFolder(run)
    with _claimed(folder, share.run) as holder:
        if holder is not None:
            if holder.run != share.run:
                raise _busy(run)
            log.info("%s: another process of this job judges it and writes the report; nothing is left to do", run)
            return
        done = _state(folder, share).encode()
        if share.of > 1 and _content(folder.judged) == done:
            log.info("%s: another process of this job has judged it and written the report", run)
            return
        judge()
        if share.of > 1:
            write_bytes(folder.judged, done)


def _busy(run: Path) -> CheckpointError:
    return CheckpointError(
        f"{run}: another process writes scores or the report of this run; wait for it, and run the same command again"
    )


@contextmanager
def _claimed(folder: RunFolder, name: str, wait: Wait = time.sleep) -> Iterator[Beat | None]:
    """Hold the run's judging in the block. Yields: None; or what is known of the living process that holds it."""
    held = _hold_or_holder(folder, name, wait)
    if isinstance(held, Beat):
        yield held
    else:
        with held:
            yield None


def _hold_or_holder(folder: RunFolder, name: str, wait: Wait) -> Hold | Beat:
    """The claim of judging; or, where another process holds it that surely lives, its beat.

    Where the kernel's locks do not reach the holder, a beat that has changed is the proof, and many beats' time
    without one is the proof of its death: a claim that a dead process left on another machine is taken over.
    """
    first: Beat | None = None
    while (held := claim_in(folder, JUDGING, engine_run=name)) is None:
        lives, beat = _holder(lock_of(folder.claims / JUDGING))
        if beat is not None and (lives or first not in (None, beat)):
            return beat
        first = first or beat
        wait(_LOOK_SECONDS)
    return held


def _holder(lock: Path) -> tuple[bool, Beat | None]:
    """Whether the kernel says that the owner of a lock file lives, and the beat that is in it."""
    lives = False
    with looked_at(lock) as (_, descriptor):
        if descriptor < 0:
            return lives, None
        with suppress(OSError):  # a file system without locks
            lives = not take(descriptor, wait=False)
        return lives, read_beat(descriptor)


def _state(folder: RunFolder, share: Share) -> str:
    """Names a job, and what it has to judge: the run's settings, and how every training has ended."""
    found = hashlib.sha256(_content(folder.config))
    for sae in folder.trained():
        found.update(f"{sae.name} {hashlib.sha256(_content(sae.training)).hexdigest()} ".encode())
    return f"{share.run} {found.hexdigest()}\n"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
