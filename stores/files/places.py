"""Where the files of a store lie, how their bytes are reached, and whether a name still stands for the same file."""

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.mounts import inodes_last


class Identity(NamedTuple):
    """What tells a file from any other, and from itself after a write, for the price of a `stat`."""

    device: int
    inode: int
    n_bytes: int
    modified_ns: int

    @property
    def written(self) -> tuple[int, int]:
        """What a write changes."""
        return self.n_bytes, self.modified_ns


def identity_of(status: os.stat_result) -> Identity:
    """The identity that a `stat` tells."""
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def is_same(found: Identity, expected: Identity, *, inodes_last: bool) -> bool:
    """Whether both are of one file that was not written to in between; without lasting inode numbers, as far as one can
    tell from size and time.
    """
    return found == expected if inodes_last else found.written == expected.written


_OPEN_FILES = 256


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
    """Its name in messages."""

    def open(self, path: str) -> FileBytes:
        """The bytes of a file. Raises: StoreError if it is not there."""


class LocalPlace:
    """A folder on this machine's disks, or on a network file system.

    Mapped files cost no copy, but a file that shrinks under its map kills the process (SIGBUS); where others may purge
    or rewrite files, as on network file systems, blocks are read with `pread` instead.
    """

    def __init__(self, folder: Path, *, mapped: bool, identities: Mapping[str, Identity] | None = None) -> None:
        """`identities`: the files that were checked, by path. A name that stands for another file by now is refused,
        however late it is opened or opened again.
        """
        self.name = str(folder)
        self._folder, self._mapped, self._identities = folder, mapped, identities
        self._inodes_last = inodes_last(folder)

    def open(self, path: str) -> FileBytes:
        """See `Place.open`. Raises: StoreError, too, if it is not the file that was checked."""
        full = self._folder / path
        descriptor = _descriptor(full)
        keep = False
        try:
            found = identity_of(os.fstat(descriptor))
            self._check(path, found)
            if self._mapped:
                return _MappedFile(full, descriptor, found)
            keep = True
            return _ReadFile(full, descriptor, found)
        finally:
            if not keep:
                os.close(descriptor)

    def _check(self, path: str, found: Identity) -> None:
        if self._identities is None:
            return
        expected = self._identities.get(path)
        if expected is None or not is_same(found, expected, inodes_last=self._inodes_last):
            raise StoreError(
                f"{self._folder / path}: is not the file that was there when this folder was opened: it was replaced "
                f"or written to; put the old one back, or run the command again to read what is there now"
            )


def _written_to(path: Path, now: Identity, opened: Identity) -> StoreError:
    return StoreError(
        f"{path}: was written to while it is read ({now.n_bytes} bytes, {opened.n_bytes} before); put the old file "
        f"back, or run the command again to read what is there now"
    )


class _MappedFile:
    def __init__(self, path: Path, descriptor: int, identity: Identity) -> None:
        self._path, self._identity = path, identity
        self._name, self._written = str(path), identity.written  # looked at before each block, so as quickly as can be
        try:
            self._memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise StoreError(f"{path}: cannot be mapped ({explain(error)})") from None
        except ValueError as error:  # it is empty
            raise StoreError(f"{path}: cannot be mapped ({error}); fetch the file again") from None
        self._data = np.frombuffer(self._memory, np.uint8)
        self.n_bytes = len(self._data)

    def read(self, offset: int, n_bytes: int) -> np.ndarray:
        # What is mapped outlives a new file of the same name, and a deletion; a write into this very file shows in it.
        with suppress(OSError):
            status = os.stat(self._name, follow_symlinks=False)
            if (status.st_size, status.st_mtime_ns) != self._written:
                now = identity_of(status)
                if (now.device, now.inode) == (self._identity.device, self._identity.inode):
                    raise _written_to(self._path, now, self._identity)
        return self._data[offset : offset + n_bytes]

    def will_need(self, offset: int, n_bytes: int) -> None:
        self._advise(mmap.MADV_WILLNEED, offset, n_bytes)

    def let_go(self, offset: int, n_bytes: int) -> None:
        self._advise(mmap.MADV_DONTNEED, offset, n_bytes)

    def _advise(self, advice: int, offset: int, n_bytes: int) -> None:
        first = offset - offset % mmap.PAGESIZE
        self._memory.madvise(advice, first, offset + n_bytes - first)


class _ReadFile:
    def __init__(self, path: Path, descriptor: int, identity: Identity) -> None:
        self._path, self._descriptor, self._identity = path, descriptor, identity
        self.n_bytes = identity.n_bytes

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, n_bytes: int) -> np.ndarray:
        data = bytearray()
        while len(data) < n_bytes:
            try:
                piece = os.pread(self._descriptor, n_bytes - len(data), offset + len(data))
            except OSError as error:
                raise StoreError(
                    f"{self._path}: cannot be read at byte {offset + len(data)} ({explain(error)})"
                ) from None
            if not piece:
                size = os.fstat(self._descriptor).st_size
                raise StoreError(
                    f"{self._path}: has {size} bytes instead of {self.n_bytes}; it was cut while it was read, "
                    f"fetch it again"
                )
            data += piece
        now = identity_of(os.fstat(self._descriptor))
        if now != self._identity:
            raise _written_to(self._path, now, self._identity)
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
        raise StoreError(f"{path}: cannot be read ({explain(error)})") from None


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
