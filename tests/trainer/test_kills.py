"""kill -9 at random steps: the bits of weights, curves and training state are those of an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.runs.folders import RunFolder
from support.small_run import ALL

ROOT = Path(__file__).parents[2]
VARIANTS = {name: ALL[name] for name in ("topk", "batch")}


class Trainings:
    """Starts the training process in a folder, to be killed or to end."""

    def __init__(self, store: Path, folder: Path, seed: int) -> None:
        self.store, self.folder, self.noise = store, folder, random.Random(seed)
        self.run = RunFolder(folder / "runs" / "run")
        folder.mkdir()

    def train(self, dies_at: int = 0) -> subprocess.CompletedProcess[str]:
        """Train until it is done or, at that step of the file system, killed."""
        arguments = [str(self.store), json.dumps(VARIANTS), str(dies_at), str(self.noise.getrandbits(32))]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        return subprocess.run(
            [sys.executable, str(ROOT / "tests" / "support" / "killed_training.py"), *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def let_end(self) -> tuple[dict[str, Any], int]:
        """The result of a process that ended by itself, and the steps of the file system it made."""
        done = self.train()
        assert done.returncode == 0, done.stderr
        return self.result(), int(done.stdout.split()[-1])

    def result(self) -> dict[str, Any]:
        """Variant -> sha256 of weights, curves and state."""
        assert {folder.variant for folder in self.run.trained()} == VARIANTS.keys()
        assert not list(self.run.path.rglob("checkpoints"))
        return {folder.variant: json.loads(folder.training.read_text())["sha256"] for folder in self.run.trained()}

    def kill(self, longest_life_steps: int) -> bool:
        """Let it die at a random step. Returns: whether it did; it may be done before."""
        done = self.train(self.noise.randint(1, longest_life_steps))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode != 0


def survive(store: Path, folder: Path, kills: int, seed: int) -> tuple[int, int, int]:
    """Kill `kills` times, in as many runs as that takes. Returns: runs, kills in the midst of writing, resumes."""
    expected, n_steps = Trainings(store, folder / "undisturbed", seed).let_end()
    runs = torn = resumes = done = 0
    while done < kills:
        runs += 1
        trainings = Trainings(store, folder / f"run{runs}", seed + runs)
        killed = True
        while done < kills and killed:
            resumes += any(trainings.run.path.glob("variants/*/checkpoints/step_*"))
            killed = trainings.kill(n_steps // 2)
            done += killed
            torn += any(trainings.run.path.rglob(".staged-*"))
        assert (trainings.let_end()[0] if killed else trainings.result()) == expected
        shutil.rmtree(trainings.folder)
    return runs, torn, resumes


def test_killed_training_ends_with_the_same_bits(store: Path, tmp_path: Path) -> None:
    survive(store, tmp_path, kills=6, seed=0)


@pytest.mark.long
def test_killed_training_ends_with_the_same_bits_many_times(store: Path, tmp_path: Path) -> None:
    kills = int(os.environ.get("STRATA_TRAINER_KILLS", "60"))
    runs, torn, resumes = survive(store, tmp_path, kills=kills, seed=1)
    print(f"{kills} kills in {runs} runs, {torn} in the midst of writing, {resumes} attempts resumed: one result")
    assert torn > 0
    assert resumes > kills // 2
