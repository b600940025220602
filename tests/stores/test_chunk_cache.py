"""The chunk cache: never wrong, never in the way, never larger than its limit; deleted or damaged, it is made again."""

import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from strata_sae.stores import ActivationStore
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.places import LocalPlace
from strata_sae.stores.front.opening import Opened, opened_sites
from strata_sae.stores.reading import chunk_cache
from strata_sae.stores.reading.checking import read_contents
from strata_sae.stores.reading.chunk_cache import CachedRows, ChunkCache, chunk_key
from strata_sae.stores.reading.site_rows import SiteRows
from strata_sae.stores.writing.finishing import finish_store
from support.small_store import build_store, fill_unit, plan_store, stored_rows

ROOT = Path(__file__).resolve().parents[2]
SHAPE, DTYPE = (64, 8), "<f4"
ENTRY_BYTES = 64 * 8 * 4 + 32 + 4
SITE = "blocks.1.hook_resid_post"


def array_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(SHAPE).astype(np.float32)


def key_of(number: int) -> str:
    return chunk_key("ab" * 32, number, "rows")


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_is_put_is_got_by_everybody(tmp_path: Path) -> None:
    first, second = ChunkCache(tmp_path, 2**20), ChunkCache(tmp_path, 2**20)
    assert first.get(key_of(0), SHAPE, DTYPE) is None
    for number in range(100):  # more than are kept open
        first.put(key_of(number), array_of(number))
    for cache in (first, second, first):
        for number in range(100):
            rows = cache.get(key_of(number), SHAPE, DTYPE)
            assert rows is not None
            np.testing.assert_array_equal(rows, array_of(number))
            assert not rows.flags.writeable
    assert len(second._opened) == 64
    assert key_of(3) in second
    assert key_of(100) not in second
    assert len({chunk_key("a", 1, "rows"), chunk_key("a", 1, "scales"), chunk_key("a", 2, "rows")}) == 3


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0, 1000, ENTRY_BYTES - 5, ENTRY_BYTES - 4, ENTRY_BYTES - 1])
def test_a_flipped_bit_is_found_and_the_entry_removed(tmp_path: Path, place: int) -> None:
    ChunkCache(tmp_path, 2**20).put(key_of(0), array_of(0))
    flip(tmp_path / key_of(0), place)
    cache = ChunkCache(tmp_path, 2**20)
    assert cache.get(key_of(0), SHAPE, DTYPE) is None
    assert not (tmp_path / key_of(0)).exists()
    cache.put(key_of(0), array_of(0))
    np.testing.assert_array_equal(cache.get(key_of(0), SHAPE, DTYPE), array_of(0))


def test_control_without_checksums_a_flipped_bit_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google_crc32c, "value", lambda data: 0)
    ChunkCache(tmp_path, 2**20).put(key_of(0), array_of(0))
    flip(tmp_path / key_of(0), 1000)
    rows = ChunkCache(tmp_path, 2**20).get(key_of(0), SHAPE, DTYPE)
    assert rows is not None
    assert rows.tobytes() != array_of(0).tobytes()


def exchange(folder: Path, first: str, second: str) -> None:
    (folder / first).rename(folder / "aside")
    (folder / second).rename(folder / first)
    (folder / "aside").rename(folder / second)


def write_over(folder: Path, first: str, second: str) -> None:
    """Exchange two entries of one size by writing into the very files."""
    contents = [(folder / name).read_bytes() for name in (second, first)]
    for name, data in zip((first, second), contents, strict=True):
        with (folder / name).open("r+b") as file:
            file.write(data)


def copy_over(folder: Path, first: str, second: str) -> None:
    (folder / first).unlink()
    shutil.copyfile(folder / second, folder / first)


def of_version_1(folder: Path, first: str, second: str) -> None:
    """What an earlier version left: the bytes and their crc32c, without a key."""
    data = (folder / second).read_bytes()[: -32 - 4]
    (folder / first).write_bytes(data + google_crc32c.value(data).to_bytes(4, "little"))


