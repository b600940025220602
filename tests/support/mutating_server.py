"""A web server for a folder whose answer about one file is damaged: status, headers, body."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from support.mutations import mutated_bytes

HEADERS = ["Content-Length", "Content-Range", "ETag", "Last-Modified", "Retry-After", "Location", "Transfer-Encoding",
           "Content-Encoding", "Content-Type", "Connection"]  # fmt: skip
VALUES = [b"", b"-1", b"0", b"1", b"9" * 5000, b"\xb2", b"x", b"bytes 0-1/2", b"bytes */0", b"bytes 5-1/9", b"gzip",
          b"chunked", b"close", b"http://[x/", b"http://a..b/", b"http://" + b"a" * 70 + b".com/", b"file:///etc/passwd",
          b"/", b"//", b'"other"', b"\xff\xfe", b"inf", b"1e9", b" 7 ", b"+7"]  # fmt: skip
STATUSES = [100, 199, 200, 204, 206, 301, 302, 307, 400, 401, 403, 404, 408, 412, 416, 429, 500, 503, 599, 999]


class MutatingServer:
    """Serves `root`; `mutate` chooses the damage to every answer about one file, `honest` ends it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self._name, self._kind, self._rng = "", "", random.Random(0)

    def mutate(self, name: str, rng: random.Random) -> str:
        """Damage the answers about `name` from now on. Returns: how."""
        self._name, self._rng = name, random.Random(rng.random())
        self._status, self._header = rng.choice(STATUSES), (rng.choice(HEADERS), rng.choice(VALUES))
        self._kind = rng.choice(["status", "header", "header", "header", "body", "body", "hang up"])
        return {"status": f"status {self._status}", "header": f"header {self._header!a}"}.get(self._kind, self._kind)

    def honest(self) -> None:
        """Tell the truth about every file."""
        self._name = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve from a free port, in a thread."""
        handler = type("Handler", (_Handler,), {"owner": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, path: str, range_: str) -> tuple[int, dict[str, bytes], bytes]:
        """Status, headers and body for a file."""
        file = self.root / path
        if not file.is_file():
            return 404, {"Content-Length": b"0"}, b""
        data, status, headers = file.read_bytes(), 200, {}
        if range_:
            first, _, last = range_.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, len(data)) if last else len(data)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}".encode()
            data, status = data[start:stop], 206
        headers |= {"ETag": b'"0"', "Last-Modified": b"Thu, 01 Jan 1970 00:00:00 GMT"}
        headers["Content-Length"] = str(len(data)).encode()
        if path != self._name:
            return status, headers, data
        if self._kind == "status":
            status = self._status
        elif self._kind == "header":
            headers[self._header[0]] = self._header[1]
        elif self._kind == "body":
            data = mutated_bytes(self._rng, data)[0]
            headers["Content-Length"] = str(len(data)).encode()
        elif self._kind == "hang up":
            data = data[: len(data) // 2]
        return status, headers, data


class _Handler(BaseHTTPRequestHandler):
    owner: MutatingServer

    def do_GET(self) -> None:
        path = unquote(self.path).lstrip("/")
        status, headers, data = self.owner.answer(path, self.headers.get("Range", ""))
        head = f"HTTP/1.0 {status} x\r\n".encode()
        for name, value in headers.items():
            head += name.encode() + b": " + value + b"\r\n"
        self.wfile.write(head + b"\r\n" + data)
        self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
