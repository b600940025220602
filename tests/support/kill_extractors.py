"""Two real extractors race on one store and die (-9) at random steps, again and again, until it is finished.

Usage: kill_extractors.py FOLDER N_KILLS [careless]. Prints one JSON line. Extractors are forked from this process, so a
killed one is replaced in milliseconds. FOLDER/reference is an undisturbed run.
`careless` publishes before it commits, as most writers do: the negative control.
"""

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers  # noqa: F401  forked workers inherit the import

import strata_sae.pipeline.extractor.filling as filling
import strata_sae.stores.writing.units as units
import support.careless as careless
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.stores import Plan, TakenUnit, UnitQueue
from strata_sae.stores.files.filesystem import FileSystem
from support.extraction import extraction_config

N_WORKERS = 2


class Life:
    """The steps of the file system that this process has made, and the one at which it dies."""

    steps = 0
    dies_at: int | None = None
    lock = threading.Lock()

    @classmethod
    def step(cls) -> None:
        """Die, or often pause for a moment: so the two extractors come to every step in every order."""
        with cls.lock:
            cls.steps += 1
            if cls.steps == cls.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
        if random.random() < 0.6:
            time.sleep(random.random() * 0.004)


class MortalFileSystem(FileSystem):
    """Every step may be the last."""

    def create(self, path: Path) -> int:
        Life.step()
        return super().create(path)

    def sync(self, descriptor: int) -> None:
        Life.step()
        super().sync(descriptor)

    def link(self, source: Path, target: Path) -> None:
        Life.step()
        super().link(source, target)
        Life.step()

    def rename(self, source: Path, target: Path) -> None:
        Life.step()
        super().rename(source, target)


class Racing(UnitQueue):
    """Gives one of the first missing units, whoever may be filling it: racing is what is tested."""

    def __init__(self, files: FileSystem, store: Path, plan: Plan, **_: Any) -> None:
        super().__init__(files, store, plan)
        self.place, self.left = (store, plan), list(range(plan.n_units))

    def take(self) -> TakenUnit | None:
        """Each unit once in a life."""
        missing = [unit for unit in self.left if not units.commit_path(*self.place, unit).exists()]
        if not missing:
            return None
        self.left.remove(unit := random.choice(missing[:2]))
        held: Any = SimpleNamespace(release=lambda: None)
        return TakenUnit(unit, held, lambda *_: None)


def fork_worker(folder: Path, store: Path, dies_at: int | None = None) -> int:
    """Process id of a new extractor. One that lives writes down how many steps it made."""
    worker = os.fork()
    if worker:
        return worker
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        random.seed(os.getpid())
        Life.steps, Life.dies_at = 0, dies_at
        extract(extraction_config(folder, store={"path": str(store)}), show_progress=False)
        (folder / "steps").write_text(str(Life.steps), encoding="utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def campaign(folder: Path, n_kills: int, longest_life_steps: int) -> dict[str, Any]:
    """Fork until `n_kills` have died and every store begun is finished. Returns: what happened."""
    kills, stores, failures = 0, 0, 0
    while kills < n_kills:
        store = folder / f"killed-{stores}"
        stores += 1
        workers: set[int] = set()
        finished = False
        while not finished or workers:
            while len(workers) < N_WORKERS and not finished:
                dies_at = random.randint(1, longest_life_steps) if kills < n_kills else None
                workers.add(fork_worker(folder, store, dies_at))
            worker, status = os.waitpid(-1, 0)
            workers.remove(worker)
            code = os.waitstatus_to_exitcode(status)
            kills += code == -signal.SIGKILL
            failures += code not in (0, -signal.SIGKILL)
            finished = finished or code == 0
            if failures > 5:
                return {"kills": kills, "stores": stores, "failures": failures}
        # One more run, left alone, sweeps what a worker killed beside the finishing one had staged.
        _, status = os.waitpid(fork_worker(folder, store), 0)
        failures += os.waitstatus_to_exitcode(status) != 0
    return {"kills": kills, "stores": stores, "failures": failures}


def main() -> None:
    """Run one campaign and print its result."""
    folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    random.seed(7)
    filling.FileSystem = MortalFileSystem  # type: ignore[misc]
    # The undisturbed run, here too: equal bytes are promised for an equal thread count.
    os.waitpid(fork_worker(folder, folder / "reference"), 0)
    longest_life_steps = int((folder / "steps").read_text(encoding="utf-8")) // 2
    filling.UnitQueue = Racing  # type: ignore[misc]
    if sys.argv[3:] == ["careless"]:
        units.UnitWriter.commit = careless.commit_carelessly  # type: ignore[method-assign]
        careless.between_files = Life.step
    print(json.dumps(campaign(folder, n_kills, longest_life_steps)))


if __name__ == "__main__":
    main()
