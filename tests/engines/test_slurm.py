"""`strata slurm` under the stand-in for SLURM: tasks are preempted, killed, out of time; no byte depends on it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strata_sae.pipeline.config import dump
from support.extraction import extraction_config
from support.held_command import VARIABLE
from support.slurm import Cluster
from support.small_run import ALL, SITE
from support.waiting import wait_until

pytestmark = pytest.mark.engines

ROOT = Path(__file__).parents[2]
HELD_COMMAND = ROOT / "tests" / "support" / "held_command.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
REPORTED = "report: runs/small/report.html"
TASKS = (0, 1, 2)


def strata(folder: Path, *arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, str(HELD_COMMAND), *arguments]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_config(folder: Path) -> Path:
    """The config of three tasks: twelve units, four variants in one pass."""
    made = extraction_config(
        folder,
        store={"path": None, "sites": [SITE]},
        corpus={"heldout_fraction": 0.2},
        training={"n_steps": 12, "warmup_steps": 2, "checkpoint_every_steps": 4, "dead_after_rows": 150},
        variants={**ALL, "again": ALL["topk"]},
        engine={"kind": "slurm", "workers": len(TASKS)},
    )
    path = folder / "a config.yaml"
    path.write_text(dump(made), encoding="utf-8")
    return path


def store_files(folder: Path) -> dict[str, bytes]:
    """All of the store but how long each unit took."""
    store = folder / "data" / "small"
    files = [path for path in sorted(store.rglob("*")) if path.is_file()]
    found = {str(path.relative_to(store)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if not name.startswith("timings/")}


def sae_files(folder: Path) -> dict[str, bytes]:
    """The SAEs and their scores."""
    run = folder / "runs" / "small"
    names = ("weights.safetensors", "metrics.json", "features.safetensors", "examples.json")
    files = [path for name in names for path in sorted(run.glob(f"variants/*/{name}"))]
    return {str(path.relative_to(run)): path.read_bytes() for path in [*files, *run.glob("comparisons.json")]}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def plain(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in one process."""
    folder = tmp_path_factory.mktemp("plain")
    strata(folder, "--quiet", "run", str(config), "--set", "engine=local")
    return folder


class Job:
    """The array job of a config, and where its tasks are held."""

    def __init__(self, config: Path, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster(strata(folder, "slurm", str(config)), folder)

    def start(self, number: int, name: str, **at: int) -> None:
        """Let a task run; it is held before the moments `at`, each so many times after it first came."""
        hold = {"at": at, "folder": str(self.folder), "name": name}
        self.cluster.start(number, PYTHONPATH=ENVIRONMENT["PYTHONPATH"], **{VARIABLE: json.dumps(hold)})

    def reached(self, moment: str) -> set[str]:
        """The names of the tasks that are, or were, held there."""
        return {path.name.rpartition("-")[2] for path in self.folder.glob(f"reached-{moment}-*")}

    def wait_for(self, moment: str, n: int = 1) -> set[str]:
        wait_until(lambda: len(self.reached(moment)) >= n or not self.running())
        assert len(self.reached(moment)) >= n, self.said()
        return self.reached(moment)

    def go(self, moment: str) -> None:
        (self.folder / f"go-{moment}").touch()

    def running(self) -> list[int]:
        tasks = self.cluster.tasks.values()
        return [task.number for task in tasks if task.process is not None and task.process.poll() is None]

    def said(self) -> str:
        """Of all tasks together."""
        files = [self.cluster.output(number) for number in TASKS]
        return "".join(file.read_text(encoding="utf-8") for file in files if file.exists())


@pytest.fixture
def job(config: Path, tmp_path: Path) -> Iterator[Job]:
    made = Job(config, tmp_path)
    yield made
    made.cluster.close()


def test_an_array_that_is_preempted_killed_and_out_of_time_ends_with_the_same_bytes(job: Job, plain: Path) -> None:
    cluster = job.cluster
    # While units are filled: one is preempted, the node of another one fails; the third begins late.
    job.start(0, "0", unit=1)
    job.start(1, "1", unit=1)
    job.wait_for("unit", 2)
    assert cluster.preempt(0) == 143
    assert cluster.fail_node(1) == -9
    assert store_files(job.folder) != store_files(plain), "control: units are missing, and that is seen"
    for number in TASKS:
        job.start(number, str(number), checkpoint=1, scores=0)
    # While SAEs are trained: the time of one is over.
    (first, *_) = sorted(job.wait_for("checkpoint"))
    assert cluster.near_limit(int(first)) == 143
    job.go("checkpoint")
    job.start(int(first), first, scores=0)
    # While they are judged: the node of the judge fails, when the others have ended.
    (judge,) = map(int, job.wait_for("scores"))
    others = [cluster.ended(number) for number in TASKS if number != judge]
    assert others == [0, 0]
    assert REPORTED not in job.said()
    assert sae_files(job.folder) != sae_files(plain), "control: scores are missing, and that is seen"
    assert cluster.fail_node(judge) == -9
    job.start(judge, str(judge))
    assert cluster.ended(judge) == 0
    assert job.said().count(REPORTED) == 1
    assert job.said().count("another process of this job judges it") == 2
    assert store_files(job.folder) == store_files(plain)
    assert sae_files(job.folder) == sae_files(plain)
