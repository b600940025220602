"""Leases where the kernel's locks do not reach: beats tell who is dead, and the living are never robbed.

Time is a counter of the test: owners beat and observers look at its steps, and nothing waits.
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, StoreError
from strata_sae.stores.files import beats, locks
from strata_sae.stores.files.beats import STILL_SECONDS, Beat
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.locks import Lease, abandoned, leased, remove_dead
from strata_sae.stores.writing import finishing
from strata_sae.stores.writing.finishing import finish_store, recover
from strata_sae.stores.writing.units import UnitWriter
from support.small_store import build_store, fill_missing, plan_store, stored_rows, token_map
from support.waiting import wait_until
from support.without_flock import Time, reached, take_nothing

FILES = FileSystem()
SITE = "blocks.1.hook_resid_post"
ROWS = {SITE: stored_rows(SITE, 1000, 16)}


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time.of_observers(monkeypatch)


@pytest.fixture
def no_locks() -> Iterator[None]:
    """A file system that knows no flock."""
    with reached("no_locks"):
        yield


@pytest.fixture
def far_locks() -> Iterator[None]:
    """One on which each machine has locks of its own; owners are on another machine."""
    with reached("far_locks"):
        yield


WITHOUT_THE_KERNEL = pytest.mark.parametrize("reach", ["no_locks", "far_locks"])


def die(lease: Lease) -> None:
    """What is left of an owner that is gone: folder, lock file, and no beats."""
    lease._pulse.stop()
    os.close(lease._descriptor)


@WITHOUT_THE_KERNEL
def test_a_dead_owner_is_recognised_by_its_beats(
    reach: str, request: pytest.FixtureRequest, time: Time, tmp_path: Path
) -> None:
    request.getfixturevalue(reach)
    lease = Lease(FILES, tmp_path / "x-1")
    (lease.folder / "file").touch()
    die(lease)
    assert leased(tmp_path, "x-") == {"x-1"}, "it was never looked at before"
    time.now += STILL_SECONDS - 1
    remove_dead(FILES, tmp_path, "x-")
    assert (tmp_path / "x-1" / "file").exists()
    time.now += 1
    assert abandoned(tmp_path, "x-") == [tmp_path / "x-1"]
    remove_dead(FILES, tmp_path, "x-")
    assert list(tmp_path.iterdir()) == []


def live(time: Time, folder: Path, draw: random.Random, beat: Callable[[Lease], None]) -> bool:
    """An owner beats every ten seconds, and somebody cleans now and then. Returns: whether it kept its folder."""
    lease = Lease(FILES, folder / "x-1")
    look = draw.randrange(1, 300)
    for step in range(3000):
        time.now += 1
        if step % 10 == 0:
            beat(lease)
        if step >= look:
            remove_dead(FILES, folder, "x-")
            look = step + draw.choice((1, 7, 59, 121, 600))
    kept = lease.folder.exists()
    lease.release()
    return kept


@WITHOUT_THE_KERNEL
@pytest.mark.parametrize("seed", range(5))
def test_a_living_owner_is_never_robbed(
    reach: str, seed: int, request: pytest.FixtureRequest, time: Time, tmp_path: Path
) -> None:
    request.getfixturevalue(reach)
    assert live(time, tmp_path, random.Random(seed), lambda lease: lease._pulse.beat())


@WITHOUT_THE_KERNEL
def test_an_owner_whose_beats_do_not_rise_would_be(
    reach: str, request: pytest.FixtureRequest, time: Time, tmp_path: Path
) -> None:
    """Control: it is the number that counts, not that the file is written, and that the walk above finds the dead."""
    request.getfixturevalue(reach)

    def write_the_same(lease: Lease) -> None:
        os.pwrite(lease._descriptor, Beat(*beats.this_machine(), 0).data(), 0)

    assert not live(time, tmp_path, random.Random(0), write_the_same)


def test_the_word_of_a_lock_of_another_machine_alone_would_rob(far_locks: None, time: Time, tmp_path: Path) -> None:
    """Control: as it was, a lock that can be taken meant that its owner is dead."""
    lease = Lease(FILES, tmp_path / "x-1")
    assert leased(tmp_path, "x-") == {"x-1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "read_beat", lambda descriptor: None)
        assert leased(tmp_path, "x-") == set()
    lease.release()


def test_an_owner_of_another_machine_that_is_about_to_write_its_first_beat_lives(
    far_locks: None, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "is_local", lambda folder: False)
    descriptor = locks._create_locked(tmp_path / "x-1.lock")
    assert leased(tmp_path, "x-") == {"x-1"}
    time.now += STILL_SECONDS - 1
    assert leased(tmp_path, "x-") == {"x-1"}
    time.now += 1
    assert leased(tmp_path, "x-") == set(), "control: it died before"
    os.close(descriptor)


def test_no_time_of_a_file_or_a_wall_clock_counts(no_locks: None, time: Time, tmp_path: Path) -> None:
    lease = Lease(FILES, tmp_path / "x-1")
    for stamp in (0, 2**31, 10**9):
        assert leased(tmp_path, "x-") == {"x-1"}
        os.utime(tmp_path / "x-1.lock", (stamp, stamp))
        time.now += STILL_SECONDS
        lease._pulse.beat()
        os.utime(tmp_path / "x-1.lock", (stamp, stamp))
    assert leased(tmp_path, "x-") == {"x-1"}
    lease.release()


def test_on_this_machine_the_kernels_word_holds_at_once(
    time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    living, dead = Lease(FILES, tmp_path / "x-1"), Lease(FILES, tmp_path / "x-2")
    die(dead)
    time.now += 1e9
    assert leased(tmp_path, "x-") == {"x-1"}, "the lock is held, whatever the beats"
    living.release()
    # Before this machine was switched on, on its own disk; on a disk of a server it may be another machine.
    monkeypatch.setattr(locks, "this_machine", lambda: (beats.this_machine()[0], "a later boot"))
    for local, expected in ((True, set()), (False, {"x-2"})):
        monkeypatch.setattr(locks, "is_local", lambda folder, local=local: local)
        assert leased(tmp_path, "x-") == expected
    remove_dead(FILES, tmp_path, "x-")
    time.now += STILL_SECONDS
    remove_dead(FILES, tmp_path, "x-")
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_an_older_version_has_no_beats_and_is_kept_where_there_are_no_locks(
    time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x-1.lock").touch()
    (tmp_path / "x-1").mkdir()
    (tmp_path / "x-lost-its-lock").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(locks, "take", take_nothing)
        for _ in range(3):
            remove_dead(FILES, tmp_path, "x-")
            time.now += STILL_SECONDS
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x-1", "x-1.lock"]
    remove_dead(FILES, tmp_path, "x-")
    assert list(tmp_path.iterdir()) == []


def begun(store: Path, unit: int, files: FileSystem = FILES) -> UnitWriter:
    """A worker that has written all rows of a unit, and not committed it."""
    plan = finishing_plan(store)
    start, stop = plan.unit_rows(unit)
    writer = UnitWriter(files, store, plan, unit, token_map(1000)["flags"][start:stop])
    writer.append(SITE, ROWS[SITE][start:stop])
    return writer


def finishing_plan(store: Path):
    from strata_sae.stores import read_plan

    return read_plan(store)


def fill_the_rest(store: Path) -> None:
    plan = finishing_plan(store)
    fill_missing(FILES, store, plan, ROWS)
    finish_store(FILES, store, plan)


def whole(store: Path, reference: Path) -> bool:
    return np.array_equal(
        ActivationStore.open(store).rows(SITE, 0, 1000), ActivationStore.open(reference).rows(SITE, 0, 1000)
    )


def test_an_owner_that_slept_finds_its_unit_taken_and_the_store_is_whole(
    no_locks: None, time: Time, tmp_path: Path
) -> None:
    store, reference = tmp_path / "a", build_store(tmp_path / "reference")
    plan = plan_store(store)
    sleeper = begun(store, 0)
    recover(FILES, store, plan)
    time.now += STILL_SECONDS
    assert recover(FILES, store, plan) == list(range(plan.n_units))
    with pytest.raises(StoreError, match="unit 0 was taken over by another process, which saw no sign of life"):
        sleeper.commit()
    sleeper.close()
    fill_the_rest(store)
    assert list((store / "staging").iterdir()) == []
    assert whole(store, reference)


class StopsBeforePublishing(FileSystem):
    """Its process is stopped when the commit record is there and its files are not yet moved."""

    def rename(self, source: Path, target: Path) -> None:
        raise InterruptedError


@pytest.mark.parametrize("fenced", [True, False])
def test_nothing_committed_is_removed_although_its_owner_wakes_in_between(
    fenced: bool, no_locks: None, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: where the folder keeps its name, a commit that comes before the removal loses its rows."""
    store, reference = tmp_path / "a", build_store(tmp_path / "reference")
    plan = plan_store(store)
    sleeper = begun(store, 0, StopsBeforePublishing())
    recover(FILES, store, plan)
    time.now += STILL_SECONDS
    remove = finishing.remove_abandoned

    def wake_then_remove(files: FileSystem, folders: list[Path]) -> None:
        with pytest.raises(StoreError if fenced else InterruptedError):
            sleeper.commit()
        remove(files, folders)

    if not fenced:
        monkeypatch.setattr(finishing, "seized", lambda files, folders: folders)
    monkeypatch.setattr(finishing, "remove_abandoned", wake_then_remove)
    recover(FILES, store, plan)
    monkeypatch.setattr(finishing, "remove_abandoned", remove)
    if fenced:
        fill_the_rest(store)
        assert whole(store, reference)
    else:
        with pytest.raises(StoreError, match="is committed but this file is gone"):
            fill_the_rest(store)
    sleeper.close()


