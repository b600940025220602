"""kill -9 at random moments: the bits of weights, curves and training state are those of an undisturbed run."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_run import ALL

from pipeline.artifacts import RunFolder

ROOT = Path(__file__).parents[2]
VARIANTS = {name: ALL[name] for name in ("topk", "batch")}
LONGEST_LIFE_SECONDS = 1.2


class Trainings:
    """Starts the training process in a folder, and kills it or lets it end."""

    def __init__(self, store: Path, folder: Path, seed: int) -> None:
        self.store, self.folder, self.noise = store, folder, random.Random(seed)
        self.run = RunFolder(folder / "runs" / "run")
        folder.mkdir()

    def start(self) -> subprocess.Popen[bytes]:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        arguments = [str(self.store), json.dumps(VARIANTS), str(ready), str(self.noise.getrandbits(32))]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
        child = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "killed_training.py"), *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        while not ready.exists() and child.poll() is None:
            time.sleep(0.002)
        return child

    def let_end(self) -> dict[str, Any]:
        """Variant -> sha256 of weights, curves and state, once the process has ended by itself."""
        _, error = self.start().communicate()
        return self.result(error)

    def result(self, error: bytes) -> dict[str, Any]:
        assert {folder.variant for folder in self.run.trained()} == VARIANTS.keys(), error.decode()
        assert not list(self.run.path.rglob("checkpoints"))
        return {folder.variant: json.loads(folder.training.read_text())["sha256"] for folder in self.run.trained()}

    def kill(self) -> bytes | None:
        """Kill after a random time. Returns: None, or what it said if it had ended by itself before."""
        child = self.start()
        try:
            _, error = child.communicate(timeout=self.noise.random() * LONGEST_LIFE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return None
        assert child.returncode == 0, error.decode()
        return error


def survive(store: Path, folder: Path, kills: int, seed: int) -> tuple[int, int, int]:
    """Kill `kills` times, in as many runs as that takes. Returns: runs, kills in the midst of writing, resumes."""
    expected = Trainings(store, folder / "undisturbed", seed).let_end()
    runs = torn = resumes = done = 0
    while done < kills:
        runs += 1
        trainings = Trainings(store, folder / f"run{runs}", seed + runs)
        error: bytes | None = None
        while done < kills and error is None:
            resumes += any(trainings.run.path.glob("variants/*/checkpoints/step_*"))
            error = trainings.kill()
            done += error is None
            torn += any(trainings.run.path.rglob(".staged-*"))
        found = trainings.result(error) if error is not None else trainings.let_end()
        assert found == expected
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
