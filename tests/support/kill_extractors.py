"""Two real extractors race on one store and are killed (-9) at random, again and again, until it is finished.

Usage: kill_extractors.py FOLDER N_KILLS [careless]. Prints one JSON line. Extractors are forked from this process, so a
killed one is replaced in milliseconds. FOLDER/reference is an undisturbed run.
`careless` publishes before it commits, as most writers do: the negative control.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: F401  forked workers inherit the import
from careless import commit_carelessly
from extraction import extraction_config

import pipeline.extractor.extract as stage
import stores.units as units
from stores.filesystem import FileSystem

N_WORKERS = 2
LONGEST_LIFE_SECONDS = 4.0


class PausingFileSystem(FileSystem):
    """Stops for a moment before many steps, so that kills hit the short windows between them."""

    def _pause(self) -> None:
        if random.random() < 0.6:
            time.sleep(random.random() * 0.004)

    def create(self, path: Path) -> int:
        self._pause()
        return super().create(path)

    def sync(self, descriptor: int) -> None:
        self._pause()
        super().sync(descriptor)

    def link(self, source: Path, target: Path) -> None:
        self._pause()
        super().link(source, target)
        self._pause()

    def rename(self, source: Path, target: Path) -> None:
        self._pause()
        super().rename(source, target)


def any_missing_unit(path: Path, plan: Any, skip: set[int]) -> int | None:
    """One of the first missing units, whoever may be filling it: racing is what is tested."""
    missing = [u for u in range(plan.n_units) if u not in skip and not units.commit_path(path, plan, u).exists()]
    return random.choice(missing[:2]) if missing else None


def fork_worker(folder: Path, store: Path) -> int:
    """Process id of a new extractor."""
    worker = os.fork()
    if worker:
        return worker
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        random.seed(os.getpid())
        stage.extract(extraction_config(folder, store={"path": str(store)}), progress=False)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def campaign(folder: Path, n_kills: int) -> dict[str, Any]:
    """Kill until `n_kills` have been killed and every store begun is finished. Returns: what happened."""
    kills, stores, failures = 0, 0, 0
    while kills < n_kills:
        store = folder / f"killed-{stores}"
        stores += 1
        workers: dict[int, float] = {}
        finished = False
        while not finished or workers:
            while len(workers) < N_WORKERS and not finished:
                workers[fork_worker(folder, store)] = time.monotonic() + random.random() * LONGEST_LIFE_SECONDS
            time.sleep(0.002)
            for worker, death in list(workers.items()):
                done, status = os.waitpid(worker, os.WNOHANG)
                if done:
                    del workers[worker]
                    failures += os.waitstatus_to_exitcode(status) != 0
                    finished = finished or os.waitstatus_to_exitcode(status) == 0
                elif kills < n_kills and time.monotonic() > death:
                    os.kill(worker, signal.SIGKILL)
                    os.waitpid(worker, 0)
                    del workers[worker]
                    kills += 1
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
    # The undisturbed run, here too: equal bytes are promised for an equal thread count.
    os.waitpid(fork_worker(folder, folder / "reference"), 0)
    stage.FileSystem = PausingFileSystem  # type: ignore[misc]
    stage.next_unit = any_missing_unit  # type: ignore[assignment]
    if sys.argv[3:] == ["careless"]:
        units.UnitWriter.commit = commit_carelessly  # type: ignore[method-assign]
    print(json.dumps(campaign(folder, n_kills)))


if __name__ == "__main__":
    main()
