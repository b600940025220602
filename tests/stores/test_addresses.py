"""A checksum has an address: wherever files or chunks lie under a name made from their hash, one under another's name
is never used.
"""

import ast
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import ActivationStore
from strata_sae.stores.reading import staged
from support.lying_server import LyingServer, serving
from support.small_store import build_store, stored_rows

ROOT = Path(__file__).resolve().parents[2]
N_ROWS, SITE, WIDTH = 1500, "blocks.1.hook_resid_post", 8
NAMED_BY_HASH = {
    ("stores/front/opening.py", "StagedPlace"): "`--stage` here, the cache of remote files in `_remote`",
    ("stores/front/opening.py", "ChunkCache"): "test_chunk_cache.py: test_an_entry_under_another_key_is_a_miss",
    ("stores/front/opening.py", "open_head"): "heads are hashed at every opening: test_remote_place.py",
}


def test_every_place_with_such_names_is_known() -> None:
    found = set()
    for package in ("stores", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(node.func, "id", None) if isinstance(node, ast.Call) else None
                if name in ("StagedPlace", "ChunkCache", "open_head"):
                    found.add((path.relative_to(ROOT).as_posix(), name))
    assert found == set(NAMED_BY_HASH)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return build_store(tmp_path / "store", N_ROWS, {SITE: WIDTH}, chunk_bytes=1024, shard_bytes=8192)


@pytest.fixture
def server(store: Path) -> Iterator[LyingServer]:
    with serving(LyingServer(store)) as server:
        yield server


Opener = Callable[[], ActivationStore]


@pytest.fixture(params=["stage", "remote files"])
def opener(request: pytest.FixtureRequest, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Opens the store by way of a folder of files under their hashes: tmp_path / "near" or tmp_path / "files"."""
    if request.param == "stage":
        return lambda: ActivationStore.open(store, stage=tmp_path / "files")
    server = request.getfixturevalue("server")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path))
    return lambda: ActivationStore.open(server.url)


def copies(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "files").iterdir() if not path.suffix)


def in_pairs_of_one_size(paths: list[Path]) -> list[tuple[Path, Path]]:
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        by_size.setdefault(path.stat().st_size, []).append(path)
    pairs = [(first, second) for same in by_size.values() for first, second in zip(same[::2], same[1::2], strict=False)]
    assert pairs
    return pairs


def exchange(first: Path, second: Path) -> None:
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)


def exchange_with_what_is_known_of_them(first: Path, second: Path) -> None:
    exchange(first, second)
    exchange(first.with_name(f"{first.name}.lock"), second.with_name(f"{second.name}.lock"))


def write_over(first: Path, second: Path) -> None:
    data = second.read_bytes()
    with first.open("r+b") as file:
        file.write(data)


def replace(first: Path, second: Path) -> None:
    shutil.copy2(second, first.with_name("aside"))
    first.with_name("aside").rename(first)


def flip(first: Path, second: Path) -> None:
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    write = first.with_name("aside")
    write.write_bytes(data)
    write.rename(first)


def cut(first: Path, second: Path) -> None:
    data = first.read_bytes()
    first.with_name("aside").write_bytes(data[: len(data) // 2])
    first.with_name("aside").rename(first)


def link(first: Path, second: Path) -> None:
    first.unlink()
    first.symlink_to(second)


MIXED_UP = [exchange, exchange_with_what_is_known_of_them, write_over, replace, flip, cut, link]


def read(opened: ActivationStore) -> tuple[np.ndarray, ...]:
    fields = [opened.token_map(field, 0, N_ROWS) for field in ("token_id", "position", "document", "flags")]
    return (opened.rows(SITE, 0, N_ROWS), opened.norms(SITE, 0, N_ROWS), *fields)


def assert_right(opened: ActivationStore, plain: ActivationStore) -> None:
    for found, expected in zip(read(opened), read(plain), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mixed_up", MIXED_UP)
def test_a_file_under_another_name_is_fetched_again_and_a_line_says_so(
    store: Path,
    opener: Opener,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mixed_up: Callable[[Path, Path], None],
) -> None:
    plain = ActivationStore.open(store)
    assert_right(opener(), plain)
    before = {path: path.read_bytes() for path in copies(tmp_path)}
    pairs = in_pairs_of_one_size(list(before))
    for first, second in pairs:
        mixed_up(first, second)
    with caplog.at_level(logging.WARNING):
        assert_right(opener(), plain)
    for first, _ in pairs:
        assert any(str(first) in message and "is fetched again" in message for message in caplog.messages)
    assert {path: path.read_bytes() for path in copies(tmp_path)} == before
    caplog.clear()
    assert_right(opener(), plain)
    assert caplog.messages == []


def test_a_file_mixed_up_while_it_is_open_is_seen_when_it_is_opened_again(
    store: Path, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strata_sae.stores.files.places._OPEN_FILES", 1)
    opened, plain = opener(), ActivationStore.open(store)
    assert_right(opened, plain)
    for first, second in in_pairs_of_one_size(copies(tmp_path)):
        exchange(first, second)
    assert_right(opened, plain)


@pytest.mark.parametrize("mixed_up", [exchange, write_over, replace])
def test_control_without_stamps_the_bytes_of_another_file_are_handed_out(
    store: Path, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixed_up: Callable[[Path, Path], None]
) -> None:
    opened = opener()
    assert_right(opened, ActivationStore.open(store))
    for first, second in in_pairs_of_one_size(copies(tmp_path)):
        mixed_up(first, second)
    known = {path: staged.stamp_of(path, path.name) for path in copies(tmp_path)}
    monkeypatch.setattr(staged, "read_stamp", lambda lock: known[lock.with_suffix("")])
    place = opened._site(SITE)[1]._place
    wrong = 0
    for path, expected in place._expected.items():
        wrong += place.open(path).read(0, expected.n_bytes).tobytes() != (store / path).read_bytes()
    assert wrong >= 2


def test_what_is_as_it_was_is_not_hashed_again(
    store: Path, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ActivationStore.open(store)
    assert_right(opener(), plain)
    n_hashed = []
    real = staged.hashed
    monkeypatch.setattr(staged, "hashed", lambda path, sha256: n_hashed.append(path) or real(path, sha256))
    assert_right(opener(), plain)
    assert n_hashed == []
    for path in (tmp_path / "files").glob("*.lock"):  # no stamp, half a stamp, the stamp of another form
        path.write_bytes([b"", path.read_bytes()[:50], b"{}\n"][len(n_hashed) % 3])
    assert_right(opener(), plain)
    assert sorted(n_hashed) == copies(tmp_path)
    n_hashed.clear()
    assert_right(opener(), plain)
    assert n_hashed == []
    assert np.array_equal(plain.rows(SITE, 0, N_ROWS), stored_rows(SITE, N_ROWS, WIDTH))
