"""A hub in memory: as much of its HTTP interface as making, filling, reading and asking for the commit takes."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_fake"
LFS_BYTES = 2000


class FakeHub(ThreadingHTTPServer):
    """`commits[repository]`: trees, path -> bytes; a commit's name is its index, as 40 digits.

    `heads[repository]`: branch -> index of its last commit; without it the last of all is main's.
    `kinds[repository]`: dataset or model; the other kind does not see it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = f"http://localhost:{self.server_port}/lfs"  # another host, as far as tokens are concerned
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.heads: dict[str, dict[str, int]] = {}
        self.kinds: dict[str, str] = {}
        self.asked: list[str] = []
        """Every request: its line and its headers, but for the one header in which the token may stand."""
        self.private: dict[str, bool] = {}
        self.messages: list[tuple[str, list[str]]] = []
        self.objects: dict[str, bytes] = {}
        self.forget: set[str] = set()  # paths that commits leave out, as with a .gitignore


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: text for name, text in self.headers.items() if name.lower() != "authorization"}
        self.server.asked.append(f"{self.requestline} {headers} {body!r}")
        answer = self._lfs(path[4:], body) if path.startswith("lfs/") else self._api(path, body)
        value, code, headers = (*answer, 200, {}) if len(answer) == 1 else answer
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def _api(self, path: str, body: bytes) -> tuple[Any, ...]:
        hub = self.server
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return {"error": "log in"}, 401, {}
        if path == "api/validate-yaml":
            return ({"errors": [], "warnings": []},)
        if path == "api/repos/create":
            return self._create(json.loads(body))
        kind, path = _kind(path)
        user, name, *rest = path.split("/")
        repo = f"{user}/{name.removesuffix('.git')}"
        command, revision = [*rest, "revision", "main"][:2] if rest else ("revision", "main")
        if repo not in hub.commits or hub.kinds.get(repo, kind) != kind:
            return {}, 404, {"X-Error-Code": "RepoNotFound"}
        heads = {"main": len(hub.commits[repo]) - 1} | hub.heads.get(repo, {})
        if command == "branch":
            hub.heads[repo] = {revision: int(json.loads(body)["startingPoint"])} | heads
            return ({},)
        if command == "commits":
            told = {"title": "x", "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
            return ([told | {"id": f"{number:040d}"} for number in reversed(range(heads["main"] + 1))],)
        if command != "info" and revision not in heads and not revision.isdigit():
            return {}, 404, {"X-Error-Code": "RevisionNotFound"}
        index = int(revision) if revision.isdigit() else heads.get(revision, heads["main"])
        tree = hub.commits[repo][index]
        if command == "revision":
            return ({"id": repo, "sha": f"{index:040d}"},)
        if command == "tree":
            return ([_file(path, data) for path, data in tree.items()],)
        if command == "resolve":
            path = "/".join(rest[2:])
            key = self._keep(tree[path]) if path in tree else ""
            return (
                (b"", 302, {"Location": f"{hub.elsewhere}/{key}", **_about(index, key, tree[path])})
                if key
                else (b"", 404, {"X-Error-Code": "EntryNotFound"})
            )
        if command == "preupload":
            files = [(file["path"], file["size"] > LFS_BYTES) for file in json.loads(body)["files"]]
            names = {False: "regular", True: "lfs"}
            return (
                {"files": [{"path": path, "uploadMode": names[lfs], "shouldIgnore": False} for path, lfs in files]},
            )
        if command == "info":  # <repository>.git/info/lfs/objects/batch
            objects = json.loads(body)["objects"]
            return (
                {"objects": [o | {"actions": {"upload": {"href": f"{hub.elsewhere}/{o['oid']}"}}} for o in objects]},
            )
        header, *lines = (json.loads(line)["value"] for line in body.splitlines())
        if int(header.get("parentCommit", index)) != index:
            return {"error": "somebody has committed since"}, 412, {}
        added = {v["path"]: base64.b64decode(v["content"]) if "content" in v else hub.objects[v["oid"]] for v in lines}
        hub.commits[repo].append(tree | {path: data for path, data in added.items() if path not in hub.forget})
        hub.messages.append((header["summary"], sorted(added)))
        new = len(hub.commits[repo]) - 1
        if repo in hub.heads:
            hub.heads[repo][revision] = new
        return ({"commitUrl": f"{hub.url}/datasets/{repo}/commit/x", "commitOid": f"{new:040d}"},)

    def _create(self, wanted: dict[str, Any]) -> tuple[Any, ...]:
        hub, name = self.server, f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        hub.private.setdefault(name, wanted.get("private") or wanted.get("visibility") == "private")
        hub.kinds.setdefault(name, wanted.get("type") or "model")
        code = 409 if name in hub.commits else 200
        hub.commits.setdefault(name, [{".gitattributes": b""}])
        return {"url": f"{hub.url}/datasets/{name}"}, code, {}

    def _lfs(self, key: str, body: bytes) -> tuple[Any, ...]:
        assert "Authorization" not in self.headers, "the token was sent to another host"
        if self.command == "PUT":
            return ({"key": self._keep(body)},)
        data, range_ = self.server.objects[key], self.headers.get("Range", "")
        first, _, last = range_.removeprefix("bytes=").partition("-")
        start, stop = int(first or 0), int(last or len(data) - 1) + 1
        about = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} if range_ else {}
        return data[start:stop], 206 if range_ else 200, about

    def _keep(self, data: bytes) -> str:
        key = hashlib.sha256(data).hexdigest()
        self.server.objects[key] = data
        return key

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    do_GET = do_HEAD = do_POST = do_PUT = _route


def _kind(path: str) -> tuple[str, str]:
    """Of a path of the interface, or of a page's: dataset or model, and what follows."""
    path = path.removeprefix("api/")
    for kind in ("dataset", "model"):
        if path.startswith(f"{kind}s/"):
            return kind, path.removeprefix(f"{kind}s/")
    return "model", path


def _about(commit: int, key: str, data: bytes) -> dict[str, str]:
    """What the hub's own client asks of a file before it fetches it."""
    return {"X-Repo-Commit": f"{commit:040d}", "X-Linked-Etag": f'"{key}"', "X-Linked-Size": str(len(data))}


def _file(path: str, data: bytes) -> dict[str, Any]:
    lfs = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
    return {"type": "file", "path": path, "size": len(data), "oid": "0", **(lfs if len(data) > LFS_BYTES else {})}
