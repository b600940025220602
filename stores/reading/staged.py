"""Copies of a store's files on a nearer disk: made once a machine, verified on the way, hashed again if changed."""

import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import as_int, as_text, canonical_json, parse_canonical
from strata_sae.stores.files.filesystem import FileSystem, missing_space, write_pieces
from strata_sae.stores.files.hashing import descriptor_sha256
from strata_sae.stores.files.locks import hold
from strata_sae.stores.files.mounts import is_safe_to_map
from strata_sae.stores.files.places import FileBytes, Identity, LocalPlace, Place, identity_of
from strata_sae.stores.format.commits import keys, read_commit
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.format.plan import ARRAYS, Plan
from strata_sae.stores.format.records import FileRecord

_MAX_BYTES = 4096


class Stamp(NamedTuple):
    """The sha256 of a file's bytes, and the file that had them.

    A rename, a link, a new owner or mode, and every write set `changed_ns` (ctime), and no program can set it back:
    that a file under this name has all of this and other bytes takes a clock that is set back, or a failing disk,
    whose damage the checksum of a chunk finds.
    """

    sha256: str
    identity: Identity
    changed_ns: int


def stamp_of(path: Path, sha256: str) -> Stamp:
    """The stamp of the file that lies there now, whose bytes are known. Raises: OSError."""
    return _stamp(os.lstat(path), sha256)


def hashed(path: Path, sha256: str) -> tuple[Stamp, str]:
    """The stamp that a file has if its hash is `sha256`, and the hash it has. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        before = os.fstat(descriptor)
        found = descriptor_sha256(descriptor) if stat.S_ISREG(before.st_mode) else ""
    finally:
        os.close(descriptor)
    # The stamp is of the time before the reading, so a write meanwhile makes it differ from the file.
    return _stamp(before, sha256), found


def read_stamp(path: Path) -> Stamp | None:
    """The stamp in a file; None if there is none, or none that can be read: then the bytes are hashed again."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        value = parse_canonical(os.pread(descriptor, _MAX_BYTES, 0), path)
        numbers = [as_int(value[key]) for key in (*Identity._fields, "changed_ns")]
        return Stamp(as_text(value["sha256"]), Identity(*numbers[:-1]), numbers[-1])
    except (OSError, StoreError, KeyError, ValueError):
        return None
    finally:
        os.close(descriptor)


def write_stamp(descriptor: int, stamp: Stamp) -> None:
    """Write it to an open file, in the place of what is there. Where it cannot be written, or a power cut takes it,
    the bytes are hashed once more.
    """
    data = canonical_json({"sha256": stamp.sha256, **stamp.identity._asdict(), "changed_ns": stamp.changed_ns})
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)


def _stamp(status: os.stat_result, sha256: str) -> Stamp:
    return Stamp(sha256, identity_of(status), status.st_ctime_ns)


_PIECE_BYTES = 4 * 2**20
_ATTEMPTS = 3
_LOCK, _UNFINISHED = ".lock", ".tmp"
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
_log = logging.getLogger(__name__)


