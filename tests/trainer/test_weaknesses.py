"""What other trainers on stored activations get wrong and no other test shows of ours; see docs/weaknesses.md."""

import json
from typing import Any

import pytest
import torch

from strata_sae.pipeline.runs.trained import load
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.trainer import session
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore, Batches
from support.dense_saes import SAE_SETTINGS
from support.small_run import ALL, D_MODEL, RELU, SITE, TOPK
from support.trained_run import folder_of, hashes, weights

N_STEPS = 20


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The step of every batch that is read."""
    found: list[int] = []
    batch = Batches.batch

    def counting(self: Batches, step: int) -> Any:
        if step < N_STEPS:  # those after the last set thresholds
            found.append(step)
        return batch(self, step)

    monkeypatch.setattr(Batches, "batch", counting)
    return found


def test_any_number_of_variants_of_any_width_read_as_much_as_one(make_config, reads):
    train(make_config({"alone": TOPK}, "one", n_steps=N_STEPS), show_progress=False)
    one = sorted(reads)
    assert set(one) == set(range(N_STEPS))
    reads.clear()
    widths = {f"wide-{d_sae}": {**TOPK, "sae": {**TOPK["sae"], "d_sae": d_sae}} for d_sae in (16, 64, 192)}
    train(make_config({**widths, **ALL}, n_steps=N_STEPS), show_progress=False)
    assert sorted(reads) == one
    assert [weights(name)["W_dec"].shape[0] for name in widths] == [16, 64, 192]
    # The control: what cannot share a batch, because another seed has another order, is counted.
    reads.clear()
    train(make_config({"topk": TOPK, "other": {**TOPK, "seed": 1}}, "two", n_steps=N_STEPS), show_progress=False)
    assert sorted(reads) == sorted([*one, *one])


TERMS = {"gated": {"l1": {"weight": 0.05}, "gated_auxiliary": {}}, "jump_relu": {"l0": {"target": 6.0}}}
EVERY = {
    name: {
        "sae": {"architecture": name, "d_sae": 48, **knobs, **({"d_sae": D_MODEL} if name == "identity" else {})},
        "objective": {"reconstruction": {}, **TERMS.get(name, {})},
    }
    for name, knobs in SAE_SETTINGS.items()
}
ANNEALED = {"reconstruction": {}, "p_anneal": {"weight": 0.03}}
DEFAULTS: dict[str, Any] = {
    **EVERY,
    **{f"small-{name}": variant for name, variant in ALL.items()},
    "p_anneal": {**RELU, "objective": ANNEALED},
    "gated_anneal": {**EVERY["gated"], "objective": {**ANNEALED, "gated_auxiliary": {}}},
    "resampled": {**RELU, "resampling": {"every_steps": 1, "dead_after_steps": 1}},
}
WILD = {**TOPK, "training": {"learning_rate": 1e30, "clip_norm": None}}


@pytest.mark.parametrize("n_steps", [1, 15])
def test_every_budget_of_steps_ends_well(make_config, n_steps):
    variants = DEFAULTS if n_steps < 15 else {**DEFAULTS, "wild": WILD}  # the control
    train(make_config(variants, n_steps=n_steps, warmup_steps=0), show_progress=False)
    assert hashes().keys() == variants.keys()
    endings = {name: json.loads(folder_of(name).training.read_text()) for name in variants}
    assert {name for name, ending in endings.items() if ending["status"] != "finished"} == variants.keys() - DEFAULTS
    for name in DEFAULTS:
        assert endings[name]["n_steps"] == n_steps, name
        assert all(bool(tensor.isfinite().all()) for tensor in weights(name).values()), name


FLAGS = {
    "relu-no-bias": {"architecture": "relu", "d_sae": 48, "decoder": "free", "pre_bias": False},
    "relu-tied": {"architecture": "relu", "d_sae": 48, "tied": True},
    "topk-contribution": {"architecture": "topk", "d_sae": 48, "k": 4, "decoder": "free", "rank_by": "contribution"},
}


def contributions(sae: SAE, x_BM: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """What each latent adds to each row [B, E], as a length, and the reconstructions [B, M], of rows `scale` too long.

    Lengths, because an SAE that ranks by them is written with its decoder's norms in the encoder.
    """
    W_dec = sae.parameters().get("W_dec", sae.weights()["W_dec"])
    codes = sae.encode_inference(x_BM)
    return codes.to_dense() * W_dec.norm(dim=1) / scale, sae.decode(codes) / scale


def test_what_is_read_back_is_what_was_trained(make_config, store, monkeypatch):
    x_BM = torch.from_numpy(ActivationStore.open(store).rows(SITE, 0, 512).copy())
    trained: dict[str, tuple[torch.Tensor, torch.Tensor, float]] = {}
    finish = session.finish

    def keeping(trainee, job, calibrated, curves_sha256):
        finish(trainee, job, calibrated, curves_sha256)
        sae, scale = trainee.sae, job.record.input_scale
        if calibrated is not None:
            sae.threshold = torch.tensor(calibrated, dtype=torch.float64)
        trained[job.variant_name] = *contributions(sae, x_BM * scale, scale), scale

    monkeypatch.setattr(session, "finish", keeping)
    variants = EVERY | {name: {"sae": sae, "objective": RELU["objective"]} for name, sae in FLAGS.items()}
    variants["topk-contribution"] = {"sae": FLAGS["topk-contribution"], "objective": {"reconstruction": {}}}
    train(make_config(variants, n_steps=10), show_progress=False)
    assert trained.keys() == variants.keys()
    for name, (features_BE, decoded_BM, scale) in trained.items():
        sae = load(folder_of(name), torch.device("cpu")).sae
        found_BE, found_BM = contributions(sae, x_BM)
        assert (features_BE > 0).any(), name
        torch.testing.assert_close(found_BE, features_BE, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found_BM, decoded_BM, rtol=1e-4, atol=1e-4)
        if name in ("relu", "gated", "jump_relu"):  # the control: a scale that is lost on the way shows
            assert abs(scale - 1) > 0.1
            assert not torch.allclose(contributions(sae, x_BM * scale, scale)[0], features_BE, rtol=1e-2)
