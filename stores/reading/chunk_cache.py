"""Decoded chunks on a local disk, for stores whose chunks are slow to fetch or decode. Safe to delete at any time."""

import errno
import logging
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.files.locks import hold
from strata_sae.stores.files.mounts import is_safe_to_map
from strata_sae.stores.files.places import FileBytes, LocalPlace
from strata_sae.stores.format.shards import CRC_BYTES
from strata_sae.stores.reading.site_rows import SiteRows, WrappedRows

_OPEN_ENTRIES = 64
_FOOTER_BYTES = 32 + CRC_BYTES
_TOUCH_SECONDS = 60
_FRESH_SECONDS = 24 * 3600
_UNFINISHED_SECONDS = 3600
_FULL_SECONDS = 600
_LOCK, _UNFINISHED = ".lock", ".tmp"
_log = logging.getLogger(__name__)


class _Entry(NamedTuple):
    n_bytes: int
    used: float
    """Seconds since the epoch."""
    path: Path


class _Opened:
    """An entry that was checked, and when its use was last noted."""

    def __init__(self, file: FileBytes, data: np.ndarray) -> None:
        self._file, self._data, self.noted = file, data, 0.0

    def data(self) -> np.ndarray | None:
        """The array's bytes, or None if the file was written to meanwhile."""
        try:
            self._file.read(0, 0)  # no byte of a file that was written to can be read, and that takes no time
        except StoreError:
            return None
        return self._data


def chunk_key(file_sha256: str, chunk: int, kind: str) -> str:
    """Name of what a chunk of a file decodes to: equal files have equal chunks, whichever store they are in."""
    return sha256(f"{file_sha256} {chunk} {kind}".encode("ascii"))


