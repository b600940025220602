"""R2: working folders belong to the living; what the dead leave is removed, and nothing else."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.locks import Lease, leased, remove_dead
from strata_sae.stores.writing.finishing import next_unit
from strata_sae.stores.writing.units import UnitWriter
from support.small_store import plan_store, token_map

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


def test_a_unit_that_somebody_fills_is_left_to_the_last(tmp_path: Path) -> None:
    store = tmp_path / "store"
    plan = plan_store(store, 300, shard_bytes=4096)
    start, stop = plan.unit_rows(0)
    writer = UnitWriter(FILES, store, plan, 0, token_map(300)["flags"][start:stop])
    assert next_unit(store, plan, set()) == 1
    assert next_unit(store, plan, set(range(1, plan.n_units))) == 0
    writer.close()
    assert next_unit(store, plan, set()) == 0
