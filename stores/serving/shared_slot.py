"""One place in shared memory for one window, and the locks that say who serves from it and who fills it."""

import fcntl
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.serving.windows import WindowBuffer

NOTHING = -1
"""No window."""
_HEADER_BYTES = mmap.PAGESIZE


def _reserve(descriptor: int, size: int) -> None:
    """Give a file all of its bytes now: a page for which there is no room later kills the process that touches it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    zeros = bytes(2**20)  # macOS: what is written has room
    for start in range(os.fstat(descriptor).st_size, size, len(zeros)):
        os.pwrite(descriptor, zeros[: size - start], start)


class Slot:
    """A file with room for one window: a header that names it, then its buffer.

    Who serves from it holds a shared lock on it, who fills it an exclusive one. The locks belong to this object's open
    file, so that two of one process do not mix, and the kernel drops them when the process dies.
    """

    def __init__(self, path: Path, n_bytes: int, buffer_in: Callable[[np.ndarray], WindowBuffer]) -> None:
        size = _HEADER_BYTES + n_bytes
        self._descriptor = open_own(path)
        try:
            if os.fstat(self._descriptor).st_size < size:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                _reserve(self._descriptor, size)
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            memory = mmap.mmap(self._descriptor, size)
        except BaseException:
            os.close(self._descriptor)
            raise
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):
                memory.madvise(mmap.MADV_HUGEPAGE)
        data = np.frombuffer(memory, np.uint8)
        self._header = data[:16].view(np.int64)
        self.buffer = buffer_in(data[_HEADER_BYTES:])

    @property
    def holds(self) -> int:
        """The window that is here, whole, or `NOTHING`. Certain only under a lock."""
        return int(self._header[0]) - 1

    @property
    def gets(self) -> int:
        """The window that was last begun here."""
        return int(self._header[1]) - 1

    def lock(self, how: int) -> bool:
        """Take a shared or exclusive lock, or turn one into the other, if that is possible at once."""
        try:
            fcntl.flock(self._descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Let go of the lock, if we have it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def fill(self, window: int, fill: Callable[[WindowBuffer], None]) -> None:
        """Put a window here; needs the exclusive lock. Whoever finds it unfinished begins again."""
        self._header[:] = 0, window + 1
        fill(self.buffer)
        self._header[0] = window + 1

    def close(self) -> None:
        """Close the file, and with it drop the lock; what was served stays in memory."""
        self.unlock()
        os.close(self._descriptor)


def open_own(path: Path) -> int:
    """Descriptor of a file that is ours alone, made if need be."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened for shared windows ({explain(error)})") from None
    if os.fstat(descriptor).st_uid != os.geteuid():
        os.close(descriptor)
        raise StoreError(f"{path}: belongs to another user; name another folder for shared windows")
    return descriptor
