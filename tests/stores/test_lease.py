"""R2: working folders belong to the living; what the dead leave is removed, and nothing else."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from strata_sae.stores.files import locks
from strata_sae.stores.files.filesystem import FileSystem, remove_tree
from strata_sae.stores.files.locks import Lease, abandoned, hold, leased, remove_abandoned, remove_dead, take

FILES = FileSystem()
FORK = multiprocessing.get_context("fork")
N_LEASES = 500


def test_the_living_keep_their_folders_and_the_dead_lose_theirs(tmp_path: Path) -> None:
    def die() -> None:
        (Lease(FILES, tmp_path / "x-dead").folder / "file").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    living = Lease(FILES, tmp_path / "x-living")
    child = FORK.Process(target=die)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (tmp_path / "x-lost-its-lock").mkdir()
    (tmp_path / "y-of-others").mkdir()
    assert leased(tmp_path, "x-") == {"x-living"}
    assert (tmp_path / "x-dead" / "file").exists()
    remove_dead(FILES, tmp_path, "x-")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x-living", "x-living.lock", "y-of-others"]
    living.release()
    living.release()
    assert [entry.name for entry in tmp_path.iterdir()] == ["y-of-others"]


def test_nobody_takes_the_folder_of_a_lease_that_is_just_being_made(tmp_path: Path) -> None:
    made = [FORK.Event(), FORK.Event()]

    def make(done: Any) -> None:
        try:
            for number in range(N_LEASES):
                with Lease(FILES, tmp_path / f"x-{os.getpid()}-{number}") as folder:
                    (folder / "file").touch()
                    assert (folder / "file").exists()
        finally:
            done.set()
        os._exit(0)

    def clean() -> None:
        while not all(done.is_set() for done in made):
            remove_dead(FILES, tmp_path, "x-")
        os._exit(0)

    children = [FORK.Process(target=make, args=(done,)) for done in made]
    children += [FORK.Process(target=clean) for _ in made]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def remove_if_lock_is_missing(files: FileSystem, folders: Iterable[Path]) -> None:
    """As it was: a lock file that is not there is no lock that an owner would have to wait for."""
    for folder in folders:
        if not folder.with_name(folder.name + ".lock").exists():
            locks.remove_tree(files, folder)


@pytest.mark.parametrize(("remove", "is_lost"), [(remove_abandoned, False), (remove_if_lock_is_missing, True)])
def test_an_owner_that_comes_while_its_folder_is_removed(
    remove: Callable[[FileSystem, list[Path]], None], is_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[Lease] = []

    def come_then_remove(files: FileSystem, folder: Path) -> None:
        try:
            with hold(tmp_path / "x-1.lock", wait=False):
                pass
        except BlockingIOError:  # the owner has to wait until the folder is removed
            pass
        else:
            came.append(Lease(FILES, folder))
        remove_tree(files, folder)

    (tmp_path / "x-1.lock").touch()  # of an owner that has made it and not locked it yet
    listed = abandoned(tmp_path, "x-")
    assert listed == [tmp_path / "x-1"]
    remove_dead(FILES, tmp_path, "x-")  # another cleaner
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(locks, "remove_tree", come_then_remove)
    remove(FILES, listed)
    monkeypatch.undo()
    with came[0] if came else Lease(FILES, tmp_path / "x-1") as folder:
        assert folder.exists() is not is_lost
    assert list(tmp_path.iterdir()) == []


def test_an_owner_whose_lock_file_was_removed_before_it_held_it_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[int] = []

    def remove_then_take(descriptor: int, *, wait: bool = True) -> bool:
        if wait and not removed:
            removed.append(descriptor)
            remove_dead(FILES, tmp_path, "x-")
            assert os.fstat(descriptor).st_nlink == 0
        return take(descriptor, wait=wait)

    monkeypatch.setattr(locks, "take", remove_then_take)
    with Lease(FILES, tmp_path / "x-1") as folder:
        assert removed
        assert leased(tmp_path, "x-") == {"x-1"}
        remove_abandoned(FILES, [folder])
        assert folder.exists()


def test_a_cleaner_whose_lock_file_was_removed_before_it_held_it_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x-1"
    came: list[Lease] = []

    def come_then_take(descriptor: int, *, wait: bool = True) -> bool:
        if not came:
            monkeypatch.undo()
            remove_abandoned(FILES, [folder])
            came.append(Lease(FILES, folder))
        return take(descriptor, wait=wait)

    folder.mkdir()
    monkeypatch.setattr(locks, "take", come_then_take)
    remove_abandoned(FILES, [folder])
    with came[0]:
        assert folder.exists()
