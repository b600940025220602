"""K2, K3: after a power cut at any step nothing that was acknowledged is lost, and the store ends byte-identical."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.plan import MANIFEST, PLAN, TIMINGS
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.front.verifying import verify
from strata_sae.stores.writing.finishing import finish_store, recover, write_timing
from support.power_cuts import Disk, RecordingFileSystem
from support.small_store import fill_missing, plan_store, stored_rows

N_STATES = int(os.environ.get("STRATA_POWER_CUTS", "1000"))
N_ROWS = 260
SITES = {"blocks.1.hook_resid_post": 8}


def write_store(files: FileSystem, path: Path) -> None:
    """The whole life of a store, acknowledging what a user is told."""
    tell = files.acknowledge if isinstance(files, RecordingFileSystem) else lambda fact: None
    plan = plan_store(path, N_ROWS, SITES, files=files, shard_bytes=4096)
    tell("plan")
    rows = {site: stored_rows(site, N_ROWS, d_model) for site, d_model in plan.sites.items()}
    recover(files, path, plan)

    def filled(unit: int) -> None:
        tell(unit)
        write_timing(files, path, unit, 1, 1.0)

    fill_missing(files, path, plan, rows, filled)
    finish_store(files, path, plan)
    tell("finished")


def contents(path: Path) -> dict[str, str]:
    """Hash of every file but the timings."""
    found = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): file_sha256(file) for file in found if TIMINGS not in file.parts}


def check_state(store: Path, acknowledged: list[object], reference: dict[str, str]) -> None:
    """What was promised is there; what is missing can be filled; the end is the reference, byte for byte."""
    if "plan" in acknowledged:
        plan = read_plan(store)
        missing = recover(FileSystem(), store, plan)
        lost = [unit for unit in missing if unit in acknowledged]
        assert not lost, f"units {lost} were acknowledged and are gone"
    if "finished" in acknowledged:
        assert (store / MANIFEST).is_file(), "the store was finished and is not"
    assert (store / PLAN).is_file() or not store.exists(), "a store without its plan is visible"
    write_store(FileSystem(), store)
    assert contents(store) == reference
    assert verify(store, deep=True) == []


def run_states(tmp_path: Path, n_states: int, *, durable: bool) -> int:
    """Number of the states that fail, of `n_states` cuts spread over all steps."""
    root = tmp_path / "live"
    root.mkdir()
    files = RecordingFileSystem(durable=durable)
    write_store(files, root / "store")
    reference = contents(root / "store")
    rng = random.Random(1)
    failures = 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    disk, played = Disk(root), 0
    for n_steps in sorted(rng.randrange(len(files.steps) + 1) for _ in range(n_states)):
        for step in files.steps[played:n_steps]:
            disk.apply(step)
        played = n_steps
        folder = Path(tempfile.mkdtemp(dir=memory))
        try:
            disk.crash(rng, folder / "state")
            check_state(folder / "state" / "store", disk.acknowledged, reference)
        except (AssertionError, StoreError, OSError):
            failures += 1
            if durable:
                raise
        finally:
            shutil.rmtree(folder)
    return failures


@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost_in_any_power_cut(tmp_path: Path) -> None:
    assert run_states(tmp_path, N_STATES, durable=True) == 0
    print(f"{N_STATES} power cuts survived")


def test_without_fsync_the_same_cuts_lose_data(tmp_path: Path) -> None:
    failures = run_states(tmp_path, 60, durable=False)
    print(f"{failures} of 60 cuts fail without fsync")
    assert failures >= 20
