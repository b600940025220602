"""What is made once, whoever begins: one process makes it, all others that need it wait for it, and take it over."""

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from strata_sae.pipeline import stopping
from strata_sae.stores.files.beats import read_beat, this_machine
from strata_sae.stores.files.claims import claim, lock_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_SECONDS = 0.5
"""Between two looks at what another process makes."""


def pause(seconds: float) -> None:
    """Wait. Raises: StoppedError if this process was asked to end meanwhile."""
    time.sleep(seconds)
    stopping.check()


def made_once(
    path: Path,
    what: str,
    found: Callable[[], T | None],
    make: Callable[[], T],
    *,
    wait: Callable[[float], None] = pause,
) -> T:
    """What `found` finds, or else what `make` makes; at most one living process makes it at a time.

    Where the process that makes it dies, or ends without having made it, the next one makes it.

    Args:
        path: the name that is claimed, in a folder that exists.
        what: in the line that says that another process makes it.
        wait: called with seconds between two looks.
    Raises: StoppedError if this process is asked to end while it waits.

    """
    waits = False
    while (it := found()) is None:
        held = claim(path)
        if held is not None:
            with held:
                again = found()  # another process may have ended just now, having made it
                return make() if again is None else again
        if not waits:
            log.info("%s is made by %s; waiting for it (%s)", what, _holder(path), lock_of(path))
            waits = True
        wait(_LOOK_SECONDS)
    return it


def make_each(names: Iterable[T], make: Callable[[T, bool], bool]) -> None:
    """Make several things, which other processes make too: first those that no other is at, then wait for the rest.

    make: of a name, and whether to wait for another process that makes it. Returns: whether it is there now.
    """
    left = [name for name in names if not make(name, False)]
    for name in left:
        make(name, True)


def _holder(path: Path) -> str:
    """Who holds a claim, as far as its lock file says."""
    try:
        descriptor = os.open(lock_of(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # released just now
        return "another process"
    try:
        beat = read_beat(descriptor)
    finally:
        os.close(descriptor)
    if beat is None or beat.machine == this_machine()[0]:
        return "another process of this machine"
    return "a process of another machine"