class ChunkCache:
    """A folder of decoded chunks, at most `limit_bytes` of them, shared by any number of threads and processes.

    An entry is the array's bytes, the key they were put under, and a crc32c of both: under another name it is no entry.
    It appears by a rename, and without an fsync: what a power cut leaves of it fails its checksum, and is made again.
    No method raises where there is no room or no right to write: then nothing is cached.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._unseen_bytes = limit_bytes
        """Written since the folder was last measured; at first, anything may be there."""
        self._last_name, self._full_until = "~", 0.0
        """Entries from this name on would be the first to go, as far as is known until then."""
        self._warned = False
        with suppress(OSError):  # where it cannot be made, the first `put` says so
            folder.mkdir(parents=True, exist_ok=True)
        self._place = LocalPlace(folder, mapped=is_safe_to_map(folder))

    def __contains__(self, key: str) -> bool:
        return key in self._opened or (self.folder / key).exists()

    def get(self, key: str, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
        """The array put under `key`, read-only and mapped, or None; it stays valid when the entry is deleted."""
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._lock:
            opened = self._opened.get(key)
        data = None if opened is None else opened.data()
        if opened is None or data is None:
            opened = self._open(key, n_bytes)
            data = None if opened is None else opened.data()
        if opened is None or data is None or len(data) != n_bytes:
            return None
        with self._lock:
            self._opened[key] = opened
            self._opened.move_to_end(key)
            if len(self._opened) > _OPEN_ENTRIES:
                self._opened.popitem(last=False)
        if time.monotonic() - opened.noted > _TOUCH_SECONDS:
            opened.noted = time.monotonic()
            with suppress(OSError):  # deleted meanwhile, or the folder cannot be written
                os.utime(self.folder / key)
        return data.view(dtype).reshape(shape)

    def put(self, key: str, array: np.ndarray) -> None:
        """Keep an array for `get`, if there is room; the folder is never larger than its limit for long."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        footer = _footer(key, data)
        n_bytes = len(data) + len(footer)
        if n_bytes > self.limit_bytes // 2:
            return
        if key >= self._last_name:
            if time.monotonic() < self._full_until:
                return
            self._unseen_bytes = self.limit_bytes
        draft = self.folder / f".{uuid.uuid4().hex}{_UNFINISHED}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._unseen_bytes + n_bytes > self.limit_bytes // 64 and not self._make_room(n_bytes):
                return
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                _write(descriptor, data.data)
                _write(descriptor, memoryview(footer))
            finally:
                os.close(descriptor)
            os.rename(draft, self.folder / key)
            self._unseen_bytes += n_bytes
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            if not self._warned and error.errno != errno.ENOENT:  # ENOENT: the folder is being deleted
                self._warned = True
                _log.warning("%s: chunks are not cached (%s)", self.folder, error)

    def _open(self, key: str, n_bytes: int) -> _Opened | None:
        """The entry of an array of `n_bytes`; what lies under its name and is none is removed."""
        path = self.folder / key
        if not path.exists():
            return None
        with suppress(StoreError):  # deleted meanwhile, cut short, or not readable
            file = self._place.open(key)
            entry = file.read(0, file.n_bytes)
            data, footer = entry[:-_FOOTER_BYTES], entry[-_FOOTER_BYTES:].tobytes()
            if len(data) == n_bytes and footer == _footer(key, data):
                return _Opened(file, data)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None

    def _make_room(self, n_bytes: int) -> bool:
        """Remove entries until an eighth of the limit is free. Returns: False if another process is doing so.

        First go those unused for a day, the longest unused first. The rest go by name: each epoch reads every chunk
        once, in another order, so the least recently used one is as likely to be wanted as any, and to replace it
        by its like would only lose hits. By name, all processes and epochs agree on which ones stay.
        """
        try:
            with hold(self.folder / _LOCK, wait=False):
                self._remove_entries(self.limit_bytes * 7 // 8 - n_bytes)
        except BlockingIOError:
            return False
        return True

    def _remove_entries(self, at_most_bytes: int) -> None:
        entries, now = _entries(self.folder), time.time()
        total = sum(entry.n_bytes for entry in entries)
        fresh = [entry for entry in entries if entry.used > now - _FRESH_SECONDS]
        stale = [entry for entry in entries if entry.used <= now - _FRESH_SECONDS]
        order = sorted(fresh, key=lambda entry: entry.path.name) + sorted(stale, key=lambda entry: -entry.used)
        self._last_name, self._full_until = "~", time.monotonic() + _FULL_SECONDS
        while order and total > at_most_bytes:
            entry = order.pop()
            entry.path.unlink(missing_ok=True)
            total -= entry.n_bytes
            if entry.used > now - _FRESH_SECONDS:
                self._last_name = entry.path.name
        self._unseen_bytes = 0


def _footer(key: str, data: np.ndarray) -> bytes:
    """What follows the array's bytes: the key, and a crc32c of bytes and key."""
    address = bytes.fromhex(key)
    return address + google_crc32c.extend(google_crc32c.value(data), address).to_bytes(CRC_BYTES, "little")


def _entries(folder: Path) -> list[_Entry]:
    entries = []
    for entry in os.scandir(folder):
        if entry.name == _LOCK or not entry.is_file(follow_symlinks=False):
            continue
        with suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if not entry.name.endswith(_UNFINISHED):
                entries.append(_Entry(status.st_size, status.st_mtime, Path(entry.path)))
            elif status.st_mtime < time.time() - _UNFINISHED_SECONDS:  # its writer died
                os.unlink(entry.path)
    return entries


def _write(descriptor: int, data: memoryview) -> None:
    while data.nbytes:
        data = data[os.write(descriptor, data) :]


class CachedRows(WrappedRows):
    """`SiteRows` around others: each chunk is decoded once a machine, as long as the cache has room for it."""

    def __init__(self, rows: SiteRows, cache: ChunkCache, file_sha256: Callable[[int], str]) -> None:
        """`file_sha256(chunk)`: what the commit record says of the file, or files, that hold a chunk."""
        super().__init__(rows)
        self._cache, self._file_sha256 = cache, file_sha256

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `SiteRows.coded`."""
        file = self._file_sha256(chunk)
        n_rows = min(self.rows_per_chunk, self.shape[0] - chunk * self.rows_per_chunk)
        rows_key, scales_key = chunk_key(file, chunk, "rows"), chunk_key(file, chunk, "scales")
        rows = self._cache.get(rows_key, (n_rows, self.shape[1]), self.coded_dtype.str)
        scales = self._cache.get(scales_key, (n_rows,), "<f4") if self.has_scales and rows is not None else None
        if rows is None or (self.has_scales and scales is None):
            rows, scales = self.rows.coded(chunk)
            self._cache.put(rows_key, rows)
            if scales is not None:
                self._cache.put(scales_key, scales)
        return rows, scales

    def will_need(self, chunk: int) -> None:
        """See `SiteRows.will_need`."""
        if chunk_key(self._file_sha256(chunk), chunk, "rows") not in self._cache:
            self.rows.will_need(chunk)
