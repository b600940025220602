"""Claims: at most one living process holds a name, on any number of machines, with locks of the kernel or without.

A claim is a lock file that its owner has made, alone, and removes. Whether the owner of one that is there lives is
found as it is for a lease: by the kernel's lock where that reaches its owner, else by its beats (beats.py). To remove
the file of a dead owner is a right that is claimed itself, so that no two processes do it at once: without it, the
slower one would remove the file that the faster one has made since.
"""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from strata_sae.stores.files.beats import Beat, Pulse, read_beat
from strata_sae.stores.files.filesystem import naming
from strata_sae.stores.files.locks import Owner, looked_at, take

_LOCK = ".lock"
Buried = Callable[[Beat | None], None]
"""Is told, before the claim of a dead owner is removed, what its file says of that owner; None: it says nothing."""


class Claim:
    """A name that this process holds until `release`, or until others take it for dead. A fork of it holds nothing."""

    def __init__(self, lock: Path, descriptor: int, run: str) -> None:
        self._lock, self._descriptor = lock, descriptor
        self._releasing = threading.Lock()
        _CLAIMS.add(self)
        try:
            with naming(lock):
                self._pulse = Pulse(descriptor, run, needed=True)
        except BaseException:  # a full disk; no thread could be started
            self._drop()
            raise

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()

    def is_lost(self) -> bool:
        """Whether another process has taken the name, because it saw no beat for long; true after `release`."""
        return self._descriptor < 0 or not _is_at(self._descriptor, self._lock)

    def release(self) -> None:
        """Give the name back; may be called again, and by any thread."""
        with self._releasing:
            if self._descriptor >= 0:
                self._pulse.stop()
                self._drop()

    def forget(self) -> None:
        """In a fork: close the parent's file, or its name would stay locked when it dies before the fork does."""
        self._releasing = threading.Lock()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _drop(self) -> None:
        descriptor = self._descriptor
        try:
            if _is_at(descriptor, self._lock):
                self._lock.unlink(missing_ok=True)
        finally:  # where that failed, the kernel drops the lock, and others find the owner dead
            self._descriptor = -1
            _CLAIMS.discard(self)
            os.close(descriptor)


_CLAIMS: set[Claim] = set()
"""That this process holds."""


def _forget_all() -> None:
    for held in _CLAIMS:
        held.forget()
    _CLAIMS.clear()


os.register_at_fork(after_in_child=_forget_all)


def lock_of(path: Path) -> Path:
    """The lock file that claims `path`, which need not exist."""
    return path.with_name(path.name + _LOCK)


def claim(path: Path, *, run: str = "", buried: Buried | None = None) -> Claim | None:
    """The claim of a name in a folder that exists; None where a living process holds it, or may.

    Args:
        run: names the run of an engine that this process is part of; others read it in the lock file. ASCII, no spaces.
        buried: called when the claim of a dead process is about to be removed: once for each, or again where the
            process that was about to remove it died.
    Raises: OSError where the folder cannot be written.

    """
    lock = lock_of(path)
    while (descriptor := _made(lock)) is None:
        if not _removed(lock, buried):
            return None
    return Claim(lock, descriptor, run)


def bury(path: Path, buried: Buried | None = None) -> bool:
    """Remove the claim of a name if its owner is dead. Returns: whether none is left. Raises: as `claim`."""
    return _removed(lock_of(path), buried)


def is_claimed(path: Path) -> bool:
    """Whether a living process holds the name, as far as one can tell."""
    with looked_at(lock_of(path), beats=True) as (owner, _):
        return owner is Owner.LIVES


def _made(lock: Path) -> int | None:
    """Descriptor of the lock file, made and locked by this process; None where there is one."""
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return None
        with suppress(OSError):  # a file system without locks
            take(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # another process found it unlocked and removed it


def _removed(lock: Path, buried: Buried | None) -> bool:
    """Remove a claim whose owner is dead. Returns: whether the name may be free now."""
    with looked_at(lock, beats=True) as (owner, descriptor):
        if owner is Owner.LIVES:
            return False
        if descriptor < 0:
            return True
        beat = read_beat(descriptor)
        right = claim(lock)
        if right is None:
            return False
        with right:
            # Another one may have removed the file that was looked at, before this process had the right to.
            if _is_at(descriptor, lock) and read_beat(descriptor) == beat:
                if buried is not None:
                    buried(beat)
                lock.unlink(missing_ok=True)
        return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE:
            return False
        raise
