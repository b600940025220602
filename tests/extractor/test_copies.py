"""Held-out means unseen: no sequence of tokens is on both sides of the split, however the corpus repeats it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strata_sae.pipeline.extractor.spool as module
from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import describe_plan
from strata_sae.pipeline.extractor.spool import Arrangement, Spool, arrange, spool_documents
from support.extraction import extraction_config

SEEDS = range(12)
OTHERS = [f"{number} is the number of this text" for number in range(9)]  # 28 tokens each
Make = Callable[..., tuple[Spool, CorpusSettings]]


@pytest.fixture
def drawn(tokenizer: Any, corpus: Callable[..., CorpusSettings], tmp_path: Path) -> Make:
    """A spool of JSON lines sources, each a list of texts."""

    def run(*sources: list[str], **changes: Any) -> tuple[Spool, CorpusSettings]:
        paths = []
        for number, texts in enumerate(sources):
            path = tmp_path / f"{number}.jsonl"
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
            paths.append({"kind": "jsonl", "paths": [str(path)]})
        settings = corpus(paths, **{"heldout_fraction": 0.3, **changes})
        return spool_documents(settings, tokenizer, tmp_path / "spool", False), settings

    return run


def sides(arrangement: Arrangement) -> tuple[list[bytes], list[bytes]]:
    """Token sequences of the documents to train on, and of those held out."""
    spool, boundary = arrangement.spool, arrangement.splits["train"][1]
    found: tuple[list[bytes], list[bytes]] = ([], [])
    for place, row in zip(arrangement.order.tolist(), arrangement.starts[:-1].tolist(), strict=True):
        tokens = np.array(spool.token_id[spool.starts[place] : spool.starts[place + 1]])
        found[row >= boundary].append(tokens.tobytes())
    return found


def leaks(arrangement: Arrangement) -> list[bytes]:
    """Held-out sequences that some document to train on is, or begins with or, cut to fit, is the beginning of."""
    training, held_out = sides(arrangement)
    return [one for one in held_out if any(one.startswith(other) or other.startswith(one) for other in training)]


TWICE = [*OTHERS, OTHERS[3], *OTHERS[:2]]
LONG = "this text is cut after 24 tokens, "
CORPORA: dict[str, tuple[list[list[str]], dict[str, Any], int]] = {
    "inside a source": ([TWICE], {}, 3),
    "across sources": ([OTHERS, OTHERS[2:5]], {}, 3),
    "by repeat": ([OTHERS], {"repeat": True, "n_tokens": 16 * 28}, 7),
    "by repeat, and inside the source": ([TWICE], {"repeat": True, "n_tokens": 20 * 28 + 5}, 12),
    "cut to one beginning": ([[*OTHERS, LONG + "one", LONG + "two"]], {"mode": "sequential", "context_length": 24}, 1),
    "the last one cut to fit": ([[*OTHERS, OTHERS[0]]], {"n_tokens": 9 * 28 + 15}, 1),
    "cut to what another one is": ([[*OTHERS, "short", "short text"]], {"n_tokens": 9 * 28 + 10}, 1),
}
"""Sources, settings, and how many documents are copies."""


@pytest.mark.parametrize("name", CORPORA)
def test_no_sequence_is_on_both_sides(drawn: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, changes, n_copies = CORPORA[name]
    spool, settings = drawn(*sources, **changes)
    for seed in SEEDS:
        arrangement = arrange(spool, settings, seed)
        assert (leaks(arrangement), arrangement.copies) == ([], n_copies)
        assert all(sides(arrangement))
        assert sorted(arrangement.order.tolist()) == list(range(len(spool.document)))
    # The control: split by the place in the corpus they would be.
    places = np.arange(len(spool.document))
    monkeypatch.setattr(module, "first_of_its_tokens", lambda spool: places)
    assert any(leaks(arrange(replace(spool, document=places), settings, seed)) for seed in SEEDS)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_corpus_without_copies_is_split_as_before(drawn: Make, shuffle: bool) -> None:
    spool, settings = drawn([f"{number} of many" for number in range(80)], shuffle_documents=shuffle)
    for seed in SEEDS:
        held_out = np.isin(np.arange(80), module.permutation(["held-out documents", seed], 80)[:24])
        order = module.permutation(["document order", seed], 80) if shuffle else np.arange(80)
        expected = [*order[~held_out[order]], *order[held_out[order]]]
        assert arrange(spool, settings, seed).order.tolist() == expected


def test_one_text_many_times_cannot_be_split(drawn: Make) -> None:
    spool, settings = drawn(["the same"] * 20)
    with pytest.raises(
        ConfigError, match=r"heldout_fraction: 0\.3 of 1 document\(s\), copies counted once, leaves none"
    ):
        arrange(spool, settings, 0)


@pytest.mark.parametrize(("sources", "n_copies"), [([OTHERS], 0), ([TWICE], 3)])
def test_the_plan_says_how_many_copies_there_are(tmp_path: Path, sources: list[list[str]], n_copies: int) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sources[0]), encoding="utf-8")
    corpus = {"sources": [{"kind": "jsonl", "paths": [str(path)]}], "n_tokens": None}
    text = describe_plan(extraction_config(tmp_path, corpus=corpus), show_progress=False)
    assert f"\ncopies     {n_copies} of {len(sources[0])} documents have the tokens of an earlier one" in text
