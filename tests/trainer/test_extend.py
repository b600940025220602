"""`train --extend`: a new variant goes on from a finished one; resumable, recorded, scored, reported as any other."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.reading.feed import Feed
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.train import describe_training, train
from strata_sae.stores.files.hashing import file_sha256
from support.small_run import ALL, RELU, SITE, TOPK
from support.trained_run import RUN, curves, folder_of, hashes, train_until, weights

PLAIN_RELU = {"sae": {"architecture": "relu", "d_sae": 64, "decoder": "free"}, "objective": RELU["objective"]}


def record(name: str) -> dict[str, Any]:
    return json.loads(folder_of(name).config.read_text())


def test_an_extension_is_adam_from_the_parents_weights_on_the_batches_after_its_own(make_config, monkeypatch):
    """By torch: autograd of a ReLU SAE with an L1, torch's Adam from zero memories, in float64."""
    config = make_config({"relu": PLAIN_RELU}, clip_norm=None)
    train(config, show_progress=False)
    seen: dict[int, torch.Tensor] = {}
    real = Feed.batch

    def noting(self: Feed, step: int) -> Any:
        rows = real(self, step)
        seen[step] = rows.x_BM.double().clone()
        return rows

    monkeypatch.setattr(Feed, "batch", noting)
    train(config, extend=40, show_progress=False)
    assert sorted(seen) == list(range(60, 100)), "the batches after the parent's"
    scale = record("relu")["input_scale"]
    raw = {name: tensor.double() for name, tensor in weights("relu").items()}
    p = {name: (t * scale if name.startswith("b_") else t.clone()).requires_grad_() for name, t in raw.items()}
    adam = torch.optim.Adam(list(p.values()), lr=0.0, foreach=False)
    for step in range(40):
        x_BM = seen[60 + step]
        codes = torch.relu((x_BM - p["b_dec"]) @ p["W_enc"].T + p["b_enc"])
        error = codes @ p["W_dec"] + p["b_dec"] - x_BM
        loss = error.square().sum(1).mean() + 0.05 * codes.sum(1).mean()
        adam.zero_grad()
        loss.backward()
        # Warm-up anew over 5 % of 40 steps, then constant, then down to 0 from 80 % on.
        rate = 3e-3 * min((step + 1) / 2, 1.0) * (1.0 if step <= 32 else (40 - step) / 8)
        adam.param_groups[0]["lr"] = rate
        adam.step()
    for name, tensor in weights("relu+40").items():
        expected = p[name].detach() / (scale if name.startswith("b_") else 1.0)
        moved = (expected - raw[name].detach()).abs().max()
        assert float((tensor.double() - expected).abs().max()) < 1e-3 * float(moved)
        assert float(moved) > 0


def test_the_parent_is_recorded_and_stays_and_an_extension_can_be_extended(make_config):
    config = make_config({"topk": TOPK, "relu": RELU})
    train(config, show_progress=False)
    before = {path: path.read_bytes() for path in (RUN / "variants").rglob("*") if path.is_file()}
    train(config, extend=10, only=["topk"], show_progress=False)
    train(config, extend=5, only=["topk+10"], show_progress=False)
    assert {path: path.read_bytes() for path in before} == before
    assert {folder.variant for folder in RunFolder(RUN).trained()} == {"topk", "relu", "topk+10", "topk+10+5"}
    for name, parent, n_steps in (("topk+10", "topk", 60), ("topk+10+5", "topk+10", 70)):
        found = record(name)
        assert found["parent"] == {
            "name": f"{parent}@{SITE}",
            "fingerprint": record(parent)["fingerprint"],
            "weights_sha256": file_sha256(folder_of(parent).weights),
            "n_steps": n_steps,
        }
    assert record("topk")["parent"] is None
    assert (record("topk+10")["training"]["n_steps"], record("topk+10")["training"]["warmup_steps"]) == (10, 0)
    evaluate(config, show_progress=False)
    assert all(folder.metrics.exists() for folder in RunFolder(RUN).trained())
    assert "topk+10+5" in write_report(RUN).read_text(encoding="utf-8")


