"""Searches for an L0 by several processes: each belongs to one of them, and to another when that one has died."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.commands.matching import train_matched
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.runs.claims import living, search_of
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores.files.hashing import file_sha256
from support.one_thread import one_thread  # noqa: F401
from support.small_run import BATCH_TOPK, RELU, SITE, TOPK, run_data, store_for_training
from support.trainer_beside_others import STANDS, WAITS, Trainers

RUN = Path("runs/run")
QUICK = {"n_steps": 20, "checkpoint_every_steps": 10, "calibration_rows": 128, "window_rows": 512}
VARIANTS = {
    "relu": {**RELU, "match": {"l0": 12.4}},
    "batch": {**BATCH_TOPK, "match": {"l0": 6.0, "tolerance": 0.1}},
    "topk": TOPK,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = store_for_training(tmp_path_factory.mktemp("stores") / "small", n_rows=1500)
    return {**run_data(store, VARIANTS, **QUICK), "evaluation": {"batch_size": 64}}


@pytest.fixture(scope="module")
def files_of_one(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with contextlib.chdir(tmp_path_factory.mktemp("one")):
        config = TrainConfig.of(RunConfig.model_validate(data), "c")
        assert train_matched(config, show_progress=False) == []
        return files()


def files() -> dict[str, str]:
    paths = [path for path in sorted(RUN.rglob("*")) if path.is_file() and path.parent.name != "loader"]
    return {str(path.relative_to(RUN)): file_sha256(path) for path in paths}


@pytest.fixture
def trainers(data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainers:
    monkeypatch.chdir(tmp_path)
    return Trainers(data)


def test_each_search_belongs_to_one(trainers: Trainers, files_of_one: dict[str, str]) -> None:
    with trainers.start("0/2", stands_at=1) as one, trainers.start("1/2", stands_at=1) as two:
        one.read_until(STANDS)
        two.read_until(STANDS)
        searched = [name for name in living(RunFolder(RUN)) if name.endswith("~match")]
        assert searched == [search_of(f"batch@{SITE}"), search_of(f"relu@{SITE}")]
        one.go_on()
        two.go_on()
        assert [one.end(), two.end()] == [(0, ""), (0, "")]
    trained = [name for names in one.trained + two.trained for name in names]
    assert trained.count(f"topk@{SITE}") == 1
    assert files() == files_of_one


def test_the_search_of_a_dead_one_goes_on_where_it_was(trainers: Trainers, files_of_one: dict[str, str]) -> None:
    with trainers.start(stands_at=23) as one:
        one.read_until(STANDS)
        with trainers.start() as two:
            two.read_until(WAITS)
            one.kill()
            assert two.end() == (0, "")
    assert files() == files_of_one
