"""Locks that the kernel drops when their owner dies, and working folders that are held by one, and by beats.

No result depends on these folders: the exclusive commit record decides which attempt has filled a unit.
"""

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from strata_sae.stores.files.beats import Observer, Pulse, read_beat, this_machine
from strata_sae.stores.files.filesystem import FileSystem, remove_tree
from strata_sae.stores.files.mounts import is_local

_LOCK, _SEIZED = ".lock", ".seized"
_OBSERVER = Observer()
"""Of this process: what it has seen of the beats of others."""
_HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EACCES)


def take(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file or folder, or turn the lock that it has into the other kind.

    Returns: whether it is locked now; False if another holds it, and `wait` is false.

    Raises: OSError where the file system has no locks.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            return False
        raise
    return True


def release(descriptor: int) -> None:
    """Unlock an open file, which stays open."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def hold(
    path: Path, *, shared: bool = False, wait: bool = True, needed: bool = True, busy: Exception | None = None
) -> Iterator[int]:
    """Lock a folder, or a lock file, which is made if it is not there, and stays: to remove it would let two in.

    Yields: the descriptor that the lock belongs to. Two locks of one process exclude each other, too.

    Args:
        needed: false: where the file system has no locks, go on without one.
        busy: raised in the place of BlockingIOError.
    Raises: BlockingIOError if another holds it, and `wait` is false; OSError where it cannot be opened or locked.

    """
    flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        try:
            taken = take(descriptor, shared=shared, wait=wait)
        except OSError:
            if needed:
                raise
            taken = True
        if not taken:
            raise busy or BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
        yield descriptor
    finally:
        os.close(descriptor)


class Lease:
    """A folder to work in, held by a lock that the kernel drops when its owner dies, and by beats (`beats.py`)."""

    def __init__(self, files: FileSystem, folder: Path) -> None:
        self._files, self.folder = files, folder
        self._lock = folder.with_name(folder.name + _LOCK)
        self._descriptor = _create_locked(self._lock)
        self._pulse = Pulse(self._descriptor)
        try:
            files.make_folder(folder)
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()

    def is_lost(self) -> bool:
        """Whether another process has taken the folder, because it saw no beat for long."""
        return not self.folder.exists()

    def abandon(self) -> None:
        """Unlock the folder and leave it as it is, for the next recovery."""
        if self._descriptor >= 0:
            self._pulse.stop()
            os.close(self._descriptor)
            self._descriptor = -1

    def release(self) -> None:
        """Remove the folder with whatever is left in it, and the lock; safe to call twice."""
        if self._descriptor < 0:
            return
        try:
            remove_tree(self._files, self.folder)
            self._lock.unlink(missing_ok=True)
        finally:  # where that failed, the kernel drops the lock, and the next worker removes the rest
            self.abandon()


def planning_prefix(store: Path) -> str:
    """How the folders beside a store begin in which its plan is made."""
    return f".{store.name}.planning-"


def leased(parent: Path, prefix: str) -> set[str]:
    """Names of the folders under `parent` that begin with `prefix` and have a living owner, as far as one can tell."""
    names = set()
    for lock in (path for path in _entries(parent, prefix) if path.name.endswith(_LOCK)):
        with looked_at(lock) as (owner, _):
            if owner is Owner.LIVES:
                names.add(lock.name.removesuffix(_LOCK))
    return names


def abandoned(parent: Path, prefix: str) -> list[Path]:
    """The folders under `parent` that begin with `prefix` and whose owner died, and lock files that have none."""
    # A power cut can keep a folder and lose its lock file; a living owner makes the lock first and removes it last.
    names = {path.name.removesuffix(_LOCK) for path in _entries(parent, prefix)}
    return [parent / name for name in sorted(names - leased(parent, prefix))]


def seized(files: FileSystem, folders: Iterable[Path]) -> list[Path]:
    """The folders, with those renamed of whose owners only the beats say that they are dead.

    An owner that merely slept for long finds its folder no more, so it cannot commit what is about to be removed.
    """
    found = []
    for folder in folders:
        taken, lock = folder.with_name(folder.name + _SEIZED), folder.with_name(folder.name + _LOCK)
        with looked_at(lock) as (owner, _):
            if owner is Owner.IS_STILL:
                with suppress(FileNotFoundError):  # another worker was faster, or there was a lock file alone
                    files.rename(folder, taken)
                files.unlink(lock)
        found.append(taken if owner is Owner.IS_STILL else folder)
    return found


def remove_dead(files: FileSystem, parent: Path, prefix: str) -> None:
    """Remove the folders under `parent` that begin with `prefix` and whose owner died; living owners keep theirs."""
    remove_abandoned(files, abandoned(parent, prefix))


def remove_abandoned(files: FileSystem, folders: Iterable[Path]) -> None:
    """Remove those of the folders whose owner died."""
    for folder in folders:
        lock = folder.with_name(folder.name + _LOCK)
        # A missing lock file is made: while it is held, no owner can come to this folder.
        with looked_at(lock, make=True) as (owner, _):
            if owner is not Owner.LIVES:
                remove_tree(files, folder)
                lock.unlink(missing_ok=True)


def _entries(parent: Path, prefix: str) -> list[Path]:
    """Folders and lock files; other files are not held by a lock."""
    if not parent.is_dir():
        return []
    with os.scandir(parent) as entries:
        found = [entry for entry in entries if entry.name.startswith(prefix)]
        return sorted(Path(entry.path) for entry in found if entry.name.endswith(_LOCK) or entry.is_dir())


def _create_locked(lock: Path) -> int:
    """Descriptor of the lock file at a path, which we hold, whatever others made of it before we held it."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with suppress(OSError):  # a file system without locks: then no other process can take it either
            take(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # another worker found it unlocked and removed it


class Looked(NamedTuple):
    """What was seen of a lock file."""

    owner: "Owner"
    descriptor: int
    """Of the file that was looked at, open inside the block; -1: there was none."""


class Owner(Enum):
    """What can be said of the owner of a lock."""

    LIVES = auto()
    """Or one cannot tell, or not yet."""
    IS_DEAD = auto()
    """The kernel says so."""
    IS_STILL = auto()
    """It has shown no beat for long."""


@contextmanager
def looked_at(lock: Path, *, make: bool = False, beats: bool = False) -> Iterator[Looked]:
    """What there is to say of the owner of a lock file; if the kernel says that it is dead, no other process can take
    the lock inside the block.

    A file that was removed after it was opened counts as living: an owner may have made the next one.

    Args:
        make: make a file that is missing, instead of saying without one that the owner is dead.
        beats: no older version, which writes no beats, makes such files: one that never shows any is of a dead owner.

    """
    made, flags = False, os.O_RDWR | os.O_CLOEXEC
    try:
        descriptor = os.open(lock, flags)
    except FileNotFoundError:
        if not make:
            yield Looked(Owner.IS_DEAD, -1)
            return
        try:
            descriptor, made = os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o644), True
        except FileExistsError:  # its owner was faster
            yield Looked(Owner.LIVES, -1)
            return
    try:
        yield Looked(_owner(lock, descriptor, made, beats), descriptor)
    finally:
        os.close(descriptor)


def _owner(lock: Path, descriptor: int, made: bool, beats: bool) -> Owner:
    """What the kernel says where its word holds for the owner: on this machine; else what the beats say."""
    try:
        locks, taken = True, take(descriptor, wait=False)
    except OSError:  # a file system without locks
        locks, taken = False, False
    if os.fstat(descriptor).st_nlink == 0 or (locks and not taken):
        return Owner.LIVES
    beat = read_beat(descriptor)
    if beat is None and not taken and not beats:  # an older version's, which writes no beats, or made here just now
        return Owner.IS_DEAD if made else Owner.LIVES
    machine, boot = this_machine()
    # A lock can be one of each machine alone, as on some network file systems; of a local disk that cannot be, so
    # what was locked before this machine was last switched on is free. Elsewhere one without a beat may have been made
    # just now, on another machine.
    if taken and (made or (beat and beat.boot == boot)):
        return Owner.IS_DEAD
    if taken and is_local(lock.parent) and (beat is None or beat.machine == machine):
        return Owner.IS_DEAD
    return Owner.IS_STILL if _OBSERVER.is_still(lock, beat) else Owner.LIVES