def test_what_was_committed_before_is_published_from_the_folder_that_was_taken(
    no_locks: None, time: Time, tmp_path: Path
) -> None:
    store, reference = tmp_path / "a", build_store(tmp_path / "reference")
    plan = plan_store(store)
    sleeper = begun(store, 0, StopsBeforePublishing())
    with pytest.raises(InterruptedError):
        sleeper.commit()
    fill_before = (store / "commits" / "000" / "000000.json").read_bytes()
    recover(FILES, store, plan)
    time.now += STILL_SECONDS
    fill_the_rest(store)
    assert (store / "commits" / "000" / "000000.json").read_bytes() == fill_before
    assert whole(store, reference)
    sleeper.close()


def test_an_owner_beats_by_itself_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "BEAT_SECONDS", 0.001)
    lease = Lease(FILES, tmp_path / "x-1")

    def number() -> int:
        with open(tmp_path / "x-1.lock", "rb") as file:
            found = beats.read_beat(file.fileno())
        assert found is not None
        assert found[:2] == beats.this_machine()
        return found.number

    first = number()
    wait_until(lambda: number() >= first + 3)
    thread = lease._pulse._thread
    lease.release()
    assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"x", b"a b c d", b"a b c", b"\xff\xfe", b"a b 1" + b"0" * 400])
def test_a_lock_file_of_anything_else_has_no_beat(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(data)
    with open(tmp_path / "lock", "rb") as file:
        found = beats.read_beat(file.fileno())
    assert found is None or data.startswith(b"a b 1")


def test_a_lock_file_names_nobody() -> None:
    import socket

    data = Beat(*beats.this_machine(), 7).data()
    assert len(data) == len(Beat(*beats.this_machine(), 10**19).data())
    assert socket.gethostname().encode() not in data
