"""Training as a whole: who shares a pass changes nothing, a divergence harms nobody else, the files are true."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.reading import feed
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.trainer import centres
from strata_sae.pipeline.trainer.finish import in_raw_units
from strata_sae.pipeline.trainer.train import train
from strata_sae.pipeline.trainer.trainee import Trainee
from strata_sae.stores import ActivationStore, Filters
from support.sealing import edit
from support.small_run import ALL, BATCH_TOPK, D_MODEL, SITE, TOPK, store_for_training
from support.trained_run import RUN, curves, folder_of, hashes, train_until, weights


def test_training_learns_and_says_so(make_config):
    train(make_config(ALL), show_progress=False)
    for name in ALL:
        lines = curves(name)
        assert [line["step"] for line in lines] == [1, *range(5, 61, 5)]
        assert lines[-1]["batch_r2"] > lines[0]["batch_r2"]
        assert lines[-1]["rows"] == 3840
        assert "decoder_max_cosine_mean" in lines[-1]
        assert not any("time" in key or "second" in key for key in lines[0])
    assert max(line["dead_latents"] for line in curves("topk")) > 0  # so that AuxK has taken part
    assert all(line["l0"] == 4.0 for line in curves("batch"))
    assert weights("batch")["threshold"] > 0
    assert "threshold" not in weights("relu")


def test_the_same_config_twice_gives_the_same_bits(make_config, uninterrupted):
    torch.manual_seed(123)
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted


def test_another_seed_gives_other_bits(make_config, uninterrupted):
    train(make_config({"topk": {**TOPK, "seed": 1}}), show_progress=False)
    assert hashes()["topk"]["weights"] != uninterrupted["topk"]["weights"]


def test_alone_equals_in_a_group(make_config, uninterrupted):
    for name, variant in ALL.items():
        train(make_config({name: variant}, f"only-{name}"), show_progress=False)
        assert hashes(Path(f"runs/only-{name}"))[name] == uninterrupted[name]


def test_order_in_the_config_changes_nothing(make_config, uninterrupted):
    train(make_config(dict(reversed(ALL.items()))), show_progress=False)
    assert hashes() == uninterrupted


def test_added_later_equals_there_from_the_start(make_config, uninterrupted, caplog):
    train(make_config({"topk": TOPK}), show_progress=False)
    with caplog.at_level(logging.INFO):
        train(make_config(ALL), show_progress=False)
    assert f"topk@{SITE}: trained already, skipped" in caplog.text
    assert hashes() == uninterrupted


def test_variants_of_one_seed_and_shape_start_from_equal_weights(make_config):
    config = make_config({"a": TOPK, "b": BATCH_TOPK, "c": {**TOPK, "seed": 5}}, n_steps=1, learning_rate=1e-12)
    train(config, show_progress=False)
    assert torch.equal(weights("a")["W_enc"], weights("b")["W_enc"])
    assert not torch.equal(weights("a")["W_enc"], weights("c")["W_enc"])


def test_logging_and_saving_change_nothing(make_config, uninterrupted):
    train(make_config(ALL, log_every_steps=60, checkpoint_every_steps=60), show_progress=False)
    for name, found in hashes().items():
        assert found["weights"] == uninterrupted[name]["weights"]
        assert found["state"] == uninterrupted[name]["state"]
        assert found["curves"] != uninterrupted[name]["curves"]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_divergence_freezes_one_variant_and_nobody_else(make_config, uninterrupted, monkeypatch, poison, interrupted):
    """Variant 'topk' gets a NaN loss, or an infinite gradient, at step 33."""
    at: dict[int, dict[str, torch.Tensor]] = {}
    real = Trainee.update

    def poisoned(self: Trainee, *batch: torch.Tensor | None, monitored: bool) -> Any:
        if self.variant.sae.architecture != "topk" or self.step != 33:
            return real(self, *batch, monitored=monitored)
        at[33] = {name: tensor.clone() for name, tensor in self.sae.parameters().items()}
        compute = self.objective.forward_backward

        def forward_backward(*arguments: Any, **named: Any) -> Any:
            result = compute(*arguments, **named)
            (result.loss if poison == "loss" else result.gradients["W_enc"]).fill_(float("nan"))
            return result

        self.objective.forward_backward = forward_backward  # type: ignore[method-assign]
        return real(self, *batch, monitored=monitored)

    monkeypatch.setattr(Trainee, "update", poisoned)
    if interrupted:
        train_until(make_config(ALL), monkeypatch, 10, before=False)
    train(make_config(ALL), show_progress=False)
    folder = folder_of("topk")
    ending = json.loads(folder.training.read_text())
    assert (ending["status"], ending["diverged_at_step"]) == ("diverged", 33)
    assert ending["reason"] == ("loss is nan" if poison == "loss" else "gradient norm is nan")
    assert curves("topk")[-1]["step"] == 30
    scale = json.loads(folder.config.read_text())["input_scale"]
    last_good = in_raw_units(at[33], scale, SAE.scales_with_x)
    assert all(torch.equal(weights("topk")[name], tensor) for name, tensor in last_good.items())
    found = hashes()
    assert {name: found[name] for name in ("batch", "relu")} == {n: uninterrupted[n] for n in ("batch", "relu")}
    train(make_config(ALL), show_progress=False)  # recognised, not tried again
    assert hashes() == found


def test_all_variants_diverging_ends_the_run(make_config, monkeypatch):
    monkeypatch.setattr(feed, "to_tensor", lambda rows, device: torch.full(rows.shape, float("inf")))
    monkeypatch.setitem(centres.CENTRES, "geometric_median", lambda x_BM: torch.zeros(x_BM.shape[1]))
    train(make_config(ALL), show_progress=False)
    for folder in RunFolder(RUN).trained():
        assert json.loads(folder.training.read_text())["diverged_at_step"] == 0


@pytest.mark.parametrize("name", ALL)
def test_folded_weights_encode_raw_rows(make_config, store, name):
    """encode(raw x) of the file equals encode(scaled x) of the trainer, divided by the scale."""
    train(make_config({name: ALL[name]}), show_progress=False)
    folder = folder_of(name)
    scale = json.loads(folder.config.read_text())["input_scale"]
    settings = make_config({name: ALL[name]}).variants[name].sae
    raw = weights(name)
    trained = {n: t * scale if n in ("b_enc", "b_dec", "threshold") else t for n, t in raw.items()}
    x_BM = torch.from_numpy(ActivationStore.open(store).rows(SITE, 0, 512).copy())
    architecture = ARCHITECTURES[settings.architecture]
    final, scaled = architecture(settings, D_MODEL, raw), architecture(settings, D_MODEL, trained)
    codes, wanted = final.encode_inference(x_BM), scaled.encode_inference(x_BM * scale)
    torch.testing.assert_close(codes.to_dense(), wanted.to_dense() / scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(final.decode(codes), scaled.decode(wanted) / scale, rtol=1e-4, atol=1e-4)


def test_input_scale_gives_mean_square_norm_one(make_config, store):
    train(make_config({"topk": TOPK}, n_steps=1), show_progress=False)
    scale = json.loads(folder_of("topk").config.read_text())["input_scale"]
    rows = np.concatenate(
        [rows for rows, _ in ActivationStore.open(store).in_order(SITE, "train", Filters(True, True), 256)]
    )
    assert np.square(rows * scale, dtype=np.float64).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("name", ["topk", "batch"])
def test_calibrated_threshold_gives_k_on_held_out_rows_even_after_50_steps(make_config, tmp_path, name):
    big = store_for_training(tmp_path / "big", n_rows=32768)
    train(make_config({name: ALL[name]}, store=big, n_steps=50, calibration_rows=16384), show_progress=False)
    settings = make_config({name: ALL[name]}).variants[name].sae
    raw = weights(name)
    sae = ARCHITECTURES[settings.architecture](settings, D_MODEL, raw)
    held = [rows for rows, _ in ActivationStore.open(big).in_order(SITE, "heldout", Filters(True, True), 1024)]
    pre_BE = sae.pre_activations(torch.from_numpy(np.concatenate(held)))
    l0 = float((pre_BE > raw["threshold"]).float().sum(dim=1).mean())
    assert l0 == pytest.approx(4.0, rel=0.02)
    ending = json.loads(folder_of(name).training.read_text())
    assert ending["threshold"]["calibrated"] == float(raw["threshold"])
    assert ending["threshold"]["running_mean"] > 0


def test_a_new_environment_is_told(make_config, monkeypatch, caplog):
    train_until(make_config({"topk": TOPK}), monkeypatch, 2, before=False)
    edit(RunFolder(RUN).environment, {"torch_threads": 3})
    train(make_config({"topk": TOPK}), show_progress=False)
    assert "torch_threads: was 3, is 1" in caplog.text


def test_deleting_the_folder_starts_again(make_config, uninterrupted):
    train(make_config(ALL, n_steps=10), show_progress=False)
    shutil.rmtree(RUN / "variants")
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted
