"""A site more, later: the sibling's rows are those of an extraction of all sites at once."""

import json
from pathlib import Path

import numpy as np
import pytest

import strata_sae.pipeline.extractor.filling as stage
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.extractor.add_sites import add_sites
from strata_sae.pipeline.extractor.extract import extract, reusable
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore, StoreError, verify
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.front.aligned import Together
from support.extraction import SITES, extraction_config

BASE, NEW = SITES


def config_of(tmp_path: Path, name: str, sites: list[str], encoding: str = "float32") -> RunConfig:
    # One unit whatever the width: forward batches are formed inside a unit, and their shapes decide the last bits.
    store = {"path": str(tmp_path / name), "sites": sites, "encoding": encoding, "shard_bytes": 2**20}
    return extraction_config(tmp_path, store=store, corpus={"n_tokens": 600})


@pytest.fixture
def base(tmp_path: Path) -> RunConfig:
    config = config_of(tmp_path, "base", [BASE])
    extract(config, show_progress=False)
    return config


def test_a_sibling_is_what_one_extraction_would_have_made(base: RunConfig, tmp_path: Path) -> None:
    sibling = add_sites(base.store_path(), [NEW], tmp_path / "more", model=base.model, show_progress=False)
    assert verify(sibling.path, deep=True) == []
    both = config_of(tmp_path, "both", SITES)
    extract(both, show_progress=False)
    expected = ActivationStore.open(both.store_path())
    np.testing.assert_array_equal(sibling.rows(NEW, 0, 600), expected.rows(NEW, 0, 600))
    parent = ActivationStore.open(base.store_path())
    assert (sibling.plan.order_id, sibling.plan.files) == (parent.plan.id, parent.plan.files)
    assert sibling.plan.lineage is not None
    assert (sibling.plan.lineage.kind, sibling.plan.lineage.store_id) == ("sibling", parent.id)
    assert sibling.plan.provenance["model"]["hooks"].keys() == {NEW}
    again = add_sites(base.store_path(), [NEW], tmp_path / "more", model=base.model, show_progress=False)
    assert again.id == sibling.id
    assert Together([parent, sibling]).sites.keys() == set(SITES)


def test_a_config_that_asks_for_both_sites_trains_on_both_stores(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sibling = add_sites(base.store_path(), [NEW], tmp_path / "more", model=base.model, show_progress=False)
    both = config_of(tmp_path, "base", SITES)
    monkeypatch.setattr(stage, "load", lambda *_: pytest.fail("the model was loaded"))
    extract(both, show_progress=False)
    train(both, show_progress=False)
    evaluate(both)
    ids = {}
    for record in Path("runs/small/variants").glob("*/config.json"):
        found = json.loads(record.read_text())
        ids[found["site"]] = found["store_id"]
        assert json.loads(record.with_name("metrics.json").read_text())["store_id"] == found["store_id"]
    assert ids == {BASE: ActivationStore.open(base.store_path()).id, NEW: sibling.id}
    assert open_store(base).stores[1:] == [], "control: a run that asks for the first site alone opens one store"


def test_stores_of_another_text_are_not_read_together(base: RunConfig, tmp_path: Path) -> None:
    add_sites(base.store_path(), [NEW], tmp_path / "more", model=base.model, show_progress=False)
    both = config_of(tmp_path, "base", SITES)
    assert reusable(both).stores == [tmp_path / "base", tmp_path / "more"], "control"
    (tmp_path / "text" / "000.txt").write_text("another text", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"000\.txt: sha256 was"):
        extract(both, show_progress=False)


def test_sites_can_be_missing_in_two_encodings(tmp_path: Path) -> None:
    config = config_of(tmp_path, "base", [BASE], "bfloat16")
    extract(config, show_progress=False)
    sibling = add_sites(config.store_path(), [NEW], tmp_path / "more", model=config.model, show_progress=False)
    assert sibling.plan.encoding == "bfloat16"


def test_another_model_is_refused(base: RunConfig, tmp_path: Path) -> None:
    config_json = Path(base.model.path) / "config.json"
    config_json.write_text(json.dumps(json.loads(config_json.read_text()) | {"rms_norm_eps": 1e-3}))
    with pytest.raises(ConfigError, match=r"not what this store was made with: config_sha256"):
        add_sites(base.store_path(), [NEW], tmp_path / "more", model=base.model, show_progress=False)
    assert not (tmp_path / "more").exists()


def test_a_store_without_whole_texts_is_refused(base: RunConfig, tmp_path: Path) -> None:
    part = slice_store(ActivationStore.open(base.store_path()), tmp_path / "part", rows=(10, 500))
    with pytest.raises(StoreError, match=r"a slice without the whole texts its rows come from"):
        add_sites(part.path, [NEW], tmp_path / "more", model=base.model, show_progress=False)
    whole = slice_store(ActivationStore.open(base.store_path()), tmp_path / "whole", encoding="bfloat16")
    assert add_sites(whole.path, [NEW], tmp_path / "more", model=base.model, show_progress=False).plan.n_rows == 600
