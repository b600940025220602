"""Rows of first-letter prompts: which token of which text is kept, once for each seed, and what is refused."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention import absorption_rows
from strata_sae.pipeline.intervention.absorption_rows import make_absorption_rows
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.reading import first_letters
from strata_sae.pipeline.reading.first_letters import LETTERS, TEST, TRAIN
from strata_sae.pipeline.reading.labelled import labelled_root, labelled_stores, open_labelled
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import write_store
from support import tiny_models
from support.evaluation_folder import SITE, config_data

OWN = [" cap", " capital", " kin", " king", " the", " tow", " town"]
"""Words of one token that the tiny model knows without being told."""
WORDS = [f" {letter}{a}{b}" for a in "klmn" for b in "prstvw" for letter in "abc"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], TrainConfig]:
    """A run whose model knows these words, and few others, as one token."""

    def make(words: list[str]) -> TrainConfig:
        from transformers import AutoTokenizer

        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(tiny_models.CONFIGS["llama"], "vocab_size", 400)
        monkeypatch.setitem(tiny_models.CONFIGS["llama"], "max_position_embeddings", 512)
        folder = tiny_models.save_tiny_model(tmp_path / "model", "llama")
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            tokenizer.add_tokens(words)
            tokenizer.save_pretrained(folder)
        settings = ModelSettings(path=str(folder), device="cpu")
        monkeypatch.setattr(absorption_rows, "labelling_model", lambda config, store: settings)
        monkeypatch.setattr(first_letters, "check_same_model", lambda labelled, store: None)
        rows = np.zeros((8, tiny_models.D_MODEL), np.float32)
        write_store(tmp_path / "store", {SITE: rows}, splits={"train": (0, 4), "heldout": (4, 8)})
        data = config_data(tmp_path / "store", {"absorption": {"words_per_letter": 20}}, {})
        return TrainConfig.of(RunConfig.model_validate(data), "config.yaml")

    return make


def test_the_row_of_every_word_is_kept_once_for_each_seed(
    run: Callable[[list[str]], TrainConfig], caplog: pytest.LogCaptureFixture
):
    config = run(WORDS)
    make_absorption_rows(config)
    paths = list(labelled_stores(labelled_root(config), "first_letter"))
    by_seed = {labelled.about.details["seed"]: labelled for labelled in map(open_labelled, paths)}
    assert sorted(by_seed) == [0, 1, 2, 3, 4]
    for labelled in by_seed.values():
        text_N = [
            labelled.store.vocabulary[token]
            for token in labelled.store.token_map("token_id", 0, len(labelled.rows(SITE)))
        ]
        assert set(text_N) <= {*WORDS, *OWN}  # the token that is kept is the word
        assert [LETTERS.index(text[1]) for text in text_N] == labelled.labels["letter"].tolist()
        part_N = labelled.labels["part"]
        tested = [text for text, part in zip(text_N, part_N, strict=True) if part == TEST]
        trained = [text for text, part in zip(text_N, part_N, strict=True) if part == TRAIN]
        assert (len(trained), len(tested), len(text_N)) == (52, 13, 78)  # 20 words with a, b and c, 2 with k, 3 with t
        assert not set(trained) & set(tested)
        assert text_N[-13:] == tested  # asked again
        assert np.abs(labelled.rows(SITE)[-13:] - labelled.rows(SITE)[52:65]).max() > 0  # in another prompt
    caplog.clear()
    with caplog.at_level(logging.INFO):
        make_absorption_rows(config)
    assert "made already" in caplog.text
    assert list(labelled_stores(labelled_root(config), "first_letter")) == paths


def test_too_few_words_are_refused_before_the_model_runs(run: Callable[[list[str]], TrainConfig]):
    config = run(WORDS[:30])
    with pytest.raises(ConfigError) as caught:
        make_absorption_rows(config)
    assert "gives 37 words, 8 of them for testing" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(labelled_stores(labelled_root(config), "first_letter"))
