"""One small run with copies of its SAEs in a made-up format; every test works in a copy of it."""

from pathlib import Path

import pytest

from strata_sae.pipeline.formats import FORMATS
from support.fake_format import FAKE, NAME
from support.imported_run import copied, make


@pytest.fixture(autouse=True)
def fake_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, NAME, FAKE)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make(folder)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(copied(made, tmp_path))
    return tmp_path
