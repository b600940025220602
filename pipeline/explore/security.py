"""Who may ask the app, and what an answer allows a page to do: a guard around it that sees every request first.

The app shows a person's data to whoever may open its address, so four things are asked of a request: a method that
only reads, or the form of a prompt; a Host that names this machine and this port, since a stranger's domain can be made
to point at 127.0.0.1 while a browser takes the page for the stranger's (DNS rebinding); a bounded length; and the token
of this start. The token is the first part of every address rather than a cookie: cookies are shared by all ports of a
host, so other servers on this machine would be sent it, and two apps would overwrite each other's. Addresses leak by
referrers, which the pages send to no other origin.

A form makes the model work, so a page of a stranger must not be able to send one, even if it had the token: its
request must say that a page of this app sent it. Browsers put the sender's origin into Origin, and its relation into
Sec-Fetch-Site; a page cannot change either. With the policy `no-referrer` they would say `null`, hence `same-origin`.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = Message
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_TARGET_BYTES = 4096
"""Of an address with its query. Names of runs and SAEs are at most 255 bytes each, thrice that when quoted."""
LONGEST_BODY_BYTES = 262_144
"""Of a form: each of the 16,384 characters of its text (`asking.LONGEST_TEXT`) takes at most 12: %F0%9F%98%80."""
FORM = re.compile(rb"/[^/]+/[^/]+/prompt")
"""Paths that answer POST."""
FORM_TYPE = b"application/x-www-form-urlencoded"
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer, beside the content security policy."""
WITHOUT_PAGE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
NEEDS_TOKEN = "Open the address that strata explore printed when it started: it holds a token, which this one lacks.\n"
REFUSED_ORIGIN = "A form is taken from the pages of this app alone; open its address, and send it from there.\n"
REFUSED_HOST = "This address does not name this machine and the port that strata explore listens on.\n"


class Guard:
    """The app behind its four questions; refusals are plain text and say nothing of any run."""

    def __init__(self, app: App, token: str, port: int) -> None:
        self.app, self.token, self.hosts = app, token.encode(), allowed_hosts(port)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":  # a websocket
            await send({"type": "websocket.close", "code": 1008})
        elif refusal := self._refusal(scope):
            await _plain(send, *refusal)
        else:
            await self.app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and words, where the request is refused."""
        path = scope.get("raw_path") or scope["path"].encode()
        is_form = scope["method"] == "POST" and FORM.fullmatch(path) is not None
        if scope["method"] not in ("GET", "HEAD") and not is_form:
            return 405, "strata explore only reads: GET.\n"
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return 403, REFUSED_HOST
        if len(path) + len(scope["query_string"]) > LONGEST_TARGET_BYTES:
            return 414, f"An address is at most {LONGEST_TARGET_BYTES} bytes long.\n"
        first = path.removeprefix(b"/").partition(b"/")[0]
        if not hmac.compare_digest(first, self.token):
            return 403, NEEDS_TOKEN
        return _refused_form(scope, hosts[0].lower()) if is_form else None


def _refused_form(scope: Scope, host: bytes) -> tuple[int, str] | None:
    """Status and words, where a form is refused: one that no page of this app sent, of another type, or too long."""
    origins, sites = _values(scope, b"origin"), _values(scope, b"sec-fetch-site")
    if [origin.lower() for origin in origins] != [b"http://" + host] or sites not in ([], [b"same-origin"]):
        return 403, REFUSED_ORIGIN
    types = _values(scope, b"content-type")
    if len(types) != 1 or types[0].partition(b";")[0].strip().lower() != FORM_TYPE:
        return 415, "A form is sent as application/x-www-form-urlencoded.\n"
    lengths = _values(scope, b"content-length")
    if len(lengths) != 1 or not lengths[0].isdigit():
        return 411, "A form says how long it is.\n"
    if len(lengths[0]) > 9 or int(lengths[0]) > LONGEST_BODY_BYTES:
        return 413, f"A form is at most {LONGEST_BODY_BYTES} bytes long.\n"
    return None


def _values(scope: Scope, header: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == header]


def allowed_hosts(port: int) -> frozenset[bytes]:
    """What a Host header may say: names of this machine's loopback, with the port; without it where browsers leave
    it out, for 80.
    """
    names = (b"127.0.0.1", b"localhost", b"[::1]")
    with_port = {b"%s:%d" % (name, port) for name in names}
    return frozenset(with_port | set(names) if port == 80 else with_port)


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_encoded(HEADERS)]
        await send(message)

    return sent


async def _plain(send: Send, status: int, words: str) -> None:
    body = words.encode()
    own = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    headers = (
        own | HEADERS | {"content-security-policy": WITHOUT_PAGE} | ({"allow": "GET, HEAD"} if status == 405 else {})
    )
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
