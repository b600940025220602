"""What an engine costs: extraction through it against the same work without it.

    python benchmarks/engines.py

The demo model, one site, its text, planned once; every side fills a copy of that plan.
One worker: `fill` with the local engine against `fill_and_finish` called directly.
Two workers: `fill` with a local engine of two against two plain processes started by hand, which take units from one
queue; both sides start interpreters and load the model twice. Sides take turns, in an order that changes every round.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import met, sized
from strata_sae.pipeline.config.run import ExtractConfig
from strata_sae.pipeline.engines import Share, new_run
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.extractor.extract import fill
from strata_sae.pipeline.extractor.filling import fill_and_finish
from strata_sae.pipeline.extractor.plan import planned
from strata_sae.stores import read_plan

ROOT = Path(__file__).resolve().parent.parent
N_TOKENS, N_ROUNDS = sized((2**14, 5), (2**10, 1))
TARGET = 1.02
PROCESS = """\
import sys
from pathlib import Path
import torch
from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.extractor.filling import fill_and_finish
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import read_plan
torch.set_num_threads(1)
store = Path(sys.argv[1])
settings = ModelSettings(path="demo", dtype="bfloat16")
fill_and_finish(settings, store, read_plan(store), Share(int(sys.argv[2]), 2, sys.argv[3]), show_progress=False)
"""


def config(path: Path) -> ExtractConfig:
    return ExtractConfig.model_validate(
        {
            "name": "benchmark",
            "model": {"path": "demo", "dtype": "bfloat16"},
            "corpus": {"sources": [{"kind": "python_docs"}], "n_tokens": N_TOKENS, "context_length": 256},
            "store": {
                "path": str(path),
                "sites": ["blocks.8.hook_resid_post"],
                "encoding": "bfloat16",
                "shard_bytes": sized(2**21, 2**18),
            },
            "training": {"n_steps": 1, "warmup_steps": 0},
            "variants": {"a": {"sae": {"architecture": "relu", "d_sae": 1}, "objective": {"reconstruction": {}}}},
        }
    )


def two_processes(store: Path) -> None:
    """Two workers without an engine."""
    run = new_run()
    command = [sys.executable, "-c", PROCESS, str(store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([*command, str(index), run], env=environment) for index in range(2)]
    assert [process.wait() for process in started] == [0, 0]


def cpu_seconds() -> float:
    """Of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def compare(
    name: str, plan: Path, engine: Callable[[Path], object], without: Callable[[Path], object], n_rounds: int
) -> float:
    """Print and return the median ratio of the times of the two sides."""
    clock: list[float] = []
    cpu: list[float] = []
    for number in range(n_rounds):
        sides = [("engine", engine), ("without", without)]
        times: dict[str, tuple[float, float]] = {}
        for side, job in sides if number % 2 else reversed(sides):
            store = plan.with_name("filled")
            shutil.copytree(plan, store)
            began, used = time.perf_counter(), cpu_seconds()
            job(store)
            times[side] = time.perf_counter() - began, cpu_seconds() - used
            shutil.rmtree(store)
        clock.append(times["engine"][0] / times["without"][0])
        cpu.append(times["engine"][1] / times["without"][1])
        print(f"{name}: {times['engine'][0]:.2f} s with the engine, {times['without'][0]:.2f} s without", flush=True)
    ratio = statistics.median(clock)
    print(f"{name}: {ratio:.3f} of the time without an engine, {statistics.median(cpu):.3f} of the processors' time")
    return ratio


def main() -> int:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(prefix="strata-benchmark-") as folder:
        path = Path(folder) / "planned"
        settings = config(path).model
        planned(config(path), show_progress=False)

        def through(n_workers: int) -> Callable[[Path], object]:
            return lambda store: fill(settings, store, read_plan(store), Local(n_workers), show_progress=False)

        def direct(store: Path) -> None:
            fill_and_finish(settings, store, read_plan(store), Share(run=new_run()), show_progress=False)

        ratios = [
            compare("one worker", path, through(1), direct, N_ROUNDS),
            compare("two workers", path, through(2), two_processes, N_ROUNDS),
        ]
    return not met(max(ratios) <= TARGET)


if __name__ == "__main__":
    sys.exit(main())
