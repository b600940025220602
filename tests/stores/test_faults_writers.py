"""K2, K4, W1, W3, W4, W5: writers that die at any step, race, or leave torn files; readers that look meanwhile.

Set STRATA_RACED_UNITS for more units that several processes race for.
"""

import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import strata_sae.stores as stores
from strata_sae.stores import ActivationStore, Batches, CodesStore, StoreError, verify
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.commits import commit_path
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.writing.finishing import finish_store, recover
from strata_sae.stores.writing.units import UnitWriter
from support.small_store import build_store, fill_missing, fill_unit, plan_store, stored_rows, token_map

N_RACED = int(os.environ.get("STRATA_RACED_UNITS", "60"))
SITES = {"blocks.0.hook_resid_post": 8, "blocks.1.hook_resid_post": 8}
FILES = FileSystem()
FORK = multiprocessing.get_context("fork")
STEPS = (
    "make_folder", "create", "write", "sync", "sync_path", "close", "sync_folder", "link", "rename", "unlink",
    "remove_folder",
)  # fmt: skip


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is some: these tests make thousands of files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


def rows_of(plan: Plan) -> dict[str, np.ndarray]:
    return {site: stored_rows(site, plan.n_rows, d_model) for site, d_model in plan.sites.items()}


def live(files: FileSystem, path: Path, n_rows: int = 70) -> None:
    """The whole life of a store, as `extract` does it."""
    plan = plan_store(path, n_rows, SITES, files=files, shard_bytes=2048)
    recover(files, path, plan)
    rows = rows_of(plan)
    fill_missing(files, path, plan, rows)
    finish_store(files, path, plan)


def contents(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file_sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}


# ---- K2: death at every step


