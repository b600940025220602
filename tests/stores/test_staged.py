"""Staged copies: whole, verified and made once, whoever else wants them or dies while making them."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, StoreError
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.places import FileBytes, LocalPlace
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.reading.checking import read_contents
from strata_sae.stores.reading.site_rows import site_rows
from strata_sae.stores.reading.staged import StagedPlace, files_to_stage
from support.small_store import build_store, stored_rows

ROOT = Path(__file__).resolve().parents[2]
SITES = {"blocks.0.hook_resid_post": 4, "blocks.1.hook_resid_post": 8}
SITE = "blocks.1.hook_resid_post"
N_ROWS = 1500


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    return ActivationStore.open(build_store(tmp_path / "store", N_ROWS, SITES, chunk_bytes=1024, shard_bytes=8192))


class Counting:
    """A place that counts the bytes that are read from it."""

    def __init__(self, folder: Path) -> None:
        self._place, self.name, self.n_bytes = LocalPlace(folder, mapped=True), str(folder), 0
        self._lock = Lock()

    def open(self, path: str) -> FileBytes:
        file = self._place.open(path)
        with self._lock:  # several threads copy
            self.n_bytes += file.n_bytes
        return file


def wanted(store: ActivationStore, rows: tuple[int, int] = (0, N_ROWS)) -> dict[str, FileRecord]:
    return files_to_stage(store.path, store.plan, [SITE], rows)


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_only_the_files_of_the_sites_and_rows_asked_for_are_copied(store: ActivationStore, tmp_path: Path) -> None:
    per_unit = store.plan.rows_per_unit
    some = wanted(store, (per_unit + 1, 3 * per_unit))
    assert {path.split("/")[-3] for path in some} <= {"values", "norm", "c"}
    assert len(some) == 4
    assert len(wanted(store, (per_unit, per_unit))) == 0
    base = Counting(store.path)
    place = StagedPlace(base, tmp_path / "near", some)
    assert sum(place.stage(some)) == sum(expected.n_bytes for expected in some.values()) == base.n_bytes
    assert copies(tmp_path / "near") == sorted({expected.sha256 for expected in some.values()})
    base.n_bytes = 0
    rows, _ = site_rows(place, store.plan, read_contents(store.path, store.plan).arrays)[SITE]
    size = store.plan.rows_per_chunk
    expected_NM = stored_rows(SITE, N_ROWS, SITES[SITE])
    for chunk in range(per_unit // size, 3 * per_unit // size):
        np.testing.assert_array_equal(rows.coded(chunk)[0], expected_NM[chunk * size : (chunk + 1) * size])
    assert base.n_bytes == 0
    np.testing.assert_array_equal(rows.coded(0)[0], expected_NM[:size])  # from where it is
    assert base.n_bytes > 0


def test_what_is_not_ahead_is_copied_when_it_is_opened(store: ActivationStore, tmp_path: Path) -> None:
    path, expected = next(iter(wanted(store).items()))
    place = StagedPlace(LocalPlace(store.path, mapped=True), tmp_path / "near", wanted(store))
    data = place.open(path).read(0, expected.n_bytes)
    assert data.tobytes() == (store.path / path).read_bytes()
    assert copies(tmp_path / "near") == [expected.sha256]


@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
def test_wrong_source_bytes_are_refused(store: ActivationStore, tmp_path: Path, damage: str) -> None:
    path, expected = next(iter(wanted(store).items()))
    data = bytearray((store.path / path).read_bytes())
    data[7] ^= damage == "flip"
    (store.path / path).chmod(0o644)
    (store.path / path).write_bytes(data[:-1] if damage == "cut" else data + b"x" * (damage == "grow"))
    place = StagedPlace(LocalPlace(store.path, mapped=True), tmp_path / "near", wanted(store))
    with pytest.raises(StoreError, match=f"{path}.*instead of.*{expected.sha256}.*fetch"):
        place.open(path)
    assert copies(tmp_path / "near") == []


class TwiceWrong(LocalPlace):
    """A network that mixes up bytes on the way, twice."""

    n_opened = 0

    def open(self, path: str) -> Any:
        self.n_opened += 1
        return super().open(path if self.n_opened > 2 else self.other)


def test_what_came_wrong_is_read_again(store: ActivationStore, tmp_path: Path) -> None:
    path, other = list(wanted(store))[:2]
    expected = wanted(store)[path]
    network = TwiceWrong(store.path, mapped=True)
    network.other = other
    place = StagedPlace(network, tmp_path / "near", wanted(store))
    assert place.open(path).read(0, expected.n_bytes).tobytes() == (store.path / path).read_bytes()
    assert network.n_opened == 3


def test_control_another_hash_would_let_the_bytes_in(store: ActivationStore, tmp_path: Path) -> None:
    path, expected = next(iter(wanted(store).items()))
    data = (store.path / path).read_bytes()
    place = StagedPlace(LocalPlace(store.path, mapped=True), tmp_path / "near", {path: expected._replace(sha256="0")})
    with pytest.raises(StoreError, match="sha256"):
        place.open(path)
    good = StagedPlace(LocalPlace(store.path, mapped=True), tmp_path / "near", {path: expected})
    assert good.open(path).read(0, len(data)).tobytes() == data


def test_a_copy_of_another_size_is_made_again(store: ActivationStore, tmp_path: Path) -> None:
    path, expected = next(iter(wanted(store).items()))
    for wrong in (b"", b"x" * (expected.n_bytes - 1), b"x" * (expected.n_bytes + 1)):
        place = StagedPlace(LocalPlace(store.path, mapped=True), tmp_path / "near", wanted(store))
        (tmp_path / "near" / expected.sha256).write_bytes(wrong)
        assert place.open(path).read(0, expected.n_bytes).tobytes() == (store.path / path).read_bytes()


class FullDisk(FileSystem):
    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        super().write(descriptor, memoryview(data)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_no_room_is_an_error_with_the_bytes_needed(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = next(iter(wanted(store).items()))
    base = LocalPlace(store.path, mapped=True)
    with pytest.raises(StoreError, match=f"needs {expected.n_bytes} bytes.*No space left"):
        StagedPlace(base, tmp_path / "near", wanted(store), FullDisk()).open(path)
    assert copies(tmp_path / "near") == []

    def almost_full(folder: Path) -> Any:
        return type("Usage", (), {"free": 100})

    monkeypatch.setattr("shutil.disk_usage", almost_full)
    total = sum(expected.n_bytes for expected in wanted(store).values())
    with pytest.raises(StoreError, match=f"needs {total:,} more bytes and its disk has 100 free"):
        list(StagedPlace(base, tmp_path / "near", wanted(store)).stage(wanted(store)))
    assert copies(tmp_path / "near") == []


STAGER = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/stores", sys.argv[1] + "/tests"]
from test_staged import Counting, SITE, wanted
from strata_sae.stores import ActivationStore
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.reading.staged import StagedPlace

class Slow(FileSystem):
    def write(self, descriptor, data):
        half = len(memoryview(data)) // 2
        super().write(descriptor, memoryview(data)[:half])
        if sys.argv[4] == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        super().write(descriptor, memoryview(data)[half:])

store = ActivationStore.open(sys.argv[2])
base = Counting(store.path)
place = StagedPlace(base, Path(sys.argv[3]), wanted(store), Slow())
print("ready", flush=True)
sys.stdin.readline()
list(place.stage(wanted(store)))
for path, expected in wanted(store).items():
    assert place.open(path).read(0, expected.n_bytes).tobytes() == (store.path / path).read_bytes()
print(base.n_bytes)
"""


