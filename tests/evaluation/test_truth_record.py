"""truth.json: written by evaluate for a toy's store, kept, and refused where something does not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import ToyConfig, TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.reading.truth import truth_of
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.report.truth_section import truth_section
from strata_sae.pipeline.toy.make import make_toy
from strata_sae.stores import ActivationStore, slice_store, write_store
from strata_sae.stores.errors import StoreError
from support.evaluation_folder import D_MODEL, SITE, config_data, write_trained
from support.sealing import edit, seal

RUN = Path("runs/run")
TREE = {"kind": "parent_always_on", "n_rows": 3000, "d_model": D_MODEL, "n_children": 3, "heldout_fraction": 0.7}
RELU = {"architecture": "relu", "d_sae": 4}


def toy_store(path: Path, toy: dict[str, Any]) -> ActivationStore:
    data = {
        "name": "toy",
        "toy": toy,
        "store": {"path": str(path), "sites": [SITE], "encoding": "float32", "chunk_bytes": 4096},
    }
    return make_toy(ToyConfig.of(RunConfig.model_validate(data), "a.yaml"))


def oracle(store: ActivationStore) -> dict[str, torch.Tensor]:
    """A latent for each direction; its code is near 1 where the direction is on, and 0 elsewhere."""
    directions = torch.from_numpy(safetensors.numpy.load(store.extra("toy.safetensors"))["directions"])
    n = len(directions)
    return {
        "W_enc": directions.clone(),
        "W_dec": 2 * directions,
        "b_enc": torch.full((n,), -0.5),
        "b_dec": torch.zeros(D_MODEL),
    }


def absorbing(store: ActivationStore) -> dict[str, torch.Tensor]:
    """The parent's latent is off wherever a child is on, and children carry the parent."""
    weights = oracle(store)
    weights["W_enc"][0] -= 3 * weights["W_enc"][1:].sum(dim=0)
    weights["W_dec"][1:] += weights["W_dec"][0]
    return weights


def biased(store: ActivationStore) -> dict[str, torch.Tensor]:
    weights = oracle(store)
    weights["b_dec"] = weights["W_enc"][0].clone()
    weights["b_enc"][0] = -100.0
    return weights


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ActivationStore:
    monkeypatch.chdir(tmp_path)
    store = toy_store(tmp_path / "toy", TREE)
    for name, weights in {"oracle": oracle, "absorbing": absorbing, "biased": biased}.items():
        write_trained(RUN, name, store.id, RELU, weights(store))
    return store


def config(store: ActivationStore, **evaluation: Any) -> TrainConfig:
    filters = {"max_norm_multiple": None}
    return TrainConfig.model_validate(config_data(store.path, {"batch_size": 500, **evaluation}, filters))


def truth_file(name: str) -> Path:
    return RUN / "variants" / f"{name}@{SITE}" / "truth.json"


def values(name: str) -> dict[str, float | None]:
    return {name: found["value"] for name, found in json.loads(truth_file(name).read_text())["recovered"].items()}


def test_evaluate_says_of_every_sae_what_it_found(tree: ActivationStore):
    evaluate(config(tree))
    found = values("oracle")
    for metric in ("mcc", "uniqueness", "f1_per_latent", "f1_per_feature"):
        assert found[metric] == pytest.approx(1.0)
    assert (found["latent_absorption"], found["projection_absorption"]) == (0.0, 0.0)
    assert found["suppression"] == pytest.approx(0.0, abs=0.02)
    lost = values("absorbing")
    assert (lost["latent_absorption"], lost["projection_absorption"], lost["suppression"]) == (1.0, 0.0, 1.0)
    assert lost["leakage"] == pytest.approx(2.0, abs=1e-5)
    assert lost["l0"] == pytest.approx(1.0)
    bias = values("biased")
    assert (bias["latent_absorption"], bias["suppression"]) == (None, None)
    record = json.loads(truth_file("biased").read_text())
    assert record["child_statuses"] == {"parent carried by b_dec": 3}
    assert (record["n_rows"], record["n_documents"], record["n_features"]) == (2100, 9, 4)
    assert record["population"] == "as_trained"
    metrics = json.loads((truth_file("oracle").parent / "metrics.json").read_text())["metrics"]
    assert found["r2"] == pytest.approx(metrics["r2_pooled"]["value"])
    assert found["r2_ceiling"] is not None
    assert found["r2"] is not None
    assert found["r2"] <= found["r2_ceiling"] + 1e-3


def test_what_is_there_is_kept_and_other_rows_are_measured_anew(
    tree: ActivationStore, caplog: pytest.LogCaptureFixture
):
    evaluate(config(tree))
    before = truth_file("oracle").read_bytes()
    with caplog.at_level("INFO"):
        evaluate(config(tree))
    assert caplog.text.count("held against the truth already") == 3
    assert truth_file("oracle").read_bytes() == before
    evaluate(config(tree, batch_size=70))
    assert truth_file("oracle").read_bytes() == before, "how many rows are read at once changes nothing"
    evaluate(config(tree, max_rows=300))
    assert json.loads(truth_file("oracle").read_text())["n_rows"] == 300


def test_numbers_of_other_weights_or_rows_are_refused(tree: ActivationStore):
    evaluate(config(tree))
    edit(truth_file("oracle"), {"weights_sha256": "00" * 32})
    run = read_run(RUN)
    section = truth_section(run)
    assert section is not None
    assert {row[0] for row in section.tables[0].rows} == {"absorbing", "biased"}
    assert any("truth.json: weights_sha256" in line for line in run.missing)
    evaluate(config(tree))  # they are other numbers than wanted: measured anew
    assert values("oracle")["mcc"] == pytest.approx(1.0)
    text = truth_file("oracle").read_text()
    truth_file("oracle").write_text(text.replace('"n_rows": 2100', '"n_rows": 2101'))
    with pytest.raises(CheckpointError, match=r"truth\.json: its self_sha256 is not that of its content"):
        evaluate(config(tree))
    truth_file("absorbing").replace(truth_file("oracle"))
    with pytest.raises(
        CheckpointError, match=r"truth\.json: sae: is .* but this SAE's is .*delete it and run evaluate"
    ):
        evaluate(config(tree))


