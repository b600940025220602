"""Copies of a store's files on a disk that is near, made once a machine and verified on the way."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from stores.errors import StoreError
from stores.filesystem import FileSystem
from stores.format import ARRAYS
from stores.identity import is_safe_to_map
from stores.places import FileBytes, LocalPlace, Place
from stores.plan import Plan
from stores.units import keys, read_commit

_PIECE_BYTES = 4 * 2**20
_ATTEMPTS = 3
_LOCK, _UNFINISHED = ".lock", ".tmp"


class Expected(NamedTuple):
    """What a commit record says of a file."""

    n_bytes: int
    sha256: str


class StagedPlace:
    """The files of another place by way of `folder`, where each lies under its sha256.

    A copy appears whole, durable and verified, or not at all; any number of processes share it. Copies are kept: who
    made the folder removes it.
    """

    def __init__(
        self, base: Place, folder: Path, expected: dict[str, Expected], files: FileSystem | None = None
    ) -> None:
        """`expected`: the files to copy, by path; others are read where they are."""
        self.name = f"{base.name} (staged in {folder})"
        self._base, self._folder, self._expected = base, folder, expected
        self._files = files or FileSystem()
        folder.mkdir(parents=True, exist_ok=True)
        self._copies = LocalPlace(folder, mapped=is_safe_to_map(folder))

    def open(self, path: str) -> FileBytes:
        """See `Place.open`; copies the file first, if it is to be copied and nobody has.

        Raises: StoreError if its bytes are not those of the commit record, or there is no room.
        """
        if path not in self._expected:
            return self._base.open(path)
        self._copy(path)
        return self._copies.open(self._expected[path].sha256)

    def stage(self, paths: Iterable[str], threads: int = 2) -> Iterator[int]:
        """Copy files ahead of time, in this order. Yields: bytes of each file when it is there.

        Raises: StoreError as `open`, and before anything is copied if there is no room for all of it.
        """
        wanted = [path for path in paths if path in self._expected]
        missing = sum(self._expected[path].n_bytes for path in wanted if not self._is_there(path))
        free = shutil.disk_usage(self._folder).free
        if missing > free:
            raise StoreError(f"{self._folder}: staging needs {missing} bytes and {free} are free; name another folder")
        with ThreadPoolExecutor(threads, thread_name_prefix="strata-stage") as pool:
            copies = [pool.submit(self._copy, path) for path in wanted]
            try:
                for path, copy in zip(wanted, copies, strict=True):
                    copy.result()
                    yield self._expected[path].n_bytes
            finally:
                pool.shutdown(cancel_futures=True)

    def _is_there(self, path: str) -> bool:
        # Names appear only after their bytes are verified and durable; the size shows what was cut short later.
        n_bytes, sha256 = self._expected[path]
        with suppress(FileNotFoundError):
            return os.lstat(self._folder / sha256).st_size == n_bytes
        return False

    def _copy(self, path: str) -> None:
        if self._is_there(path):
            return
        copy = self._folder / self._expected[path].sha256
        draft = copy.with_name(copy.name + _UNFINISHED)
        try:
            with _locked(copy.with_name(copy.name + _LOCK)):
                if not self._is_there(path):
                    try:
                        self._copy_with_patience(path, draft)
                        self._files.rename(draft, copy)
                        self._files.sync_folder(self._folder)
                    finally:
                        draft.unlink(missing_ok=True)
        except OSError as error:
            free = shutil.disk_usage(self._folder).free
            raise StoreError(
                f"{self._folder}: staging {path} needs {self._expected[path].n_bytes} bytes and {free} are free "
                f"({error.strerror}); name another folder"
            ) from None

    def _copy_with_patience(self, path: str, draft: Path) -> None:
        """What came wrong is read again: over a network it may have been right where it lies."""
        for left in reversed(range(_ATTEMPTS)):
            draft.unlink(missing_ok=True)  # of somebody who died, for we hold the lock; or of the attempt before
            try:
                return self._copy_verified(path, draft)
            except StoreError:
                if left == 0:
                    raise

    def _copy_verified(self, path: str, draft: Path) -> None:
        n_bytes, sha256 = self._expected[path]
        source = self._base.open(path)
        digest = hashlib.sha256()
        descriptor = self._files.create(draft)
        try:
            if source.n_bytes == n_bytes:
                for offset in range(0, n_bytes, _PIECE_BYTES):
                    piece = source.read(offset, min(_PIECE_BYTES, n_bytes - offset))
                    digest.update(piece.data)
                    self._files.write(descriptor, piece.data)
                    source.let_go(offset, len(piece))
            if source.n_bytes != n_bytes or digest.hexdigest() != sha256:
                raise StoreError(
                    f"{self._base.name}/{path}: {source.n_bytes} bytes with sha256 {digest.hexdigest()} instead of "
                    f"{n_bytes} with {sha256}; the file is damaged, fetch it again"
                )
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)


def files_to_stage(store: Path, plan: Plan, sites: Iterable[str], rows: tuple[int, int]) -> dict[str, Expected]:
    """The shard files that hold some rows of some sites, in the order of their rows, and what is known of them."""
    found = {}
    for key in keys(plan):
        start, stop = plan.unit_rows(key) if isinstance(key, int) else rows
        record = read_commit(store, plan, key) if start < rows[1] and stop > rows[0] else None
        for path, entry in (record["files"] if record is not None else {}).items():
            if any(path.startswith(f"{ARRAYS}/sites/{site}/") for site in sites):
                found[path] = Expected(entry["bytes"], entry["sha256"])
    return found


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Alone among all processes and threads; a lock's file stays, because to remove it would let two in."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
