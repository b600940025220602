"""What a server says is text from anybody: right bytes or one line of a StoreError, whatever it says."""

import ast
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from strata_sae.stores import StoreError
from strata_sae.stores.remote import http
from strata_sae.stores.remote.fetching import Fetcher
from strata_sae.stores.remote.transports import RetryPolicy, open_source, split_url
from support.lying_server import LyingServer, serving

ROOT = Path(__file__).resolve().parents[2]
HASTY = RetryPolicy(stall_seconds=2, attempts=2, pause_seconds=0.001, grace_seconds=20)
DATA = bytes(range(256)) * 8
NUMBERS = ["\xb2", "9" * 5000, "-5", "1e3", "", " 7 ", "+7", "0x10", "7" * 19, "\xbc", "nan", "inf", "7;8"]
ADDRESSES = [
    "http://[x/",
    f"http://{'a' * 70}.com/",
    "http://a..b/",
    "http://127.0.0.1:99999999/",
    "http://127.0.0.1:x/",
    "http:///",
    "//[",
    "file:///etc/passwd",
    "ftp://127.0.0.1/",
    "http://\xe9\xb2/",
    "http://127.0.0.1:1/\x7f",
    "?" * 5000,
]
TEXTS = ["\xff" * 200, "x" * 5000, '"', "W/", "\xb2"]
HOSTILE = {
    "Content-Length": NUMBERS,
    "Retry-After": NUMBERS,
    "Content-Range": [
        *NUMBERS,
        *(f"bytes {number}-{number}/{number}" for number in NUMBERS),
        *(f"bytes 100-{number}/2048" for number in NUMBERS),
        "bytes 100-299/*",
    ],
    "Content-Encoding": [*TEXTS, "gzip", "identity, identity"],
    "ETag": TEXTS,
    "Last-Modified": TEXTS,
}
READ_BY_THE_STANDARD_LIBRARY = {"Location": ADDRESSES, "Transfer-Encoding": ["chunked", *TEXTS]}
"""The server's body is no chunks: what is read as their sizes is anything."""
NUMBERS_FROM_ELSEWHERE = {
    ("buckets.py", "int(found[1])"): "three digits",
    ("http.py", "float(_number(error.headers, 'Retry-After') or 0)"): "tried below, as the other headers are",
    ("http.py", "int(found[1])"): "the same",
    ("http.py", "int(found[2])"): "the same",
    ("http.py", "int(text)"): "the same",
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "stores" / "remote").glob("*.py")):
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))


def test_every_header_that_is_read_is_tried() -> None:
    read = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and "headers" in [
                getattr(part, "id", None) or getattr(part, "attr", None)
                for part in (*node.args, getattr(node.func, "value", None))
            ]:
                read |= {part.value for part in node.args[:2] if isinstance(part, ast.Constant) and part.value}
    assert {name for name in read if isinstance(name, str) and name != "identity"} == set(HOSTILE)


def test_every_number_made_of_text_is_known() -> None:
    found = {
        (name, ast.unparse(node))
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("int", "float")
    }
    assert found == set(NUMBERS_FROM_ELSEWHERE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LyingServer]:
    root = tmp_path_factory.mktemp("served")
    (root / "file").write_bytes(DATA)
    with serving(LyingServer(root)) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


CASES = [(name, value) for name, values in (HOSTILE | READ_BY_THE_STANDARD_LIBRARY).items() for value in values]


@pytest.mark.parametrize("status", ["", "503", "302", "404"])
def test_right_bytes_or_one_line(server: LyingServer, status: str) -> None:
    """All values in one test: they are many, and each takes a millisecond."""
    outcomes = {"right": 0, "refused": 0}
    messages = []
    for name, value in CASES:
        for part in (False, True):
            server.headers["file"] = {name: value}
            server.lie("file", *[status] * 2 if status else [])
            fetcher = Fetcher(open_source(server.url, HASTY), HASTY)
            try:
                data = fetcher.get_range("file", 100, 200) if part else b"".join(fetcher.pieces("file", 0))
            except StoreError as error:
                outcomes["refused"] += 1
                messages.append(str(error))
            else:
                # Bytes of another length or place are for the sha256 to find; of a part, nothing but its own bytes.
                assert bytes(data) == DATA[100:300] if part else bytes(data) in DATA
                outcomes["right"] += 1
    server.headers.clear()
    assert outcomes["refused"] > 20
    assert all("\n" not in message and len(message) < 1500 for message in messages)
    print(f"{status or 'answers with the file'}: {outcomes}")


def test_control_some_values_raise_what_is_no_web_error(server: LyingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_WEB_ERRORS", (OSError, HTTPException))
    server.lie("file", "302")
    monkeypatch.setitem(server.headers, "file", {"Location": "http://[x/"})
    with pytest.raises(ValueError, match="Invalid IPv6"):
        open_source(server.url, HASTY).get_range("file", 0, 1)


@pytest.mark.parametrize("url", [address for address in ADDRESSES if address.startswith("http")])
def test_the_same_addresses_given_by_the_user(url: str) -> None:
    with pytest.raises(StoreError):
        Fetcher(open_source(url, HASTY), HASTY).get("MANIFEST.json")


def test_a_url_that_is_none_keeps_its_secret() -> None:
    with pytest.raises(StoreError, match="is no URL") as caught:
        split_url("https://me:secret@[x/")
    assert "secret" not in str(caught.value)
