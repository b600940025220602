"""A request to end (SIGTERM: a cluster wants the machine back), for work that looks for it between its steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from strata_sae.pipeline.errors import StoppedError

_state = {"asked": 0, "patient": 0}
"""How often this process was asked to end, and how many blocks that look between their steps it is in."""


def listen() -> None:
    """Take SIGTERM as a request to end from now on. To be called in the main thread of a process."""
    signal.signal(signal.SIGTERM, _ask)


def _ask(number: int, frame: FrameType | None) -> None:
    """A scheduler may ask several times at once: the shell of a job, and every process of it."""
    _state["asked"] += 1
    if _state["asked"] == 1 and not _state["patient"]:  # a second one would interrupt what the first one ends with
        raise StoppedError


@contextmanager
def between_steps() -> Iterator[None]:
    """A block that calls `check` between its steps; anywhere else a request ends the process at once, as a kill does.

    Raises: StoppedError at its end, if the request came during its last step.
    """
    _state["patient"] += 1
    try:
        yield
    finally:
        _state["patient"] -= 1
    check()


def asked() -> bool:
    """Whether this process was asked to end."""
    return _state["asked"] > 0


def check() -> None:
    """Raises: StoppedError if this process was asked to end."""
    if asked():
        raise StoppedError
