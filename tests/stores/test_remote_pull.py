"""S7, D3: whatever a server does, a pulled store is the very store, or there is none and the reason is named."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from strata_sae.stores import ActivationStore, StoreError, verify
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.remote.fetching import Fetcher
from strata_sae.stores.remote.http import HttpSource
from strata_sae.stores.remote.pull import pull
from strata_sae.stores.remote.transports import RetryPolicy
from support.lying_server import LyingServer, serving
from support.small_store import build_store
from support.waiting import wait_until

SITE = "blocks.1.hook_resid_post"
SHARD = f"activations.zarr/sites/{SITE}/values/c/0/0"
COMMIT = "commits/000/000000.json"
HASTY = RetryPolicy(stall_seconds=600, attempts=4, pause_seconds=0.005, grace_seconds=600)
STALLED = replace(HASTY, stall_seconds=0.2)
"""Only for a server that stalls: one on a busy machine may be as slow."""
STUBBORN = replace(STALLED, attempts=10_000)
"""For one that stalls and then does not, but may look as if it did."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("remote") / "honest", 1000, {SITE: 16})


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(honest: Path) -> Iterator[LyingServer]:
    with serving(LyingServer(honest)) as server:
        yield server


def files_of(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def test_a_pulled_store_is_the_very_store(server: LyingServer, honest: Path, tmp_path: Path) -> None:
    out, moved, announced = tmp_path / "out", [], []
    store_id = pull(server.url, out, policy=HASTY, announce=announced.append, advance=moved.append)
    assert store_id == ActivationStore.open(honest).id == ActivationStore.open(out).id
    assert verify(out, deep=True) == []
    assert files_of(out) == files_of(honest)
    assert [sum(moved)] == announced
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not any(path.stat().st_mode & 0o222 for path in out.rglob("*") if path.is_file())
    requests = server.requests.copy()
    assert pull(server.url, out, policy=HASTY) == store_id  # again: only the MANIFEST is looked at
    assert (server.requests - requests) == {"MANIFEST.json": 1}


def test_a_store_comes_from_a_folder_and_from_a_server_without_ranges(
    server: LyingServer, honest: Path, tmp_path: Path
) -> None:
    store_id = ActivationStore.open(honest).id
    assert pull(honest, tmp_path / "by path") == store_id
    assert pull(honest.as_uri(), tmp_path / "by url") == store_id
    server.ranges = False
    assert pull(server.url, tmp_path / "without ranges", policy=HASTY) == store_id


LIES = ["flipped byte", "shorter", "longer", "broken", "stall", "503", "429"]


@pytest.mark.parametrize("path", [SHARD, COMMIT, "plan.json", "extras/token_bytes.json"])
@pytest.mark.parametrize("lie", LIES)
def test_passing_lies_are_outlived(server: LyingServer, honest: Path, tmp_path: Path, path: str, lie: str) -> None:
    server.lie(path, lie, lie)
    moved: list[int] = []
    pull(server.url, tmp_path / "out", policy=STUBBORN if lie == "stall" else HASTY, advance=moved.append)
    assert files_of(tmp_path / "out") == files_of(honest)
    assert sum(moved) == sum(entry["bytes"] for entry in recorded(honest).values())
    assert not server.lies[path]


def recorded(store: Path) -> dict[str, dict[str, int]]:
    records = dict(json.loads((store / "plan.json").read_bytes())["files"])
    for commit in (store / "commits").rglob("*.json"):
        records |= json.loads(commit.read_bytes())["files"]
    return records


@pytest.mark.parametrize("lie", ["flipped byte", "shorter", "longer"])
def test_lasting_lies_name_the_file_and_leave_no_store(server: LyingServer, tmp_path: Path, lie: str) -> None:
    server.lie(SHARD, *[lie] * 99)
    with pytest.raises(StoreError, match=r"values/c/0/0: expected .* got .*4 times") as caught:
        pull(server.url, tmp_path / "out", policy=HASTY)
    assert server.requests[SHARD] == 4
    assert not (tmp_path / "out").exists()
    quarantine = tmp_path / ".out.pulling/quarantine"
    assert str(quarantine) in str(caught.value)
    assert len(list(quarantine.iterdir())) == 4
    server.lies.clear()
    requests = server.requests.copy()
    pull(server.url, tmp_path / "out", policy=HASTY)
    assert server.requests[SHARD] - requests[SHARD] == 1
    assert server.requests[COMMIT] == requests[COMMIT], "what was verified is not fetched again"
    assert not quarantine.exists()


@pytest.mark.parametrize(("lie", "words"), [("404", "not there"), ("503", "503"), ("403", "403"), ("stall", "no byte")])
def test_a_file_that_cannot_be_had_is_an_error_never_zeros(
    server: LyingServer, tmp_path: Path, lie: str, words: str
) -> None:
    server.ranges = lie != "stall"  # with ranges, each attempt would come a little further
    server.lie(SHARD, *[lie] * 99)
    with pytest.raises(StoreError, match=words):
        pull(server.url, tmp_path / "out", policy=STALLED if lie == "stall" else HASTY)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lie", [*LIES, "500"])
def test_passing_lies_of_an_object_store_are_outlived(
    server: LyingServer, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"ENDPOINT_URL": server.url, "SKIP_SIGNATURE": "true", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server.root = honest.parent.parent
    path = f"{honest.parent.name}/honest/{SHARD}"
    server.lie(path, lie, lie)
    policy = STUBBORN if lie == "stall" else HASTY
    pull(f"s3://{honest.parent.name}/honest", tmp_path / "out", policy=policy)
    assert files_of(tmp_path / "out") == files_of(honest)
    assert not server.lies[path]
    server.lie(path, *["404"] * 9)
    with pytest.raises(StoreError, match="not there"):
        pull(f"s3://{honest.parent.name}/honest", tmp_path / "other", policy=HASTY)


class FullDisk(FileSystem):
    """Has no room for the step `at`, and a count of all."""

    def __init__(self, at: int) -> None:
        self.steps, self._at = 0, at

    def _step(self, *_: object) -> None:
        self.steps += 1
        if self.steps == self._at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        self._step()
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self._step()
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def make_folder(self, path: Path) -> None:
        self._step()
        super().make_folder(path)


def test_a_full_disk_is_said_and_the_pull_goes_on(honest: Path, tmp_path: Path) -> None:
    counting = FullDisk(0)
    pull(honest, tmp_path / "all", files=counting)
    for at in range(1, counting.steps + 1, 23):
        out = tmp_path / str(at)
        with pytest.raises(StoreError, match="No space left"):
            pull(honest, out, files=FullDisk(at))
        assert not out.exists()
        pull(honest, out)
        assert files_of(out) == files_of(honest)


def test_more_than_the_disk_holds_is_not_begun(
    server: LyingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(StoreError, match="its disk has 1,000 free"):
        pull(server.url, tmp_path / "out", policy=HASTY)
    assert SHARD not in server.requests


def test_control_a_client_that_does_not_check_accepts_the_lies(server: LyingServer, honest: Path) -> None:
    for lie in ("flipped byte", "shorter", "longer"):
        server.lie(SHARD, lie)
        with urllib.request.urlopen(f"{server.url}/{SHARD}") as response:
            assert response.read() != (honest / SHARD).read_bytes()
    assert not server.lies[SHARD]


def test_a_drop_by_drop_server_is_given_up(server: LyingServer) -> None:
    server.bytes_per_second = 65536
    slow = RetryPolicy(
        stall_seconds=600, attempts=2, pause_seconds=0.01, grace_seconds=0.1, slowest_bytes_per_second=1e9
    )
    (server.root.parent / "big").mkdir()
    (server.root.parent / "big" / "file").write_bytes(bytes(2**19))
    server.root = server.root.parent / "big"
    with pytest.raises(StoreError, match="less than"):
        list(Fetcher(HttpSource(server.url, slow), slow).pieces("file", 2**19))


def test_a_broken_connection_is_taken_up_where_it_broke(server: LyingServer, honest: Path, tmp_path: Path) -> None:
    server.lie(SHARD, "broken", "broken", "broken")
    pull(server.url, tmp_path / "out", policy=HASTY)
    assert server.sent[SHARD] == (honest / SHARD).stat().st_size, "no byte was sent twice"


def test_the_expected_id_is_compared(server: LyingServer, honest: Path, tmp_path: Path) -> None:
    store_id = ActivationStore.open(honest).id
    assert pull(server.url, tmp_path / "out", expected_id=store_id, policy=HASTY) == store_id
    for wrong in ("0" * 64, "main", ""):
        with pytest.raises(StoreError, match="expected"):
            pull(server.url, tmp_path / "other", expected_id=wrong, policy=HASTY)
    assert not (tmp_path / "other").exists()


def test_what_is_in_the_way_stays(server: LyingServer, make_store: Callable[..., Path], tmp_path: Path) -> None:
    other = make_store("other", n_rows=200)
    before = files_of(other)
    with pytest.raises(StoreError, match="another store"):
        pull(server.url, other, policy=HASTY)
    assert files_of(other) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("x")
    with pytest.raises(StoreError, match="no empty folder"):
        pull(server.url, tmp_path / "full", policy=HASTY)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError):
        pull(server.url, tmp_path / "link", policy=HASTY)
    (tmp_path / ".new.pulling").symlink_to(tmp_path / "full")
    with pytest.raises(StoreError, match="link"):
        pull(server.url, tmp_path / "new", policy=HASTY)
    (tmp_path / "empty").mkdir()
    pull(server.url, tmp_path / "empty", policy=HASTY)


def test_leavings_of_another_store_do_not_mix_in(
    server: LyingServer, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    server.lie(SHARD, *["404"] * 9)
    with pytest.raises(StoreError):
        pull(server.url, tmp_path / "out", policy=HASTY)
    other = make_store("other", n_rows=200, sites={"blocks.2.hook_mlp_out": 8})
    pull(other, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(other)


def test_an_unfinished_store_is_not_pulled(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store = make_store()
    (store / "MANIFEST.json").unlink()
    with pytest.raises(StoreError, match="no finished store"):
        pull(store, tmp_path / "out")


PULL = """
import sys
from pathlib import Path
from strata_sae.stores.remote.pull import pull
from strata_sae.stores.remote.transports import RetryPolicy
print(pull(sys.argv[1], Path(sys.argv[2]), policy=RetryPolicy(pause_seconds=0.01)))
"""


def test_kills_lose_nothing_that_was_verified(tmp_path: Path) -> None:
    n_kills = int(os.environ.get("STRATA_PULL_KILLS", "3"))
    honest = build_store(
        tmp_path / "served" / "honest", 3000, {SITE: 64, "blocks.2.hook_resid_post": 64}, shard_bytes=2**15
    )
    with serving(LyingServer(honest)) as server:
        kills, out = 0, tmp_path / "out"
        while True:
            # Once so many files have landed nothing more is answered, so that the pull cannot end before it is killed.
            target = _landed(tmp_path) + 3 + kills % 5 if kills < n_kills else 10**9
            server.holds = lambda target=target: _landed(tmp_path) >= target
            child = subprocess.Popen([sys.executable, "-c", PULL, server.url, str(out)], stdout=subprocess.PIPE)
            if kills < n_kills:
                wait_until(lambda child=child: server.holds() or child.poll() is not None)
                child.kill()
                kills += child.wait() == -signal.SIGKILL
            printed, _ = child.communicate()
            assert not out.exists() or verify(out, deep=True) == []
            if child.returncode == 0:
                break
        assert kills >= min(n_kills, 3)
        assert printed.decode().strip() == ActivationStore.open(out).id
        assert files_of(out) == files_of(honest)
        total = sum(path.stat().st_size for path in honest.rglob("*") if path.is_file())
        repeated = sum(server.sent.values()) - total
        in_flight = 8 * max(path.stat().st_size for path in honest.rglob("*") if path.is_file())
        assert repeated < kills * (in_flight + (honest / "MANIFEST.json").stat().st_size)
    assert not list(tmp_path.glob(".out*"))


def _landed(folder: Path) -> int:
    return sum(path.is_file() for path in folder.glob(".out.pulling/store/**/*"))


def test_two_pulls_into_one_folder_do_not_meet(server: LyingServer, tmp_path: Path) -> None:
    server.lie("plan.json", "stall")
    server.stall_seconds = 600.0
    child = subprocess.Popen([sys.executable, "-c", PULL, server.url, str(tmp_path / "out")], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: server.requests["plan.json"], child)  # asked for by who has the folder
        with pytest.raises(StoreError, match="another process"):
            pull(server.url, tmp_path / "out", policy=HASTY)
    finally:
        child.kill()
        child.wait()
    pull(server.url, tmp_path / "out", policy=HASTY)
    shutil.rmtree(tmp_path / "out")
