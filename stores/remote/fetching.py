"""Fetching files, which appear under their final name only after their hash matched, and reading parts of files."""

import hashlib
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import MAX_JSON_BYTES, file_sha256
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.remote.retries import Absent, NoRanges, Patience, Trying, Unavailable
from strata_sae.stores.remote.transports import Advance, Source

_FETCHES = 4  # the first, and three more where the bytes were wrong
_READ_ONLY = 0o444


class Fetcher:
    """A source asked again and again, until it answers or it is no use."""

    def __init__(self, source: Source, patience: Patience) -> None:
        self.url = source.url
        self.stop = threading.Event()
        self._source, self._patience = source, patience

    def pieces(self, path: str, n_bytes: int) -> Iterator[bytes | memoryview]:
        """The bytes of a file, gone on with where a connection broke; `n_bytes` are expected and may be wrong.

        Raises: StoreError if the file is not there, or the server keeps failing; NoRanges if it cannot go on.
        """
        trying = self._trying(path, n_bytes)
        position = 0
        broken: Unavailable | None = None
        while True:
            try:
                for piece in self._source.stream(path, position):
                    position += len(piece)
                    trying.progressed()
                    yield piece
                return
            except Unavailable as error:
                broken = error
                trying.failed(error)
            except NoRanges as error:
                raise NoRanges(f"{broken}, and to go on: {error}") from None
            except Absent as error:
                raise self._gone(path, error) from None

    def get_range(self, path: str, offset: int, n_bytes: int) -> bytes | memoryview:
        """Exactly these bytes. Raises: StoreError if they cannot be had."""
        trying = self._trying(path, n_bytes)
        while True:
            try:
                return self._source.get_range(path, offset, n_bytes)
            except Unavailable as error:
                trying.failed(error)
            except Absent as error:
                raise self._gone(path, error) from None
            except NoRanges as error:
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
        except NoRanges as error:
            raise StoreError(f"{self.url}/{path}: {error}") from None
        return bytes(data)

    def _trying(self, path: str, n_bytes: int) -> Trying:
        return Trying(self._patience, f"{self.url}/{path}", n_bytes, self.stop)

    def _gone(self, path: str, error: Absent) -> StoreError:
        return StoreError(
            f"{self.url}/{path}: belongs to the store and is not there ({error}); its owner has to push it"
        )


class Wanted(NamedTuple):
    """A file that a manifest, or what a manifest hashes, speaks of."""

    path: str
    sha256: str
    n_bytes: int | None
    """None: only the hash is known, and a store's JSON is never larger than `MAX_JSON_BYTES`."""


class Landing:
    """A folder in which a store comes together; wrong copies end in `quarantine`, beside it."""

    def __init__(self, files: FileSystem, work: Path) -> None:
        self.store, self.quarantine = work / "store", work / "quarantine"
        self._files, self._partial = files, work / "partial"
        for folder in (work, self.store, self.quarantine, self._partial):
            files.make_folder(folder)

    def has(self, wanted: Wanted) -> bool:
        """Whether the right bytes lie here already."""
        path = self.store / wanted.path
        try:
            same_size = wanted.n_bytes in (None, path.stat().st_size)
            return same_size and not path.is_symlink() and file_sha256(path) == wanted.sha256
        except OSError:
            return False

    def put(self, path: str, data: bytes) -> None:
        """Make a file of known bytes, durably."""
        draft = self._draft(path)
        self._write(draft, iter([data]), len(data))
        self._land(draft, path)

    def fetch(self, fetcher: Fetcher, wanted: Wanted, advance: Advance) -> None:
        """Fetch a file, check every byte as it comes, and make it appear under its final name.

        `advance` is told of bytes as they come, and takes back those of a wrong copy.

        Raises: StoreError naming the file, what was expected and what came, if that was wrong four times.
        """
        for attempt in range(1, _FETCHES + 1):
            draft = self._draft(wanted.path)
            counted = _Counted(advance)
            limit = MAX_JSON_BYTES if wanted.n_bytes is None else wanted.n_bytes
            try:
                found = self._write(draft, _whole(fetcher, wanted, counted), limit)
                if found == (wanted.sha256, counted.n_bytes if wanted.n_bytes is None else wanted.n_bytes):
                    self._land(draft, wanted.path)
                    return
                problem = _problem(wanted, found)
            except NoRanges as error:
                problem = str(error)
            except BaseException:
                self._files.unlink(draft)
                raise
            advance(-counted.n_bytes)
            name = wanted.path.replace("/", "+")
            self._files.rename(draft, self.quarantine / f"{name}.{attempt}")
        raise StoreError(
            f"{fetcher.url}/{wanted.path}: {problem}; fetched {_FETCHES} times, the copies are in {self.quarantine}. "
            f"Its owner should run `store verify --deep` and push again"
        )

    def _draft(self, path: str) -> Path:
        return self._partial / f"{uuid.uuid4().hex}-{Path(path).name}"

    def _write(self, draft: Path, pieces: Iterator[bytes | memoryview], limit: int) -> tuple[str, int]:
        """Hash and size of what came; never more than a piece beyond `limit` is written."""
        digest = hashlib.sha256()
        n_bytes = 0
        descriptor = self._files.create(draft)
        try:
            for piece in pieces:
                self._files.write(descriptor, piece)
                digest.update(piece)
                n_bytes += len(piece)
                if n_bytes > limit:
                    break
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)
        return digest.hexdigest(), n_bytes

    def _land(self, draft: Path, path: str) -> None:
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
    """A full or failing disk here is told from what servers do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or where}: cannot be written ({explain(error)}); once that is put right, "
            f"the same command goes on from what was fetched"
        ) from None


class _Counted:
    def __init__(self, advance: Advance) -> None:
        self.n_bytes = 0
        self._advance = advance

    def add(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        self._advance(n_bytes)


def _whole(fetcher: Fetcher, wanted: Wanted, counted: _Counted) -> Iterator[bytes | memoryview]:
    for piece in fetcher.pieces(wanted.path, wanted.n_bytes or 0):
        counted.add(len(piece))
        yield piece


def _problem(wanted: Wanted, found: tuple[str, int]) -> str:
    sha256, n_bytes = found
    if wanted.n_bytes not in (None, n_bytes):
        more = "more than " if n_bytes > (wanted.n_bytes or 0) else ""
        came = f"{more}{wanted.n_bytes}" if more else str(n_bytes)
        return f"expected {wanted.n_bytes} bytes, got {came}"
    return f"expected sha256 {wanted.sha256}, got {sha256}"


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
