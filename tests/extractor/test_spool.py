import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.sources import fitting
from strata_sae.pipeline.extractor.spool import spool_documents


@pytest.fixture
def write(tmp_path):
    """Writes texts as a JSON lines file and gives the source for it."""

    def run(name, texts, **fields):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return {"kind": "jsonl", "paths": [str(path)], **fields}

    return run


@pytest.fixture
def spool(tokenizer, corpus, tmp_path):
    def run(sources, folder="spool", show_progress=False, **changes):
        return spool_documents(corpus(sources, **changes), tokenizer, tmp_path / folder, show_progress)

    return run


def words(spool, tokenizer):
    return [tokenizer.decode(spool.token_id[a:b]) for a, b in zip(spool.starts, spool.starts[1:], strict=False)]


def test_everything_once_in_order(write, spool, tokenizer):
    made = spool([write("a", ["one", "two", "three"])])
    assert words(made, tokenizer) == ["one", "two", "three"]
    assert made.document.tolist() == [0, 1, 2]
    assert made.starts.tolist() == [0, 3, 6, 11]
    assert (made.token_id.dtype, made.flags.dtype, made.starts.dtype, made.document.dtype) == (
        np.int32,
        np.uint8,
        np.int64,
        np.int64,
    )
    assert isinstance(made.token_id, np.memmap)


