"""When a worker that died is started again, and the line that says why one was not: the same for every engine."""

import logging
import traceback

from strata_sae.pipeline.errors import first_line, one_line
from strata_sae.pipeline.explained import explained

log = logging.getLogger(__name__)

MOST_DEATHS = 3
"""Deaths of one worker while nothing was done (count): by then what kills it is no accident."""
LONGEST_REASON = 2000
"""Characters: a pipe takes them at once, so that no worker waits for its reason to be read."""
SAVE_SECONDS = 60.0
"""How long workers may take to save and end, when this process was asked to end."""


class Restarts:
    """What is known of the workers that have ended."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        """A line for each worker that is not started again though it did not end well."""
        self.nothing_is_left = False
        """Whether a worker has ended well: then there is nothing left to do for any other."""
        self._deaths: dict[int, tuple[int, int]] = {}
        """By worker: its deaths while the same was done, and how much that was."""

    def again(self, index: int, worker: str, why: str | None, *, died: bool, done: int) -> bool:
        """Note that a worker has ended. Returns: whether to start it again.

        worker: how lines name it. why: why it did not end well; None if it did. done: what `watch` says now (count).
        """
        self.nothing_is_left = self.nothing_is_left or why is None
        if why is None or (died and self.nothing_is_left):
            return False
        if died:
            n_deaths, at = self._deaths.get(index, (0, done))
            n_deaths = n_deaths + 1 if at == done else 1
            self._deaths[index] = (n_deaths, done)
            if n_deaths < MOST_DEATHS:
                log.warning("%s: %s; it is started again", worker, why)
                return True
            why = f"{why}; it died {n_deaths} times while nothing was done"
        self.reasons.append(f"{worker}: {why}")
        log.warning("%s ended early: %s", worker, why)
        return False


def reason_of(error: Exception) -> str:
    """Why a worker ended, in one line. Of a bug, the traceback is printed."""
    known, _ = explained(error)
    if known is not None:
        return one_line(known)[:LONGEST_REASON]
    traceback.print_exception(error)
    words = first_line(error)[:LONGEST_REASON]
    return f"{type(error).__name__}: {words} (a bug; the log of the worker has its traceback)"
