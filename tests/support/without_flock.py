"""File systems whose locks reach nobody, or not those on other machines; and a time that a test moves."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from strata_sae.stores.files import beats, claims, locks
from strata_sae.stores.files.beats import Observer


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    @classmethod
    def of_observers(cls, patch: pytest.MonkeyPatch) -> "Time":
        """The clock by which this process sees how long others have been still."""
        clock = cls()
        patch.setattr(locks, "_OBSERVER", Observer(clock))
        return clock


def take_nothing(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    raise OSError(errno.ENOLCK, "No locks available")


def take_always(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    return True


@contextmanager
def reached(kind: str) -> Iterator[None]:
    """Inside, `no_locks`: there is no flock; `far_locks`: each machine has its own, and owners are on another one."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (locks, claims):
            patch.setattr(module, "take", {"no_locks": take_nothing, "far_locks": take_always}[kind])
        if kind == "far_locks":
            patch.setattr(beats, "this_machine", lambda: ("far", "far"))
            patch.setattr(locks, "this_machine", lambda: ("here", "here"))
        yield
