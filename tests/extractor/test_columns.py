"""`columns` of a source: what each document has there lies beside the rows, by its number."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.document import LARGEST_KEPT, LONGEST_KEPT, Place, kept_of
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.extractor.plan import described
from strata_sae.pipeline.extractor.spool import spool_documents
from strata_sae.pipeline.reading.document_columns import DOCUMENT_COLUMNS, columns_of_bytes, kept_columns
from strata_sae.stores import ActivationStore, StoreError, shuffle_store, slice_store
from support.corpora import ROW_KINDS, lines, write_rows
from support.extraction import extraction_config

ROWS: list[dict[str, Any]] = [
    {"text": f"the king of town {number}.", "rating": number / 8, "kind": "ab"[number % 2], "is_new": number % 3 == 0}
    for number in range(24)
]


def test_the_values_are_those_of_the_document(tmp_path: Path) -> None:
    """Of a corpus that is drawn again, permuted and with one document too short: by the text that the store holds."""
    rows = [*ROWS[:5], {"text": "", "rating": 99.0, "kind": "short"}, *ROWS[5:]]
    source = write_rows(tmp_path / "rows", "jsonl", rows) | {"columns": ["rating", "kind"]}
    corpus = {"sources": [source], "n_tokens": 700, "repeat": True, "short_documents": "skip", "prepend_bos": False}
    config = extraction_config(tmp_path, corpus=corpus, store={"sites": ["blocks.0.hook_resid_post"]})
    extract(config, show_progress=False)
    store = ActivationStore.open(config.store_path())
    columns = kept_columns(store)
    assert columns is not None
    assert columns.columns.keys() == {"rating", "kind"}
    of_row = {row["text"]: row for row in ROWS}
    documents, starts = store.token_map("document", 0, store.plan.n_rows).tolist(), []
    positions = store.token_map("position", 0, store.plan.n_rows).tolist()
    starts = [row for row, position in enumerate(positions) if position == 0]
    checked = set()
    for start, stop in zip(starts, [*starts[1:], store.plan.n_rows], strict=True):
        text = store.text(start, stop).decode()
        if text in of_row:  # the last one that was drawn may be cut
            row, number = of_row[text], documents[start]
            assert (columns.columns["rating"][number], columns.columns["kind"][number]) == (row["rating"], row["kind"])
            checked.add(number)
    assert len(checked) == len(ROWS) == columns.n_documents
    assert len(starts) > len(ROWS)
    shuffled = shuffle_store(store, tmp_path / "shuffled", seed=0)
    assert kept_columns(shuffled) == kept_columns(slice_store(store, tmp_path / "slice", rows=(0, 300))) == columns


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_every_kind_of_source_keeps_them(tmp_path: Path, kind: str, tokenizer: Any) -> None:
    source = write_rows(tmp_path / "rows", kind, ROWS) | {"columns": ["is_new", "rating"]}
    spool = _spooled([source, write_rows(tmp_path / "plain", kind, ROWS[:2])], tmp_path, tokenizer)
    assert spool.columns is not None
    found = spool.columns.columns
    assert sorted(map(str, found["rating"])) == sorted([*(str(row["rating"]) for row in ROWS), "None", "None"])
    pairs = zip(found["is_new"], found["rating"], strict=True)
    assert all(is_new is None or is_new == (8 * (rating or 0) % 3 == 0) for is_new, rating in pairs)
    assert all(
        rating is None for is_new, rating in zip(found["is_new"], found["rating"], strict=True) if is_new is None
    )
    assert "columns: rating: kept for 24 of 26 documents" in spool.lines
    assert columns_of_bytes(spool.columns.to_bytes(), "it") == spool.columns


def test_without_them_nothing_is_recorded(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows", "jsonl", ROWS)
    config = extraction_config(tmp_path, corpus={"sources": [source], "n_tokens": 100})
    extract(config, show_progress=False)
    store = ActivationStore.open(config.store_path())
    assert DOCUMENT_COLUMNS not in store.extras
    assert kept_columns(store) is None
    assert "columns" not in json.dumps(store.plan.config)
    changed = extraction_config(tmp_path, corpus={"sources": [source | {"columns": ["kind"]}], "n_tokens": 100})
    with pytest.raises(ConfigError, match=r"another config: corpus\.sources: .*\"columns\": \[\"kind\"\]"):
        described(changed, show_progress=False)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (2.5, 2.5),
        ("a" * LONGEST_KEPT, "a" * LONGEST_KEPT),
        (int(LARGEST_KEPT), int(LARGEST_KEPT)),
        (float("nan"), None),
        (date(2026, 11, 30), "2026-11-30"),
        ([1], ConfigError),
        ({"a": 1}, ConfigError),
        (b"a", ConfigError),
        ("a" * (LONGEST_KEPT + 1), ConfigError),
        ("\ud800", ConfigError),
        (float("inf"), ConfigError),
        (2 * int(LARGEST_KEPT), ConfigError),
    ],
)
def test_values_that_are_kept_and_refused(value: Any, kept: Any) -> None:
    if kept is ConfigError:
        with pytest.raises(ConfigError, match="here: column 'rating': "):
            kept_of({"rating": value}, ["rating"], Place("here"))
    else:
        assert kept_of({"rating": value}, ["rating"], Place("here")) == {"rating": kept}


def test_a_row_with_another_value_is_bad(tmp_path: Path, tokenizer: Any) -> None:
    rows = [*ROWS[:3], {"text": "the king", "rating": [1]}]
    source = write_rows(tmp_path, "jsonl", rows) | {"columns": ["rating"]}
    with pytest.raises(ConfigError, match=r"rows\.jsonl:4: column 'rating': expected a number"):
        _spooled([source], tmp_path, tokenizer)
    assert any(
        "bad rows left out: 1" in line for line in _spooled([source], tmp_path, tokenizer, bad_rows="skip").lines
    )


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_a_name_that_is_none_is_refused(tmp_path: Path, kind: str, tokenizer: Any) -> None:
    source = write_rows(tmp_path, kind, ROWS) | {"columns": ["ratting"]}
    with pytest.raises(ConfigError, match=r"'ratting'.*correct the name"):
        _spooled([source], tmp_path, tokenizer)
    with pytest.raises(ValueError, match="names one twice"):
        CorpusSettings.model_validate({"sources": [source | {"columns": ["kind", "kind"]}], "n_tokens": 10})


def test_a_kept_column_of_a_chat_is_not_called_unread(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    rows = [{"messages": [{"role": "user", "content": "the king of town"}], "rating": 1, "other": 2}]
    source = write_rows(tmp_path, "jsonl", rows) | {"column": "messages", "chat": True, "columns": ["rating"]}
    said = " ".join(lines(source, tokenizer))
    assert "column 'other'" in said
    assert "column 'rating'" not in said
    assert _spooled([source], tmp_path, tokenizer).columns.columns == {"rating": [1]}


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b"{",
        b'{"columns":{},"format":"strata document columns","n_documents":0,"version":1}',
        b'{"columns":{"a":[1]},"format":"strata document columns","n_documents":2,"version":1}',
        b'{"columns":{"a":[[1]]},"format":"strata document columns","n_documents":1,"version":1}',
        b'{"columns":{"a":[1]},"format":"strata document columns","n_documents":1,"version":2}',
    ],
)
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"^it: "):
        columns_of_bytes(data, "it")


def _spooled(sources: list[dict[str, Any]], folder: Path, tokenizer: Any, **corpus: Any) -> Any:
    settings = CorpusSettings.model_validate({"sources": sources, "n_tokens": None, "prepend_bos": False, **corpus})
    return spool_documents(settings, tokenizer, folder / "spool", False)
