"""Fetching files, which appear under their final name only after their hash matched, and reading parts of files."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import MAX_JSON_BYTES
from strata_sae.stores.files.filesystem import FileSystem, write_pieces
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.records import UNKNOWN_BYTES, FileRecord
from strata_sae.stores.remote.transports import (
    Advance,
    NotFound,
    RangesUnsupported,
    Retries,
    RetryPolicy,
    Source,
    Transient,
)

_FETCHES = 4  # the first, and three more where the bytes were wrong
_READ_ONLY = 0o444


class Fetcher:
    """A source whose requests are repeated, as the policy says, until they succeed."""

    def __init__(self, source: Source, policy: RetryPolicy) -> None:
        self.url = source.url
        self.stop = threading.Event()
        self._source, self._policy = source, policy

    def pieces(self, path: str, n_bytes: int) -> Iterator[bytes | memoryview]:
        """The bytes of a file, gone on with where a connection broke; `n_bytes` are expected and may be wrong.

        Raises: StoreError if the file is not there, or the server keeps failing; RangesUnsupported if it cannot go on.
        """
        retries = self._retries(path, n_bytes)
        position = 0
        broken: Transient | None = None
        while True:
            try:
                for piece in self._source.stream(path, position):
                    position += len(piece)
                    retries.progressed()
                    yield piece
                return
            except Transient as error:
                broken = error
                retries.failed(error)
            except RangesUnsupported as error:
                raise RangesUnsupported(f"{broken}, and to go on: {error}") from None
            except NotFound as error:
                raise self._gone(path, error) from None

    def get_range(self, path: str, offset: int, n_bytes: int) -> bytes | memoryview:
        """Exactly these bytes. Raises: StoreError if they cannot be had."""
        retries = self._retries(path, n_bytes)
        while True:
            try:
                return self._source.get_range(path, offset, n_bytes)
            except Transient as error:
                retries.failed(error)
            except NotFound as error:
                raise self._gone(path, error) from None
            except RangesUnsupported as error:
                raise StoreError(
                    f"{self.url}: {error}; files cannot be read in parts there: pull the store, or use another server"
                ) from None

    def get(self, path: str, at_most: int = MAX_JSON_BYTES) -> bytes:
        """A small file. Raises: StoreError if it is not there or larger than `at_most`."""
        data = bytearray()
        try:
            for piece in self.pieces(path, 0):
                data += piece
                if len(data) > at_most:
                    raise StoreError(f"{self.url}/{path}: more than the {at_most} bytes it may have")
        except RangesUnsupported as error:
            raise StoreError(f"{self.url}/{path}: {error}") from None
        return bytes(data)

    def _retries(self, path: str, n_bytes: int) -> Retries:
        return Retries(self._policy, f"{self.url}/{path}", n_bytes, self.stop)

    def _gone(self, path: str, error: NotFound) -> StoreError:
        return StoreError(f"{self.url}/{path}: belongs to it and is not there ({error}); its owner has to push it")


class PullFolder:
    """A folder that the files of one store are fetched into; copies with wrong bytes go to `quarantine`, beside it."""

    def __init__(self, files: FileSystem, work: Path, name: str = "store") -> None:
        self.store, self.quarantine = work / name, work / "quarantine"
        self._files, self._partial = files, work / "partial"
        for folder in (work, self.store, self.quarantine, self._partial):
            files.make_folder(folder)

    def has(self, file: FileRecord) -> bool:
        """Whether the right bytes lie here already."""
        path = self.store / file.path
        try:
            same_size = file.n_bytes in (UNKNOWN_BYTES, path.stat().st_size)
            return same_size and not path.is_symlink() and file_sha256(path) == file.sha256
        except OSError:
            return False

    def put(self, path: str, data: bytes) -> None:
        """Make a file of known bytes, durably."""
        draft = self._draft(path)
        write_pieces(self._files, draft, [data], len(data))
        self._publish(draft, path)

    def fetch(self, fetcher: Fetcher, file: FileRecord, advance: Advance) -> None:
        """Fetch a file, check every byte as it comes, and make it appear under its final name.

        `advance` receives the number of bytes as they arrive, and the negative number of those of a wrong copy.

        Raises: StoreError naming the file, what was expected and what came, if that was wrong four times.
        """
        for attempt in range(1, _FETCHES + 1):
            draft = self._draft(file.path)
            counted = _Counted(fetcher.pieces(file.path, max(file.n_bytes, 0)), advance)
            limit = MAX_JSON_BYTES if file.n_bytes == UNKNOWN_BYTES else file.n_bytes
            try:
                n_bytes, found = write_pieces(self._files, draft, counted, limit)
                if found == file.sha256 and file.n_bytes in (UNKNOWN_BYTES, n_bytes):
                    self._publish(draft, file.path)
                    return
                problem = _problem(file, n_bytes, found)
            except RangesUnsupported as error:
                problem = str(error)
            except BaseException:
                self._files.unlink(draft)
                raise
            advance(-counted.n_bytes)
            name = file.path.replace("/", "+")
            self._files.rename(draft, self.quarantine / f"{name}.{attempt}")
        raise StoreError(
            f"{fetcher.url}/{file.path}: {problem}; fetched {_FETCHES} times, the copies are in {self.quarantine}. "
            f"Its owner should check it (a store: `store verify --deep`) and push again"
        )

    def _draft(self, path: str) -> Path:
        return self._partial / f"{uuid.uuid4().hex}-{Path(path).name}"

    def _publish(self, draft: Path, path: str) -> None:
        final = self.store / path
        self._make_folders(final.parent)
        draft.chmod(_READ_ONLY)
        self._files.rename(draft, final)

    def _make_folders(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folders(folder.parent)
            self._files.make_folder(folder)


@contextmanager
def local_errors(where: Path) -> Iterator[None]:
    """Turns an error of the disk that is written to into a StoreError, which names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or where}: cannot be written ({explain(error)}); once that is put right, "
            f"the same command goes on from what was fetched"
        ) from None


