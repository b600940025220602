"""Claims of names: at most one process holds one, the living keep theirs, and what the dead held is free again.

Where the kernel's locks do not reach, time is a counter of the test, and processes are played step by step: between any
two looks at the file system another one may come.
"""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strata_sae.stores.files import beats, claims, locks
from strata_sae.stores.files.beats import STILL_SECONDS, Beat, Pulse
from strata_sae.stores.files.claims import Claim, bury, claim, is_claimed, lock_of
from support.claiming import Interleaved, Player, removed_by_moving
from support.without_flock import Time, reached

FORK = multiprocessing.get_context("fork")
WITHOUT_THE_KERNEL = pytest.mark.parametrize("reach", ["no_locks", "far_locks"])


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    monkeypatch.setattr(locks, "is_local", lambda folder: False)
    return Time.of_observers(monkeypatch)


def die(held: Claim) -> None:
    """What is left of an owner that is gone: its file, and no beats."""
    held._pulse.stop()
    held.forget()
    claims._CLAIMS.discard(held)


# ---- With the kernel's locks


def test_a_name_is_held_by_one_and_free_again(tmp_path: Path) -> None:
    held = claim(tmp_path / "x")
    assert held is not None
    assert claim(tmp_path / "x") is None
    assert is_claimed(tmp_path / "x")
    other = claim(tmp_path / "y")
    assert other is not None, "another name"
    held.release()
    held.release()
    assert not is_claimed(tmp_path / "x")
    with claim(tmp_path / "x") or pytest.fail("it is free"):
        assert is_claimed(tmp_path / "x")
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_is_buried_once_with_what_its_file_says(tmp_path: Path) -> None:
    def live_and_die() -> None:
        claim(tmp_path / "x", run="run-1")
        os.kill(os.getpid(), signal.SIGKILL)

    told: list[Beat | None] = []
    child = FORK.Process(target=live_and_die)
    child.start()
    child.join()
    assert lock_of(tmp_path / "x").exists()
    assert not is_claimed(tmp_path / "x")
    held = claim(tmp_path / "x", run="run-2", buried=told.append)
    assert held is not None
    assert [beat.run for beat in told if beat] == ["run-1"]
    assert claim(tmp_path / "x", buried=told.append) is None
    assert bury(tmp_path / "x", told.append) is False
    assert len(told) == 1
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_a_fork_of_an_owner_holds_nothing_and_gives_nothing_back(tmp_path: Path) -> None:
    """Its parent is killed, and it lives on: with the parent's open file it would hold the name."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        held = claim(tmp_path / "x")
        assert held is not None
        child = os.fork()
        if child == 0:
            held.release()
            assert held.is_lost()
            os.write(writer, b"%d" % os.getpid())
            signal.pause()
        os.waitpid(child, 0)
        os._exit(0)
    child = int(os.read(reader, 20))
    try:
        assert claim(tmp_path / "x") is None, "the child gave back what is its parent's"
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        held = claim(tmp_path / "x")
        assert held is not None
        held.release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


N_ROUNDS = 60


def test_of_many_processes_one_at_a_time_is_inside(tmp_path: Path) -> None:
    """They claim, die and are buried again and again; each writes into a file that only the owner may touch."""

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(N_ROUNDS):
            held = claim(tmp_path / "x")
            if held is None:
                continue
            inside = os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL)  # FileExistsError: two are inside
            os.close(inside)
            os.unlink(tmp_path / "inside")
            if draw.random() < 0.1:
                os.kill(os.getpid(), signal.SIGKILL)
            held.release()
        os._exit(0)

    for round_ in range(8):
        children = [FORK.Process(target=work, args=(10 * round_ + number,)) for number in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert {child.exitcode for child in children} <= {0, -signal.SIGKILL}
    bury(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_beat_gives_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim without a first beat would count as dead after a while, where only beats count."""

    def full(self: Pulse) -> None:
        raise OSError(28, "No space left on device")

    n_open = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "_write", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*x\.lock'"):
            claim(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == n_open
    held = claim(tmp_path / "x")
    assert held is not None
    held.release()


# ---- Without them


@WITHOUT_THE_KERNEL
def test_a_dead_owner_is_known_by_its_beats(reach: str, time: Time, tmp_path: Path) -> None:
    with reached(reach):
        held = claim(tmp_path / "x", run="r")
        assert held is not None
        die(held)
        told: list[Beat | None] = []
        assert claim(tmp_path / "x", buried=told.append) is None, "it was never looked at before"
        time.now += STILL_SECONDS - 1
        assert claim(tmp_path / "x", buried=told.append) is None
        time.now += 1
        assert not is_claimed(tmp_path / "x")
        again = claim(tmp_path / "x", buried=told.append)
        assert again is not None
        assert [beat.run for beat in told if beat] == ["r"]
        again.release()
    assert list(tmp_path.iterdir()) == []


@WITHOUT_THE_KERNEL
def test_an_owner_that_died_before_its_first_beat_does_not_hold_for_ever(
    reach: str, time: Time, tmp_path: Path
) -> None:
    with reached(reach):
        lock_of(tmp_path / "x").touch()
        assert claim(tmp_path / "x") is None
        time.now += STILL_SECONDS - 1
        assert claim(tmp_path / "x") is None, "control: it may be about to write it"
        time.now += 1
        held = claim(tmp_path / "x")
        assert held is not None
        held.release()


@WITHOUT_THE_KERNEL
@pytest.mark.parametrize("start", ["random", "zero"])
def test_a_name_that_is_claimed_again_shows_no_beat_of_before(
    reach: str, start: str, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with numbers from 0, a new owner's first beat is the one that was seen long ago, and it is robbed."""
    if start == "zero":
        monkeypatch.setattr(beats.secrets, "randbits", lambda bits: 0)
    with reached(reach):
        for _ in range(2):
            held = claim(tmp_path / "x")
            assert held is not None
            taken = claim(tmp_path / "x")  # somebody looks
            if taken is not None:
                break
            time.now += STILL_SECONDS
            held.release()
        assert (taken is not None) is (start == "zero")
        held.release()
        if taken is not None:
            taken.release()


@WITHOUT_THE_KERNEL
def test_an_owner_that_slept_knows_that_it_lost_and_takes_nothing_with_it(
    reach: str, time: Time, tmp_path: Path
) -> None:
    with reached(reach):
        sleeper = claim(tmp_path / "x")
        assert sleeper is not None
        assert claim(tmp_path / "x") is None
        time.now += STILL_SECONDS
        heir = claim(tmp_path / "x")
        assert heir is not None
        assert sleeper.is_lost()
        assert not heir.is_lost()
        sleeper.release()
        assert not heir.is_lost(), "the file of its heir stays"
        assert claim(tmp_path / "x") is None
        heir.release()
    assert list(tmp_path.iterdir()) == []


@WITHOUT_THE_KERNEL
def test_a_burial_whose_process_died_is_made_by_another(reach: str, time: Time, tmp_path: Path) -> None:
    def die_then(beat: Beat | None) -> None:
        raise KeyboardInterrupt

    with reached(reach):
        held = claim(tmp_path / "x")
        assert held is not None
        die(held)
        assert claim(tmp_path / "x") is None
        time.now += STILL_SECONDS
        right = claim(lock_of(tmp_path / "x"))  # of one that died before it removed the file
        assert right is not None
        die(right)
        assert claim(tmp_path / "x") is None
        time.now += STILL_SECONDS
        with pytest.raises(KeyboardInterrupt):
            claim(tmp_path / "x", buried=die_then)
        heir = claim(tmp_path / "x")
        assert heir is not None
        heir.release()
    assert list(tmp_path.iterdir()) == []


# ---- Random interleavings


N_LINES = 5000


@pytest.fixture(params=["no_locks", "far_locks"])
def world(request: pytest.FixtureRequest, time: Time, tmp_path: Path) -> Iterator[Callable[..., Interleaved]]:
    def played(seed: int, **options: Any) -> Interleaved:
        folder = tmp_path / str(seed)
        folder.mkdir()
        return Interleaved(folder / "x", time, random.Random(seed), **options).play(N_LINES)

    with reached(request.param):
        yield played


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_in_between_one_holds_and_the_living_keep(seed: int, world: Callable[..., Interleaved]) -> None:
    played = world(seed)
    assert (played.together, played.robbed) == (0, 0)
    assert played.died >= 1
    assert played.held > played.died
    assert played.buried in (played.died - 1, played.died), "each death is told once, and the last perhaps not yet"


@pytest.mark.parametrize("seed", range(4, 8))
def test_deaths_at_any_line_change_nothing(seed: int, world: Callable[..., Interleaved]) -> None:
    played = world(seed, die_anywhere=True)
    assert (played.together, played.robbed) == (0, 0)
    assert played.died >= 10
    assert played.held >= 4


def test_a_removal_that_nobody_has_a_right_to_would_rob(
    world: Callable[..., Interleaved], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: as it was, the slower of two that saw a dead owner moved the file of the faster one."""
    monkeypatch.setattr(claims, "_removed", removed_by_moving)
    played = [world(seed) for seed in range(8)]
    assert sum(one.robbed + one.together for one in played) > 0


def test_owners_that_do_not_beat_would_be_robbed(
    world: Callable[..., Interleaved], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the walk finds those that are taken for dead."""
    monkeypatch.setattr(Player, "beat", lambda self: None)
    assert sum(world(seed).robbed for seed in range(4)) > 0
