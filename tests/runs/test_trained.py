"""A trained SAE read from its folder works on rows as the store holds them, and says what it was made from."""

from pathlib import Path

import pytest
import torch

import support.scored_run as scored_run
from strata_sae.pipeline.reading.feed import to_tensor
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.trained import TrainedSAE, load
from strata_sae.stores import ActivationStore, Filters
from support.scored_run import Made
from support.sealing import load as read
from support.small_run import SITE

TOPK, BATCH, RELU = scored_run.SAES[:3]


def trained(run: Path, name: str) -> TrainedSAE:
    return load(RunFolder(run).variant(name))


@pytest.fixture
def store(made: Made) -> ActivationStore:
    assert made.config.store.path is not None
    return ActivationStore.open(made.config.store.path)


@pytest.fixture
def x_BM(made: Made, store: ActivationStore) -> torch.Tensor:
    """The rows that were scored, as they are stored."""
    filters = Filters(**made.config.training.filters.model_dump())
    ((rows, _),) = store.in_order(SITE, "heldout", filters, 10**6)
    return to_tensor(rows, torch.device("cpu"))


@pytest.mark.parametrize("name", [TOPK, BATCH, RELU])
def test_raw_rows_are_explained_as_well_as_the_scores_say(run: Path, x_BM: torch.Tensor, name: str):
    sae = trained(run, name)
    metrics = read(RunFolder(run).variant(name).metrics)["metrics"]

    def r2(scale: float) -> float:
        error_BM = x_BM - sae.decode(sae.encode(x_BM * scale)) / scale
        return 1.0 - float(error_BM.square().sum() / (x_BM - x_BM.mean(dim=0)).square().sum())

    assert r2(1.0) == pytest.approx(metrics["r2_pooled"]["value"], abs=1e-4)
    if name == RELU:  # control: rows in the units of training are other rows to it
        assert abs(r2(sae.record.input_scale) - r2(1.0)) > 1e-3


def test_a_row_has_the_codes_that_it_has_alone(run: Path, x_BM: torch.Tensor):
    sae = trained(run, BATCH)
    together_BE = sae.encode(x_BM[:8]).to_dense()
    assert together_BE.shape == (8, sae.sae.d_sae)
    alone_BE = torch.cat([sae.encode(x_BM[row : row + 1]).to_dense() for row in range(8)])
    torch.testing.assert_close(together_BE, alone_BE)


def test_the_threshold_is_in_the_units_of_raw_rows(run: Path, x_BM: torch.Tensor):
    sae = trained(run, BATCH)
    assert sae.threshold is not None
    assert float(sae.threshold) == pytest.approx(sae.training.threshold.calibrated)
    values_BE = sae.encode(x_BM).to_dense()
    assert float(values_BE[values_BE > 0].min()) >= float(sae.threshold)
    assert trained(run, RELU).threshold is None


def test_provenance_names_run_stores_and_config(run: Path, store: ActivationStore):
    sae = trained(run, TOPK)
    found = sae.provenance
    assert (found.run, found.variant, found.site) == ("run", "topk", SITE)
    assert found.store_ids == {SITE: store.id}
    assert found.config.sae.further()["k"] == 4
    assert found.weights_sha256 == read(sae.folder.training)["sha256"]["weights"]


@pytest.mark.parametrize(("name", "usual", "other"), [(TOPK, "k", "threshold"), (BATCH, "threshold", "k")])
def test_both_ways_of_inference_can_be_asked_for(run: Path, x_BM: torch.Tensor, name: str, usual: str, other: str):
    sae = trained(run, name)
    usual_BE, other_BE = (sae.encode(x_BM, inference=way).to_dense() for way in (usual, other))
    assert torch.equal(usual_BE, sae.encode(x_BM).to_dense())
    assert not torch.equal(usual_BE, other_BE)
    by_k_BE, by_threshold_BE = (usual_BE, other_BE) if usual == "k" else (other_BE, usual_BE)
    assert int((by_k_BE > 0).sum(1).max()) <= 4
    assert float(by_threshold_BE[by_threshold_BE > 0].min()) > float(sae.sae.threshold)


def test_an_sae_that_selects_in_one_way_refuses_another(run: Path, x_BM: torch.Tensor):
    with pytest.raises(ValueError, match=r"inference: 'k', but relu@.* \(relu\) selects by its one rule"):
        trained(run, RELU).encode(x_BM, inference="k")
