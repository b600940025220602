"""Where stores are shared: one small protocol, the kinds of URL that speak it, and when a server is asked again."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.folders import refuse_inside_a_store

_LONGEST_PAUSE_SECONDS = 30.0


class NotFound(Exception):
    """The server says that it has no such file."""


class Transient(Exception):
    """It did not work now and may work later: a timeout, a broken connection, an overloaded server."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RangesUnsupported(Exception):
    """The server sent something else than the bytes that were asked for."""


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of one request. A file may take `grace_seconds` and the time its bytes need at the slowest rate."""

    stall_seconds: float = 60.0
    """Without a byte for so long, the connection is given up and made anew."""
    attempts: int = 6
    """In a row, without a byte in between."""
    pause_seconds: float = 0.5
    """Before the second attempt; it doubles with each further one."""
    grace_seconds: float = 300.0
    slowest_bytes_per_second: float = 32_768.0


class Retries:
    """The attempts of one request, of which at least `n_bytes` are expected."""

    def __init__(self, policy: RetryPolicy, where: str, n_bytes: int, stop: threading.Event) -> None:
        self._policy, self._where, self._stop = policy, where, stop
        self._failures = 0
        self._seconds = policy.grace_seconds + n_bytes / policy.slowest_bytes_per_second
        self._deadline = time.monotonic() + self._seconds

    def progressed(self) -> None:
        """Count the arrival of bytes. Raises: StoreError if they come too slowly, or another file failed."""
        self._failures = 0
        self._check(f"came at less than {self._policy.slowest_bytes_per_second:.0f} bytes a second")

    def failed(self, error: Exception) -> None:
        """Pause before the next attempt. Raises: StoreError if it is not worth another one."""
        self._failures += 1
        if self._failures >= self._policy.attempts:
            raise StoreError(f"{self._where}: {error} ({self._failures} attempts); try again later") from None
        pause = self._policy.pause_seconds * 2 ** (self._failures - 1)
        pause = min(max(pause, getattr(error, "retry_after", 0.0)), _LONGEST_PAUSE_SECONDS)
        self._stop.wait(max(0.0, min(pause, self._deadline - time.monotonic())))
        self._check(str(error))

    def _check(self, reason: str) -> None:
        if self._stop.is_set():
            raise StoreError(f"{self._where}: given up, because another file failed")
        if time.monotonic() > self._deadline:
            raise StoreError(f"{self._where}: {reason}; given up after {self._seconds:.0f} seconds, try again later")


T = TypeVar("T")
N_THREADS = 8


def in_threads(work: Callable[[T], None], items: Iterable[T], stop: threading.Event) -> None:
    """Do `work` on every item. The first failure, also Ctrl-C, sets `stop`, cancels the rest and is raised."""
    with ThreadPoolExecutor(N_THREADS, thread_name_prefix="store-transfer") as pool:
        jobs = [pool.submit(work, item) for item in items]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
            failed = [job for job in jobs if job.done() and job.exception() is not None]
            if failed:
                stop.set()
                failed[0].result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Unchanged:
    """The identity (ETag, or time and size) that was first seen of the object at each path; for several threads."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def check(self, path: str, identity: str | None, where: str) -> None:
        """Hold `identity` (ETag, time and size) against the first one. None: the server says nothing of it.

        Raises: StoreError if the object was replaced meanwhile.
        """
        if identity is None:
            return
        first = self._first.setdefault(path, identity)  # atomic: the first thread decides
        if first != identity:
            raise StoreError(
                f"{where}/{path}: was replaced while it is read ({first} before, {identity} now); open the store "
                f"again, or pull it: every file of a pulled store is checked whole"
            )


Advance = Callable[[int], None]
INSTALL = "pip install 'strata-sae[remote]'"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
TRANSPORTS = {
    "file": ("strata_sae.stores.remote.folder", "Folder"),
    "http": ("strata_sae.stores.remote.http", "HttpSource"),
    "https": ("strata_sae.stores.remote.http", "HttpSource"),
    "s3": ("strata_sae.stores.remote.buckets", "Bucket"),
    "gs": ("strata_sae.stores.remote.buckets", "Bucket"),
    "az": ("strata_sae.stores.remote.buckets", "Bucket"),
    "hf": ("strata_sae.stores.remote.hub", "HubRepository"),
}
FOR_SAES = {**TRANSPORTS, "hf": ("strata_sae.stores.remote.hub", "ModelRepository")}
"""SAEs are models, and stores are datasets, to the hub."""