class StagedPlace:
    """The files of another place, read from copies in `folder` that are named by their sha256.

    A copy appears whole, durable and verified, or not at all; any number of processes share it. Copies are kept until
    somebody removes the folder. A copy is hashed again before its first use unless its lock file says that this very
    file, with these times, was hashed before (`Stamp`); one that is not what its name says is made anew.
    """

    def __init__(
        self, base: Place, folder: Path, expected: dict[str, FileRecord], files: FileSystem | None = None
    ) -> None:
        """`expected`: the files to copy, by path; others are read where they are."""
        self.name = f"{base.name} (staged in {folder})"
        self._base, self._folder, self._expected = base, folder, expected
        self._files = files or FileSystem()
        refuse_inside_a_store(folder, "staging")
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Identity] = {}
        """Copies whose bytes are known to be right, by name."""
        self._copies = LocalPlace(folder, mapped=is_safe_to_map(folder), identities=self._known)

    def open(self, path: str) -> FileBytes:
        """See `Place.open`; copies the file first, if it is to be copied and there is no copy.

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
        if problem := missing_space(self._folder, missing):
            raise StoreError(f"{self._folder}: staging {problem}; name another folder")
        with ThreadPoolExecutor(threads, thread_name_prefix="strata-stage") as pool:
            copies = [pool.submit(self._copy, path) for path in wanted]
            try:
                for path, copy in zip(wanted, copies, strict=True):
                    copy.result()
                    yield self._expected[path].n_bytes
            finally:
                pool.shutdown(cancel_futures=True)

    def _is_there(self, path: str) -> bool:
        """Whether there is a copy of the right size; whether its bytes are right is seen before they are used."""
        _, n_bytes, sha256, *_ = self._expected[path]
        with suppress(FileNotFoundError):
            return os.lstat(self._folder / sha256).st_size == n_bytes
        return False

    def _copy(self, path: str) -> None:
        """Make sure of the copy of a file: it is there, and its bytes are known to be right."""
        _, n_bytes, sha256, *_ = self._expected[path]
        copy = self._folder / sha256
        lock = copy.with_name(copy.name + _LOCK)
        if stamp := self._stamped(path):
            self._known[sha256] = stamp.identity
            return
        try:
            with hold(lock) as descriptor:
                stamp = self._stamped(path) or self._hashed(path)  # another process may just have made it
                if stamp is None:
                    self._make(path)
                    stamp = stamp_of(copy, sha256)
                write_stamp(descriptor, stamp)
        except OSError as error:
            stamp = self._hashed(path) if error.errno in _NOT_OURS else None  # another user's folder can be read
            if stamp is None:
                raise StoreError(
                    f"{self._folder}: staging {path} needs {n_bytes} bytes ({explain(error)}); name another folder"
                ) from None
        self._known[sha256] = stamp.identity

    def _stamped(self, path: str) -> Stamp | None:
        """The stamp of the copy that lies there, if it is the file whose bytes were once found to be right."""
        copy = self._folder / self._expected[path].sha256
        with suppress(OSError):
            stamp = stamp_of(copy, copy.name)
            if stamp == read_stamp(copy.with_name(copy.name + _LOCK)):
                return stamp
        return None

    def _hashed(self, path: str) -> Stamp | None:
        """The stamp of the copy that lies there, if its bytes are right; a line says what is wrong with a wrong one."""
        _, n_bytes, sha256, *_ = self._expected[path]
        copy = self._folder / sha256
        try:
            stamp, found = hashed(copy, sha256)
        except FileNotFoundError:
            return None
        except OSError as error:
            problem = f"cannot be read ({explain(error)})"
        else:
            if found == sha256:
                return stamp
            problem = (
                f"is not the file that its name says ({stamp.identity.n_bytes} bytes of {n_bytes}, sha256 {found})"
            )
        _log.warning("%s: %s; it is fetched again", copy, problem)
        return None

    def _make(self, path: str) -> None:
        copy = self._folder / self._expected[path].sha256
        draft = copy.with_name(copy.name + _UNFINISHED)
        try:
            self._copy_with_retries(path, draft)
            self._files.rename(draft, copy)
            self._files.sync_folder(self._folder)
        finally:
            draft.unlink(missing_ok=True)

    def _copy_with_retries(self, path: str, draft: Path) -> None:
        """What came wrong is read again: over a network it may have been right where it lies."""
        for left in reversed(range(_ATTEMPTS)):
            # Of a process that died, since the lock is held here; or of the attempt before.
            draft.unlink(missing_ok=True)
            try:
                return self._copy_verified(path, draft)
            except StoreError:
                if left == 0:
                    raise

    def _copy_verified(self, path: str, draft: Path) -> None:
        _, n_bytes, sha256, *_ = self._expected[path]
        source = self._base.open(path)
        _, found = write_pieces(self._files, draft, _pieces(source, n_bytes), n_bytes)
        if source.n_bytes != n_bytes or found != sha256:
            raise StoreError(
                f"{self._base.name}/{path}: {source.n_bytes} bytes with sha256 {found} instead of "
                f"{n_bytes} with {sha256}; the file is damaged, fetch it again"
            )


def _pieces(file: FileBytes, n_bytes: int) -> Iterator[memoryview]:
    """The bytes of a file, if it has as many as it must."""
    for offset in range(0, n_bytes if file.n_bytes == n_bytes else 0, _PIECE_BYTES):
        piece = file.read(offset, min(_PIECE_BYTES, n_bytes - offset))
        yield piece.data
        file.let_go(offset, len(piece))


def files_to_stage(store: Path, plan: Plan, sites: Iterable[str], rows: tuple[int, int]) -> dict[str, FileRecord]:
    """The shard files that hold some rows of some sites, in the order of their rows, and what is known of them."""
    found = {}
    for key in keys(plan):
        start, stop = plan.unit_rows(key) if isinstance(key, int) else rows
        record = read_commit(store, plan, key) if start < rows[1] and stop > rows[0] else None
        for path, file in (record.files if record is not None else {}).items():
            if any(path.startswith(f"{ARRAYS}/sites/{site}/") for site in sites):
                found[path] = file
    return found
