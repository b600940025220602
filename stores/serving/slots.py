"""Files in shared memory, each with room for one window, and the locks that say which process reads or fills them."""

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.locks import release, take
from strata_sae.stores.serving.windows import WindowBuffer

NOTHING = -1
"""No window."""
PRESENT = ".present"
_HEADER_BYTES = mmap.PAGESIZE


def _reserve(descriptor: int, size: int) -> None:
    """Allocate all bytes of a file now: touching a page of it when no memory is left would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    zeros = bytes(2**20)  # macOS has no posix_fallocate; written bytes are allocated
    for start in range(os.fstat(descriptor).st_size, size, len(zeros)):
        os.pwrite(descriptor, zeros[: size - start], start)


class Slot:
    """A file with room for one window: a header with the window's number, then its buffer.

    A process that reads the window holds a shared lock on the file, one that fills it an exclusive lock. The locks
    belong to this object's open file, so two objects in one process do not mix, and the kernel drops them when the
    process dies.
    """

    def __init__(self, path: Path, n_bytes: int, buffer_in: Callable[[np.ndarray], WindowBuffer]) -> None:
        size = _HEADER_BYTES + n_bytes
        self._descriptor = open_own(path)
        try:
            if os.fstat(self._descriptor).st_size < size:
                take(self._descriptor)
                _reserve(self._descriptor, size)
                release(self._descriptor)
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
        """Number of the window that lies here whole, or `NOTHING`. Certain only under a lock."""
        return int(self._header[0]) - 1

    @property
    def gets(self) -> int:
        """Number of the window whose filling was begun last."""
        return int(self._header[1]) - 1

    def lock(self, *, shared: bool) -> bool:
        """Take a shared or exclusive lock, or change one into the other. Returns: whether that was possible at once."""
        return take(self._descriptor, shared=shared, wait=False)

    def unlock(self) -> None:
        """Release the lock, if this object has it."""
        release(self._descriptor)

    def fill(self, window: int, fill: Callable[[WindowBuffer], None]) -> None:
        """Fill the slot with a window; needs the exclusive lock. Until it is whole, `holds` is `NOTHING`."""
        self._header[:] = 0, window + 1
        fill(self.buffer)
        self._header[0] = window + 1

    def close(self) -> None:
        """Release the lock and close the file; the memory of the buffer stays."""
        self.unlock()
        os.close(self._descriptor)


class SlotUsers:
    """A lock file on which each user of a pair of slots holds a shared lock.

    The last user removes the slots: they lie in memory and are as large as windows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        for present in path.parent.glob(f"*{PRESENT}"):
            _remove_if_unused(present)  # all of its users may have been killed
        while True:
            self._descriptor = open_own(path)
            take(self._descriptor, shared=True)
            if os.fstat(self._descriptor).st_nlink:
                return
            os.close(self._descriptor)  # another process removed the file before this one had the lock

    def leave(self) -> None:
        """Release the lock, and remove the slots if no other user is left. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            _remove_if_unused(self._path)


def slot_paths(present: Path) -> list[Path]:
    """The files of the even and the odd windows."""
    return [present.with_suffix(f".{parity}") for parity in range(2)]


def _remove_if_unused(present: Path) -> None:
    """Remove a lock file and its slots if no process holds a lock on it."""
    try:
        descriptor = os.open(present, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # removed already, or another user's
        return
    try:
        if take(descriptor, wait=False) and os.fstat(descriptor).st_nlink:  # else the name belongs to a new file by now
            for slot in slot_paths(present):
                slot.unlink(missing_ok=True)
            present.unlink()
    finally:
        os.close(descriptor)


def open_own(path: Path) -> int:
    """Descriptor of a file of this user, made if it is missing. Raises: StoreError if it is another user's."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened for shared windows ({explain(error)})") from None
    if os.fstat(descriptor).st_uid != os.geteuid():
        os.close(descriptor)
        raise StoreError(f"{path}: belongs to another user; name another folder for shared windows")
    return descriptor