class _Counted:
    """Pieces as they come, and the number of their bytes."""

    def __init__(self, pieces: Iterator[bytes | memoryview], advance: Advance) -> None:
        self.n_bytes = 0
        self._pieces, self._advance = pieces, advance

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for piece in self._pieces:
            self.n_bytes += len(piece)
            self._advance(len(piece))
            yield piece


def _problem(file: FileRecord, n_bytes: int, sha256: str) -> str:
    if file.n_bytes not in (UNKNOWN_BYTES, n_bytes):
        came = f"more than {file.n_bytes}" if n_bytes > file.n_bytes else str(n_bytes)
        return f"expected {file.n_bytes} bytes, got {came}"
    return f"expected sha256 {file.sha256}, got {sha256}"


class RemotePlace:
    """A `Place` somewhere else. What is read is read anew each time: keep what is needed again."""

    def __init__(self, fetcher: Fetcher, sizes: dict[str, int]) -> None:
        self.name = fetcher.url
        self._fetcher, self._sizes = fetcher, sizes

    def open(self, path: str) -> "RemoteFile":
        """A file of the store; nothing is sent before it is read. Raises: StoreError if the store has no such file."""
        if path not in self._sizes:
            raise StoreError(f"{self.name}: the store has no file {path}")
        return RemoteFile(self._fetcher, path, self._sizes[path])


class RemoteFile:
    """The bytes of a file on a server."""

    def __init__(self, fetcher: Fetcher, path: str, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._fetcher, self._path = fetcher, path

    def read(self, offset: int, n_bytes: int) -> np.ndarray:
        """Exactly these bytes, uint8, read-only. Raises: StoreError if they leave the file or cannot be had."""
        if not 0 <= offset <= offset + n_bytes <= self.n_bytes:
            raise StoreError(
                f"{self._fetcher.url}/{self._path}: bytes {offset}..{offset + n_bytes} leave its {self.n_bytes} bytes"
            )
        if n_bytes == 0:
            return np.empty(0, np.uint8)
        data = np.frombuffer(self._fetcher.get_range(self._path, offset, n_bytes), np.uint8)
        data.flags.writeable = False
        return data

    def will_need(self, offset: int, n_bytes: int) -> None:
        """A request is made when the bytes are read; several threads read ahead."""

    def let_go(self, offset: int, n_bytes: int) -> None:
        """Nothing is held."""