@pytest.mark.parametrize("opened_before", [False, True])
@pytest.mark.parametrize("mixed_up", [exchange, write_over, copy_over, of_version_1])
def test_an_entry_under_another_key_is_a_miss(
    tmp_path: Path, mixed_up: Callable[[Path, str, str], None], opened_before: bool
) -> None:
    cache = ChunkCache(tmp_path, 2**20)
    for number in range(2):
        cache.put(key_of(number), array_of(number))
        assert not opened_before or cache.get(key_of(number), SHAPE, DTYPE) is not None
    mixed_up(tmp_path, key_of(0), key_of(1))
    for reader in (cache, ChunkCache(tmp_path, 2**20)):
        for number in range(2):
            rows = reader.get(key_of(number), SHAPE, DTYPE)
            assert rows is None or rows.tobytes() == array_of(number).tobytes()
    assert ChunkCache(tmp_path, 2**20).get(key_of(0), SHAPE, DTYPE) is None
    assert not (tmp_path / key_of(0)).exists()


@pytest.mark.parametrize("mixed_up", [exchange, write_over, copy_over])
def test_control_without_the_key_another_chunk_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixed_up: Callable[[Path, str, str], None]
) -> None:
    footer = chunk_cache._footer
    monkeypatch.setattr(chunk_cache, "_footer", lambda key, data: footer("0" * 64, data))
    cache = ChunkCache(tmp_path, 2**20)
    for number in range(2):
        cache.put(key_of(number), array_of(number))
    mixed_up(tmp_path, key_of(0), key_of(1))
    rows = ChunkCache(tmp_path, 2**20).get(key_of(0), SHAPE, DTYPE)
    assert rows is not None
    assert rows.tobytes() == array_of(1).tobytes()


@pytest.mark.parametrize("n_bytes", [0, 3, 4, 100, ENTRY_BYTES - 1])
def test_what_a_power_cut_leaves_is_no_entry(tmp_path: Path, n_bytes: int) -> None:
    for data in (b"\0" * n_bytes, b"\0" * ENTRY_BYTES):
        (tmp_path / key_of(0)).write_bytes(data)
        if len(data) < ENTRY_BYTES:
            assert ChunkCache(tmp_path, 2**20).get(key_of(0), SHAPE, DTYPE) is None
            assert not (tmp_path / key_of(0)).exists()


def test_deleted_while_it_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = ChunkCache(folder, 2**20)
    cache.put(key_of(0), array_of(0))
    rows = cache.get(key_of(0), SHAPE, DTYPE)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(rows, array_of(0))
    np.testing.assert_array_equal(cache.get(key_of(0), SHAPE, DTYPE), array_of(0))
    assert cache.get(key_of(1), SHAPE, DTYPE) is None
    cache.put(key_of(1), array_of(1))
    np.testing.assert_array_equal(cache.get(key_of(1), SHAPE, DTYPE), array_of(1))


