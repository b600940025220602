"""Many trainers on one run folder: each takes what no other holds, and takes over from the dead; the bits are the same.

Processes are real. They stand still, and die, at counted updates.
"""

import contextlib
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.evaluate import evaluate, scores_of
from strata_sae.pipeline.runs.claims import living, trained_now
from strata_sae.pipeline.runs.deleting import delete_run, delete_variants
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores.files.hashing import file_sha256
from support.small_run import ALL, SITE, run_data
from support.trained_run import RUN, hashes
from support.trainer_beside_others import STANDS, WAITS, Started, Trainers

NAMES = [f"{name}@{SITE}" for name in ALL]
N_STEPS = 60


@pytest.fixture
def trainers(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainers:
    monkeypatch.chdir(tmp_path)
    return Trainers(run_data(store, ALL))


@pytest.fixture(scope="module")
def files_of_one(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every file that one trainer leaves and that holds no time, by path."""
    with contextlib.chdir(tmp_path_factory.mktemp("one")):
        train(RunConfig.model_validate(run_data(store, ALL)), show_progress=False)
        return files()


def files(run: Path = RUN) -> dict[str, str]:
    paths = [path for path in sorted(run.rglob("*")) if path.is_file() and path.parent.name != "loader"]
    return {str(path.relative_to(run)): file_sha256(path) for path in paths}


@contextlib.contextmanager
def started(*processes: Started) -> Iterator[None]:
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
        yield


@pytest.mark.parametrize("has_locks", [True, False])
def test_two_take_disjoint_saes_and_leave_what_one_leaves(trainers, files_of_one, has_locks):
    one = trainers.start("0/2", stands_at=1, has_locks=has_locks)
    two = trainers.start("1/2", stands_at=1, has_locks=has_locks)
    with started(one, two):
        one.read_until(STANDS)
        two.read_until(STANDS)
        assert (one.trained, two.trained) == ([NAMES[:1]], [NAMES[1:]])
        if has_locks:
            assert trained_now(RunFolder(RUN)) == sorted(NAMES)
        one.go_on()
        two.go_on()
        assert [one.end()[0], two.end()[0]] == [0, 0]
    assert sorted(name for names in one.trained + two.trained for name in names) == sorted(NAMES)
    assert files() == files_of_one
    assert not RunFolder(RUN).claims.exists()


def test_control_without_claims_two_train_the_same(trainers):
    one, two = (trainers.start("0/1", stands_at=1, has_claims=False) for _ in range(2))
    with started(one, two):
        one.read_until(STANDS)
        two.read_until(STANDS)
    assert one.trained == two.trained == [NAMES]


@pytest.mark.parametrize("dies_at", [1, 75, 170])
def test_what_a_killed_one_held_is_taken_over(trainers, files_of_one, dies_at):
    """The other one is there already, and waits; it goes on from the checkpoint of the dead."""
    one = trainers.start("0/1", stands_at=dies_at)
    with started(one):
        one.read_until(STANDS)
        two = trainers.start("0/1")
        with started(two):
            two.read_until(WAITS)
            one.kill()
            assert two.end()[0] == 0
    assert two.trained == [NAMES]
    assert files() == files_of_one


def test_two_that_are_killed_go_on_as_one(trainers, files_of_one):
    one, two = trainers.start("0/2", dies_at=33), trainers.start("1/2", dies_at=50)
    with started(one, two):
        assert [one.end()[0], two.end()[0]] == [-signal.SIGKILL] * 2
    assert all(any(RunFolder(RUN).variant(name).checkpoints.glob("step_*")) for name in NAMES)
    with started(three := trainers.start()):
        assert three.end()[0] == 0
    assert files() == files_of_one


def test_without_locks_beats_say_who_is_dead(trainers, files_of_one):
    with started(one := trainers.start("0/1", dies_at=50, has_locks=False)):
        assert one.end()[0] == -signal.SIGKILL
    with started(two := trainers.start("0/1", has_locks=False, still_seconds=0.0)):
        assert two.end()[0] == 0
    assert two.trained == [NAMES]
    assert files() == files_of_one


def test_one_that_finds_all_held_waits_and_ends_when_all_is_trained(trainers, files_of_one):
    one = trainers.start(stands_at=100)
    with started(one):
        one.read_until(STANDS)
        with started(two := trainers.start()):
            two.read_until(WAITS)
            one.go_on()
            assert [one.end()[0], two.end()[0]] == [0, 0]
    assert (one.trained, two.trained) == ([NAMES], [])
    assert files() == files_of_one


def test_what_is_trained_is_neither_deleted_nor_trained_by_another_config(trainers, make_config):
    with started(one := trainers.start("0/3", stands_at=1)):
        one.read_until(STANDS)
        assert one.trained == [NAMES[:1]]
        with pytest.raises(CheckpointError, match=rf"is writing this run: {NAMES[0]}; wait for it"):
            delete_run(RUN)
        with pytest.raises(CheckpointError, match=rf"is writing this run: {NAMES[0]}; wait for it"):
            delete_variants(RUN, "topk")
        with pytest.raises(CheckpointError, match=r"was made by another config \(training.learning_rate: was 0.003"):
            train(make_config(ALL, learning_rate=1e-4), show_progress=False)
        not_begun = {**ALL, "relu": {**ALL["relu"], "seed": 7}}
        another = rf"another process trains {NAMES[0]} there by another config \(variants.relu.seed: was null, is 7\)"
        with pytest.raises(CheckpointError, match=another):
            train(make_config(not_begun), show_progress=False)
        train(make_config({"relu": ALL["relu"]}), only=["relu"], show_progress=False)
        delete_variants(RUN, "relu")
    delete_run(RUN)
    assert not RUN.exists()


def test_what_is_finished_is_scored_while_the_rest_is_trained(trainers, files_of_one, store):
    config = TrainConfig.of(RunConfig.model_validate(run_data(store, ALL)), "config")
    with started(one := trainers.start("0/3", stands_at=N_STEPS + 1)):
        one.read_until(STANDS)
        evaluate(config, show_progress=False)
        assert scores_of(RunFolder(RUN)).keys() == {NAMES[0]}
        one.go_on()
        assert one.end()[0] == 0
    assert hashes().keys() == ALL.keys()
    assert files_of_one.items() <= files().items()


@pytest.mark.parametrize("is_asked_at", [1, 2, 77])
def test_one_that_is_asked_to_end_saves_where_it_is(trainers, files_of_one, is_asked_at):
    with started(one := trainers.start(is_asked_at=is_asked_at)):
        assert one.end()[0] == 143
    done = -(-is_asked_at // len(NAMES))  # the step that it was asked in is finished
    for name in NAMES:
        states = RunFolder(RUN).variant(name).checkpoints.glob("step_*/state.json")
        assert max(json.loads(state.read_text())["step"] for state in states) == done
    assert living(RunFolder(RUN)) == []
    assert not RunFolder(RUN).claims.exists()
    with started(two := trainers.start()):
        assert two.end()[0] == 0
    assert files() == files_of_one


def test_a_worker_that_dies_again_and_again_at_the_same_sae_is_told_by_its_name(trainers):
    for _ in range(3):
        with started(one := trainers.start("0/2", run="job-7", dies_at=1)):
            assert one.end()[0] == -signal.SIGKILL
    with started(four := trainers.start("0/2", run="job-7")):
        code, said = four.end()
    assert code == 1
    assert f"{NAMES[0]}: its training failed 3 times at step 0, at last: its process died." in said
    assert four.trained == [NAMES[1:]], "what fails comes last"
    with started(five := trainers.start("0/2", run="job-8")):
        assert five.end()[0] == 0
    assert not list(RUN.rglob("failures.txt"))