@pytest.mark.parametrize("name", ["toy.safetensors", "truth.safetensors"])
def test_a_damaged_truth_is_said_and_scores_stay(tree: ActivationStore, name: str):
    path = Path(str(tree.path)) / "extras" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=rf"extras/{name}: its sha256 is not the plan's; the file is damaged"):
        evaluate(config(tree))
    assert (truth_file("oracle").parent / "metrics.json").exists()
    assert not truth_file("oracle").exists()


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ({"truth.safetensors": b"no tensors"}, "truth.safetensors: no tensors"),
        ({"truth.safetensors": {"other": np.zeros(2)}}, "without active of truth.safetensors"),
        ({"truth.safetensors": {"active": np.zeros((9, 1), np.int32)}}, "do not fit 20 rows of width 16"),
        ({"truth.safetensors": {"active": np.full((20, 1), 4, np.int32)}}, "do not fit 20 rows of width 16"),
        ({"toy.safetensors": {"directions": np.zeros((4, 5)), "parent": np.zeros(4)}}, "do not fit 20 rows"),
    ],
)
def test_a_truth_that_does_not_fit_the_rows_is_refused(tmp_path: Path, extras: dict[str, Any], said: str):
    whole = {
        "toy.json": b'{"kind":"parent_always_on"}',
        "toy.safetensors": {"directions": np.zeros((4, 16), np.float32), "parent": np.full(4, -1, np.int32)},
        "truth.safetensors": {"active": np.zeros((20, 1), np.int32)},
        **extras,
    }
    packed = {name: made if isinstance(made, bytes) else safetensors.numpy.save(made) for name, made in whole.items()}
    store = write_store(tmp_path / "toy", {SITE: np.ones((20, 16), np.float32)}, extras=packed)
    with pytest.raises(StoreError, match=said) as caught:
        truth_of(store, SITE)
    assert "\n" not in str(caught.value)


def test_of_a_part_of_a_toy_and_of_other_stores_nothing_is_known(tree: ActivationStore, tmp_path: Path):
    part = slice_store(tree, tmp_path / "part", rows=(0, tree.plan.rows_per_chunk))
    assert truth_of(part, SITE) is None
    plain = write_store(tmp_path / "plain", {SITE: np.random.default_rng(0).random((500, 16)).astype(np.float32)})
    assert truth_of(plain, SITE) is None
    write_trained(Path("runs/other"), "oracle", plain.id, RELU, oracle(tree))
    evaluate(config(plain).model_copy(update={"name": "other"}))
    assert not list(Path("runs/other").rglob("truth.json"))
    assert list(Path("runs/other").rglob("metrics.json"))


def test_an_sae_in_units_of_documents_has_no_truth(tree: ActivationStore, caplog: pytest.LogCaptureFixture):
    folder = RUN / "variants" / f"oracle@{SITE}"
    edit(folder / "config.json", lambda record: record["training"].update(input_scale="per_document"))
    seal(folder)
    evaluate(config(tree))
    assert "oracle@" in caplog.text
    assert "its latents are no directions of the toy's rows" in caplog.text
    assert not truth_file("oracle").exists()
    assert truth_file("biased").exists()


def test_dead_and_zero_decoder_rows_and_too_few_latents_are_scored(tree: ActivationStore):
    weights = oracle(tree)
    few = {name: value[:2].clone() if name != "b_dec" else value for name, value in weights.items()}
    write_trained(RUN, "few", tree.id, {**RELU, "d_sae": 2}, few)
    zero = oracle(tree)
    zero["W_dec"][1:] = 0.0
    write_trained(RUN, "zero", tree.id, RELU, zero)
    evaluate(config(tree))
    assert values("few")["f1_per_feature"] == pytest.approx(0.5)
    record = json.loads(truth_file("few").read_text())
    assert record["child_statuses"] == {"measured": 1, "child not found": 2}
    assert values("zero")["latent_absorption"] is None
    assert values("zero")["mcc"] == pytest.approx(0.25)
    run = read_run(RUN)
    section = truth_section(run)
    assert section is not None
    assert any(note.startswith("few: has 2 latents for 4 features") for note in section.notes)


def test_the_section_of_the_report_shows_every_sae_and_its_ceiling(tree: ActivationStore):
    evaluate(config(tree))
    section = truth_section(read_run(RUN))
    assert section is not None
    recovery, absorption, children = section.tables
    assert [row[0] for row in recovery.rows] == ["absorbing", "biased", "oracle"]
    heads = [head for head, _ in recovery.heads]
    assert heads[:3] == ["variant", "R2", "its ceiling"]
    row = dict(zip([head for head, _ in absorption.heads], absorption.rows[1], strict=True))
    assert (row["variant"], row["latent absorption"], row["children measured"]) == ("biased", None, "0 of 3")
    assert row["parent carried by b_dec"] == 3.0
    assert len(children.rows) == 9
    assert [note for note in section.notes if note.startswith("biased: its bias carries the parent of 3 of 3 children")]
    assert len(section.figures[0].traces) == 4
    for table in section.tables:
        assert all(len(cells) == len(table.heads) for cells in table.rows)


def test_a_run_without_truth_has_no_section(tree: ActivationStore):
    assert truth_section(read_run(RUN)) is None