@pytest.mark.parametrize("save", [1, 4, 6])
def test_a_stop_changes_nothing(make_config, monkeypatch, save):
    """Two variants, checkpoints at 10, 20 and 30."""
    variants = {"topk": TOPK, "relu": RELU}
    for name in ("other", "run"):
        train(make_config(variants, name), show_progress=False)
    train(make_config(variants, "other"), extend=30, show_progress=False)
    config = make_config(variants)

    def extending(config: Any, **named: Any) -> None:
        train(config, extend=30, **named)

    monkeypatch.setattr("support.trained_run.train", extending)
    train_until(config, monkeypatch, save, before=False)
    train(config, extend=30, show_progress=False)
    assert hashes() == hashes(Path("runs/other"))
    assert len(hashes()) == 4


def test_schedules_stay_at_their_ends_but_for_the_rates(make_config):
    growing = {"sae": {**TOPK["sae"], "k": {"start": 2, "end": 8}}, "objective": {"reconstruction": {}}}
    train(make_config({"growing": growing}), show_progress=False)
    train(make_config({"growing": growing}), extend=20, show_progress=False)
    assert [round(line["l0"]) for line in (curves("growing")[0], curves("growing")[-1])] == [2, 7]
    assert min(line["l0"] for line in curves("growing+20")) > 6
    rates = [line["learning_rate"] for line in curves("growing+20")]
    assert rates[0] == max(rates) == 3e-3, "control: the rate begins anew"


def test_transcoders_begin_in_the_units_that_they_were_trained_in(make_config, monkeypatch):
    from strata_sae.pipeline.trainer import one_pass

    started: dict[str, dict[str, torch.Tensor]] = {}
    real = one_pass.begin_at_parent

    def noting(parameters: Any, given: Any) -> None:
        real(parameters, given)
        started.update({name: tensor.clone() for name, tensor in parameters.items()})

    monkeypatch.setattr(one_pass, "begin_at_parent", noting)
    train(make_config({"topk": TOPK}, checkpoint_every_steps=60), show_progress=False)
    train(make_config({"topk": TOPK}, checkpoint_every_steps=60), extend=1, show_progress=False)
    scale, raw = record("topk")["input_scale"], weights("topk")
    assert torch.equal(started["W_dec"], raw["W_dec"])
    torch.testing.assert_close(started["b_enc"], raw["b_enc"] * scale)
    assert not torch.equal(started["b_enc"], raw["b_enc"]), "control: units"


@pytest.mark.parametrize(
    ("variants", "changed", "only", "said"),
    [
        ({"topk": TOPK}, {}, ["relu"], "--only relu: no such variant"),
        ({"topk": TOPK}, {"variants": {"topk": {**TOPK, "sae": {**TOPK["sae"], "k": 5}}}}, [], r"sae.k: was 4, is 5"),
        ({"topk": TOPK}, {"variants": {"topk": TOPK, "relu": RELU}}, ["relu"], "is not trained to its end; run train"),
        (
            {"anneal": {**RELU, "objective": {"reconstruction": {}, "p_anneal": {"weight": 0.01}}}},
            {},
            [],
            "has the term p_anneal",
        ),
    ],
)
def test_what_cannot_be_extended_is_refused(make_config, variants, changed, only, said):
    train(make_config(variants), show_progress=False)
    with pytest.raises(ConfigError, match=said):
        train(make_config(changed.get("variants", variants)), extend=10, only=only, show_progress=False)
    assert not [folder for folder in RunFolder(RUN).trained() if "+" in folder.variant]


def test_a_dry_run_says_what_would_be_extended(make_config):
    config = make_config({name: ALL[name] for name in ("topk", "relu")})
    train(config, show_progress=False)
    said = describe_training(config, extend=30)
    assert "2 of 2 SAEs are left to train" in said
    assert "read once for topk+30, relu+30" in said
    assert "30 updates of 64 rows are" in said


def test_control_another_parent_is_seen(make_config):
    config = make_config({"topk": TOPK})
    train(config, show_progress=False)
    train(config, extend=10, show_progress=False)
    first = hashes()["topk+10"]["weights"]
    train(make_config({"topk": {**TOPK, "seed": 1}}, "other"), show_progress=False)
    train(make_config({"topk": {**TOPK, "seed": 1}}, "other"), extend=10, show_progress=False)
    assert hashes(Path("runs/other"))["topk+10"]["weights"] != first
    assert safetensors.torch.load_file(folder_of("topk+10").weights).keys() == weights("topk").keys()
