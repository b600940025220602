from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import support.scored_run as scored_run
from support.scored_run import Made


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A run that was trained and scored, in a folder with a user's name; not to be changed."""
    folder = tmp_path_factory.mktemp("zaphod")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Made(folder, scored_run.make(folder, keep=[0.5]))
    torch.set_num_threads(threads)


@pytest.fixture
def run(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to damage, in the working folder."""
    monkeypatch.chdir(tmp_path)
    scored_run.copy(made.folder, tmp_path)
    return scored_run.RUN
