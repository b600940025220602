"""What training sees of a row: the row times one number, or the row itself (`training.input_scale`)."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.trainer.train import train
from strata_sae.pipeline.trainer.trainee import Trainee
from strata_sae.stores import ActivationStore, Batches, Filters
from support.small_run import RELU, SITE, TOPK
from support.trained_run import folder_of, weights

STREAM = {"filters": Filters(True, True), "batch_size": 64, "window_rows": 1024}
"""As small_run's training section asks for."""


def seen_rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """Architecture -> the rows of every update that follows."""
    seen: dict[str, list[torch.Tensor]] = {}
    real = Trainee.update

    def update(self: Trainee, x_BM: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.setdefault(self.variant.sae.architecture, []).append(x_BM.clone())
        return real(self, x_BM, *rest, **more)

    monkeypatch.setattr(Trainee, "update", update)
    return seen


def record(name: str) -> dict[str, Any]:
    return json.loads(folder_of(name).config.read_text())


def test_none_trains_on_the_stored_bits_and_statistics_on_a_multiple(make_config, store, monkeypatch):
    seen = seen_rows(monkeypatch)
    raw = {**RELU, "training": {"input_scale": "none"}}
    train(make_config({"scaled": TOPK, "raw": raw}, n_steps=3), show_progress=False)
    assert (record("raw")["input_scale"], record("raw")["training"]["input_scale"]) == (1.0, "none")
    scale = np.float32(record("scaled")["input_scale"])
    assert scale != 1.0
    assert record("scaled")["training"]["input_scale"] == "statistics"
    with Batches(ActivationStore.open(store), SITE, **STREAM) as batches:
        for step in range(3):
            rows = batches.batch(step)[0].copy()
            assert np.array_equal(seen["relu"][step].numpy(), rows)
            np.testing.assert_allclose(seen["topk"][step].numpy(), rows * scale, rtol=1e-6)
            assert not np.allclose(seen["topk"][step].numpy(), rows), "control"


def test_the_scale_of_one_variant_changes_no_bit_of_another(make_config):
    train(make_config({"topk": TOPK}), show_progress=False)
    alone = folder_of("topk").weights.read_bytes()
    both = {"topk": TOPK, "raw": {**TOPK, "training": {"input_scale": "none"}}}
    train(make_config({name: both[name] for name in ("raw", "topk")}, "other"), show_progress=False)
    other = folder_of("topk").path.parents[2] / "other" / "variants"
    assert (other / f"topk@{SITE}" / "weights.safetensors").read_bytes() == alone
    assert (other / f"raw@{SITE}" / "weights.safetensors").read_bytes() != alone


def test_weights_of_none_are_the_trainers_own_and_are_scored_on_raw_rows(make_config, monkeypatch):
    kept: dict[str, torch.Tensor] = {}
    real = Trainee.update

    def update(self: Trainee, *batch: Any, **more: Any) -> Any:
        made = real(self, *batch, **more)
        kept.update({name: tensor.clone() for name, tensor in self.sae.parameters().items()})
        return made

    monkeypatch.setattr(Trainee, "update", update)
    config = make_config({"topk": TOPK}, input_scale="none", learning_rate=1e-2)
    train(config, show_progress=False)
    final = weights("topk")
    assert all(torch.equal(final[name], tensor) for name, tensor in kept.items())
    evaluate(config)
    r2 = json.loads(folder_of("topk").metrics.read_text())["metrics"]["r2_pooled"]["value"]
    assert 0.05 < r2 < 1.0