class Counting(FileSystem):
    """Counts its steps; dies at one of them without a word, as `kill -9` does. A write is half done then."""

    counted = True

    def __init__(self, die_at: int = -1) -> None:
        self.die_at, self.n_steps = die_at, 0

    def __getattribute__(self, name: str) -> Any:
        if name in STEPS and self.counted:
            self.n_steps += 1
            if self.n_steps == self.die_at:
                if name == "write":
                    return lambda descriptor, data: (os.write(descriptor, data[: len(data) // 2]), os._exit(0))
                os._exit(0)
        return super().__getattribute__(name)


class LinkByCopy(Counting):
    """The control: a commit record that is written where it is read, as by a writer without a protocol. Dies there."""

    counted = False

    def link(self, source: Path, target: Path) -> None:
        self.counted = True
        descriptor = self.create(target)
        self.write(descriptor, source.read_bytes())
        self.close(descriptor)
        self.counted = False


def die(path: Path, files: FileSystem) -> None:
    child = os.fork()
    if child == 0:
        try:
            live(files, path)
        finally:
            os._exit(1)
    os.waitpid(child, 0)


def deaths(memory: Path, kind: type[Counting], every: int = 1) -> tuple[int, int]:
    """Steps at which a writer died, and how many of these deaths the next one did not get over."""
    counter = kind()
    live(counter, memory / "reference" / "store")
    reference = contents(memory / "reference" / "store")
    failures = 0
    steps = range(1, counter.n_steps + 1, every)
    for step in steps:
        path = memory / "live" / "store"
        die(path, kind(step))
        try:
            live(FILES, path)
            assert contents(path) == reference, f"step {step}"
            assert [entry.name for entry in path.parent.iterdir()] == ["store"], f"step {step}"
        except (StoreError, OSError, AssertionError):
            failures += 1
            if kind is Counting:
                raise
        shutil.rmtree(path.parent)
    return len(steps), failures


def test_kills_at_every_fifth_step_are_got_over(memory: Path) -> None:
    assert deaths(memory, Counting, every=5)[1] == 0


@pytest.mark.long
def test_kills_at_every_step_are_got_over(memory: Path) -> None:
    n_steps, failures = deaths(memory, Counting)
    assert failures == 0
    assert n_steps > 150
    print(f"{n_steps} steps, a death at each")


def test_with_a_commit_that_is_not_atomic_some_kills_are_not_got_over(memory: Path) -> None:
    n_steps, failures = deaths(memory, LinkByCopy)
    assert failures >= 3
    print(f"control: {failures} of {n_steps} deaths are not got over")


# ---- K4: torn files


def half_written(path: Path) -> Plan:
    """Unit 0 published, unit 1 committed and not published, unit 2 staged; all their writers are dead."""

    class DiesBeforePublishing(FileSystem):
        def rename(self, source: Path, target: Path) -> None:
            os._exit(0)

    plan = plan_store(path, 300, SITES, shard_bytes=2048)
    rows = rows_of(plan)
    fill_unit(FILES, path, plan, 0, rows)
    for unit in (1, 2):
        child = os.fork()
        if child == 0:
            if unit == 1:
                fill_unit(DiesBeforePublishing(), path, plan, unit, rows)
            start, stop = plan.unit_rows(unit)
            writer = UnitWriter(FILES, path, plan, unit, token_map(plan.n_rows)["flags"][start:stop])
            for site in SITES:
                writer.append(site, rows[site][start : stop - 1])
            os._exit(0)
        os.waitpid(child, 0)
    return plan


def fill_rest(path: Path, plan: Plan) -> None:
    recover(FILES, path, plan)
    fill_missing(FILES, path, plan, rows_of(plan))
    finish_store(FILES, path, plan)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_torn_files_are_filled_again_or_named(memory: Path, share: float) -> None:
    alone = build_store(memory / "alone", 300, SITES, shard_bytes=2048)
    half_written(memory / "original")
    refilled = named = 0
    for file in sorted(path for path in (memory / "original").rglob("*") if path.is_file()):
        if file.suffix == ".lock" or file.name == "zarr.json":
            continue
        shutil.copytree(memory / "original", memory / "torn")
        torn = memory / "torn" / file.relative_to(memory / "original")
        os.truncate(torn, int(torn.stat().st_size * share))
        try:
            plan = read_plan(memory / "torn")
            fill_rest(memory / "torn", plan)
            problems = verify(memory / "torn", deep=True)
        except StoreError as error:
            problems = [str(error)]
        if "staging" in torn.parts and f"{1:06d}-" not in torn.parts[-2]:
            assert problems == [], "what was staged and not committed is nobody's"
        if problems:
            # What was promised (the plan, a commit, its files) is never silently made anew; it is named.
            assert any(part in problems[0] for part in (torn.name, "c/1/0", "c/1")), problems
            named += 1
        else:
            assert contents(memory / "torn") == contents(alone)
            refilled += 1
        shutil.rmtree(memory / "torn")
    assert refilled >= 4
    assert named >= 4
    print(f"{refilled} torn files got over, {named} named")


def test_a_committed_unit_whose_files_are_torn_is_filled_again_once_its_record_and_files_are_gone(memory: Path) -> None:
    plan = half_written(memory / "store")
    for name in plan.unit_files(0):
        os.truncate(memory / "store" / name, 10)
    with pytest.raises(StoreError, match="committed but this file is gone"):
        recover(FILES, memory / "store", plan)
    for name in plan.unit_files(0):
        (memory / "store" / name).unlink()
    commit_path(memory / "store", plan, 0).unlink()
    fill_rest(memory / "store", plan)
    assert contents(memory / "store") == contents(build_store(memory / "alone", 300, SITES, shard_bytes=2048))


# ---- W1: races


def fill_marked(path: Path, plan: Plan, unit: int, rows: dict[str, np.ndarray], mark: int, commit: Any) -> None:
    """Fill a unit with rows that carry who wrote them."""
    start, stop = plan.unit_rows(unit)
    writer = UnitWriter(FILES, path, plan, unit, token_map(plan.n_rows)["flags"][start:stop])
    for site in SITES:
        writer.append(site, rows[site][start:stop] + np.float32(mark))
    commit(writer)
    writer.close()


def commit_without_protocol(path: Path) -> Callable[[UnitWriter], None]:
    """The control: every file goes to its final name, and the last one wins."""

    def commit(writer: UnitWriter) -> None:
        inner = writer._commit
        for name, shard in inner._writers.items():
            record = shard.finish()
            assert record.n_bytes
            staged = next(iter(inner._lease.folder.glob(f"*{name.split('/')[2]}.{name.split('/')[3]}")))
            (path / name).parent.mkdir(exist_ok=True, parents=True)
            time.sleep(random.random() * 0.01)
            os.replace(staged, path / name)
        commit_path(path, writer._plan, int(inner._key)).touch()

    return commit


def race(path: Path, n_units: int, *, disjoint: bool, careless: bool = False) -> Plan:
    """Four processes fill all units, each in an order of its own, without asking who else fills them."""
    plan = plan_store(path, 64 * n_units, SITES, shard_bytes=2048)
    rows = rows_of(plan)
    assert plan.n_units == n_units

    def work(process: int) -> None:
        random.seed(process)
        mine = list(range(process if disjoint else 0, n_units, 4 if disjoint else 1))
        random.shuffle(mine)
        if not disjoint:  # all meet at every unit, in about the same order: whoever is ahead is not first everywhere
            mine = sorted(mine, key=lambda unit: unit + 10 * random.random())
        commit = commit_without_protocol(path) if careless else UnitWriter.commit
        if careless:
            mine.sort()
        for number, unit in enumerate(mine):
            if careless or number == 0:  # or the first could be done before the others have begun
                together.wait()
            fill_marked(path, plan, unit, rows, 1000 * (process + 1), commit)
        os._exit(0)

    together = FORK.Barrier(4)
    workers = [FORK.Process(target=work, args=(process,)) for process in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    return plan


def marks(path: Path, plan: Plan) -> list[set[int]]:
    """Who wrote each unit: more than one writer in a unit is a mixture."""
    group = zarr.open_group(path / "activations.zarr", mode="r", zarr_format=3)
    found = []
    values = {site: np.asarray(group[f"sites/{site}/values"][:]) for site in SITES}
    rows = rows_of(plan)
    for unit in range(plan.n_units):
        start, stop = plan.unit_rows(unit)
        whole = [np.round(values[site][start:stop] - rows[site][start:stop]) for site in SITES]
        found.append({int(mark) for part in whole for mark in np.unique(part)})
    return found


@pytest.mark.parametrize("disjoint", [True, False])
def test_four_processes_fill_every_unit_exactly_once(memory: Path, disjoint: bool) -> None:
    path = memory / "store"
    plan = race(path, N_RACED, disjoint=disjoint)
    finish_store(FILES, path, plan)
    assert verify(path, deep=True) == []
    written = marks(path, plan)
    assert all(len(unit) == 1 for unit in written), "a unit is of one attempt, in every site"
    writers = {mark for unit in written for mark in unit}
    assert writers <= {1000, 2000, 3000, 4000}
    assert len(writers) > 1
    assert list((path / "staging").iterdir()) == []
    print(f"{N_RACED} units, {'disjoint' if disjoint else 'all raced for'}: by {sorted(writers)}")


def test_without_the_protocol_units_are_mixed(memory: Path) -> None:
    plan = race(memory / "store", 40, disjoint=False, careless=True)
    mixed = sum(len(unit) > 1 for unit in marks(memory / "store", plan))
    print(f"control: {mixed} of {plan.n_units} units hold rows of several attempts")
    assert mixed > 0


# ---- W3, W4: no way to change what is there


def test_there_is_no_way_to_append_resize_or_overwrite() -> None:
    forbidden = {"append", "resize", "write", "set", "update", "delete", "remove", "truncate", "overwrite"}
    makes_a_new_one, lies_beside_the_content, goes_whole = "write_store", "write_timing", "delete_store"
    adds_a_missing_part = "write_segment"  # of codes, which are no store of rows; tests/stores/test_codes_writing.py
    for thing in (ActivationStore, Batches, CodesStore, Plan, stores):
        names = set(dir(thing)) - {makes_a_new_one, lies_beside_the_content, goes_whole, adds_a_missing_part}
        assert not {name for name in names if name.strip("_").split("_")[0] in forbidden}, thing
    plan = Plan.__dataclass_params__  # type: ignore[attr-defined]
    assert plan.frozen


def test_plain_zarr_loses_one_of_two_appends(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(4,), chunks=(4,), dtype="i4")[:] = 0
    first, second = (zarr.open_array(tmp_path / "a.zarr", mode="r+") for _ in range(2))
    first.append(np.full(4, 1, "i4"))
    second.append(np.full(4, 2, "i4"))
    assert 1 not in np.asarray(zarr.open_array(tmp_path / "a.zarr", mode="r")[:])


def test_plain_zarr_wipes_another_store(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", 130, SITES)
    for entry in path.rglob("*"):
        entry.chmod(0o755 if entry.is_dir() else 0o644)
    before = contents(path)
    with pytest.raises(StoreError, match="store of another plan"):
        plan_store(path, 131, SITES)
    assert contents(path) == before
    zarr.open_group(path / "activations.zarr", mode="w")
    assert contents(path) != before


# ---- W5: a reader beside the writer


def test_a_reader_sees_nothing_until_all_is_there(memory: Path) -> None:
    path = memory / "store"
    expected = stored_rows("blocks.0.hook_resid_post", 640, 8)
    plan = plan_store(path, 640, SITES, shard_bytes=2048)

    written, looked = FORK.Semaphore(0), FORK.Semaphore(0)

    def write() -> None:
        for unit in range(plan.n_units):
            fill_unit(FILES, path, plan, unit, rows_of(plan))
            written.release()
            looked.acquire()
        finish_store(FILES, path, plan)
        os._exit(0)

    writer = FORK.Process(target=write)
    writer.start()
    for _ in range(plan.n_units):
        written.acquire()
        with pytest.raises(StoreError, match="unfinished"):
            ActivationStore.open(path)
        looked.release()
    writer.join()
    assert writer.exitcode == 0
    assert plan.n_units > 5
    np.testing.assert_array_equal(ActivationStore.open(path).rows("blocks.0.hook_resid_post", 0, 640), expected)


def test_plain_zarr_shows_rows_that_are_not_there_yet(memory: Path) -> None:
    plan = plan_store(memory / "store", 640, SITES, shard_bytes=2048)
    fill_unit(FILES, memory / "store", plan, 0, rows_of(plan))
    group = zarr.open_group(memory / "store" / "activations.zarr", mode="r", zarr_format=3)
    values = np.asarray(group["sites/blocks.0.hook_resid_post/values"][:])
    assert np.isnan(values[plan.unit_rows(1)[0] :]).all(), "and only because our fill value is NaN are they loud"
