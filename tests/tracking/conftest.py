import contextlib
from pathlib import Path

import pytest

from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.train import train
from support.followed_training import config_of, results
from support.small_run import store_for_training


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_for_training(tmp_path_factory.mktemp("store") / "store", 1500)


@pytest.fixture(scope="session")
def plain(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What training leaves behind that no tracker follows."""
    folder = tmp_path_factory.mktemp("plain")
    with contextlib.chdir(folder):
        train(config_of(store, []), show_progress=False)
    return results(RunFolder(folder / "runs" / "run"))
