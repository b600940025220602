"""Scores written to a run folder, skipped when they are current, and checked against the store by hand."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.evaluation.metrics import METRICS
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.stores import ActivationStore, Filters
from support.evaluation_folder import D_MODEL, SITE, identity_weights, random_weights, write_trained

FILES = ("metrics.json", "examples.json", "features.safetensors")


def folder(name: str) -> Path:
    return Path("runs/run/variants") / f"{name}@{SITE}"


def record(name: str, file: str = "metrics.json") -> dict[str, Any]:
    return json.loads((folder(name) / file).read_text(encoding="utf-8"))


def value(name: str, metric: str) -> float:
    return record(name)["metrics"][metric]["value"]


def heldout(store: ActivationStore, **filters: Any) -> tuple[np.ndarray, np.ndarray]:
    rows, numbers = zip(*store.in_order(SITE, "heldout", Filters(**filters), 10**6), strict=True)
    return np.concatenate(rows), np.concatenate(numbers)


def test_scores_of_an_sae_that_is_the_identity(make_run):
    config, store = make_run()
    evaluate(config)
    rows, _ = heldout(store, drop_bos=True, drop_special=True)
    assert value("identity", "r2_pooled") == 1.0
    assert value("identity", "norm_ratio") == 1.0
    assert value("identity", "l0") == (rows != 0).sum() / len(rows)
    measured = record("identity")
    assert measured["n_rows"] == len(rows)
    assert measured["split"] == "heldout"
    squares = np.sort((rows.astype(np.float64) ** 2).sum(axis=1))[::-1]
    share = squares[: -(-len(rows) // 100)].sum() / squares.sum()
    assert measured["top_percent_square_share"] == pytest.approx(share, rel=1e-6)
    assert measured["n_documents"] == len(set(store.token_map("document", *store.plan.splits["heldout"]).tolist()))
    assert measured["store_id"] == store.id
    assert measured["filters"]["drop_bos"] is True
    assert measured["metrics"].keys() == METRICS.keys()
    assert all(entry["unit"] and entry["definition"] for entry in measured["metrics"].values())


def test_density_and_cosines_per_latent(make_run):
    config, store = make_run()
    evaluate(config)
    features = safetensors.torch.load_file(folder("identity") / "features.safetensors")
    rows, _ = heldout(store, drop_bos=True, drop_special=True)
    positive = torch.from_numpy((rows > 0).mean(axis=0))
    assert torch.allclose(features["density"][:D_MODEL].double(), positive, atol=1e-7)
    assert features["decoder_max_cosine"].tolist() == [0.0] * 2 * D_MODEL
    assert sum(record("identity")["density_histogram"]["counts"]) == value("identity", "alive_latents")


def test_examples_are_the_top_rows_with_text_of_their_own_document(make_run):
    config, store = make_run()
    evaluate(config)
    rows, numbers = heldout(store, drop_bos=True, drop_special=True)
    latents = record("identity", "examples.json")["latents"]
    assert len(latents) == 3
    for latent in latents:
        column, sign = latent["latent"] % D_MODEL, 1 if latent["latent"] < D_MODEL else -1
        order = np.argsort(-sign * rows[:, column], kind="stable")[:4]
        assert [example["row"] for example in latent["examples"]] == numbers[order].tolist()
        for example in latent["examples"]:
            row, place = example["row"], example["index"]
            documents = store.token_map("document", row - place, row - place + len(example["tokens"]))
            assert set(documents.tolist()) == {example["document"]}
            assert example["values"][place] == pytest.approx(example["value"], rel=1e-6)
            token = int(store.token_map("token_id", row, row + 1)[0])
            assert example["tokens"][place] == store.vocabulary[token]
            assert len(example["tokens"]) <= 11
            first = store.token_map("position", row - place, row - place + 1)[0]
            assert place == 5 or first == 0  # shorter only where the document begins
            assert (example["values"][0] is None) == (first == 0)  # BOS is filtered, so it has no value


def test_one_batch_or_many_give_the_same_scores_and_examples(make_run):
    config, _ = make_run(batch_size=10_000)
    evaluate(config)
    one, examples = record("topk"), record("topk", "examples.json")
    for path in folder("topk").glob("metrics.json"):
        path.unlink()
    evaluate(make_run_again(config, batch_size=17))
    many = record("topk")
    assert many["fingerprint"] == one["fingerprint"]
    for name in METRICS:
        assert close(many["metrics"][name]["value"], one["metrics"][name]["value"]), name
    again = record("topk", "examples.json")
    assert [latent["latent"] for latent in again["latents"]] == [latent["latent"] for latent in examples["latents"]]


def close(found: float | None, wanted: float | None) -> bool:
    return found == wanted if wanted is None else found == pytest.approx(wanted, rel=1e-6)


def make_run_again(config: Any, **evaluation: Any) -> Any:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=evaluation)})


def test_current_scores_are_kept_and_said_so(make_run, caplog):
    config, _ = make_run()
    evaluate(config)
    before = {path: path.stat().st_mtime_ns for name in FILES for path in folder("topk").glob(name)}
    with caplog.at_level(logging.INFO):
        evaluate(make_run_again(config, batch_size=9))
    assert f"topk@{SITE}: scored already" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(before) == 3


@pytest.mark.parametrize("change", [{"max_rows": 50}, {"example_latents": 1}, {"filters": {"drop_bos": False}}])
def test_scores_are_made_again_when_what_they_depend_on_changes(make_run, change):
    config, _ = make_run()
    evaluate(config)
    before = record("topk")["fingerprint"]
    evaluate(make_run(**change)[0])
    assert record("topk")["fingerprint"] != before


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_made_again(make_run, file):
    config, _ = make_run()
    evaluate(config)
    (folder("topk") / file).unlink()
    evaluate(config)
    assert (folder("topk") / file).exists()


def test_retrained_weights_are_scored_again(make_run):
    config, store = make_run()
    evaluate(config)
    before = value("topk", "sse")
    write_trained(
        Path("runs/run"), "topk", store.id, {"architecture": "topk", "d_sae": 64, "k": 4}, random_weights(64, 2)
    )
    evaluate(config)
    assert value("topk", "sse") != before


def test_max_rows_scores_the_first_rows_of_the_split(make_run):
    config, store = make_run(max_rows=50)
    evaluate(config)
    rows, numbers = heldout(store, drop_bos=True, drop_special=True)
    assert record("identity")["n_rows"] == 50
    assert record("identity")["n_documents"] == 2  # of 37 rows
    assert value("identity", "l0") == (rows[:50] != 0).sum() / 50
    shown = [e["row"] for latent in record("identity", "examples.json")["latents"] for e in latent["examples"]]
    assert set(shown) <= set(numbers[:50].tolist())


def test_bos_rows_are_scored_only_when_not_filtered(make_run):
    config, store = make_run(filters={"drop_bos": False, "drop_special": False})
    evaluate(config)
    assert record("identity")["top_percent_square_share"] > 0.3  # the long BOS rows
    assert record("identity")["n_rows"] == len(heldout(store)[0]) > len(heldout(store, drop_bos=True)[0])


def test_all_saes_of_a_site_share_each_read(make_run, monkeypatch):
    config, _ = make_run()
    passes = []
    original = ActivationStore.in_order

    def counted(self, *args):
        passes.append(args)
        return original(self, *args)

    monkeypatch.setattr(ActivationStore, "in_order", counted)
    evaluate(config)
    assert len(passes) == 2  # scores, examples: not twice per SAE
    assert record("identity")["n_rows"] == record("topk")["n_rows"]


def test_solo_scores_equal_scores_in_company(make_run):
    config, _ = make_run()
    evaluate(config)
    together = {file: (folder("topk") / file).read_bytes() for file in FILES}
    for name in ("identity", "topk"):
        for file in FILES:
            (folder(name) / file).unlink()
    (folder("identity") / "training.json").unlink()
    evaluate(config)
    assert {file: (folder("topk") / file).read_bytes() for file in FILES} == together
    assert not (folder("identity") / "metrics.json").exists()


def test_a_diverged_sae_is_not_scored(make_run):
    config, store = make_run()
    sae = {"architecture": "relu", "d_sae": 2 * D_MODEL}
    write_trained(Path("runs/run"), "hot", store.id, sae, identity_weights(), diverged=True)
    evaluate(config)
    assert not (folder("hot") / "metrics.json").exists()
    assert (folder("identity") / "metrics.json").exists()


def test_an_sae_with_a_threshold_does_not_depend_on_its_batch(make_run):
    config, store = make_run()
    sae = {"architecture": "batch_topk", "d_sae": 64, "k": 4}
    write_trained(Path("runs/run"), "batch", store.id, sae, random_weights(64, 1, threshold=0.2))
    evaluate(config)
    before = value("batch", "l0")
    (folder("batch") / "metrics.json").unlink()
    evaluate(make_run_again(config, batch_size=3))
    assert value("batch", "l0") == before > 0


THRESHOLDED = {"architecture": "topk", "d_sae": 64, "k": 4}


def form_by_loops(x_NM: np.ndarray, weights: dict[str, torch.Tensor], way: str, threshold: float) -> dict[str, float]:
    """L0, L1, R2 and dead latents by one way of inference, row by row in float64."""
    W_enc, W_dec, b_enc, b_dec = (weights[n].double().numpy() for n in ("W_enc", "W_dec", "b_enc", "b_dec"))
    active, errors, absolute, seen = 0, 0.0, 0.0, set()
    for x_M in x_NM:
        value_E = W_enc @ (x_M - b_dec) + b_enc
        chosen = np.argsort(-value_E)[:4] if way == "k" else np.flatnonzero(value_E > threshold)
        chosen = [latent for latent in chosen if value_E[latent] > 0]
        xhat_M = b_dec + sum((value_E[latent] * W_dec[latent] for latent in chosen), np.zeros_like(b_dec))
        active, errors, seen = active + len(chosen), errors + ((x_M - xhat_M) ** 2).sum(), seen | set(chosen)
        absolute += float(sum(value_E[latent] for latent in chosen))
    spread = ((x_NM - x_NM.mean(axis=0)) ** 2).sum()
    n = len(x_NM)
    return {"l0": active / n, "l1": absolute / n, "r2_pooled": 1 - errors / spread, "dead_latents": 64 - len(seen)}


@pytest.mark.parametrize(
    ("architecture", "usual", "other"), [("topk", "k", "threshold"), ("batch_topk", "threshold", "k")]
)
def test_both_ways_of_inference_are_scored_from_one_read(make_run, monkeypatch, architecture, usual, other):
    config, store = make_run()
    weights = random_weights(64, 1, threshold=0.2)
    write_trained(Path("runs/run"), "both", store.id, {**THRESHOLDED, "architecture": architecture}, weights)
    reads = []
    original = ActivationStore.in_order
    monkeypatch.setattr(ActivationStore, "in_order", lambda *a: reads.append(a) or original(*a))
    evaluate(config)
    assert len(reads) == 2, "scores, examples: as many as without a second way"
    rows, _ = heldout(store, drop_bos=True, drop_special=True)
    found = {way: form_by_loops(rows.astype(np.float64), weights, way, 0.2) for way in (usual, other)}
    for metric, wanted in found[usual].items():
        assert value("both", metric) == pytest.approx(wanted, rel=1e-5), metric
        assert value("both", f"{metric}/inference={other}") == pytest.approx(found[other][metric], rel=1e-5), metric
        assert f"{metric}/inference={usual}" not in record("both")["metrics"]
    assert found[usual]["l0"] != pytest.approx(found[other]["l0"], rel=0.05), "control: the ways differ"
    assert not any(name.startswith("decoder_max") and "/" in name for name in record("both")["metrics"])
    assert not any("inference" in name for name in record("topk")["metrics"]), "no threshold: one way"


def test_what_encode_uses_has_the_plain_name(make_run):
    config, store = make_run()
    weights = random_weights(64, 1, threshold=0.2)
    write_trained(Path("runs/run"), "by_k", store.id, THRESHOLDED, weights)
    write_trained(Path("runs/run"), "by_t", store.id, {**THRESHOLDED, "inference": "threshold"}, weights)
    evaluate(config)
    assert value("by_k", "l0") == value("by_t", "l0/inference=k") != value("by_t", "l0")
    assert value("by_k", "r2_pooled/inference=threshold") == value("by_t", "r2_pooled")


def test_another_target_l0_measures_nothing_again(make_run, caplog):
    config, _ = make_run()
    evaluate(config)
    with caplog.at_level(logging.INFO):
        evaluate(make_run_again(config, target_l0=12.0))
    assert f"topk@{SITE}: scored already" in caplog.text


def test_dead_sae_has_scores_and_no_examples(make_run):
    config, store = make_run()
    weights = {name: torch.zeros_like(tensor) for name, tensor in identity_weights().items()}
    write_trained(Path("runs/run"), "zero", store.id, {"architecture": "relu", "d_sae": 2 * D_MODEL}, weights)
    evaluate(config)
    assert value("zero", "l0") == value("zero", "cosine_similarity") == value("zero", "alive_latents") == 0.0
    assert value("zero", "relative_reconstruction_bias") is None
    assert record("zero", "examples.json")["latents"] == []


def test_store_record_for_the_report(make_run):
    config, store = make_run()
    evaluate(config)
    summary = json.loads(Path("runs/run/store.json").read_text(encoding="utf-8"))
    assert summary["store_id"] == store.id
    assert summary["sites"][SITE]["d_model"] == D_MODEL


def test_no_heldout_row_is_an_error_that_says_what_to_change(make_run, monkeypatch):
    config, _ = make_run()
    monkeypatch.setattr(ActivationStore, "mask", lambda *_: SimpleNamespace(n_rows=0))
    with pytest.raises(ConfigError, match=r"heldout_fraction: .* no held-out row"):
        evaluate(config)


def test_weights_that_changed_after_training_are_refused(make_run):
    config, _ = make_run()
    safetensors.torch.save_file(random_weights(64, 5), folder("topk") / "weights.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        evaluate(config)


def test_an_sae_of_another_store_is_refused(make_run):
    config, _ = make_run()
    sae = {"architecture": "relu", "d_sae": 2 * D_MODEL}
    write_trained(Path("runs/run"), "foreign", "ab" * 32, sae, identity_weights())
    with pytest.raises(CheckpointError, match="trained on store abab"):
        evaluate(config)


@pytest.mark.parametrize("provenance", [{"model": "mine", "corpus": []}, {"corpus": {"sources": [1, {"path": 2}]}}])
def test_a_store_with_another_ones_provenance_is_scored_and_shown(make_store, make_run, provenance):
    path = make_store("theirs", n_rows=4000, sites={SITE: D_MODEL}, provenance=provenance)
    config, _ = make_run()
    config = config.model_copy(update={"store": config.store.model_copy(update={"path": str(path)})})
    store = ActivationStore.open(path)
    for name in ("identity", "topk"):
        shutil.rmtree(folder(name))
    write_trained(Path("runs/run"), "their", store.id, {"architecture": "relu", "d_sae": 32}, identity_weights())
    evaluate(config)
    assert value("their", "r2_pooled") == pytest.approx(1.0)
    summary = read_run(Path("runs/run")).store
    assert summary is not None
    assert (summary.model.model, [source.path for source in summary.corpus.sources]) in [(None, []), (None, [None])]
