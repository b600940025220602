"""interpretation.json and published.json: read as they were written, and refused with what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue, ValidationError

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.evaluation_records import FilterPart, Measured
from strata_sae.pipeline.runs.interpretation_records import (
    MOST_CHARACTERS,
    ExplainedLatent,
    InterpretationRecord,
    PublishedExplanation,
    PublishedRecord,
    Scored,
)
from strata_sae.pipeline.runs.record_files import read_record, write_record

SCORED: dict[str, Any] = {
    "true_positives": 40,
    "false_positives": 1,
    "true_negatives": 39,
    "false_negatives": 5,
    "n_failed": 5,
    "kinds": {"quantiles": {"n_windows": 45, "n_named": 40, "n_failed": 0}},
    "balanced_accuracy": 0.93,
    "interval": {"low": 0.87, "high": 0.97},
    "precision": 0.97,
    "recall": 0.88,
    "f1": 0.93,
    "population_precision": 0.31,
    "population_interval": {"low": 0.1, "high": 0.6},
    "correlation": -0.4,
    "token_label": 0.8,
    "lift": -0.2,
}
LATENT: dict[str, Any] = {
    "latent": 7,
    "explanation": "names of trains",
    "failure": None,
    "n_active_rows": 123,
    "scores": {"detection": SCORED},
    "rating": 4,
    "rating_failure": None,
}


def record(**changes: JsonValue) -> InterpretationRecord:
    latent = ExplainedLatent.model_validate(LATENT | changes)
    return InterpretationRecord(
        sae="a",
        weights_sha256="b",
        store_id="c",
        codes_id="d",
        population="as_trained",
        filters=FilterPart(drop_bos=True, drop_special=False, drop_template=False, max_norm_multiple=3.0),
        explainer="one",
        scorer="two",
        settings={"seed": 0, "scores": ["detection"]},
        latents=[latent],
        metrics={"detection": Measured(value=None, unit="share", definition="of nothing")},
    )


@pytest.mark.parametrize("n_letters", [0, MOST_CHARACTERS])
def test_a_record_is_read_as_it_was_written(n_letters: int, tmp_path: Path) -> None:
    written = record(explanation="x" * n_letters)
    write_record(tmp_path / "interpretation.json", written)
    found = read_record(tmp_path / "interpretation.json", InterpretationRecord)
    assert found.record == written
    assert found.is_hashed


def test_published_explanations_are_read_as_they_were_written(tmp_path: Path) -> None:
    one = PublishedExplanation(latent=3, text="x" * MOST_CHARACTERS, by="")
    written = PublishedRecord(
        sae="a", weights_sha256="b", source="neuronpedia", files={"a.json": "c"}, n_latents=1, explanations=[one]
    )
    write_record(tmp_path / "published.json", written)
    assert read_record(tmp_path / "published.json", PublishedRecord).record == written


BAD: dict[str, dict[str, JsonValue]] = {
    "a rating of 6": {"rating": 6},
    "a rating of 0": {"rating": 0},
    "a rating of 3.5": {"rating": 3.5},
    "an explanation without end": {"explanation": "x" * (MOST_CHARACTERS + 1)},
    "a latent before the first": {"latent": -1},
    "an unknown key": {"auroc": 0.5},
    "a share above 1": {"scores": {"detection": SCORED | {"recall": 1.01}}},
    "a share below 0": {"scores": {"detection": SCORED | {"population_precision": -0.01}}},
    "a lift above 1": {"scores": {"detection": SCORED | {"lift": 1.2}}},
    "a count below 0": {"scores": {"detection": SCORED | {"n_failed": -1}}},
    "a kind without its counts": {"scores": {"detection": SCORED | {"kinds": {"zero": {}}}}},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_what_no_score_can_be_is_refused(changes: dict[str, JsonValue]) -> None:
    with pytest.raises(ValidationError):
        record(**changes)


@pytest.mark.parametrize("changes", [{}, {"rating": None, "explanation": None, "failure": "cut", "scores": {}}])
def test_what_can_be_is_not(changes: dict[str, JsonValue]) -> None:
    """Control."""
    assert record(**changes).latents[0].latent == 7
    assert Scored.model_validate(SCORED | dict.fromkeys(["recall", "interval", "lift", "token_label"])).recall is None


def test_a_number_that_was_changed_in_the_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "interpretation.json"
    write_record(path, record())
    data = json.loads(path.read_text(encoding="utf-8"))
    data["latents"][0]["scores"]["detection"]["balanced_accuracy"] = 0.99
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CheckpointError, match="delete it and run strata interpret"):
        read_record(path, InterpretationRecord)
