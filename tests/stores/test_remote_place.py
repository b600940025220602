"""Reading a store where it lies: no byte that is not read, no wrong byte, no zeros; and stores made to do harm."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, StoreError, verify
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.hashing import file_sha256, sha256
from strata_sae.stores.front.opening import Opened
from strata_sae.stores.reading.checking import read_contents
from strata_sae.stores.remote.pull import open_head, pull
from strata_sae.stores.remote.transports import RetryPolicy
from support.lying_server import LyingServer, serving
from support.small_store import build_store

SITES = {"blocks.1.hook_resid_post": 64, "blocks.2.hook_resid_post": 64, "blocks.3.hook_mlp_out": 64}
SITE = "blocks.1.hook_resid_post"
SHARD = f"activations.zarr/sites/{SITE}/values/c/0/0"
HASTY = RetryPolicy(stall_seconds=600, attempts=3, pause_seconds=0.005, grace_seconds=600)
STUBBORN = replace(HASTY, stall_seconds=0.2, attempts=10_000)
"""For a server that stalls and then does not; one on a busy machine may look as if it did."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("place") / "honest", 3000, SITES, chunk_bytes=2**14, shard_bytes=2**17)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(honest: Path) -> Iterator[LyingServer]:
    with serving(LyingServer(honest)) as server:
        yield server


def opened(url: str | Path, cache: Path) -> ActivationStore:
    """A store read from where it lies."""
    head = open_head(url, cache, policy=HASTY)
    return ActivationStore(
        Opened(head.folder, head.plan, read_contents(head.folder, head.plan), head.place, cache=None)
    )


def n_bytes(store: Path, *parts: str) -> int:
    """Bytes of the files under some of a store's folders."""
    return sum(path.stat().st_size for part in parts for path in (store / part).rglob("*") if path.is_file())


def test_reading_one_site_of_three_moves_its_bytes_alone(server: LyingServer, honest: Path, tmp_path: Path) -> None:
    remote, local = opened(server.url, tmp_path), ActivationStore.open(honest)
    assert remote.id == local.id
    head = sum(server.sent.values())
    assert head <= sum(path.stat().st_size for path in honest.rglob("*.json") if path.name != "zarr.json")
    assert not any("/c/" in path for path in server.sent), "opening moves no rows"
    rows = np.concatenate([remote.rows(SITE, first, min(first + 256, 3000)) for first in range(0, 3000, 256)])
    np.testing.assert_array_equal(rows, local.rows(SITE, 0, 3000))
    np.testing.assert_array_equal(remote.token_map("token_id", 0, 3000), local.token_map("token_id", 0, 3000))
    assert remote.vocabulary == local.vocabulary
    tokens, site = n_bytes(honest, "activations.zarr/tokens"), n_bytes(honest, f"activations.zarr/sites/{SITE}")
    moved = sum(server.sent.values())
    assert moved <= 1.02 * (head + tokens + site)
    assert not any(other in path for path in server.sent for other in SITES if other != SITE and "/c/" in path)


def test_a_few_rows_move_a_few_chunks(server: LyingServer, tmp_path: Path) -> None:
    remote = opened(server.url, tmp_path)
    before = sum(server.sent.values())
    remote.rows(SITE, 1000, 1010)
    assert sum(server.sent.values()) - before < 2 * 2**14


def test_a_head_is_fetched_once_and_checked_again(server: LyingServer, tmp_path: Path) -> None:
    store_id = opened(server.url, tmp_path).id
    requests = server.requests.copy()
    opened(server.url, tmp_path)
    assert server.requests - requests == {"MANIFEST.json": 1}
    folder = tmp_path / "heads" / store_id
    for name in (
        "commits/000/000000.json",
        "extras/token_bytes.json",
        "plan.json",
        f"activations.zarr/sites/{SITE}/values/zarr.json",
    ):
        (folder / name).chmod(0o644)
        (folder / name).write_bytes((folder / name).read_bytes()[:-2])
        assert opened(server.url, tmp_path).vocabulary
    (folder / "commits/000/000001.json").unlink()
    opened(server.url, tmp_path)
    assert [path.name for path in (tmp_path / "heads").iterdir()] == [store_id]


@pytest.mark.parametrize("lie", ["503", "broken", "stall", "429"])
def test_passing_failures_of_a_range_are_outlived(server: LyingServer, honest: Path, tmp_path: Path, lie: str) -> None:
    policy = STUBBORN if lie == "stall" else HASTY
    file = open_head(server.url, tmp_path, policy=policy).place.open(SHARD)
    server.lie(SHARD, lie, lie)
    assert file.read(1000, 5000).tobytes() == (honest / SHARD).read_bytes()[1000:6000]
    assert not server.lies[SHARD]


LASTING = {"404": "not there", "503": "503", "no ranges": "in parts", "another range": "answers 1001", "longer": "more"}


