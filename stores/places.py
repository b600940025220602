"""Where the files of a store lie, and how their bytes are reached."""

import mmap
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import numpy as np

from stores.errors import StoreError

_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs"}
)
_OPEN_FILES = 256
_MOUNTS = Path("/proc/self/mounts")


class FileBytes(Protocol):
    """The bytes of one immutable file."""

    n_bytes: int

    def read(self, offset: int, n_bytes: int) -> np.ndarray:
        """Exactly these bytes (uint8), read-only; where the file is mapped, a view of it. Raises: StoreError."""

    def will_need(self, offset: int, n_bytes: int) -> None:
        """These bytes will be read soon."""

    def let_go(self, offset: int, n_bytes: int) -> None:
        """These bytes will not be read soon."""


class Place(Protocol):
    """A folder of files, here or elsewhere."""

    name: str
    """What messages call it."""

    def open(self, path: str) -> FileBytes:
        """The bytes of a file. Raises: StoreError if it is not there."""


class LocalPlace:
    """A folder on this machine's disks, or on a network file system.

    Mapped files cost no copy, but a file that shrinks under its map kills the process (SIGBUS); where others may purge
    or rewrite files, as on network file systems, blocks are read with `pread` instead.
    """

    def __init__(self, folder: Path, *, mapped: bool) -> None:
        self.name = str(folder)
        self._folder, self._mapped = folder, mapped

    def open(self, path: str) -> FileBytes:
        """See `Place.open`."""
        return (_MappedFile if self._mapped else _ReadFile)(self._folder / path)


def is_safe_to_map(folder: Path) -> bool:
    """Whether a folder lies on a local file system, by its type in the mount table (unknown: yes)."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    where = os.path.realpath(folder)
    best, kind = "", ""
    for line in mounts:
        _, point, type_, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, type_
    return kind not in _NETWORK_TYPES


class _MappedFile:
    def __init__(self, path: Path) -> None:
        descriptor = _descriptor(path)
        try:
            self._memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError) as error:
            raise StoreError(f"{path}: cannot be mapped ({error}); fetch the file again") from None
        finally:
            os.close(descriptor)
        self._data = np.frombuffer(self._memory, np.uint8)
        self.n_bytes = len(self._data)

    def read(self, offset: int, n_bytes: int) -> np.ndarray:
        return self._data[offset : offset + n_bytes]

    def will_need(self, offset: int, n_bytes: int) -> None:
        self._advise(mmap.MADV_WILLNEED, offset, n_bytes)

    def let_go(self, offset: int, n_bytes: int) -> None:
        self._advise(mmap.MADV_DONTNEED, offset, n_bytes)

    def _advise(self, advice: int, offset: int, n_bytes: int) -> None:
        first = offset - offset % mmap.PAGESIZE
        self._memory.madvise(advice, first, offset + n_bytes - first)


class _ReadFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = _descriptor(path)
        self.n_bytes = os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)

    def read(self, offset: int, n_bytes: int) -> np.ndarray:
        data = bytearray()
        while len(data) < n_bytes:
            try:
                piece = os.pread(self._descriptor, n_bytes - len(data), offset + len(data))
            except OSError as error:
                raise StoreError(f"{self._path}: cannot be read at byte {offset + len(data)} ({error})") from None
            if not piece:
                size = os.fstat(self._descriptor).st_size
                raise StoreError(
                    f"{self._path}: has {size} bytes instead of {self.n_bytes}; it was cut while it was read, "
                    f"fetch it again"
                )
            data += piece
        rows = np.frombuffer(data, np.uint8)
        rows.flags.writeable = False
        return rows

    def will_need(self, offset: int, n_bytes: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, n_bytes, os.POSIX_FADV_WILLNEED)

    def let_go(self, offset: int, n_bytes: int) -> None:
        """Nothing is held."""


def _descriptor(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None


class OpenFiles:
    """The files of a place that are open, the longest unused closed beyond a limit; for several threads."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._open: OrderedDict[str, FileBytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str) -> FileBytes:
        """The file, opened if it is not."""
        with self._lock:
            if path not in self._open:
                self._open[path] = self.place.open(path)
                if len(self._open) > _OPEN_FILES:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return self._open[path]
