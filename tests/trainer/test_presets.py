"""Every variant of every file in configs/ trains: three steps each, made small, on a store that is made up."""

from pathlib import Path

import pytest

from strata_sae.pipeline.trainer.train import train
from support.small_presets import FILES, SITES, loaded, small
from support.small_run import D_MODEL
from support.small_store import build_store
from support.trained_run import hashes


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("presets") / "store"
    return build_store(path, 4000, SITES, chunk_bytes=64 * D_MODEL * 4, shard_bytes=2**24)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variant_of_every_preset_trains(path: Path, store: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small(loaded(path), store)
    train(config, show_progress=False)
    assert set(hashes(config.run_path())) == set(config.variants)
