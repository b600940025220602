"""One request over HTTP: sent, and its answer read within limits of size and time."""

import email.utils
import json
import time
from collections.abc import Iterable

from strata_sae.pipeline.endpoint.address import Address, without_key
from strata_sae.pipeline.endpoint.answers import Kept
from strata_sae.pipeline.endpoint.errors import EndpointError, PassingError, RefusedError
from strata_sae.pipeline.errors import ConfigError, one_line
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, parse_json

MOST_BYTES = 4 * 2**20
"""Of an answer. One of 100,000 tokens has about a tenth."""
CONNECT_SECONDS = 10.0
"""For a connection alone, before the request is sent."""
PASSING_STATUS = {408, 425, 429}
"""Below 500: Request Timeout, Too Early, Too Many Requests."""


class Wire:
    """Connections to one server. Several threads may use them at once."""

    def __init__(self, address: Address, key: str | None, timeout_seconds: float, n_connections: int) -> None:
        """Raises: ConfigError if httpx is not installed."""
        try:
            import httpx
        except ModuleNotFoundError:
            raise ConfigError("interpretation.base_url: needs httpx: pip install 'strata-sae[interpret]'") from None
        self._address, self._key, self._timeout_seconds = address, key, timeout_seconds
        # Bodies are read as they are sent, so that a compressed one cannot grow beyond the limit.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=n_connections),
            # A redirect would take the text, and perhaps the key, to a place that the user has not named.
            follow_redirects=False,
            # What is meant for this machine must not go to a proxy that the environment names.
            trust_env=not address.is_here,
        )

    def close(self) -> None:
        """Close the connections; what is under way on them fails."""
        self._client.close()

    def post(self, body: dict[str, Json]) -> Kept:
        """The answer to a request.

        Raises: PassingError where the same request may be answered later; RefusedError, EndpointError where it will
            not be.
        """
        import httpx

        began = time.monotonic()
        try:
            with self._client.stream("POST", self._address.url, content=_bytes_of(body)) as response:
                data = self._read(response.iter_raw(), began)
                status, headers = response.status_code, response.headers
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise PassingError("unreachable", one_line(error) or "no connection in time") from None
        except httpx.TimeoutException:
            raise PassingError("timeout", f"no answer within {self._timeout_seconds:g} s") from None
        except (httpx.InvalidURL, UnicodeError) as error:  # found out when the name is looked up
            raise EndpointError(
                f"interpretation.base_url: {self._address.host} is the name of no host ({one_line(error)})"
            ) from None
        except httpx.TransportError as error:  # hung up in the middle of it
            raise PassingError("cut", one_line(error)) from None
        if status != 200:
            raise self._failure(status, headers.get("retry-after"), headers.get("location"), data)
        return self._answer(data, round(1000 * (time.monotonic() - began)))

    def _read(self, pieces: Iterable[bytes], began: float) -> bytes:
        data = bytearray()
        for piece in pieces:
            data += piece
            if len(data) > MOST_BYTES:
                raise EndpointError(
                    f"{self._address.host}: sent an answer of more than {MOST_BYTES:,} bytes, which is none of a "
                    "language model; check interpretation.base_url"
                )
            if time.monotonic() - began > self._timeout_seconds:  # httpx's own limit is for each piece
                raise PassingError("timeout", f"the answer was not whole within {self._timeout_seconds:g} s")
        return bytes(data)

    def _failure(self, status: int, retry_after: str | None, location: str | None, data: bytes) -> Exception:
        """What a status other than 200 means."""
        if 300 <= status < 400:
            target = without_key(location or "somewhere else", self._key)
            return EndpointError(
                f"{self._address.host}: sends requests on to {target}, which is not followed; set "
                "interpretation.base_url to the address itself"
            )
        said, code, parameter = _words(data)
        said = without_key(said, self._key)
        if status in PASSING_STATUS or status >= 500:
            return PassingError("server", f"HTTP {status}: {said}", seconds_of(retry_after, time.time()))
        return RefusedError(status, said, code, parameter)

    def _answer(self, data: bytes, ms: int) -> Kept:
        try:
            value = parse_json(data, self._address.host, MOST_BYTES)
        except StoreError:  # half of it, or the page of a proxy
            raise PassingError("cut", "the answer is no JSON") from None
        choices = value.get("choices") if isinstance(value, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(value, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
            said = without_key(_words(data)[0], self._key)
            raise PassingError("server", f"an answer without a message: {said}")
        content, finish = message.get("content"), choice.get("finish_reason")
        text = content if isinstance(content, str) else ""
        usage = value.get("usage")
        used = (
            [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
            if isinstance(usage, dict)
            else [0, 0]
        )
        refused = finish == "content_filter" or (not text and isinstance(message.get("refusal"), str))
        return Kept(text, "refused" if refused else "cut" if finish == "length" else "whole", used[0], used[1], ms)


def _bytes_of(body: dict[str, Json]) -> bytes:
    """As UTF-8. Halves of surrogate pairs, which tokens may hold, become U+FFFD: servers have no text for them."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode("utf-8")


def _words(data: bytes) -> tuple[str, str, str]:
    """What an error's body says: its message, its code, the parameter it is about; the last two may be empty."""
    try:
        value = parse_json(data, "", MOST_BYTES)
    except StoreError:
        return data[:1000].decode("utf-8", "replace") or "no reason given", "", ""
    error = value.get("error", value.get("detail", value.get("message"))) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return (error if isinstance(error, str) else json.dumps(error)[:1000]), "", ""
    said, code, parameter = (error.get(name) for name in ("message", "code", "param"))
    text = said if isinstance(said, str) else json.dumps(error)[:1000]
    return text, code if isinstance(code, str) else "", parameter if isinstance(parameter, str) else ""


def _count(value: Json) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else 0


def seconds_of(retry_after: str | None, now: float) -> float | None:
    """The header Retry-After in seconds from now; None: there is none, or none that can be read.

    It is a number or a date (RFC 9110, section 10.2.3). now: seconds since 1970.
    """
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
