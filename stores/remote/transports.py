"""Where stores are shared: one small protocol, and the kinds of URL that speak it."""

import os
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, runtime_checkable
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.remote.retries import RetryPolicy

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

    def describe(self, card: str) -> None:
        """Show a page about the store, where the place has one."""

    def close(self) -> None:
        """Let go of what is held."""


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


def open_source(url: str | Path, policy: RetryPolicy) -> Source:
    """A place to read from. Raises: StoreError if the URL is not allowed or a package is missing."""
    return _transport(url, policy)


def open_target(url: str | Path, policy: RetryPolicy) -> Target:
    """A place to write to.

    Raises: StoreError if it cannot be written to, lies inside a store, or a package is missing.
    """
    folder = local_folder(url)
    if folder is not None:
        refuse_inside_a_store(folder, "push", may_be_one=True)
    target = _transport(url, policy)
    if not isinstance(target, Target):
        raise StoreError(f"{url}: can only be read from; push to s3://, gs://, az://, hf:// or a folder")
    return target


def _transport(url: str | Path, policy: RetryPolicy) -> Source:
    if not is_url(url):
        url = Path(url).absolute().as_uri()
    parts = split_url(str(url))
    if parts.scheme not in TRANSPORTS:
        raise StoreError(f"{parts.scheme}://: unknown; known are {', '.join(TRANSPORTS)} and plain paths")
    module, name = TRANSPORTS[parts.scheme]
    source: Source = getattr(import_module(module), name)(str(url).rstrip("/"), policy)
    return source


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
