"""What it takes to find the next unit of a store: the queue's `take`, beside a look at every unit, which it replaced.

    python benchmarks/next_unit.py

Stores of tiny units with real commit records (empty files) in a folder on this disk. `take` is timed with everything
that it writes: its claim is a file that is made, synced and removed. Three quarters of the units are committed before,
so that the old way has to pass them. Exit code 1 if `take` costs more than twice as much at the largest size as at the
smallest.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import met, sized
from strata_sae.stores import Plan, UnitQueue
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.commits import commit_path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.filling_processes import plan_of

SIZES = sized((1000, 10_000, 100_000), (40, 80))
N_TAKES, N_LOOKS = sized((200, 5), (4, 2))
ALLOWED = 2.0


def begun_store(path: Path, n_units: int) -> Plan:
    """A planned store of which three quarters of the units are committed, the first ones."""
    plan = plan_of(path, n_units)
    for unit in range(n_units * 3 // 4):
        commit_path(path, plan, unit).touch()
    return plan


def seconds_a_take(path: Path, plan: Plan) -> Iterator[float]:
    """Of each take, the first included, which lists what is committed."""
    queue = UnitQueue(FileSystem(), path, plan)
    while True:
        began = time.perf_counter()
        unit = queue.take()
        yield time.perf_counter() - began
        assert unit is not None
        commit_path(path, plan, unit.number).touch()
        unit.done()


def seconds_a_look_at_all(path: Path, plan: Plan) -> float:
    """The old way: the missing units, by a look at the record of each."""
    seconds = []
    for _ in range(N_LOOKS):
        began = time.perf_counter()
        assert [unit for unit in range(plan.n_units) if not commit_path(path, plan, unit).exists()]
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> int:
    print("   units   take, ms  the first, ms  a look at all, ms  for all units: takes, s    looks, s")
    with tempfile.TemporaryDirectory() as folder:
        stores = {n_units: Path(folder) / str(n_units) for n_units in SIZES}
        plans = {n_units: begun_store(path, n_units) for n_units, path in stores.items()}
        takes = [seconds_a_take(path, plans[n_units]) for n_units, path in stores.items()]
        firsts = [next(take) for take in takes]
        rounds = [
            [next(take) for take in takes] for _ in range(N_TAKES)
        ]  # in turn: what else the machine does hits all
        looks = [seconds_a_look_at_all(path, plans[n_units]) for n_units, path in stores.items()]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    for n_units, first, take, look in zip(SIZES, firsts, medians, looks, strict=True):
        print(
            f"{n_units:>8,} {1e3 * take:>10.2f} {1e3 * first:>14.1f} {1e3 * look:>18.1f} "
            f"{first + n_units * take:>24.1f} {n_units * look:>11,.0f}"
        )
    ratio = medians[-1] / medians[0]
    print(f"a take at {SIZES[-1]:,} units / at {SIZES[0]:,}: {ratio:.2f} (allowed: {ALLOWED})")
    return int(not met(ratio <= ALLOWED))


if __name__ == "__main__":
    sys.exit(main())
