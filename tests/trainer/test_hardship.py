"""Rows, latents and settings that go wrong: told, survived, and no harm to anyone else."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.reading import feed
from strata_sae.pipeline.reading.feed import to_tensor
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.trainer import centres
from strata_sae.pipeline.trainer.train import describe_training, train
from strata_sae.stores import ActivationStore, Batches, Filters
from support.small_run import ALL, BATCH_TOPK, D_MODEL, RELU, SITE, TOPK, store_for_training
from support.trained_run import curves, folder_of, hashes, weights


@pytest.mark.parametrize("where", ["section", "variant"])
def test_a_batch_larger_than_the_split_is_refused_before_anything_is_trained(make_config, where):
    big = {**TOPK, "training": {"batch_size": 5000}}
    config = make_config(ALL, batch_size=5000) if where == "section" else make_config({**ALL, "big": big})
    for do in (describe_training, train):
        with pytest.raises(ConfigError, match=rf"a batch of 5000 rows is larger than the training split of {SITE}"):
            do(config)
    assert hashes() == {}


def test_constant_rows_are_survived(make_config, monkeypatch):
    monkeypatch.setattr(feed, "to_tensor", lambda rows, device: torch.full(rows.shape, 0.25))
    train(make_config(ALL, n_steps=20), show_progress=False)
    for name in ALL:
        assert json.loads(folder_of(name).training.read_text())["status"] == "finished"
        assert all(bool(tensor.isfinite().all()) for tensor in weights(name).values())


def test_a_dictionary_of_dead_latents_is_survived(make_config):
    dying = {
        **RELU,
        "objective": {"reconstruction": {}, "l1": {"weight": 100.0}},
        "training": {"learning_rate": 0.05, "dead_after_rows": 64},
    }
    starting_over = {**dying, "resampling": {"every_steps": 10, "dead_after_steps": 1}}
    train(make_config({"relu": dying, "again": starting_over}, n_steps=240), show_progress=False)
    assert curves("relu")[-1]["dead_latents"] == 64
    assert curves("relu")[-1]["l0"] == 0.0
    assert sum(line["resampled_latents"] for line in curves("again")) > 0
    assert all(bool(tensor.isfinite().all()) for name in ("relu", "again") for tensor in weights(name).values())


def test_a_diverging_variant_harms_nobody(make_config, uninterrupted):
    wild = {**TOPK, "training": {"learning_rate": 1e30, "clip_norm": None}}
    train(make_config({"wild": wild, **ALL}), show_progress=False)
    found = hashes()
    assert {name: found[name] for name in ALL} == uninterrupted
    ending = json.loads(folder_of("wild").training.read_text())
    assert ending["status"] == "diverged"
    assert ending["reason"]


def test_a_variants_own_settings_are_used_and_recorded(make_config, uninterrupted):
    own = {**TOPK, "training": {"beta1": 0.0, "clip_norm": None, "learning_rate": "auto", "decay": "cosine"}}
    train(make_config({"topk": TOPK, "own": own}), show_progress=False)
    assert hashes()["topk"] == uninterrupted["topk"]
    recorded = json.loads(folder_of("own").config.read_text())["training"]
    assert (recorded["beta1"], recorded["clip_norm"], recorded["decay"]) == (0.0, None, "cosine")
    assert recorded["learning_rate"] == 2e-4 / (64 / 2**14) ** 0.5
    rates = [line["learning_rate"] for line in curves("own")]
    assert max(rates) == pytest.approx(recorded["learning_rate"])
    with pytest.raises(CheckpointError, match=r"training\.beta1: was 0\.0, is 0\.5"):
        train(make_config({"own": {**own, "training": {**own["training"], "beta1": 0.5}}}), show_progress=False)


def test_clipping_before_the_projection_only_measures_more(make_config):
    clipped = {**TOPK, "training": {"clip_norm": 0.05}}
    before = {**TOPK, "training": {"clip_norm": 0.05, "order": "clip_project"}}
    train(make_config({"after": clipped, "before": before}, n_steps=5, log_every_steps=1), show_progress=False)
    assert curves("before")[0]["gradient_norm"] > curves("after")[0]["gradient_norm"]
    assert not torch.equal(weights("before")["W_dec"], weights("after")["W_dec"])
    free = {name: {**TOPK, "training": {"clip_norm": None, "order": name}} for name in ("project_clip", "clip_project")}
    train(make_config(free, "free", n_steps=5), show_progress=False)
    found = [weights_of("free", name)["W_dec"] for name in free]
    assert torch.equal(*found), "without a clip the order is nothing"


def weights_of(run: str, name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(f"runs/{run}/variants/{name}@{SITE}/weights.safetensors")


@pytest.mark.parametrize("b_dec", ["geometric_median", "mean", "median", "zero"])
def test_the_decoder_bias_starts_where_it_is_told(make_config, store, b_dec):
    variant = {**TOPK, "sae": {**TOPK["sae"], "initial": {"b_dec": b_dec}}}
    train(make_config({"topk": variant}, n_steps=1, learning_rate=1e-12), show_progress=False)
    data = ActivationStore.open(store)
    with Batches(data, SITE, filters=Filters(True, True), seed=0, batch_size=64, window_rows=1024) as batches:
        x_BM = to_tensor(batches.batch(0)[0], torch.device("cpu"))
    assert torch.allclose(weights("topk")["b_dec"], centres.CENTRES[b_dec](x_BM), atol=1e-5)


def held_out_l0(name: str, variant: dict[str, Any], path: Any, make_config: Any) -> float:
    settings = make_config({name: variant}).variants[name].sae
    sae = ARCHITECTURES[settings.architecture](settings, D_MODEL, weights(name))
    rows = [rows for rows, _ in ActivationStore.open(path).in_order(SITE, "heldout", Filters(True, True), 1024)]
    codes = sae.encode_inference(torch.from_numpy(np.concatenate(rows)))
    return codes.n_active() / codes.batch_size


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    return store_for_training(tmp_path_factory.mktemp("large") / "store", n_rows=16384)


@pytest.mark.parametrize("mean", ["corrected", "first_value", "from_zero"])
def test_every_running_mean_gives_about_k_on_held_out_rows(make_config, large_store, mean):
    own = {"threshold_from": "running_mean", "threshold_mean": mean, "threshold_beta": 0.95, "decay_start": 0.3}
    variant = {**BATCH_TOPK, "objective": {"reconstruction": {}}, "training": own}
    train(make_config({mean: variant}, store=large_store, n_steps=150), show_progress=False)
    running = json.loads(folder_of(mean).training.read_text())["threshold"]["running_mean"]
    assert float(weights(mean)["threshold"]) == running
    assert held_out_l0(mean, variant, large_store, make_config) == pytest.approx(4.0, rel=0.1)


def test_an_unset_threshold_is_refused_not_taken_for_relu(make_config, large_store, monkeypatch):
    own = {"threshold_from": "running_mean", "threshold_start_step": 19}
    variant = {**BATCH_TOPK, "objective": {"reconstruction": {}}, "training": own}
    monkeypatch.setattr("strata_sae.pipeline.trainer.trainee.RunningThreshold.update", lambda self, codes: None)
    train(make_config({"batch": variant}, store=large_store, n_steps=20), show_progress=False)
    assert "threshold" not in weights("batch")
    assert json.loads(folder_of("batch").training.read_text())["threshold"]["running_mean"] is None
    with pytest.raises(CheckpointError, match="has no threshold"):
        held_out_l0("batch", variant, large_store, make_config)
