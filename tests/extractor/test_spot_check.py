"""A spot check finds what checksums cannot: rows of another layer, place or model under a site's name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import strata_sae.pipeline.extractor.filling as stage
import strata_sae.pipeline.extractor.spot_check as spot_check_stage
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.extractor.spot_check import _chosen, spot_check
from strata_sae.stores import ActivationStore, StoreError, verify
from support.extraction import extraction_config
from support.tiny_models import save_tiny_model

SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
Rows = dict[str, torch.Tensor]


def extracted(folder: Path, **sections: Any) -> tuple[RunConfig, str]:
    """A finished store, and the path of its model."""
    store = {"sites": SITES} | sections.pop("store", {})
    config = extraction_config(folder, corpus={"n_tokens": 900} | sections.pop("corpus", {}), store=store, **sections)
    extract(config, show_progress=False)
    return config, config.model.path


def altering(monkeypatch: pytest.MonkeyPatch, alter: Callable[[Rows], Rows]) -> None:
    """Make extraction store what `alter` gives instead of the model's rows."""
    loaded = stage.load

    def broken(*arguments: Any) -> Any:
        capture = loaded(*arguments)
        forward = capture.forward
        capture.forward = lambda *inputs: alter(forward(*inputs))  # type: ignore[method-assign]
        return capture

    monkeypatch.setattr(stage, "load", broken)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"store": {"encoding": "bfloat16"}},
        {"store": {"encoding": "float16"}},
        {"store": {"encoding": "int8"}},
        {"model": {"dtype": "bfloat16"}, "store": {"encoding": "bfloat16", "compressor": "planes"}},
        {"corpus": {"mode": "sequential"}},
        {"corpus": {"isolate_documents": True}},
    ],
    ids=str,
)
def test_what_was_extracted_passes(changes: dict[str, Any], tmp_path: Path) -> None:
    config, model = extracted(tmp_path, **changes)
    lines = spot_check(config.store_path(), n_rows=20, model_path=model)
    assert [line.split(":")[0] for line in lines] == SITES
    exact = spot_check(config.store_path(), n_rows=20, model_path=model, exact=True)
    assert all("20 of 20 rows equal to the last bit" in line for line in exact)


def test_swapped_sites_pass_every_checksum_and_fail_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altering(monkeypatch, lambda rows: {SITES[0]: rows[SITES[1]], SITES[1]: rows[SITES[0]]})
    config, model = extracted(tmp_path)
    assert verify(config.store_path(), deep=True) == []
    with pytest.raises(StoreError, match=r"2 of 2 sites hold rows that are not the model's") as error:
        spot_check(config.store_path(), model_path=model)
    assert "site blocks.1.hook_resid_post, row " in str(error.value)
    assert "cosine at least" in str(error.value)


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "int8"])
def test_a_site_that_holds_the_layer_before_is_named_alone(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altering(monkeypatch, lambda rows: rows | {SITES[1]: rows[SITES[0]]})
    config, model = extracted(tmp_path, store={"encoding": encoding})
    assert verify(config.store_path(), deep=True) == []
    with pytest.raises(StoreError, match=r"1 of 2 sites") as error:
        spot_check(config.store_path(), model_path=model, n_rows=8)
    assert "site blocks.0" not in str(error.value)


def test_rows_one_place_too_late_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altering(monkeypatch, lambda rows: {site: value.roll(1, dims=1) for site, value in rows.items()})
    config, model = extracted(tmp_path)
    with pytest.raises(StoreError, match=r"2 of 2 sites"):
        spot_check(config.store_path(), model_path=model)


def test_another_models_files_are_reported_beside_the_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, _ = extracted(tmp_path)
    other = save_tiny_model(tmp_path / "other" / "model-llama", "mistral")
    with pytest.raises(StoreError, match="architecture: was") as error:
        spot_check(config.store_path(), model_path=str(other))
    assert "config_sha256: was" in str(error.value)
    assert "the model is not the recorded one" in caplog.text


def test_a_model_whose_path_is_not_recorded_has_to_be_named(tmp_path: Path) -> None:
    config, _ = extracted(tmp_path)
    with pytest.raises(ConfigError, match=r"model-llama#[0-9a-f]{12}.*--model PATH"):
        spot_check(config.store_path())


def test_a_store_without_a_model_says_so(make_store: Callable[..., Path]) -> None:
    with pytest.raises(StoreError, match="names no model"):
        spot_check(make_store())


def test_rows_are_chosen_by_the_seed() -> None:
    for n_total in (10, 100, 2000, 10**9):
        chosen = _chosen(n_total, 64, 0)
        assert len(set(chosen)) == len(chosen) == min(64, n_total)
        assert chosen == sorted(chosen) == _chosen(n_total, 64, 0)
        assert 0 <= chosen[0] <= chosen[-1] < n_total
    assert _chosen(10**9, 64, 0) != _chosen(10**9, 64, 1)
    assert np.ptp(_chosen(10**9, 64, 0)) > 5 * 10**8


@pytest.mark.parametrize("n_rows", [0, -1, 10_001, 10**7])
def test_more_rows_than_a_sample_are_refused_before_the_model_is_loaded(
    n_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, model = extracted(tmp_path)
    monkeypatch.setattr(spot_check_stage, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ConfigError, match=rf"--rows: {n_rows:,} rows cannot be checked: at least 1 and at most 10,000"):
        spot_check(config.store_path(), n_rows=n_rows, model_path=model)


@pytest.mark.parametrize("mode", ["packed", "sequential"])
def test_all_rows_of_a_small_store_cost_one_pass_a_sequence(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, model = extracted(tmp_path, corpus={"mode": mode})
    store = ActivationStore.open(config.store_path())
    looked_up: list[int] = []
    plain = spot_check_stage.unit_spans

    def counted(*arguments: Any) -> Any:
        looked_up.append(1)
        return plain(*arguments)

    monkeypatch.setattr(spot_check_stage, "unit_spans", counted)
    lines = spot_check(config.store_path(), n_rows=10_000, model_path=model)
    n_rows = store.plan.n_rows
    assert all(f"of {n_rows} rows equal" in line for line in lines)
    assert len(looked_up) == store.plan.n_units, "the sequences of a unit are looked up once, not once a row"