@pytest.mark.parametrize("lie", LASTING)
def test_wrong_ranges_are_errors_never_wrong_bytes(server: LyingServer, tmp_path: Path, lie: str) -> None:
    file = open_head(server.url, tmp_path, policy=HASTY).place.open(SHARD)
    server.lie(SHARD, *[lie] * 9)
    with pytest.raises(StoreError, match=LASTING[lie]):
        file.read(1000, 5000)


SAYINGS = {
    "ETag": ({"ETag": '"a"'}, {"ETag": '"b"'}),
    "ETag alone": ({"ETag": '"a"', "Last-Modified": ""}, {"ETag": '"b"', "Last-Modified": ""}),
    "time": ({"ETag": "", "Last-Modified": "yesterday"}, {"ETag": "", "Last-Modified": "today"}),
    "size": ({"ETag": ""}, {"ETag": "", "Content-Range": "bytes 1000-1999/7"}),
}


@pytest.mark.parametrize("said", SAYINGS)
def test_an_object_of_another_identity_is_refused(server: LyingServer, honest: Path, tmp_path: Path, said: str) -> None:
    file = open_head(server.url, tmp_path, policy=HASTY).place.open(SHARD)
    server.headers[SHARD], later = SAYINGS[said]
    for offset in (0, 5000, 1000):
        data = file.read(offset, 1000)
        assert data.tobytes() == (honest / SHARD).read_bytes()[offset : offset + 1000]
    server.headers[SHARD] = later
    with pytest.raises(StoreError, match=f"{SHARD}: was replaced while it is read"):
        file.read(1000, 1000)
    server.headers[SHARD] = SAYINGS[said][0]
    file.read(1000, 1000)


def test_a_server_that_says_nothing_of_an_object_is_believed(server: LyingServer, honest: Path, tmp_path: Path) -> None:
    file = open_head(server.url, tmp_path, policy=HASTY).place.open(SHARD)
    for headers in ({"ETag": "", "Last-Modified": ""}, {"ETag": 'W/"a"'}, {"ETag": '"a"'}):
        server.headers[SHARD] = headers
        assert file.read(7, 100).tobytes() == (honest / SHARD).read_bytes()[7:107]


def test_a_flipped_byte_in_a_range_is_found_by_the_chunk(server: LyingServer, tmp_path: Path) -> None:
    remote = opened(server.url, tmp_path)
    remote.rows(SITE, 0, 1)  # the shard's index and its first chunk
    server.lie(SHARD, *["flipped byte"] * 9)
    with pytest.raises(StoreError, match="checksum"):
        remote.rows(SITE, 70, 71)


def test_reading_outside_a_file_is_refused(server: LyingServer, tmp_path: Path) -> None:
    place = open_head(server.url, tmp_path, policy=HASTY).place
    file = place.open(SHARD)
    requests = server.requests.copy()
    for offset, size in ((-1, 2), (0, file.n_bytes + 1), (file.n_bytes, 1), (5, -1)):
        with pytest.raises(StoreError, match="leave"):
            file.read(offset, size)
    assert file.read(7, 0).size == 0
    with pytest.raises(StoreError, match="no file"):
        place.open("../secret")
    assert server.requests == requests
    assert not file.read(0, 10).flags.writeable


@pytest.mark.parametrize(("encoding", "compressor"), [("int8", "none"), ("bfloat16", "planes"), ("float16", "zstd")])
def test_every_encoding_travels(
    make_store: Callable[..., Path], tmp_path: Path, encoding: str, compressor: str
) -> None:
    store = make_store(n_rows=300, sites={SITE: 16}, encoding=encoding, compressor=compressor)
    assert pull(store, tmp_path / "out") == ActivationStore.open(store).id
    assert verify(tmp_path / "out", deep=True) == []
    remote = opened(store, tmp_path / "cache")
    np.testing.assert_array_equal(remote.rows(SITE, 90, 290), ActivationStore.open(store).rows(SITE, 90, 290))


Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def harmful(make_store: Callable[..., Path]) -> Path:
    store = make_store("harmful", n_rows=300, sites={SITE: 8}, compressor="zstd")
    for path in store.rglob("*.json"):
        path.chmod(0o644)
    return store


def rewrite(path: Path, edit: Edit) -> None:
    value = json.loads(path.read_bytes())
    edit(value)
    path.write_bytes(canonical_json(value))


def rewrite_commits(store: Path, edit: Edit) -> None:
    """Change every commit record, and make its own checksum and the MANIFEST's agree, as an attacker would."""
    for path in (store / "commits").rglob("*.json"):
        record = json.loads(path.read_bytes())
        del record["sha256"]
        edit(record)
        path.write_bytes(canonical_json(record | {"sha256": sha256(canonical_json(record))}))
        hashes = {str(path.relative_to(store)): file_sha256(path)}
        rewrite(store / "MANIFEST.json", lambda value, hashes=hashes: value["files"].update(hashes))