def stager(store: ActivationStore, folder: Path, kind: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", STAGER, str(ROOT), str(store.path), str(folder), kind]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def bytes_read(stagers: "list[subprocess.Popen[str]]") -> int:
    for process in stagers:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
    for process in stagers:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    outputs = [process.communicate()[0] for process in stagers]
    assert all(process.returncode == 0 for process in stagers)
    return sum(map(int, outputs))


def test_two_jobs_of_a_machine_copy_each_file_once(store: ActivationStore, tmp_path: Path) -> None:
    total = sum(expected.n_bytes for expected in wanted(store).values())
    assert bytes_read([stager(store, tmp_path / "near", "lives") for _ in range(2)]) == total


def test_what_the_dead_began_is_begun_again(store: ActivationStore, tmp_path: Path) -> None:
    dies = stager(store, tmp_path / "near", "dies")
    dies.communicate("\n")
    assert dies.returncode == -signal.SIGKILL
    assert any(name.endswith(".tmp") for name in copies(tmp_path / "near"))
    total = sum(expected.n_bytes for expected in wanted(store).values())
    assert bytes_read([stager(store, tmp_path / "near", "lives")]) == total
    assert copies(tmp_path / "near") == sorted({expected.sha256 for expected in wanted(store).values()})


def test_who_comes_second_waits_for_the_first(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = next(iter(wanted(store).items()))
    base = Counting(store.path)
    place = StagedPlace(base, tmp_path / "near", wanted(store))
    descriptor = os.open(tmp_path / "near" / f"{expected.sha256}.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    copying = place.stage([path])

    waits, locked = Event(), fcntl.flock

    def flock(lock: int, how: int) -> None:
        waits.set()
        locked(lock, how)

    def first_is_done() -> None:
        waits.wait()
        (tmp_path / "near" / expected.sha256).write_bytes((store.path / path).read_bytes())
        os.close(descriptor)

    monkeypatch.setattr(fcntl, "flock", flock)
    first = Thread(target=first_is_done)
    first.start()
    assert list(copying) == [expected.n_bytes]
    first.join()
    assert base.n_bytes == 0, "copied by the second, who did not wait"