class Source(Protocol):
    """Files by path relative to a store. Raises: NotFound, Transient (worth another attempt), StoreError (not)."""

    url: str

    def stream(self, path: str, start: int) -> Iterator[bytes | memoryview]:
        """The bytes of a file from `start` to its end. Raises: RangesUnsupported."""

    def get_range(self, path: str, offset: int, n_bytes: int) -> bytes | memoryview:
        """Exactly these bytes. Raises: RangesUnsupported if the server sends others."""


class Entry(NamedTuple):
    """What a target tells of a file without sending it."""

    n_bytes: int
    sha256: str | None


@runtime_checkable
class Target(Source, Protocol):
    """A place that takes files too."""

    own_files: frozenset[str]
    """Files that the place itself puts there, and that no store may have."""

    def entries(self) -> dict[str, Entry]:
        """What is there, by path."""

    def send(self, files: list[tuple[str, Path]], advance: Advance) -> None:
        """Put files there, in any order; those that are there are replaced."""

    def send_new(self, path: str, data: bytes) -> bool:
        """Make a file appear whole, after all that was sent before, unless it is there. Returns whether it was not."""

    def show_card(self, card: str) -> None:
        """Show a page about the store, where the place has one."""

    def close(self) -> None:
        """Release what is held."""


def is_url(text: str | Path) -> bool:
    """Whether this names a place by URL, not by a path of this machine."""
    return isinstance(text, str) and _SCHEME.match(text) is not None


def local_folder(url: str | Path) -> Path | None:
    """The folder of this machine that a path or a file:// URL names; None for what lies elsewhere.

    Raises: StoreError if it is a file:// URL of another machine.
    """
    if not is_url(url):
        return Path(url)
    parts = split_url(str(url))
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise StoreError(f"{url}: names another machine; a file:// URL begins with file:///")
    # Bytes, because a name need not be text in any encoding.
    return Path(os.fsdecode(unquote_to_bytes(os.fsencode(parts.path))))


def open_source(url: str | Path, policy: RetryPolicy, transports: Mapping[str, tuple[str, str]] = TRANSPORTS) -> Source:
    """A place to read from. Raises: StoreError if the URL is not allowed or a package is missing."""
    if not is_url(url):
        url = Path(url).absolute().as_uri()
    parts = split_url(str(url))
    if parts.scheme not in transports:
        raise StoreError(f"{parts.scheme}://: unknown; known are {', '.join(transports)} and plain paths")
    module, name = transports[parts.scheme]
    source: Source = getattr(import_module(module), name)(str(url).rstrip("/"), policy)
    return source


def open_target(url: str | Path, policy: RetryPolicy, transports: Mapping[str, tuple[str, str]] = TRANSPORTS) -> Target:
    """A place to write to.

    Raises: StoreError if it cannot be written to, lies inside a store, or a package is missing.
    """
    folder = local_folder(url)
    if folder is not None:
        refuse_inside_a_store(folder, "push", may_be_one=True)
    target = open_source(url, policy, transports)
    if not isinstance(target, Target):
        raise StoreError(f"{url}: can only be read from; push to s3://, gs://, az://, hf:// or a folder")
    return target


def split_url(url: str) -> SplitResult:
    """The parts of a URL. Raises: StoreError if it is none, carries a secret, or has what no store's URL has."""
    try:
        parts = urlsplit(url)
        parts.hostname, parts.port  # noqa: B018  # both are read from the text only when they are asked for
    except ValueError as error:
        raise StoreError(f"{_without_secrets(url)}: is no URL ({error}); write scheme://host/path") from None
    if parts.username is not None or (parts.scheme != "hf" and "@" in parts.netloc):
        raise StoreError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}: user names and passwords do not belong into a URL, "
            f"because URLs are written into configs and logs; set them in the environment"
        )
    if parts.query or parts.fragment:
        raise StoreError(f"{parts.scheme}://{parts.netloc}{parts.path}: a store's URL has no '?' and no '#'")
    return parts


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def require(package: str, url: str) -> ModuleType:
    """An optional package. Raises: StoreError with the line that installs it."""
    try:
        return import_module(package)
    except ImportError:
        raise StoreError(f"{url}: needs {package.partition('.')[0]}, which is not installed; {INSTALL}") from None
