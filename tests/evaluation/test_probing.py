"""Probes of stored and of labelled rows: what is written, skipped, left out and refused."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.probing import probing
from strata_sae.pipeline.evaluation.probing.probing import probe_saes
from strata_sae.pipeline.reading import probing_texts
from strata_sae.pipeline.reading.labelled import LABELS
from strata_sae.stores import StoreError
from support.evaluation_folder import SITE
from support.probed_run import MODEL, TASK, probed_run, with_labelled

HALF = np.tile([0, 1], 120).astype(np.int8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store's plan names a model, as one that `extract` wrote does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probing_texts, "check_same_model", lambda labelled, store: None)
    return tmp_path


def record(name: str = "identity") -> dict[str, Any]:
    return json.loads(Path(f"runs/run/variants/{name}@{SITE}/probing.json").read_text(encoding="utf-8"))


def test_latents_that_know_the_label_are_found(here: Path):
    config = probed_run(here)
    labelled = with_labelled(config, HALF)
    probe_saes(config)
    found = record()
    tasks = {task["name"]: task for task in found["probed"]}
    assert tasks.keys() == {"first_letter_s", TASK}
    assert found["left_out"] == []
    for task, latent in (("first_letter_s", 0), (TASK, 1)):
        one = tasks[task]["probes"][0]
        # Number m of a row is latent m where it is above 0, and latent M + m where it is below.
        assert {latents[0] for latents in one["latents"]} <= {latent, latent + 16}
        assert one["scores"]["auc"]["mean"] > 0.7
        assert one["scores"]["auc"]["n_seeds"] == len(one["scores"]["auc_by_seed"]) == 5
        assert one["scores"]["auc"]["standard_deviation"] > 0
        assert tasks[task]["dense"]["auc"]["mean"] > 0.7
    assert tasks[TASK]["store_id"] == labelled.id
    assert (tasks[TASK]["n_train"], tasks[TASK]["n_test"]) == (160, 80)
    assert tasks["first_letter_s"]["n_documents"] == 20
    assert (found["seeds"], found["k"]) == ([42, 43, 44, 45, 46], [1, 16])
    assert {task["name"]: task["dense"] for task in record("topk")["probed"]} == {
        name: task["dense"] for name, task in tasks.items()
    }  # the same rows


def test_what_is_probed_is_skipped_and_what_changed_is_probed_anew(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    config = probed_run(here)
    probe_saes(config)
    before = record()
    assert [task["name"] for task in before["left_out"]] == [TASK]
    assert "evaluate --with-model makes them" in before["left_out"][0]["reason"]
    with monkeypatch.context() as patched, caplog.at_level(logging.INFO, "strata_sae"):
        patched.setattr(probing, "pools_of", lambda *args: pytest.fail("rows were read"))
        probe_saes(config)
    assert caplog.text.count("probed already") == 2
    with_labelled(config, HALF)
    probe_saes(config)
    after = record()
    assert [task["name"] for task in after["probed"]] == [TASK, "first_letter_s"]
    assert after["probed"][1] == before["probed"][0]  # the same draws


def test_rows_of_other_settings_or_another_model_are_not_taken(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    config = probed_run(here)
    with_labelled(config, HALF, texts=300)
    with_labelled(config, HALF, name="another")
    probe_saes(config)
    assert [task["name"] for task in record()["left_out"]] == [TASK]
    monkeypatch.undo()
    monkeypatch.chdir(here)
    with_labelled(config, HALF, model=MODEL)
    probe_saes(config)
    assert [task["name"] for task in record()["left_out"]] == [TASK]
    assert "does not say which model made it" in caplog.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"one_class": True}, "all labelled rows are of one class"),
        ({"n_documents": 1}, "the held-out rows are of one document"),
        ({"vocabulary": False}, "no held-out row has a label"),
        ({"token_rows": 192}, None),
        ({"token_tasks": ["first_letter_z"]}, "too few rows that share neither document nor token id"),
    ],
)
def test_a_task_that_cannot_be_probed_is_left_out_with_the_reason(
    here: Path, changes: dict[str, Any], reason: str | None
):
    config = probed_run(here, **({"tasks": []} | changes))
    probe_saes(config)
    left_out = [task["reason"] for task in record()["left_out"]]
    assert len(record()["probed"]) == 1 - len(left_out)
    assert (reason is None and not left_out) or reason in left_out[0]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (np.zeros(240, np.int8), "too few texts: 0 to train"),
        (np.tile([0, 1], 60).astype(np.int8), "too few texts: 80 to train and 40 to test"),
        (np.zeros((240, 2), np.int8), "its labels hold no array target"),
    ],
)
def test_labelled_texts_that_are_no_task_are_left_out(here: Path, target: np.ndarray, reason: str):
    config = probed_run(here)
    with_labelled(config, target)
    probe_saes(config)
    (left_out,) = record()["left_out"]
    assert reason in left_out["reason"]
    assert len(record()["probed"]) == 1


def test_damaged_labels_are_refused(here: Path):
    config = probed_run(here)
    store = with_labelled(config, HALF)
    file = store.path / "extras" / LABELS
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-2] + b" }")
    with pytest.raises(StoreError, match="its sha256 is not the plan's"):
        probe_saes(config)


def test_a_record_of_another_sae_is_refused(here: Path):
    config = probed_run(here)
    probe_saes(config)
    for name, other in (("identity", "topk"), ("topk", "identity")):
        text = json.dumps(record(other))
        Path(f"{name}.json").write_text(text, encoding="utf-8")
    Path(f"runs/run/variants/identity@{SITE}/probing.json").write_bytes(Path("identity.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"probing\.json"):
        probe_saes(config)


def test_without_the_section_nothing_is_probed(here: Path):
    config = probed_run(here)
    without = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"probing": None})})
    probe_saes(without)
    assert not Path(f"runs/run/variants/identity@{SITE}/probing.json").exists()
