"""K1 and K3 together: a worker is killed, another goes on, and then the power fails."""

import multiprocessing
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strata_sae.stores import verify
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.writing.finishing import finish_store, recover
from support.power_cuts import Disk, RecordingFileSystem
from support.small_store import fill_missing, plan_store, stored_rows

SITE = "blocks.1.hook_resid_post"
FILES = FileSystem()
FORK = multiprocessing.get_context("fork")


_STEPS = ("make_folder", "create", "write", "sync", "sync_folder", "link", "rename", "unlink", "remove_folder")


def life(files: FileSystem, path: Path) -> None:
    plan = plan_store(path, 130, {SITE: 8}, files=files, shard_bytes=2048)
    recover(files, path, plan)
    rows = {SITE: stored_rows(SITE, 130, 8)}
    tell = files.acknowledge if isinstance(files, RecordingFileSystem) else lambda fact: None
    fill_missing(files, path, plan, rows, tell)
    finish_store(files, path, plan)


def first_life(path: Path, n_steps: int, sender: Any) -> None:
    """Live until a number of steps were made, then die without cleaning up."""

    class Mortal(RecordingFileSystem):
        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name in _STEPS and len(super().__getattribute__("steps")) >= n_steps:
                sender.send(super().__getattribute__("steps"))
                os._exit(0)
            return found

    life(Mortal(), path)
    sender.send(None)
    os._exit(0)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is some: the next test syncs thousands of files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


def test_what_a_second_worker_acknowledges_survives_the_death_of_the_first_and_a_power_cut(memory: Path) -> None:
    rng = random.Random(0)
    n_states = 0
    counter = RecordingFileSystem()
    life(counter, memory / "counted" / "store")
    for n_steps in range(0, len(counter.steps), 3):
        root = memory / f"live{n_steps}"
        root.mkdir()
        receiver, sender = FORK.Pipe(duplex=False)
        child = FORK.Process(target=first_life, args=(root / "store", n_steps, sender))
        child.start()
        steps = receiver.recv()
        child.join()
        second = RecordingFileSystem()
        life(second, root / "store")
        disk = Disk(root)
        for step in steps:
            disk.apply(step)
        cuts = [*sorted(rng.randrange(len(second.steps) + 1) for _ in range(3)), len(second.steps)]
        played = 0
        for cut in cuts:
            for step in second.steps[played:cut]:
                disk.apply(step)
            played = cut
            state_path = memory / "state"
            disk.crash(rng, state_path)
            acknowledged = set(disk.acknowledged)
            if acknowledged:
                plan = plan_store(state_path / "store", 130, {SITE: 8}, shard_bytes=2048)
                assert not acknowledged & set(recover(FILES, state_path / "store", plan)), f"killed at {n_steps}"
            if cut == len(second.steps):
                assert verify(state_path / "store", deep=True) == [], f"killed at {n_steps}"
            else:
                life(FILES, state_path / "store")
            n_states += 1
            shutil.rmtree(state_path)
        shutil.rmtree(root)
    print(f"{n_states} power cuts after a death at {n_steps // 3 + 1} different steps")