def test_the_limit_holds_and_most_of_it_is_used(tmp_path: Path) -> None:
    limit = 40 * ENTRY_BYTES
    cache = ChunkCache(tmp_path, limit)
    for _ in range(3):
        hits = 0
        for number in np.random.default_rng(0).permutation(100).tolist():
            if cache.get(key_of(number), SHAPE, DTYPE) is None:
                cache.put(key_of(number), array_of(number))
            else:
                hits += 1
            assert size_of(tmp_path) <= limit
    # The least recently used 40 of 100 would be hit 12 times in an epoch of a new order.
    assert hits >= 30
    cache.put("0" * 64, np.zeros(limit // 4))
    assert "0" * 64 not in cache


def test_what_was_not_used_for_a_day_goes_first(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 20 * ENTRY_BYTES)
    for number in range(16):
        cache.put(key_of(number), array_of(number))
    old = sorted(path for path in tmp_path.iterdir() if path.name != ".lock")[:8]  # by name they would stay
    for age, path in enumerate(old):
        os.utime(path, (time.time() - 10**6 - age,) * 2)
    cache = ChunkCache(tmp_path, 20 * ENTRY_BYTES)
    cache.get(old[7].name, SHAPE, DTYPE)  # used now, the oldest no more
    for number in range(16, 22):
        cache.put(key_of(number), array_of(number))
    left = {path.name for path in tmp_path.iterdir()}
    gone = [path.name not in left for path in old[:7]]
    assert gone == sorted(gone)
    assert gone[6]
    assert old[7].name in left
    assert {key_of(number) for number in range(16)} - {path.name for path in old} <= left


def test_leavings_of_dead_writers_are_removed(tmp_path: Path) -> None:
    for name, age in (("dead", 10**4), ("alive", 0)):
        (tmp_path / f".{name}.tmp").write_bytes(b"x")
        os.utime(tmp_path / f".{name}.tmp", (time.time() - age,) * 2)
    ChunkCache(tmp_path, 2**20).put(key_of(0), array_of(0))
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".alive.tmp", key_of(0)}


def test_without_room_or_rights_nothing_is_cached_and_one_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    for folder in (tmp_path / "full", tmp_path / "file" / "below"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            cache = ChunkCache(folder, 2**20)
            for number in range(5):
                cache.put(key_of(number), array_of(number))
                assert cache.get(key_of(number), SHAPE, DTYPE) is None
        assert len(caplog.records) == 1
        assert "not cached" in caplog.text
    assert {path.name for path in (tmp_path / "full").iterdir()} == {".lock"}


RACER = """
import random, shutil, sys
from pathlib import Path
import numpy as np
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from strata_sae.stores.reading.chunk_cache import ChunkCache, chunk_key
seed, folder = int(sys.argv[3]), Path(sys.argv[2])
rng, hits, largest = random.Random(seed), 0, 0
cache = ChunkCache(folder, 30 * 2084)
for turn in range(800):
    number = rng.randrange(60)
    expected = np.full((64, 8), number, np.float32)
    key = chunk_key("x", number, "rows")
    rows = cache.get(key, (64, 8), "<f4")
    if rows is None:
        cache.put(key, expected)
    else:
        hits += 1
        assert (rows == expected).all()
    if turn % 97 == 0:
        cache = ChunkCache(folder, 30 * 2084)
        sizes = []
        for path in list(folder.glob("*")):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                pass
        largest = max(largest, sum(sizes))
    if seed == 0 and turn % 300 == 299:
        shutil.rmtree(folder, ignore_errors=True)
    if turn % 150 == 149:  # a damaged entry appears
        try:
            (folder / f".{seed}.tmp").write_bytes(b"?" * 2084)
            (folder / f".{seed}.tmp").rename(folder / key)
        except FileNotFoundError:
            pass
        cache = ChunkCache(folder, 30 * 2084)
assert hits > 50, hits
assert largest <= 30 * 2084, largest
"""


def test_four_processes_and_one_that_deletes(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", RACER, str(ROOT), str(tmp_path / "cache")]
    racers = [subprocess.Popen([*arguments, str(seed)], stderr=subprocess.PIPE, text=True) for seed in range(4)]
    for racer in racers:
        _, errors = racer.communicate()
        assert racer.returncode == 0, errors


class Counting:
    """Counts the chunks that are decoded."""

    def __init__(self, rows: SiteRows) -> None:
        self._rows, self.decoded_chunks = rows, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        self.decoded_chunks += 1
        return self._rows.coded(chunk)


@pytest.mark.parametrize(
    ("encoding", "compressor"), [("float32", "zstd"), ("bfloat16", "planes"), ("int8", "zstd"), ("int8", "none")]
)
def test_cached_rows_are_the_rows(
    tmp_path: Path, make_store: Callable[..., Path], encoding: str, compressor: str
) -> None:
    store = ActivationStore.open(build_store(tmp_path / "store", 900, encoding=encoding, compressor=compressor))
    counting = Counting(store.values(SITE))
    n_chunks = -(-900 // store.plan.rows_per_chunk)
    for expected_decodes in (n_chunks, n_chunks):
        cached = CachedRows(counting, ChunkCache(tmp_path / "cache", 2**22), lambda chunk: "ab" * 32)
        for chunk in range(n_chunks):
            cached.will_need(chunk)
            rows, scales = cached.coded(chunk)
            plain_rows, plain_scales = store.values(SITE).coded(chunk)
            assert rows.dtype == plain_rows.dtype
            np.testing.assert_array_equal(rows, plain_rows)
            if scales is None:
                assert plain_scales is None
            else:
                np.testing.assert_array_equal(scales, plain_scales)
            cached.touch(chunk, 4)
        assert counting.decoded_chunks == expected_decodes


def test_stores_that_share_one_plane_do_not_share_entries(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "cache", 2**22)
    for low_bit in (0, 1):
        path = tmp_path / str(low_bit)
        plan = plan_store(path, 900, {SITE: 8}, encoding="bfloat16", compressor="planes")
        rows_NM = stored_rows(SITE, 900, 8, "bfloat16") ^ np.uint16(low_bit)
        for unit in range(plan.n_units):
            fill_unit(FileSystem(), path, plan, unit, {SITE: rows_NM})
        finish_store(FileSystem(), path, plan)
        rows, _ = opened_sites(Opened(path, plan, read_contents(path, plan), LocalPlace(path, mapped=True), cache))[
            SITE
        ]
        np.testing.assert_array_equal(rows.coded(0)[0], rows_NM[: plan.rows_per_chunk])
