"""Who may ask the app, and what an answer allows a page to do: a guard around it that sees every request first.

The app shows a person's data to whoever may open its address, so four things are asked of a request: a method that
only reads; a Host that names this machine and this port, since a stranger's domain can be made to point at 127.0.0.1
while a browser takes the page for the stranger's (DNS rebinding); a bounded length; and the token of this start.
The token is the first part of every address rather than a cookie: cookies are shared by all ports of a host, so other
servers on this machine would be sent it, and two apps would overwrite each other's. Addresses leak by referrers, which
the pages forbid.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_TARGET_BYTES = 4096
"""Of an address with its query. Names of runs and SAEs are at most 255 bytes each, thrice that when quoted."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer, beside the content security policy."""
WITHOUT_PAGE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
NEEDS_TOKEN = "Open the address that strata explore printed when it started: it holds a token, which this one lacks.\n"
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
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "strata explore only reads: GET.\n"
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return 403, REFUSED_HOST
        path = scope.get("raw_path") or scope["path"].encode()
        if len(path) + len(scope["query_string"]) > LONGEST_TARGET_BYTES:
            return 414, f"An address is at most {LONGEST_TARGET_BYTES} bytes long.\n"
        first = path.removeprefix(b"/").partition(b"/")[0]
        return None if hmac.compare_digest(first, self.token) else (403, NEEDS_TOKEN)


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
