"""A hub of model repositories that are only read: as much of its HTTP interface as the hub's own client asks for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_fake"


class ModelHub(ThreadingHTTPServer):
    """`commits[repository]`: trees, path -> bytes; commits are named by their index, and the last is main's."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, list[dict[str, bytes]]] = {}


@contextmanager
def serving_models() -> Iterator[ModelHub]:
    server = ModelHub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ModelHub

    def _answer(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        value, code, headers = self._found(parts[2:] if parts[0] == "api" else parts)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _found(self, parts: list[str]) -> tuple[Any, int, dict[str, str]]:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return {"error": "log in"}, 401, {}
        repository, command, revision = "/".join(parts[:2]), *[*parts[2:], "", ""][:2]
        trees = self.server.commits.get(repository)
        if trees is None or not (revision == "main" or revision.isdigit()):
            return {}, 404, {"X-Error-Code": "RepoNotFound" if trees is None else "RevisionNotFound"}
        index = int(revision) if revision.isdigit() else len(trees) - 1
        if command == "revision":
            return {"id": repository, "sha": f"{index:040d}"}, 200, {}
        if command == "tree":
            listed = [
                {"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in trees[index].items()
            ]
            return listed, 200, {}
        data = trees[index].get("/".join(parts[4:]))
        if data is None:
            return b"", 404, {"X-Error-Code": "EntryNotFound"}
        return data, 200, {"X-Repo-Commit": f"{index:040d}", "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    do_GET = do_HEAD = _answer
