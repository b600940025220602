import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.trainer.train import train
from support.one_thread import one_thread  # noqa: F401
from support.small_run import ALL, run_data, store_for_training
from support.trained_run import hashes


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_for_training(tmp_path_factory.mktemp("stores") / "small")


@pytest.fixture
def make_config(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """Builds configs over the small store; `runs/` lies in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def make(variants: dict[str, Any], name: str = "run", store: Path = store, **training: Any) -> RunConfig:
        return RunConfig.model_validate(run_data(store, variants, name, **training))

    return make


@pytest.fixture(scope="module")
def uninterrupted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with contextlib.chdir(tmp_path_factory.mktemp("uninterrupted")):
        train(RunConfig.model_validate(run_data(store, ALL)), show_progress=False)
        return hashes()
