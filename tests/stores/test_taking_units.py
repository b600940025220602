"""A queue of units: in which order they are given, what others hold, what failed, and the end of waiting."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from strata_sae.stores import MANIFEST, Plan, StoreError, TakenUnit, UnitQueue, finish_store, recover, sweep, verify
from strata_sae.stores.files.beats import Beat, this_machine
from strata_sae.stores.files.claims import claim, lock_of
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.writing import finishing
from strata_sae.stores.writing.queue import claimed_unit, is_claim
from strata_sae.stores.writing.units import UnitWriter
from support.filling_processes import SITE, fill, made_up_rows, plan_of
from support.small_store import token_map

FILES = FileSystem()
FORK = multiprocessing.get_context("fork")
N_UNITS = 8


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def plan(store: Path) -> Plan:
    return plan_of(store, N_UNITS)


def never_wait(seconds: float) -> None:
    pytest.fail("there was something to take")


def queue(store: Path, plan: Plan, wait: Callable[[float], None] = never_wait, **options: object) -> UnitQueue:
    return UnitQueue(FILES, store, plan, wait=wait, **{"run": "run", **options})  # type: ignore[arg-type]


def commit(store: Path, plan: Plan, unit: int) -> None:
    start, stop = plan.unit_rows(unit)
    writer = UnitWriter(FILES, store, plan, unit, token_map(plan.n_rows)["flags"][start:stop])
    writer.append(SITE, made_up_rows(plan)[start:stop])
    writer.commit()


def filled(store: Path, plan: Plan, units: UnitQueue) -> list[int]:
    """Fill what the queue gives. Returns: the units, in that order."""
    order = []
    while (unit := units.take()) is not None:
        commit(store, plan, unit.number)
        unit.done()
        order.append(unit.number)
    return order


def taken(units: UnitQueue) -> TakenUnit:
    unit = units.take()
    assert unit is not None
    return unit


def staged(store: Path) -> list[str]:
    return sorted(entry.name for entry in (store / "staging").iterdir())


# ---- Order


def test_a_process_alone_takes_all_in_order(store: Path, plan: Plan) -> None:
    commit(store, plan, 3)
    assert filled(store, plan, queue(store, plan)) == [0, 1, 2, 4, 5, 6, 7]
    assert staged(store) == []


def test_a_worker_begins_with_its_share_and_then_takes_any(store: Path, plan: Plan) -> None:
    assert filled(store, plan, queue(store, plan, share=(1, 4))) == [2, 3, 6, 7, 0, 1, 4, 5]


def test_one_that_comes_later_begins_in_the_middle_of_what_is_left(store: Path, plan: Plan) -> None:
    first = taken(queue(store, plan))
    assert first.number == 0
    second = taken(queue(store, plan))
    assert second.number == 4, "the middle of 1 to 7"
    third = taken(queue(store, plan))
    assert third.number == 2, "the middle of 1 to 3, the first of two equal runs"
    for unit in (first, second, third):
        unit.give_back()
    assert staged(store) == []


def test_where_a_walk_meets_another_process_it_begins_elsewhere(store: Path, plan: Plan) -> None:
    mine, other = queue(store, plan), queue(store, plan, share=(1, 4))
    assert taken(mine).number == 0
    assert taken(other).number == 2
    assert taken(mine).number == 1
    assert taken(mine).number == 5, "2 is held: the middle of 3 to 7"


# ---- Others


def test_what_others_hold_is_waited_for(store: Path, plan: Plan) -> None:
    others = [taken(queue(store, plan)) for _ in range(N_UNITS)]
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        unit = others.pop()
        commit(store, plan, unit.number)
        unit.done()

    assert queue(store, plan, wait).take() is None
    assert others == []
    assert waits[:3] == [0.05, 0.1, 0.2]
    assert max(waits) == 5.0
    assert staged(store) == []


def test_what_is_given_back_goes_to_one_that_waits(store: Path, plan: Plan) -> None:
    others = [taken(queue(store, plan)) for _ in range(N_UNITS)]
    unit = taken(queue(store, plan, lambda seconds: others[5].give_back()))
    assert unit.number == others[5].number
    unit.give_back()
    assert queue(store, plan)._failures.has_failed(unit.number, "run") is False


def test_a_request_to_end_comes_through_the_waiting(store: Path, plan: Plan) -> None:
    others = [taken(queue(store, plan)) for _ in range(N_UNITS)]

    def stop(seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        queue(store, plan, stop).take()
    assert len(others) == len(staged(store))


def test_a_process_waits_for_what_it_still_commits_itself(store: Path, plan: Plan) -> None:
    mine: list[TakenUnit] = []
    units = queue(store, plan, lambda seconds: [(commit(store, plan, unit.number), unit.done()) for unit in mine])
    mine += [taken(units) for _ in range(N_UNITS)]
    assert units.take() is None


def test_after_long_a_unit_is_given_a_second_time_and_no_third(store: Path, plan: Plan) -> None:
    slow = [taken(queue(store, plan)) for _ in range(N_UNITS)]
    for unit in slow[1:]:
        commit(store, plan, unit.number)
        unit.done()
    waited: list[float] = []
    second = taken(queue(store, plan, waited.append))
    assert second.number == slow[0].number
    assert 60 < sum(waited) <= 65

    def until(seconds: float) -> None:
        waited.append(seconds)
        if sum(waited) > 1000:
            commit(store, plan, second.number)
            second.done()

    waited.clear()
    assert queue(store, plan, until).take() is None, "two are at it: a third would not be faster"
    slow[0].done()
    assert staged(store) == []


# ---- Failures


def fail_at(store: Path, plan: Plan, unit: TakenUnit, fails: int) -> int:
    """Fill a unit, but not the one that always fails. Returns: its number."""
    if unit.number == fails:
        unit.failed("no memory\n left;")
    else:
        commit(store, plan, unit.number)
        unit.done()
    return unit.number


def test_a_unit_that_fails_comes_last_and_stops_the_run_after_three_times(store: Path, plan: Plan) -> None:
    units = queue(store, plan)
    order = [fail_at(store, plan, taken(units), 2) for _ in range(N_UNITS + 2)]
    assert order == [0, 1, 2, 3, 4, 5, 6, 7, 2, 2]
    with pytest.raises(StoreError, match="unit 2 failed 3 times, the last time because: no memory left;"):
        units.take()
    with pytest.raises(StoreError, match="unit 2 failed 3 times"):
        queue(store, plan).take()
    assert filled(store, plan, queue(store, plan, run="another")) == [2], "what failed in an older run does not count"
    finish_store(FILES, store, plan)
    assert staged(store) == []
    assert verify(store, deep=True) == []


def test_a_unit_that_is_filled_at_last_has_not_failed(store: Path, plan: Plan) -> None:
    units = queue(store, plan)
    for _ in range(2):
        while (unit := taken(units)).number != 1:
            commit(store, plan, unit.number)
            unit.done()
        unit.failed("once more")
    assert len(staged(store)) == 2
    assert filled(store, plan, units) == [1]
    assert staged(store) == []


def test_what_is_called_first_counts(store: Path, plan: Plan) -> None:
    unit = taken(queue(store, plan))
    unit.give_back()
    unit.failed("too late")
    unit.done()
    assert staged(store) == []


def test_a_full_disk_takes_no_failure_and_the_unit_is_given_back(store: Path, plan: Plan) -> None:
    class Full(FileSystem):
        def create(self, path: Path) -> int:
            raise OSError(28, "No space left on device")

    unit = taken(UnitQueue(Full(), store, plan, run="run"))
    unit.failed("No space left on device")
    assert staged(store) == []


@pytest.mark.parametrize("run", ["../x", "a b", "\u00e9", "x" * 65, "a.b"])
def test_a_run_needs_a_name_that_a_file_can_have(run: str, store: Path, plan: Plan) -> None:
    with pytest.raises(StoreError, match="is no name of a run"):
        queue(store, plan, run=run)


def killed(store: Path, plan: Plan, *, committed: bool = False) -> None:
    """A process takes a unit, and is killed, before or after it commits it."""

    def work() -> None:
        unit = taken(UnitQueue(FILES, store, plan, run="run"))
        if committed:
            commit(store, plan, unit.number)
        os.kill(os.getpid(), signal.SIGKILL)

    child = FORK.Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("clean", [None, sweep, recover], ids=["none", "sweep", "recover"])
def test_the_deaths_of_its_owners_are_failures_of_a_unit_whoever_finds_them(
    clean: Callable[[FileSystem, Path, Plan], list[int]] | None, store: Path, plan: Plan
) -> None:
    for unit in range(1, N_UNITS):
        commit(store, plan, unit)
    for number in range(3):
        killed(store, plan)
        if clean is not None:
            assert clean(FILES, store, plan) == [0]
            assert len(staged(store)) == number + 1, "its claim is gone, and its failure is told"
    with pytest.raises(StoreError, match="unit 0 failed 3 times, the last time because: the process"):
        queue(store, plan).take()
    assert filled(store, plan, queue(store, plan, run="another")) == [0]
    finish_store(FILES, store, plan)
    assert staged(store) == []


def test_a_death_after_the_commit_is_no_failure(store: Path, plan: Plan) -> None:
    for _ in range(N_UNITS):
        killed(store, plan, committed=True)
    assert queue(store, plan).take() is None
    finish_store(FILES, store, plan)
    assert staged(store) == []


def test_a_lock_file_of_a_stranger_is_no_way_out_of_the_store(store: Path, plan: Plan) -> None:
    (store / "staging").mkdir()
    lock_of(store / "staging" / "000000").write_bytes(Beat(*this_machine(), 7, "../../../x").data())
    assert sweep(FILES, store, plan) == list(range(N_UNITS))
    assert staged(store) == []
    assert sorted(entry.name for entry in store.parent.iterdir()) == ["store"]


@pytest.mark.parametrize(
    ("name", "claims", "unit"),
    [
        ("000012.lock", True, 12),
        ("000012.again.lock", True, 12),
        ("000012.lock.lock", True, None),
        ("finish.lock", True, None),
        ("000012-0123456789ab.lock", False, None),
        ("000012", False, None),
        ("failed.run.000012.1", False, None),
    ],
)
def test_claims_are_known_by_their_names(name: str, claims: bool, unit: int | None) -> None:
    assert (is_claim(name), claimed_unit(name)) == (claims, unit)


# ---- The end


def test_a_sweep_publishes_what_a_dead_worker_committed_and_reads_no_other_record(store: Path, plan: Plan) -> None:
    class DiesBeforePublishing(FileSystem):
        def rename(self, source: Path, target: Path) -> None:
            os._exit(0)

    def work() -> None:
        start, stop = plan.unit_rows(1)
        writer = UnitWriter(DiesBeforePublishing(), store, plan, 1, token_map(plan.n_rows)["flags"][start:stop])
        writer.append(SITE, made_up_rows(plan)[start:stop])
        writer.commit()

    commit(store, plan, 0)
    (store / "commits" / "000" / "000000.json").write_bytes(b"damaged")
    child = FORK.Process(target=work)
    child.start()
    child.join()
    assert not all((store / name).exists() for name in plan.unit_files(1))
    assert sweep(FILES, store, plan) == list(range(2, N_UNITS))
    assert all((store / name).exists() for name in plan.unit_files(1))
    assert staged(store) == []
    with pytest.raises(StoreError, match="damaged"):  # control: the full recovery reads it
        recover(FILES, store, plan)


def test_one_of_many_finishes_and_the_others_wait(store: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is at it, a second waits; the first dies, the second does it; a third finds it done."""
    filled(store, plan, queue(store, plan))
    finished: list[str] = []
    whole = finishing._finish
    monkeypatch.setattr(finishing, "_finish", lambda *arguments: (finished.append("once"), whole(*arguments)))
    first = claim(store / "staging" / "finish")
    assert first is not None
    waits: list[float] = []

    def wait(seconds: float) -> None:
        assert not (store / MANIFEST).exists()
        waits.append(seconds)
        if len(waits) == 3:
            first.release()

    store_id = finish_store(FILES, store, plan, wait=wait)
    assert len(waits) == 3
    assert finish_store(FILES, store, plan, wait=never_wait) == store_id
    assert finished == ["once"]
    assert staged(store) == []


def test_the_store_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    plan_of(tmp_path / "one", 20)
    fill(tmp_path / "one", (0, 1), "run", tmp_path / "told")
    plan_of(tmp_path / "two", 20)
    workers = [FORK.Process(target=fill, args=(tmp_path / "two", (n, 2), "run", tmp_path / "told")) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "two" / MANIFEST).read_bytes()