def test_two_runs_write_the_same_bytes_and_provenance(write, spool, tmp_path):
    sources = [write("a", ["abc"] * 5), write("b", ["defgh"] * 9, weight=2.0)]
    first, second = (spool(sources, folder=name, n_tokens=31, repeat=True) for name in ("one", "two"))
    for name in ("token_id.int32", "flags.uint8"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert first.document.tolist() == second.document.tolist()
    assert json.dumps(first.provenance) == json.dumps(second.provenance)
    assert str(tmp_path) not in json.dumps(first.provenance)


def test_batches_do_not_change_the_result(write, spool, monkeypatch):
    sources = [write("a", [str(number) * (number % 7 + 2) for number in range(50)])]
    whole = spool(sources, folder="whole")
    monkeypatch.setattr("strata_sae.pipeline.extractor.tokens.BATCH_DOCUMENTS", 3)
    batched = spool(sources, folder="batched")
    assert whole.token_id.tolist() == batched.token_id.tolist()
    assert whole.starts.tolist() == batched.starts.tolist()


def test_shares_of_the_tokens_follow_the_weights(write, spool):
    sources = [write("chat", ["c" * 7] * 400, weight=9.0), write("web", ["w" * 30] * 400, weight=1.0)]
    made = spool(sources, n_tokens=2000)
    chat, web = (source["tokens"] for source in made.provenance["sources"])
    assert chat + web == len(made.token_id) == 2000
    assert abs(chat - 1800) <= 30
    # The control: drawing documents in turn would give the web source most of the tokens.
    assert chat > 4 * web


def test_documents_count_over_all_sources_and_files_are_recorded(write, spool):
    made = spool([write("a", ["aaaa"] * 2), write("b", ["bb"] * 4)])
    assert made.document.tolist() == list(range(6))
    assert [source["documents"] for source in made.provenance["sources"]] == [2, 4]
    assert [source["files"][0]["name"] for source in made.provenance["sources"]] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("n_tokens", range(2, 21))
def test_n_tokens_is_exact_and_no_document_is_left_with_one_token(write, spool, n_tokens):
    made = spool([write("a", ["abc", "de", "fghij", "kl", "mnopqrst"])], n_tokens=n_tokens)
    assert len(made.token_id) == made.starts[-1] == n_tokens
    assert np.diff(made.starts).min() >= 2


@given(length=st.integers(2, 50), remaining=st.integers(2, 100))
def test_what_is_taken_never_leaves_a_single_token(length, remaining):
    taken = fitting(length, remaining)
    assert taken == 0 or 2 <= taken <= length
    assert remaining - taken == 0 or remaining - taken >= 2
    assert taken >= min(length, remaining) - 1 or length == 2


def test_two_token_documents_cannot_make_an_odd_count(write, spool):
    source = write("a", ["ab"] * 10)
    assert len(spool([source], n_tokens=6).document) == 3
    with pytest.raises(ConfigError, match=r"asks for 7 tokens, but the corpus holds 4"):
        spool([source], n_tokens=7)
    with pytest.raises(ConfigError, match="repeating it gives nothing more"):
        spool([source], n_tokens=7, repeat=True)


def test_a_corpus_that_ends_early_says_how_much_there_was(write, spool):
    with pytest.raises(ConfigError, match=r"asks for 1,000 tokens, but the corpus holds 9; .*repeat: true"):
        spool([write("a", ["abcde", "fghi"])], n_tokens=1000)


def test_a_weighted_source_that_ends_early_does_not_bend_the_shares(write, spool):
    sources = [write("small", ["s" * 10] * 3), write("big", ["b" * 10] * 100)]
    with pytest.raises(ConfigError, match=r"corpus\.sources\[0\] \(jsonl\) ended after 60 in all"):
        spool(sources, n_tokens=200)
    made = spool(sources, n_tokens=200, repeat=True)
    assert [source["tokens"] for source in made.provenance["sources"]] == [100, 100]


def test_a_repeated_document_keeps_its_index(write, spool, tokenizer):
    made = spool([write("a", ["abc", "defg"]), write("b", ["xy"] * 100)], n_tokens=40, repeat=True)
    by_index = {}
    for word, index in zip(words(made, tokenizer), made.document.tolist(), strict=True):
        by_index.setdefault(index, set()).add(word)
    assert len(made.document) > len(by_index)
    repeated = {index for index, seen in by_index.items() if "abc" in seen}
    assert len(repeated) == 1
    assert made.provenance["sources"][0]["documents"] == 2
    first = [index for index, seen in by_index.items() if seen & {"abc", "defg"}]
    n_drawn = int(np.isin(made.document, first).sum())
    assert made.provenance["sources"][0]["documents_repeated"] == n_drawn - 2


def test_repeating_without_an_end_is_refused(write, spool):
    with pytest.raises(ConfigError, match="would never end"):
        spool([write("a", ["abc"])], repeat=True)


def test_short_documents_are_an_error_or_skipped_and_counted(write, spool, tokenizer):
    source = write("a", ["abc", "x", "", "de"])
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: 1 token\(s\).*short_documents: skip"):
        spool([source])
    made = spool([source], short_documents="skip")
    assert words(made, tokenizer) == ["abc", "de"]
    assert made.skipped_documents == 2
    # A second pass skips the same two again, and counts them once.
    assert spool([source], short_documents="skip", n_tokens=9, repeat=True).skipped_documents == 2
    # With BOS in front, a document of one token has two.
    assert spool([write("b", ["x"])], prepend_bos=True).starts.tolist() == [0, 2]


def test_a_short_document_beyond_the_budget_does_no_harm(write, spool):
    assert len(spool([write("a", ["abc", "x"])], n_tokens=3).token_id) == 3


def test_a_corpus_of_short_documents_is_an_error(write, spool):
    source = write("a", ["x", "y"])
    with pytest.raises(ConfigError, match=r"no document of two tokens or more \(2 shorter"):
        spool([source], short_documents="skip")
    with pytest.raises(ConfigError, match="none of its documents can be drawn"):
        spool([source], short_documents="skip", n_tokens=10, repeat=True)


def test_a_second_corpus_in_the_same_folder_replaces_the_first(write, spool):
    spool([write("a", ["a" * 100])])
    assert len(spool([write("b", ["bb"])]).token_id) == 2


def test_progress_is_a_plain_line_where_there_is_no_terminal(write, spool, capsys):
    source = write("a", ["abc"])
    spool([source], show_progress=True)
    assert "tokenise: 3 tokens" in capsys.readouterr().err
    spool([source], folder="quiet")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
