"""One process at a time judges a run and writes its report; of a job's processes, one does it at all."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from strata_sae.pipeline.commands import judging
from strata_sae.pipeline.commands.app import app, explained
from strata_sae.pipeline.commands.judging import judge_alone, judge_once
from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores.files import locks
from strata_sae.stores.files.beats import STILL_SECONDS, Observer
from strata_sae.stores.files.claims import Claim, claim
from support.small_run import TOPK, run_data, store_for_training

FORK = multiprocessing.get_context("fork")
N_TASKS = 4


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run in which one SAE is trained, as far as judging looks at it."""
    folder = RunFolder(tmp_path / "run")
    folder.claims.mkdir(parents=True)
    folder.config.write_text("name: run\n", encoding="utf-8")
    trained = folder.variant("a@site").training
    trained.parent.mkdir(parents=True)
    trained.write_text("{}", encoding="utf-8")
    return folder


def share(job: str, index: int = 0, of: int = 2) -> Share:
    return Share(index, of, job)


def held(run: RunFolder, job: str = "") -> Claim:
    found = claim(run.claims / "judging", run=job)
    assert found is not None
    return found


class Judge:
    """Counts."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> None:
        self.n += 1


# ---- Of one job


def tasks(run: RunFolder, log: Path) -> int:
    """N_TASKS processes of one job come to judge a run. Returns: how many did."""
    all_are_here = FORK.Barrier(N_TASKS)

    def judge() -> None:
        with log.open("a") as file:
            file.write("judged\n")

    def task(index: int) -> None:
        all_are_here.wait()
        judge_once(run.path, share("job", index, N_TASKS), judge)

    processes = [FORK.Process(target=task, args=(index,)) for index in range(N_TASKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * N_TASKS
    return len(log.read_text().splitlines())


def test_one_task_of_a_job_judges(run: RunFolder, tmp_path: Path) -> None:
    assert tasks(run, tmp_path / "log") == 1


def test_control_without_a_claim_all_do(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def nobody(*_: Any) -> Iterator[None]:
        yield None

    monkeypatch.setattr(judging, "_claimed", nobody)
    monkeypatch.setattr(judging, "write_bytes", lambda path, data: None)
    assert tasks(run, tmp_path / "log") == N_TASKS


def test_the_others_say_so_and_end_well(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "strata_sae")
    judge = Judge()
    with held(run, "job"):
        judge_once(run.path, share("job"), judge)
    assert judge.n == 0
    (line,) = caplog.messages
    assert line == f"{run.path}: another process of this job judges it and writes the report; nothing is left to do"


def test_a_task_that_comes_late_says_so_too(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "strata_sae")
    judge = Judge()
    for index in range(2):
        judge_once(run.path, share("job", index), judge)
    assert judge.n == 1
    assert "has judged it" in caplog.messages[-1]


def another_job(run: RunFolder) -> Share:
    return share("later")


def alone(run: RunFolder) -> Share:
    return share("job", of=1)


def one_more(run: RunFolder) -> Share:
    trained = run.variant("b@site").training
    trained.parent.mkdir(parents=True)
    trained.write_text("{}", encoding="utf-8")
    return share("job")


def other_settings(run: RunFolder) -> Share:
    run.config.write_text("name: run\nevaluation: {max_rows: 5}\n", encoding="utf-8")
    return share("job")


@pytest.mark.parametrize("change", [another_job, alone, one_more, other_settings])
def test_what_has_changed_is_judged_again(run: RunFolder, change: Callable[[RunFolder], Share]) -> None:
    judge = Judge()
    judge_once(run.path, share("job"), judge)
    judge_once(run.path, change(run), judge)
    assert judge.n == 2


def test_a_process_that_is_alone_judges_each_time_and_leaves_nothing_behind(run: RunFolder) -> None:
    judge = Judge()
    for _ in range(2):
        judge_once(run.path, Share(run="by-hand"), judge)
    assert judge.n == 2
    assert not run.claims.exists()


def test_a_judge_that_fails_leaves_it_to_the_next(run: RunFolder) -> None:
    def fails() -> None:
        raise CheckpointError("damaged")

    judge = Judge()
    with pytest.raises(CheckpointError, match="damaged"):
        judge_once(run.path, share("job"), fails)
    judge_once(run.path, share("job"), judge)
    assert judge.n == 1


def test_a_judge_that_is_killed_is_followed(run: RunFolder) -> None:
    process = FORK.Process(
        target=judge_once, args=(run.path, share("job"), lambda: os.kill(os.getpid(), signal.SIGKILL))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (run.claims / "judging.lock").exists()
    judge = Judge()
    judge_once(run.path, share("job"), judge)
    assert judge.n == 1


# ---- Where no lock of the kernel reaches the other process


class Elsewhere:
    """A holder on another machine, and a clock that moves only while this process waits for it."""

    def __init__(self, holder: Claim, monkeypatch: pytest.MonkeyPatch, *, beats: bool) -> None:
        self.seconds, self.looks = 0.0, 0
        self._pulse, self._beats = holder._pulse, beats

        def no_locks(*_: Any, **__: Any) -> bool:
            raise OSError("no locks here")

        monkeypatch.setattr(locks, "take", no_locks)
        monkeypatch.setattr(judging, "take", no_locks)
        monkeypatch.setattr(locks, "_OBSERVER", Observer(lambda: self.seconds))

    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        self.looks += 1
        if self._beats and self.looks == 3:
            self._pulse.beat()


@pytest.mark.parametrize("beats", [True, False])
def test_only_a_beat_shows_that_the_holder_lives(run: RunFolder, monkeypatch: pytest.MonkeyPatch, beats: bool) -> None:
    holder = held(run, "job")
    elsewhere = Elsewhere(holder, monkeypatch, beats=beats)
    with judging._claimed(run, "job", elsewhere.wait) as found:
        assert (found is not None) == beats, "who holds it is known; or its claim is taken over"
    assert (elsewhere.seconds >= STILL_SECONDS) == (not beats)
    assert holder.is_lost() == (not beats)
    holder.release()


# ---- Of processes that are of no job


def test_the_judge_of_another_job_is_waited_for_by_people(run: RunFolder) -> None:
    with held(run, "other"), pytest.raises(CheckpointError, match="wait for it, and run the same command again"):
        judge_once(run.path, share("job"), Judge())


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    judge = Judge()
    judge_alone(tmp_path / "run", judge)
    assert judge.n == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run trained by the command line; its config is run.yaml."""
    monkeypatch.chdir(tmp_path)
    data = run_data(store_for_training(tmp_path / "store"), {"a": TOPK}, n_steps=5)
    Path("run.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert CliRunner().invoke(app, ["--quiet", "train", "run.yaml"]).exit_code == 0
    return RunFolder(Path("runs/run"))


@pytest.mark.parametrize("arguments", [("evaluate", "run.yaml"), ("report", "run.yaml"), ("report", "runs/run")])
def test_a_second_one_is_refused_and_writes_nothing(trained: RunFolder, arguments: tuple[str, ...]) -> None:
    trained.claims.mkdir(exist_ok=True)
    with held(trained):
        before = sorted(trained.path.rglob("*"))
        result = CliRunner().invoke(app, ["--quiet", *arguments])
        assert sorted(trained.path.rglob("*")) == before
    assert result.exit_code == explained(CheckpointError())[1] == 1
    assert "another process writes scores or the report" in result.output
    assert len(result.output.splitlines()) == 1
    again = CliRunner().invoke(app, ["--quiet", *arguments])
    assert again.exit_code == 0, again.output
    assert not trained.claims.exists()
