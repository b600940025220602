from pathlib import Path

import pytest

from support import scored_run
from support.sharing_places import hub, place, s3

__all__ = ["hub", "place", "s3"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds runs/run, three SAEs and one that diverged, all scored; and its store."""
    folder = tmp_path_factory.mktemp("made")
    scored_run.make(folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, in the working folder."""
    monkeypatch.chdir(tmp_path)
    scored_run.copy(made, tmp_path)
    return scored_run.RUN
