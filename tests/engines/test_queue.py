"""Many processes on one store: each unit is filled once, and to take one costs the same in a store of any size."""

import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from strata_sae.stores import Plan, UnitQueue, verify
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.commits import commit_path
from support.counted_files import counted
from support.filling_processes import fill, fill_at_once, plan_of
from support.without_flock import reached

pytestmark = pytest.mark.engines
FILES = FileSystem()
N_PROCESSES, N_UNITS, N_MANY = 16, 1000, 100_000
BY_SHARE = [(number, N_PROCESSES) for number in range(N_PROCESSES)]
BY_HAND = [(0, 1)] * N_PROCESSES
ALL_LIVE = [0] * N_PROCESSES
SOME_DIE = [1 + number if number % 4 == 1 else 0 for number in range(N_PROCESSES)]
"""At which of its units each process dies; 0: never."""


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is some: thousands of files are synced."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def alone(memory: Path) -> dict[str, str]:
    """What a store holds that one process filled."""
    plan_of(memory / "alone" / "store", N_UNITS)
    fill(memory / "alone" / "store", (0, 1), "run", memory / "alone" / "told")
    assert verify(memory / "alone" / "store", deep=True) == []
    return contents(memory / "alone" / "store")


def contents(path: Path) -> dict[str, str]:
    """Hash of every file, those in the staging folder as well: there must be none."""
    return {str(file.relative_to(path)): file_sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("shares", "dies_at", "locks"),
    [(BY_SHARE, ALL_LIVE, True), (BY_SHARE, SOME_DIE, True), (BY_HAND, SOME_DIE, True), (BY_HAND, ALL_LIVE, False)],
    ids=["shares", "shares, four killed", "by hand, four killed", "by hand, without flock"],
)
def test_sixteen_processes_fill_every_unit_once(
    shares: list[tuple[int, int]], dies_at: list[int], locks: bool, memory: Path, alone: dict[str, str]
) -> None:
    folder = Path(tempfile.mkdtemp(dir=memory))
    plan_of(folder / "store", N_UNITS)
    if locks:
        codes = fill_at_once(folder / "store", shares, folder / "told", dies_at)
    else:
        with reached("no_locks"):
            codes = fill_at_once(folder / "store", shares, folder / "told", dies_at)
    fills = Counter(map(int, (folder / "told").read_text().split()))
    n_died = sum(number > 0 for number in dies_at)
    assert Counter(codes) == {0: len(codes) - n_died} | ({-signal.SIGKILL: n_died} if n_died else {})
    assert set(fills) == set(range(N_UNITS))
    assert fills.total() <= 1.02 * N_UNITS
    assert contents(folder / "store") == alone
    print(f"{fills.total()} fills of {N_UNITS} units, {n_died} processes killed")
    shutil.rmtree(folder)


def walk(store: Path, plan: Plan, n_takes: int) -> float:
    """Take units, up to so many, and commit each by an empty record. Returns: questions to the file system a take."""
    queue, n_taken = UnitQueue(FILES, store, plan), 0
    with counted() as asked:
        while n_taken < n_takes and (unit := queue.take()) is not None:
            with open(commit_path(store, plan, unit.number), "x"):
                n_taken += 1
            asked["open"] -= 1
            unit.done()
    return asked.total() / n_taken


def walk_with_a_stat_a_unit(store: Path, plan: Plan, n_takes: int) -> float:
    """The control: as it was, every unit is looked at to find the next one."""
    with counted() as asked:
        for n_taken in range(n_takes):
            missing = [unit for unit in range(plan.n_units) if not commit_path(store, plan, unit).exists()]
            if not missing:
                return asked.total() / n_taken
            with open(commit_path(store, plan, missing[0]), "x"):
                pass
    return asked.total() / n_takes


def commit_all_but(store: Path, plan: Plan, n_missing: int) -> None:
    missing = set(random.Random(0).sample(range(plan.n_units), n_missing))
    for unit in set(range(plan.n_units)) - missing:
        os.close(os.open(commit_path(store, plan, unit), os.O_CREAT))


def test_to_take_a_unit_costs_the_same_in_a_store_of_a_hundred_thousand(memory: Path) -> None:
    few, many = memory / "few", memory / "many"
    few_plan, many_plan = plan_of(few, N_UNITS), plan_of(many, N_MANY)
    asked = walk(few, few_plan, N_UNITS)
    begun = walk(many, many_plan, N_UNITS)
    assert begun <= 2 * asked
    shutil.rmtree(many / "commits")
    for folder in ("commits", *(f"commits/{number:03d}" for number in range(N_MANY // 1000))):
        (many / folder).mkdir()
    commit_all_but(many, many_plan, N_UNITS)
    ended = walk(many, many_plan, N_MANY)
    assert UnitQueue(FILES, many, many_plan).take() is None
    assert ended <= 2 * asked
    print(
        f"questions a take: {asked:.1f} at {N_UNITS}; at {N_MANY} {begun:.1f} at the beginning, {ended:.1f} at the end"
    )


def test_a_stat_of_each_unit_would_not(memory: Path) -> None:
    """Control: the same count, of the way it was, at sizes that are a tenth."""
    few, many = memory / "few-stats", memory / "many-stats"
    few_plan, many_plan = plan_of(few, 100), plan_of(many, 10_000)
    assert walk_with_a_stat_a_unit(many, many_plan, 20) > 20 * walk_with_a_stat_a_unit(few, few_plan, 20)
