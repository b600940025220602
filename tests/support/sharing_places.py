"""Empty places to push to: a folder, a bucket of moto's S3, repositories of a hub that is a fake."""

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from strata_sae.stores.remote.transports import Target
from support.fake_hub import TOKEN, FakeHub
from support.lying_server import serving
from support.waiting import wait_until

HUB = {"hub": "hf://datasets/me/acts/one", "models": "hf://me/saes/one"}


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A moto server's address."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed (it belongs to the extra `dev`)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(port), server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
        log.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(FakeHub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of the kind `request.param`, by URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    if request.param == "folder":
        return str(tmp_path / "there")
    if request.param in HUB:
        request.getfixturevalue("hub")
        return HUB[request.param]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    endpoint = request.getfixturevalue("s3")
    for name, value in {
        "ENDPOINT_URL": endpoint,
        "ACCESS_KEY_ID": "k",
        "SECRET_ACCESS_KEY": "s",
        "REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    import urllib.request

    bucket = "b" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
    return f"s3://{bucket}/some/prefix"


class Watched:
    """A target that notes what is sent, and can die."""

    def __init__(self, target: Target, die_after: int = -1) -> None:
        self._target, self._die_after = target, die_after
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def send(self, files: list[tuple[str, Path]], advance: Callable[[int], None]) -> None:
        for file in files:
            if len(self.sent) == self._die_after:
                raise KeyboardInterrupt
            self.sent.append(file[0])
            self._target.send([file], advance)

    def send_new(self, path: str, data: bytes) -> bool:
        self.sent.append(path)
        return self._target.send_new(path, data)
