"""A web server for a folder, with ranges and a count of what it sent; and it can be told to lie."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class LyingServer(ThreadingHTTPServer):
    """Serves `root`; `lies[path]` are told one a request, in order, until none is left."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lies: dict[str, deque[str]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        """Header lines by path, instead of the usual ones of these names; what is not latin-1 cannot be sent."""
        self.sent: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.ranges = True
        self.stall_seconds = 5.0
        self.bytes_per_second = float("inf")
        self.holds: Callable[[], bool] = lambda: False
        """While it is true, requests that come in get no answer until the server ends."""
        self.ended = threading.Event()

    def lie(self, path: str, *lies: str) -> None:
        """Tell these lies about a file, one a request."""
        self.lies[path] = deque(lies)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no failure here."""


class _Handler(BaseHTTPRequestHandler):
    server: LyingServer

    def do_GET(self) -> None:
        if self.server.holds():
            self.server.ended.wait()
            self.close_connection = True
            return
        path = unquote(self.path).lstrip("/")
        self.server.requests[path] += 1
        told = self.server.lies.get(path)
        lie = told.popleft() if told else ""
        if lie.isdigit() or not (self.server.root / path).is_file():
            self.send_response(int(lie or 404))
            self._end_headers(path, {"Content-Length": "0"})
            return
        data = (self.server.root / path).read_bytes()
        start, stop = 0, len(data)
        range_ = self.headers.get("Range", "")
        if range_ and self.server.ranges and lie != "no ranges":
            first, _, last = range_.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, stop) if last else stop
            self.send_response(206)
            shift = lie == "another range"
            range_headers = {"Content-Range": f"bytes {start + shift}-{stop - 1 + shift}/{len(data)}"}
        else:
            self.send_response(200)
            range_headers = {}
        self._send(path, data[start:stop], lie, range_headers)

    def _send(self, path: str, body: bytes, lie: str, range_headers: dict[str, str]) -> None:
        if lie == "flipped byte":
            body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
        body = {"shorter": body[:-1], "longer": body + b"x"}.get(lie, body)
        modified = {"Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT", "ETag": '"0"'}  # clients of S3 want both
        length = {"Content-Length": str(2**60 if lie == "endless" else len(body))}
        self._end_headers(path, range_headers | modified | length)
        while lie == "endless":
            self._write(path, bytes(2**20))
        if lie in ("broken", "stall"):
            self._write(path, body[: len(body) // 2])
            time.sleep(self.server.stall_seconds if lie == "stall" else 0)
            self.close_connection = True
        else:
            self._write(path, body)

    def _end_headers(self, path: str, usual: dict[str, str]) -> None:
        for name, value in (usual | self.server.headers.get(path, {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _write(self, path: str, data: bytes) -> None:
        for first in range(0, len(data), 65536):
            piece = data[first : first + 65536]
            self.wfile.write(piece)
            self.server.sent[path] += len(piece)
            if self.server.bytes_per_second < float("inf"):
                time.sleep(len(piece) / self.server.bytes_per_second)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    """Runs a server in a thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        if isinstance(server, LyingServer):
            server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
