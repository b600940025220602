"""Trainers that share windows see the rows they would see alone, whoever of them is slow, dies or falls behind."""

import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.serving import shared_windows
from strata_sae.stores.serving.shared_windows import SharedWindows
from support.closing import blocks_begun_after_close
from support.small_store import build_store

ROOT = Path(__file__).resolve().parents[2]
SITE = "blocks.1.hook_resid_post"
N_ROWS = 3000
OPTIONS: dict[str, Any] = {"filters": Filters(drop_bos=True), "batch_size": 50, "window_rows": 200, "seed": 3}
N_STEPS = 120
N_KILL_STEPS = 60
KILLS_A_ROUND = 5
N_KILLS = int(os.environ.get("STRATA_SHARED_KILLS", "5"))


@pytest.fixture(scope="module", params=["float32", "int8"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    return build_store(folder / "store", N_ROWS, {SITE: 8}, compressor="zstd", encoding=request.param)


@pytest.fixture(scope="module")
def reference(path: Path) -> list[str]:
    """What each step holds."""
    with Batches(ActivationStore.open(path), SITE, **OPTIONS) as batches:
        return [digest(batches, step) for step in range(N_STEPS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "windows"


def digest(batches: Batches, step: int) -> str:
    rows, numbers = batches.batch(step)
    return sha256(rows.tobytes() + numbers.tobytes())


def opened(path: Path, folder: Path | None, max_wait_seconds: float = 3600.0, **options: Any) -> Batches:
    batches = Batches(ActivationStore.open(path), SITE, **OPTIONS | options, shared=folder)
    if isinstance(batches._windows, SharedWindows):
        batches._windows._max_wait_seconds = max_wait_seconds
    return batches


def count_decodes(batches: Batches, counts: list[int]) -> None:
    rows, lock = batches._values, threading.Lock()
    coded = rows.coded

    def counting(chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        with lock:
            counts[0] += 1
        return coded(chunk)

    rows.coded = counting  # type: ignore[method-assign]


@pytest.mark.parametrize("n_trainers", [1, 2, 4])
def test_rows_are_those_of_one_alone_and_each_window_is_decoded_once(
    path: Path, folder: Path, reference: list[str], n_trainers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_windows, "_ABANDONED_SECONDS", 3600.0)  # a thread that gets no processor is not dead
    trainers = [opened(path, folder) for _ in range(n_trainers)]
    counts, barrier, wrong = [0], threading.Barrier(n_trainers), []
    for batches in trainers:
        count_decodes(batches, counts)
    blocks = N_STEPS * 50 / batches.n_rows * len(batches._mask.blocks)

    def train(batches: Batches, seed: int) -> None:
        rng = random.Random(seed)
        for step in range(N_STEPS):
            if digest(batches, step) != reference[step]:
                wrong.append(step)
            barrier.wait()  # nobody is a window ahead before all have this one, however late they get a processor
            time.sleep(rng.random() * 0.004)
        barrier.wait()
        batches.close()

    threads = [threading.Thread(target=train, args=(batches, seed)) for seed, batches in enumerate(trainers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert counts[0] <= 1.2 * blocks
    assert all(batches._windows._private is None for batches in trainers)  # type: ignore[attr-defined]
    assert list(folder.iterdir()) == []


TRAINER = """
import random, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/stores", sys.argv[1] + "/tests"]
from test_shared_windows import digest, opened
path, folder, log, seed, n_steps = Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), *map(int, sys.argv[5:])
rng = random.Random(seed)
log.touch()
batches = opened(path, folder, max_wait_seconds=0.2)
with log.open("a") as file:
    for step in range(len(log.read_text().splitlines()), n_steps):
        file.write(digest(batches, step) + "\\n")
        file.flush()
        time.sleep(rng.random() * 0.02)
batches.close()
"""


class Trainer:
    """A process that writes what each step holds, and goes on where it was killed."""

    def __init__(self, path: Path, folder: Path, log: Path) -> None:
        self._arguments = [sys.executable, "-c", TRAINER, str(ROOT), str(path), str(folder), str(log)]
        self.log, self._starts = log, 0

    def start(self) -> None:
        self._starts += 1
        seed = sum(self.log.name.encode()) + self._starts
        self.process = subprocess.Popen(
            [*self._arguments, str(seed), str(N_KILL_STEPS)], stderr=subprocess.PIPE, text=True
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def wait(self) -> list[str]:
        _, errors = self.process.communicate()
        assert self.process.returncode == 0, errors
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", ["float32"], indirect=True)
@pytest.mark.parametrize("seed", range(-(-N_KILLS // KILLS_A_ROUND)))
def test_kills_of_random_trainers_change_no_row(
    path: Path, folder: Path, reference: list[str], tmp_path: Path, seed: int
) -> None:
    trainers = [Trainer(path, folder, tmp_path / f"{number}.log") for number in range(4)]
    for trainer in trainers:
        trainer.start()
    rng = random.Random(seed)
    for kill in range(KILLS_A_ROUND):
        time.sleep(rng.random() * 0.4)
        victim = trainers[kill % 3]  # the last one lives, whatever happens to the others
        if victim.process.poll() is None:
            victim.kill()
            victim.start()
    for trainer in trainers:
        assert trainer.wait() == reference[:N_KILL_STEPS], trainer.log
    assert list(folder.iterdir()) == []


DIES_FILLING = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/stores", sys.argv[1] + "/tests"]
from test_shared_windows import opened
batches = opened(Path(sys.argv[2]), Path(sys.argv[3]), threads=1)
put, left = batches._filler._put, [batches.blocks_per_window - 1]
def dying(*arguments):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    put(*arguments)
batches._filler._put = dying
if sys.argv[4] == "control":  # the header says too soon that all is there
    from strata_sae.stores.serving import slots
    def early(self, window, fill):
        self._header[:] = window + 1
        fill(self.buffer)
    slots.Slot.fill = early
batches.batch(0)
"""


@pytest.mark.parametrize("kind", ["", "control"])
def test_a_window_that_was_being_filled_by_the_dead_is_filled_again(
    path: Path, folder: Path, reference: list[str], kind: str
) -> None:
    with opened(path, folder) as lives:  # so that nothing is cleared when the other one comes
        arguments = [sys.executable, "-c", DIES_FILLING, str(ROOT), str(path), str(folder), kind]
        assert subprocess.run(arguments).returncode == -signal.SIGKILL
        slot = next(iter(folder.glob("*.0")))
        assert np.fromfile(slot, np.int64, 2).tolist() == ([1, 1] if kind else [0, 1])
        assert (digest(lives, 0) == reference[0]) == (kind != "control")


def far_ahead(path: Path, folder: Path, reference: list[str], flock: Any = fcntl.flock) -> tuple[bool, bool]:
    """One trainer stays while another goes on. Returns: whether the rows of both were right."""
    slow, fast = opened(path, folder), opened(path, folder, max_wait_seconds=0.05)
    with slow, fast, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(fcntl, "flock", flock)
        rows, numbers = slow.batch(0)
        fast_right = all(digest(fast, step) == reference[step] for step in range(60))
        slow_right = sha256(rows.tobytes() + numbers.tobytes()) == reference[0]
        # Who is behind does not wait for who is ahead: it may wait an hour, and pytest's limit is shorter.
        slow_right &= all(digest(slow, step) == reference[step] for step in range(1, 60))
    return fast_right, slow_right


def test_who_falls_behind_sees_the_same_rows(path: Path, folder: Path, reference: list[str]) -> None:
    assert far_ahead(path, folder, reference) == (True, True)


def test_control_without_locks_the_slow_one_sees_others_rows(path: Path, folder: Path, reference: list[str]) -> None:
    assert far_ahead(path, folder, reference, flock=lambda descriptor, how: None)[1] is False


def test_who_catches_up_shares_again(path: Path, folder: Path, reference: list[str]) -> None:
    slow, fast = opened(path, folder, max_wait_seconds=0.05), opened(path, folder, max_wait_seconds=0.05)
    with slow, fast:
        digest(slow, 0)
        assert all(digest(fast, step) == reference[step] for step in range(30))
        assert fast._windows._buffer is fast._windows._private  # type: ignore[attr-defined]
        for step in range(1, 60):
            assert digest(slow, step) == reference[step]
        assert slow._windows._buffer is not slow._windows._private  # type: ignore[attr-defined]
        for step in range(30, 64):
            assert digest(fast, step) == reference[step]
        assert fast._windows._buffer is not fast._windows._private  # type: ignore[attr-defined]


def test_windows_left_by_who_was_ahead_and_died_are_used_again(
    path: Path, folder: Path, reference: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_windows, "_ABANDONED_SECONDS", 0.1)
    behind = opened(path, folder)
    with opened(path, folder) as ahead:
        digest(ahead, 100)
    with behind:
        for step in range(30):
            assert digest(behind, step) == reference[step]
        assert behind._windows._private is None  # type: ignore[attr-defined]


def test_any_steps_in_any_order(
    path: Path, folder: Path, reference: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_windows, "_ABANDONED_SECONDS", 0.01)
    rng = random.Random(0)
    with opened(path, folder, 0.02) as first, opened(path, folder, 0.02) as second:
        for _ in range(80):
            step = rng.randrange(N_STEPS)
            assert digest(rng.choice([first, second]), step) == reference[step]


def test_other_streams_do_not_mix(path: Path, folder: Path, reference: list[str]) -> None:
    with opened(path, folder) as first, opened(path, folder, seed=4) as second:
        assert digest(second, 0) != reference[0]
        assert digest(first, 0) == reference[0]
        assert len(list(folder.iterdir())) == 6


def test_leavings_of_a_machine_that_was_cut_off_are_removed(path: Path, folder: Path, reference: list[str]) -> None:
    batches = opened(path, folder)
    digest(batches, 0)
    names = [(slot, slot.read_bytes()) for slot in folder.iterdir()]
    batches.close()
    for slot, data in names:
        slot.write_bytes(bytes(len(data)))
        with slot.open("r+b") as file:
            file.write((1).to_bytes(8, "little"))  # claims to hold window 0
    with opened(path, folder) as batches:
        assert digest(batches, 0) == reference[0]
        batches.close()
        with pytest.raises((RuntimeError, CancelledError)):
            batches.batch(0)
        assert list(folder.iterdir()) == []
    for name in ("ab.present", "ab.0", "ab.1"):  # another stream's, all of whose trainers were killed
        (folder / name).write_bytes(b"x")
    with opened(path, folder) as batches:
        assert not list(folder.glob("ab.*"))


def test_a_damaged_chunk_is_everybodys_error(path: Path, folder: Path, reference: list[str]) -> None:
    def damaged(chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        raise StoreError("the file is damaged")

    with opened(path, folder) as first, opened(path, folder) as second:
        first._values.coded = second._values.coded = damaged  # type: ignore[method-assign]
        for batches in (first, second, first):
            with pytest.raises(StoreError, match="damaged"):
                batches.batch(0)
        del first._values.coded
        assert digest(first, 0) == reference[0]  # nothing is held by those who failed


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def full(descriptor: int, offset: int, n_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    return None


def test_no_room_is_an_error_at_once_not_a_signal_later(path: Path, folder: Path, full_disk: None) -> None:
    with pytest.raises(StoreError, match=r"no room for two shared windows of \d+ bytes.*window_rows"):
        opened(path, folder)
    assert list(folder.iterdir()) == []


def test_files_of_others_are_refused(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StoreError, match="another user"):
        opened(path, folder)


def test_closing_early_fills_no_window_and_leaves_no_thread(path: Path, folder: Path) -> None:
    before = threading.active_count()
    first, second = (opened(path, folder, 0.05, threads=1, window_rows=1500) for _ in range(2))
    assert blocks_begun_after_close(first) <= 1 < first.blocks_per_window - 1
    second.batch(60)
    second.close()
    assert threading.active_count() == before
