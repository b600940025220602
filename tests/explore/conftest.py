"""The small run whose codes are made, once for all tests of the app; and one whose vocabulary is hostile."""

from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.explore.screen import World
from support import coded_run
from support.exploring import client_of, hostile_words, world_in


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    coded_run.make(folder)
    return folder


@pytest.fixture(scope="session")
def small_world(small_folder: Path) -> World:
    return world_in(small_folder)


@pytest.fixture(scope="session")
def hostile_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded_run, "WORDS", hostile_words())
        coded_run.make(folder)
    return world_in(folder)


@pytest.fixture
def client(small_world: World) -> Any:
    return client_of(small_world)