def rewrite_plan(store: Path, edit: Edit) -> None:
    rewrite(store / "plan.json", edit)
    plan_id = file_sha256(store / "plan.json")
    rewrite_commits(store, lambda record: record.update(plan_id=plan_id))
    rewrite(store / "MANIFEST.json", lambda value: value.update(plan_id=plan_id))


def huge(record: dict[str, Any]) -> None:
    for entry in record["files"].values():
        entry["bytes"] = 2**50


HARM: dict[str, Callable[[Path], None]] = {
    "site ../": lambda store: rewrite_plan(store, lambda plan: plan.update(sites={"../../etc": 8})),
    "site absolute": lambda store: rewrite_plan(store, lambda plan: plan.update(sites={"/etc": 8})),
    "2**48 rows": lambda store: rewrite_plan(
        store, lambda plan: plan.update(n_rows=2**48, splits={"train": [0, 2**48]}, rows_per_unit=2**48)
    ),
    "units of one row": lambda store: rewrite_plan(
        store, lambda plan: plan.update(n_rows=2**24, splits={"train": [0, 2**24]}, rows_per_unit=1, rows_per_chunk=1)
    ),
    "vocabulary of 2**50 bytes": lambda store: rewrite_plan(
        store, lambda plan: plan["files"]["extras/token_bytes.json"].update(bytes=2**50)
    ),
    "token map of 2**50 bytes": lambda store: rewrite_plan(store, lambda plan: huge(plan)),
    "shards of 2**50 bytes": lambda store: rewrite_commits(store, huge),
    "a file outside": lambda store: rewrite_commits(
        store, lambda record: record["files"].update({"../../x": {"bytes": 1, "sha256": "0" * 64}})
    ),
    "a file less": lambda store: rewrite_commits(store, lambda record: record["files"].popitem()),
    "MANIFEST lists ../": lambda store: rewrite(
        store / "MANIFEST.json", lambda value: value["files"].update({"../../x": "0" * 64})
    ),
    "MANIFEST's hash is a list": lambda store: rewrite(
        store / "MANIFEST.json", lambda value: value["files"].update({"commits/000/000000.json": [1]})
    ),
    "MANIFEST without a plan": lambda store: rewrite(store / "MANIFEST.json", lambda value: value.update(plan_id=[])),
    "MANIFEST deep": lambda store: (store / "MANIFEST.json").write_bytes(b"[" * 2_000_000) and None,
    "plan a link": lambda store: (store / "plan.json").unlink() or (store / "plan.json").symlink_to("/dev/zero"),
    "commit a link": lambda store: [
        (store / "commits/000/000000.json").unlink(),
        (store / "commits/000/000000.json").symlink_to("/etc/hostname"),
    ].clear(),
}


@pytest.mark.parametrize("case", HARM)
def test_a_store_made_to_do_harm_is_refused(harmful: Path, tmp_path: Path, case: str) -> None:
    HARM[case](harmful)
    for work in (lambda: pull(harmful, tmp_path / "in/out"), lambda: open_head(harmful, tmp_path / "in/cache")):
        with pytest.raises(StoreError):
            work()
    assert not (tmp_path / "in/out").exists()
    outside = {path.name for path in tmp_path.iterdir()} - {"in", "harmful"}
    assert not outside
    assert not [path for path in (tmp_path / "in").rglob("*") if path.is_symlink() or path.name in ("x", "etc")]


def test_control_the_rewritten_store_is_taken_if_nothing_is_wrong_with_it(harmful: Path, tmp_path: Path) -> None:
    rewrite_plan(harmful, lambda plan: plan.update(provenance={"edited": True}))
    pull(harmful, tmp_path / "out")
    assert open_head(harmful, tmp_path / "cache").plan.provenance == {"edited": True}


BOUNDED = """
import sys
from pathlib import Path
from strata_sae.stores import StoreError
from strata_sae.stores.remote.pull import pull
from strata_sae.stores.remote.transports import RetryPolicy
try:
    pull(sys.argv[1], Path(sys.argv[2]), policy=RetryPolicy(attempts=2, pause_seconds=0.01))
except StoreError as error:
    print(error)
# ru_maxrss would not do: a child starts with the peak of the process that forked it.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("path", ["MANIFEST.json", "commits/000/000000.json", SHARD])
def test_endless_files_are_cut_off_in_bounded_memory_and_space(server: LyingServer, tmp_path: Path, path: str) -> None:
    server.lie(path, *["endless"] * 9)
    command = [sys.executable, "-c", BOUNDED, server.url, str(tmp_path / "out")]
    message, kibibytes = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    assert path in message
    assert int(kibibytes) < 300 * 1024
    limit = 65 if path != SHARD else 2
    assert n_bytes(tmp_path, ".") <= 4 * limit * 2**20
    shutil.rmtree(tmp_path / ".out.pulling", ignore_errors=True)
