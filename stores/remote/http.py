"""Reading from a web server: standard library only, with resuming, and never a byte that was not asked for."""

import errno
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from http.client import HTTPMessage, HTTPResponse
from typing import IO
from urllib.parse import quote, urlsplit
from urllib.request import Request

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.remote.transports import NotFound, RangesUnsupported, RetryPolicy, Transient, Unchanged

_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def object_identity(headers: Message) -> str | None:
    """What names the object that the bytes are of, as far as the server says: its ETag, or else its time and size.

    A weak ETag (`W/`) counts like a strong one: servers say it of files that they could also send compressed.
    """
    etag = headers.get("ETag", "").removeprefix("W/")
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    size = found[3] if found else ""
    modified = headers.get("Last-Modified", "")
    if etag:
        return f"ETag {etag[:200]!a}"
    return f"last modified {modified[:200]!a}, {size} bytes" if modified else None


def _number(headers: Message, name: str) -> int | None:
    """A number that the answer states; None if it does not, or states no number."""
    text = headers.get(name, "").strip()
    return int(text) if _NUMBER.fullmatch(text) else None


_PIECE_BYTES = 2**20
_RESERVED = ":/?#[]@!$&'()*+,;=%"
_WEB_ERRORS = (OSError, http.client.HTTPException, ValueError, OverflowError)
"""What the standard library raises at what a server says; the last two at addresses and numbers that are none."""
_PASSING = frozenset([408, 425, 429, 500, 502, 503, 504])

_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to web servers only, never from https to http; secrets stay with the server they are for."""

    def redirect_request(
        self, request: Request, file: IO[bytes], code: int, message: str, headers: HTTPMessage, target: str
    ) -> Request | None:
        old, new = urlsplit(request.full_url), urlsplit(target)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            raise StoreError(f"{old.netloc}: redirects from {old.scheme} to {new.scheme}://{new.hostname}; refused")
        following = super().redirect_request(request, file, code, message, headers, target)
        if following is not None and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            for name, value in request.unredirected_hdrs.items():
                following.add_unredirected_header(name, value)
        return following


class HttpSource:
    """A folder of a web server."""

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        self.url = url
        self._policy = policy
        self._unchanged = Unchanged()
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(),
        ):
            self._opener.add_handler(handler)

    def address(self, path: str) -> str:
        """Where a file lies."""
        return f"{quote(os.fsencode(self.url), safe=_RESERVED)}/{quote(path)}"

    def secrets(self) -> dict[str, str]:
        """Headers for this server alone."""
        return {}

    def identity(self, headers: Message) -> str | None:
        """What names the object that an answer is a part of; None where an address names the same bytes for ever."""
        return object_identity(headers)

    def stream(self, path: str, start: int) -> Iterator[bytes | memoryview]:
        """See `Source.stream`."""
        with self._request(path, f"bytes={start}-" if start else None) as response:
            if start:
                _check_range(response, path, start, None)
            missing = _number(response.headers, "Content-Length")
            while piece := self._read(response, path):
                missing = None if missing is None else missing - len(piece)
                yield piece
            if missing:
                raise Transient(f"the connection broke {missing} bytes before the end")

    def get_range(self, path: str, offset: int, n_bytes: int) -> bytes:
        """See `Source.get_range`."""
        data = bytearray()
        with self._request(path, f"bytes={offset}-{offset + n_bytes - 1}") as response:
            _check_range(response, path, offset, n_bytes)
            self._unchanged.check(path, self.identity(response.headers), self.url)
            while len(data) <= n_bytes and (piece := self._read(response, path)):
                data += piece
        if len(data) < n_bytes:
            raise Transient(f"the connection broke {n_bytes - len(data)} bytes before the end")
        if len(data) > n_bytes:
            raise RangesUnsupported(f"the server sent more than the {n_bytes} bytes from {offset} that were asked for")
        return bytes(data)

    def _request(self, path: str, range_: str | None) -> HTTPResponse:
        request = Request(self.address(path), headers={"Accept-Encoding": "identity"})
        request.add_header("User-Agent", "strata")
        if range_ is not None:
            request.add_header("Range", range_)
        for name, value in self.secrets().items():
            request.add_unredirected_header(name, value)
        try:
            response: HTTPResponse = self._opener.open(request, timeout=self._policy.stall_seconds)
        except urllib.error.HTTPError as error:
            with error:
                raise _meaning(error, path) from None
        except _WEB_ERRORS as error:
            raise _broken(error, f"{self.url}/{path}") from None
        if response.headers.get("Content-Encoding", "identity") != "identity":  # compressed on the way
            response.close()
            raise StoreError(f"{self.address(path)}: the server changes files as it sends them (Content-Encoding)")
        return response

    def _read(self, response: HTTPResponse, path: str) -> bytes:
        try:
            piece = response.read1(_PIECE_BYTES)
        except _WEB_ERRORS as error:
            raise _broken(error, f"{self.url}/{path}") from None
        return piece


def _check_range(response: HTTPResponse, path: str, start: int, n_bytes: int | None) -> None:
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or found is None:
        raise RangesUnsupported(
            f"{path}: asked for bytes from {start}, the server answers {response.status} without saying which it sends"
        )
    first, last = int(found[1]), int(found[2])
    if first != start or (n_bytes is not None and last != start + n_bytes - 1):
        raise RangesUnsupported(f"{path}: asked for bytes from {start} ({n_bytes}), the server answers {first}-{last}")


def _meaning(error: urllib.error.HTTPError, path: str) -> Exception:
    if error.code in (404, 410):
        return NotFound(f"the server answers {error.code}")
    if error.code in _PASSING:
        # Seconds; 0 where the answer does not say, or names a date.
        return Transient(f"the server answers {error.code}", float(_number(error.headers, "Retry-After") or 0))
    if error.code == 416:
        return RangesUnsupported(f"{path}: is shorter than the bytes that were asked for (416)")
    hint = "; log in, or ask for access" if error.code in (401, 403) else ""
    return StoreError(f"{urlsplit(error.url).hostname}: {path}: the server answers {error.code}{hint}")


def _broken(error: Exception, where: str) -> Exception:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return StoreError(f"{where}: its certificate is not valid ({reason.verify_message})")
    if isinstance(reason, TimeoutError):
        return Transient("no byte came in time")
    if isinstance(reason, ValueError | OverflowError):  # asking again would be answered alike
        return StoreError(f"{where}: the server names an address or a number that is none ({str(reason)[:200]})")
    if isinstance(reason, OSError) and reason.errno in _OURS:
        return StoreError(f"{where}: cannot be fetched ({explain(reason)})")
    return Transient(f"{type(reason).__name__}: {reason}")
