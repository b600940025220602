"""A plan says what it assumes of the model, and how many texts its tokens give back."""

import json
from pathlib import Path

from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.pipeline.language_model.probe import PROBES, assumptions
from strata_sae.stores import ActivationStore
from support.extraction import extraction_config


def test_a_plan_records_what_is_assumed_and_what_is_given_back(tmp_path: Path) -> None:
    config = extraction_config(tmp_path, corpus={"n_tokens": 900})
    assert "give their text back" not in describe_plan(config, show_progress=False)
    extract(config, show_progress=False)
    provenance = ActivationStore.open(config.store_path()).plan.provenance
    assert provenance["probes"] == assumptions(config.model.dtype, isolated=False)
    assert provenance["probes"].keys() < PROBES.keys()
    record = provenance["corpus"]["text_given_back"]
    assert record["documents"] == record["exact"] >= 5


def test_a_plan_says_where_the_tokenizer_changes_the_text(tmp_path: Path) -> None:
    config = extraction_config(tmp_path, corpus={"n_tokens": 900})
    path = Path(config.model.path) / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["normalizer"] = {"type": "Prepend", "prepend": "X"}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    text = describe_plan(config, show_progress=False)
    assert "the tokens of 0 of the first " in text
    assert "the tokenizer changes the text of " in text
