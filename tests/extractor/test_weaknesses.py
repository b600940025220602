"""What other extractors get wrong and no other test shows of ours; docs/weaknesses.md lists all of it."""

from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.extractor.extract import extract
from strata_sae.stores import ActivationStore
from support.extraction import extraction_config

N_TOKENS = 333


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    config = extraction_config(tmp_path, corpus={"n_tokens": N_TOKENS})
    extract(config, show_progress=False)
    return ActivationStore.open(config.store_path())


def texts(folder: Path) -> list[list[int]]:
    """Tokens of every document of the corpus, by the model's own tokenizer, BOS in front."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model-llama")
    files = sorted((folder / "text").glob("*.txt"))
    plain = [tokenizer(file.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"] for file in files]
    return [[tokenizer.bos_token_id, *ids] for ids in plain]


def test_as_many_rows_as_asked_for_none_twice_and_each_leads_to_its_text(
    store: ActivationStore, tmp_path: Path
) -> None:
    token_N, document_N, position_N = (store.token_map(f, 0, N_TOKENS) for f in ("token_id", "document", "position"))
    assert store.plan.n_rows == N_TOKENS
    assert N_TOKENS % store.plan.rows_per_chunk, "no whole number of chunks, and not rounded to one"
    assert store.plan.n_units > 1
    places = list(zip(document_N.tolist(), position_N.tolist(), strict=True))
    assert len(set(places)) == N_TOKENS
    documents = texts(tmp_path)
    there = np.array([documents[document][position] for document, position in places])
    np.testing.assert_array_equal(token_N, there)
    assert (token_N[1:] == there[:-1]).mean() < 0.5, "control: rows one place off would be seen"
    train, heldout = (set(document_N[first:last].tolist()) for first, last in store.plan.splits.values())
    assert train
    assert heldout
    assert not train & heldout
