"""Engines decide who works where, and again; they know no stage, and a command chooses one and hands it to a stage.

What is to be done lies in files: the units of a store that are missing, the SAEs of a run that are not trained. Every
worker takes from there what no other one holds (stores/files/claims.py), so an engine only says how many workers there
are, on which devices, and starts one that died again.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from strata_sae.pipeline.errors import ConfigError
from strata_sae.stores.files import environment

SHARE, RUN = "STRATA_SHARE", "STRATA_ENGINE_RUN"


@dataclass(frozen=True)
class Share:
    """Which of the workers of an engine this is. It begins at its own part of the work, and then takes any."""

    index: int = 0
    """From 0."""
    of: int = 1
    """Workers (count)."""
    run: str = ""
    """Names this run of an engine: what fails is counted within one run. Letters, digits and dashes, at most 64."""
    here: int = 1
    """Workers on this machine (count): they share its memory."""


Work = Callable[[Share], None]
"""What a worker does. It can be pickled, holds no tensor, and may be called again where its worker died.

It returns when nothing is left to do, for any worker.
"""


class Engine(Protocol):
    """Has workers do what there is to do, on one machine or on many."""

    @property
    def n_workers(self) -> int:
        """Workers at the same time (count)."""

    @property
    def in_process(self) -> bool:
        """Whether `run` calls `work` in the process that calls it: once, unpickled, and without a call of `watch`."""

    def run(self, work: Work, watch: Callable[[], int]) -> list[str]:
        """Call `work` with the share of each worker, and return when all have ended.

        watch: called about twice a second while other processes work; says how much is done by now (count). A worker
            that dies three times while that stays the same is not started again.
        Returns: a line for each worker that did not end well, with the reason.
        Raises: what `work` raises, where it runs in this process; StoppedError, where this process was asked to end,
            when its workers have ended; ConfigError where the engine cannot be used.
        """


def new_run() -> str:
    """A name for a run of an engine."""
    return uuid.uuid4().hex[:12]


def share_of_environment() -> Share:
    """The share that a scheduler gave this process: STRATA_SHARE, as 3/64 (the first is 0), and STRATA_ENGINE_RUN.

    Raises: ConfigError for anything else there.
    """
    text, run = environment.text(SHARE) or "", environment.text(RUN) or ""
    if not text:
        return Share(run=new_run())
    index, slash, of = text.partition("/")
    is_one = slash and all(part.isascii() and part.isdecimal() and len(part) <= 6 for part in (index, of))
    if not is_one or int(index) >= int(of):
        raise ConfigError(f"{SHARE}: {text[:40]!r} is no share; write worker/workers, the first is 0: 0/64 to 63/64")
    if len(run) > 64 or not run.isascii() or not run.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{RUN}: {run[:40]!r} is no name; set it to the job's number, the same for all its workers")
    return Share(int(index), int(of), run)
