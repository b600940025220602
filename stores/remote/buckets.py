"""Buckets of S3, Google and Azure. Credentials and endpoints come from the environment alone."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypedDict
from urllib.parse import quote

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files import environment
from strata_sae.stores.remote.transports import (
    Advance,
    Entry,
    NotFound,
    RangesUnsupported,
    Retries,
    RetryPolicy,
    Transient,
    Unchanged,
    in_threads,
    require,
    split_url,
)

_PIECE_BYTES = 4 * 2**20
_PART_BYTES = 16 * 2**20
_PARTS_AT_ONCE = 2
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_STATUS = re.compile(r"status code: ([0-9]{3})")
_NO_TOKEN = "token request"
"""What obstore says where it found no key and asked the machine for one, as one of a cloud may be asked."""
_KEYS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true for a public bucket)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a file with a key (or GOOGLE_SKIP_SIGNATURE=true for a public bucket)",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_SKIP_SIGNATURE=true)",
}


class _Meta(TypedDict):
    """What obstore says of an object."""

    path: str
    size: int
    e_tag: str | None
    last_modified: datetime


class _Answer(Protocol):
    meta: _Meta
    range: tuple[int, int]

    def bytes(self) -> memoryview:
        """The bytes that were asked for."""


class _Handle(Protocol):
    """An object of obstore that is handed back to it only."""


class _Get(Protocol):
    def __call__(self, store: _Handle, path: str, *, options: dict[str, tuple[int, int]]) -> _Answer: ...


class _Put(Protocol):
    def __call__(
        self, store: _Handle, path: str, data: Path | bytes, **options: str | int
    ) -> dict[str, str | None]: ...


class _Exceptions(Protocol):
    BaseError: type[Exception]
    AlreadyExistsError: type[Exception]
    PreconditionError: type[Exception]
    NotSupportedError: type[Exception]
    NotFoundError: type[Exception]
    PermissionDeniedError: type[Exception]
    UnauthenticatedError: type[Exception]


class Bucket:
    """A prefix of a bucket: s3://bucket/prefix, gs://bucket/prefix, or az://container/prefix."""

    own_files: frozenset[str] = frozenset()

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        self.url = url
        self._policy = policy
        self._unchanged = Unchanged()
        obstore = require("obstore", url)
        self._get: _Get = obstore.get
        self._put_object: _Put = obstore.put
        self._list: Callable[[_Handle], Iterable[list[_Meta]]] = obstore.list
        self._known: _Exceptions = obstore.exceptions
        parts = split_url(url)
        if not parts.netloc:
            raise StoreError(f"{url}: has no bucket; write {parts.scheme}://bucket/prefix")
        self._keys = _KEYS[parts.scheme]
        stall = timedelta(seconds=policy.stall_seconds)
        endpoint = next(filter(None, map(environment.text, _ENDPOINTS)), "") if parts.scheme == "s3" else ""
        options = {"timeout": stall, "connect_timeout": stall, "allow_http": endpoint.startswith("http://")}
        try:
            self._store: _Handle = require("obstore.store", url).from_url(
                f"{parts.scheme}://{parts.netloc}{quote(parts.path)}",  # which it decodes
                client_options=options,
                retry_config={"max_retries": 0, "retry_timeout": stall},  # `Retries` does it, for every place alike
                **(_profile(url) if parts.scheme == "s3" else {}),
                **({"endpoint": endpoint} if endpoint else {}),
            )
        except self._known.BaseError as error:
            raise StoreError(f"{url}: {_first_line(error)}; {self._keys}") from None

    def stream(self, path: str, start: int) -> Iterator[memoryview]:
        """See `Source.stream`."""
        size = start + 1
        while start < size:
            with self._errors(path):
                result = self._get(self._store, path, options={"range": (start, start + _PIECE_BYTES)})
                size = result.meta["size"]
                data = memoryview(result.bytes())
            if tuple(result.range) != (start, start + len(data)) or not data:
                raise RangesUnsupported(
                    f"{path}: asked for bytes from {start}, the server answers {tuple(result.range)}"
                )
            start += len(data)
            yield data

    def get_range(self, path: str, offset: int, n_bytes: int) -> memoryview:
        """See `Source.get_range`."""
        with self._errors(path):
            result = self._get(self._store, path, options={"range": (offset, offset + n_bytes)})
            about = result.meta
            data = memoryview(result.bytes())
        etag, time = about["e_tag"], about["last_modified"]
        named = f"ETag {etag!a}" if etag else f"last modified {time}, {about['size']} bytes"
        self._unchanged.check(path, named, self.url)
        if len(data) != n_bytes:
            raise RangesUnsupported(
                f"{path}: the server sends {len(data)} bytes instead of the {n_bytes} from {offset}"
            )
        return data

    def entries(self) -> dict[str, Entry]:
        """See `Target.entries`."""
        retries = Retries(self._policy, self.url, 0, threading.Event())
        while True:
            try:
                with self._errors("its list of files"):
                    pages = self._list(self._store)
                    return {item["path"]: Entry(item["size"], None) for page in pages for item in page}
            except Transient as error:
                retries.failed(error)
            except NotFound:
                raise StoreError(f"{self.url}: there is no such bucket; make it first") from None

    def send(self, files: list[tuple[str, Path]], advance: Advance) -> None:
        """See `Target.send`."""
        stop = threading.Event()

        def send_one(file: tuple[str, Path]) -> None:
            path, local = file
            n_bytes = local.stat().st_size
            self._put(path, local, n_bytes, stop, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
            advance(n_bytes)

        in_threads(send_one, files, stop)

    def send_new(self, path: str, data: bytes) -> bool:
        """See `Target.send_new`; where the server knows no conditional writes, the look beforehand has to do."""
        try:
            self._put(path, data, len(data), threading.Event(), mode="create")
        except (self._known.AlreadyExistsError, self._known.PreconditionError):
            return False
        except self._known.NotSupportedError:
            self._put(path, data, len(data), threading.Event())
        return True

    def show_card(self, card: str) -> None:
        """A bucket has no page."""

    def close(self) -> None:
        """Nothing is held."""

    def _put(self, path: str, data: Path | bytes, n_bytes: int, stop: threading.Event, **options: str | int) -> None:
        retries = Retries(self._policy, f"{self.url}/{path}", n_bytes, stop)
        while True:
            try:
                with self._errors(path):
                    self._put_object(self._store, path, data, **options)
                return
            except Transient as error:
                retries.failed(error)
            except NotFound:
                raise StoreError(f"{self.url}: there is no such bucket; make it first") from None

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Turns obstore's exceptions into ours; those that `send_new` looks at pass."""
        known, where = self._known, f"{self.url}/{path}"
        denied = StoreError(f"{where}: not allowed with the credentials of this environment; {self._keys}")
        try:
            yield
        except (known.AlreadyExistsError, known.PreconditionError, known.NotSupportedError):
            raise
        except (FileNotFoundError, known.NotFoundError):
            raise NotFound("there is no such file") from None
        except (PermissionError, known.PermissionDeniedError, known.UnauthenticatedError):
            raise denied from None
        except (known.BaseError, OSError) as error:
            no_token = isinstance(error, known.BaseError) and _NO_TOKEN in str(error)
            raise (denied if no_token else _by_status(error, where)) from None


def _by_status(error: BaseException, where: str) -> Exception:
    """What a server answered: obstore has no class of its own for most answers of a server."""
    found = _STATUS.search(str(error))
    status = int(found[1]) if found else 0
    if status == 404:
        return NotFound("there is no such file or bucket")
    if status == 416:
        return RangesUnsupported("is shorter than the bytes that were asked for (416)")
    if 400 <= status < 500 and status not in (408, 409, 425, 429):
        return StoreError(f"{where}: refused ({_first_line(error)})")
    return Transient(_first_line(error))


def _profile(url: str) -> dict[str, _Handle]:
    """A named profile needs boto3, which knows all that a profile can say; everything else obstore reads itself."""
    profile = environment.text("AWS_PROFILE")
    if not profile or environment.text("AWS_ACCESS_KEY_ID"):
        return {}
    try:
        session = import_module("boto3.session").Session()
        return {"credential_provider": import_module("obstore.auth.boto3").Boto3CredentialProvider(session)}
    except ImportError:
        raise StoreError(
            f"{url}: AWS_PROFILE needs boto3 (pip install boto3); or set the keys themselves: "
            f'eval "$(aws configure export-credentials --profile {profile} --format env)"'
        ) from None
    except Exception as error:  # boto3's own have no common class: an unknown profile, an expired login
        raise StoreError(f"{url}: AWS_PROFILE {profile!r} cannot be used ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
