"""Every architecture through training: stopped and resumed to equal bits, and read back from its final file."""

import contextlib
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.runs.trained import load
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore, Filters
from support.small_run import SITE, run_data, store_for_training
from support.trained_run import curves, folder_of, hashes, train_until, weights

CPU = torch.device("cpu")
L1 = {"l1": {"weight": 0.05}}
VARIANTS = {
    "relu": ({"tied": True}, L1),
    "relu_free": ({"architecture": "relu", "decoder": "free", "pre_bias": False}, L1),
    "topk": ({"k": 4, "decoder": "free", "rank_by": "contribution"}, {"aux_k": {}}),
    "batch_topk": ({"k": 4, "decoder": "free", "rank_by": "contribution"}, {"aux_k": {}}),
    "groupmax": ({"k": 4}, {"aux_k": {}}),
    "gated": ({}, {**L1, "gated_auxiliary": {}}),
    "jump_relu": ({"bandwidth": 0.1}, {"l0": {"target": 6.0}, "pre_activation": {}}),
    "two_child_topk": ({"k": 3, "signed": True}, {"two_child_cosine": {"weight": 0.01}}),
    "identity": ({"d_sae": 16}, {}),
}


def config(store: Path) -> RunConfig:
    variants = {
        name: {"sae": {"architecture": name, "d_sae": 48, **options}, "objective": {"reconstruction": {}, **terms}}
        for name, (options, terms) in VARIANTS.items()
    }
    return RunConfig.model_validate(run_data(store, variants, n_steps=20))


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A run of all of them, in whose folder the tests stand."""
    folder = tmp_path_factory.mktemp("trained")
    store = store_for_training(folder / "store")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        train(config(store), show_progress=False)
        yield store
    torch.set_num_threads(threads)


def test_all_architectures_are_trained_here():
    assert {options.get("architecture", name) for name, (options, _) in VARIANTS.items()} == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_it_learns_and_is_read_back(name):
    lines = curves(name)
    if name == "identity":
        assert all(line["loss"] == 0 and line["gradient_norm"] == 0 and line["l0"] == 16 for line in lines)
    else:
        assert lines[-1]["loss/reconstruction"] < lines[0]["loss/reconstruction"]
    sae = load(folder_of(name), CPU).sae
    x_BM = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    assert sae.encode_inference(x_BM).n_active() > 0
    assert sae.decode(sae.encode_inference(x_BM)).shape == x_BM.shape
    found = weights(name)
    assert found["W_enc"].shape == found["W_dec"].shape
    if sae.settings.decoder == "unit" or VARIANTS[name][0].get("rank_by") == "contribution":
        torch.testing.assert_close(found["W_dec"].norm(dim=1), torch.ones(sae.d_sae))


def test_a_tied_sae_is_written_with_both_matrices():
    found = weights("relu")
    assert torch.equal(found["W_enc"], found["W_dec"])


def test_the_ratio_of_child_and_parent_is_read_back(trained):
    """Seed 002's adjusted cosine needs it: parent + ratio * child against a direction, here one of the rows."""
    sae = load(folder_of("two_child_topk"), CPU).sae
    ratio_E, n = sae.child_parent_ratio, sae.n_parents
    assert ratio_E.shape == (48,)
    assert torch.equal(ratio_E[:n], torch.ones(n))
    assert len(ratio_E[n:].unique()) > n, "most children were active"
    assert abs(float(ratio_E[n:].mean()) - curves("two_child_topk")[-1]["two_child_cosine/child_parent_ratio"]) < 1e-6
    rows, _ = next(ActivationStore.open(trained).in_order(SITE, "train", Filters(True, True), 10**6))
    direction_M = torch.from_numpy(rows[0]).float()
    parents_EM = sae.W_dec[:n].repeat(2, 1)
    for weight_E in (torch.zeros(2 * n), ratio_E[n:]):
        composed_EM = parents_EM + weight_E[:, None] * sae.W_dec[n:]
        raw = torch.cosine_similarity(parents_EM, direction_M[None]).max()
        adjusted = torch.cosine_similarity(composed_EM, direction_M[None]).max()
        assert bool(raw == adjusted) is not bool(weight_E.any())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "two_child_topk"])
def test_no_other_file_holds_a_ratio(name):
    assert "child_parent_ratio" not in weights(name)


def test_thresholds_have_moved_and_stay_positive():
    found = weights("jump_relu")["threshold"]
    assert found.shape == (48,)
    assert (found >= 0).all()
    assert len(found.unique()) > 24


def test_a_calibrated_contribution_gives_the_wanted_l0(trained):
    sae = load(folder_of("batch_topk"), CPU).sae
    rows, _ = next(ActivationStore.open(trained).in_order(SITE, "train", Filters(True, True), 10**6))
    codes = sae.encode_inference(torch.from_numpy(rows).float())
    assert codes.n_active() / codes.batch_size == pytest.approx(4.0, rel=0.1)


def test_a_resumed_run_has_equal_bits(trained, tmp_path, monkeypatch):
    expected = hashes()
    monkeypatch.chdir(tmp_path)
    train_until(config(trained), monkeypatch, save=len(VARIANTS), before=False)
    train(config(trained), show_progress=False)
    assert hashes() == expected
