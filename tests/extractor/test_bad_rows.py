"""A row that is no document stops a corpus, or is left out and counted: in every kind of source."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from strata_sae.pipeline.config.corpus import SOURCES
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.noted import N_LISTED
from support.corpora import ROW_KINDS, drain, lines, write_rows

GOOD = b'{"text": "good"}'


def jsonl_line(bad: bytes) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "a.jsonl").write_bytes(b"\n".join([GOOD, bad, GOOD]))
        return {"kind": "jsonl", "paths": [str(folder / "a.jsonl")]}

    return write


def json_item(bad: bytes) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "a.json").write_bytes(b"[" + b", ".join([GOOD, bad, GOOD]) + b"]")
        return {"kind": "jsonl", "paths": [str(folder / "a.json")]}

    return write


def text_file(bad: bytes) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        for name, data in {"a.txt": b"good", "b.txt": bad, "c.txt": b"good"}.items():
            (folder / name).write_bytes(data)
        return {"kind": "text", "paths": [str(folder / "*.txt")]}

    return write


def text_piece(bad: bytes) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "a.txt").write_bytes(b"good</s>" + bad + b"</s>good")
        return {"kind": "text", "paths": [str(folder / "a.txt")], "separator": "</s>"}

    return write


def parquet_bytes(kind: str) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        values = pa.array([b"good", b"ba\xff", b"good"])
        column = values if kind == "binary" else values.view(pa.string())
        pa.parquet.write_table(pa.table({"text": column}), folder / "a.parquet")
        return {"kind": "parquet", "paths": [str(folder / "a.parquet")]}

    return write


def rows_of(kind: str, column: str, good: Any, bad: Any) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        switch = {} if column == "text" else {column: True}
        rows = [{"rows": good}, {"rows": bad}, {"rows": good}]
        return write_rows(folder, kind, rows) | {"column": "rows", **switch}

    return write


SAID = [{"role": "user", "content": "good"}]
# By what the column holds; each is wrong in every kind of source that has one.
BAD_VALUES = {
    "text": {"null": ("good", None)},
    "chat": {
        "null": (SAID, None),
        "empty": (SAID, []),
        "null content": (SAID, [{"role": "user", "content": None}]),
        "content that the template drops": (SAID, [{"role": "silent", "content": "a"}]),
        "a role that the template refuses": (SAID, [{"role": "nobody", "content": "a"}]),
    },
    "tokens": {
        "null": ([1, 2, 3], None),
        "beyond the vocabulary": ([1, 2, 3], [1, 70000]),
        "negative": ([1, 2, 3], [-1, 2]),
        "beyond 64 bits' half": ([1, 2, 3], [2**40]),
    },
}
# Faults of bytes, by source; what a source kind cannot have, it need not name.
BAD_BYTES: dict[str, dict[str, Callable[[Path], dict[str, Any]]]] = {
    "python_docs": {},  # its rows are made by the reader itself
    "text": {
        "not UTF-8": text_file(b"ba\xff"),
        "a piece that is not UTF-8": text_piece(b"ba\xff"),
        "too long": text_file(b"x" * 60),
        "a piece that is too long": text_piece(b"x" * 60),
    },
    "jsonl": {
        "broken": jsonl_line(b'{"text": "good"'),
        "not UTF-8": jsonl_line(b'{"text": "\xff"}'),
        "another type": jsonl_line(b'{"text": 3}'),
        "no column": jsonl_line(b'{"body": "a"}'),
        "no object": jsonl_line(b"3"),
        "half a surrogate": jsonl_line(b'{"text": "\\ud800"}'),
        "a key twice": jsonl_line(b'{"text": "a", "text": "b"}'),
        "NaN": jsonl_line(b'{"text": "a", "score": NaN}'),
        "nested": jsonl_line(b'{"text": ' + b"[" * 20 + b"]" * 20 + b"}"),
        "too long": jsonl_line(b'{"text": "' + b"x" * 60 + b'"}'),
        "a broken item": json_item(b'{"text": }'),
        "an item that is too long": json_item(b'{"text": "' + b"x" * 60 + b'"}'),
    },
    "parquet": {"bytes that are not UTF-8": parquet_bytes("binary"), "a string that is not": parquet_bytes("string")},
    "dataset": {},  # `datasets` reads the bytes: what it cannot read stops it
}
assert set(BAD_BYTES) == set(SOURCES), "a kind of source that no fault is tried on"
assert all({"text", *BAD_VALUES} - {"text"} <= set(SOURCES[kind].model_fields) for kind in ROW_KINDS)

CASES = {
    **{f"{kind}: {name}": write for kind, faults in BAD_BYTES.items() for name, write in faults.items()},
    **{
        f"{kind} of {column}: {name}": rows_of(kind, column, *values)
        for kind in ROW_KINDS
        for column, faults in BAD_VALUES.items()
        for name, values in faults.items()
    },
}

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'nobody' %}{{ raise_exception('who?') }}{% elif m.role != 'silent' %}"
    "[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch: pytest.MonkeyPatch, datasets_offline: None) -> None:
    monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.MAX_DOCUMENT_BYTES", 50)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_row_is_an_error_or_is_left_out_and_listed(tmp_path, tokenizer, case):
    tokenizer.chat_template = TEMPLATE
    (tmp_path / "rows").mkdir()
    source = CASES[case](tmp_path / "rows")
    with pytest.raises(ConfigError, match=r"corpus\.bad_rows: skip") as caught:
        drain(source, tokenizer)
    documents, provenance = drain(source, tokenizer, bad_rows="skip")
    assert len(documents) == 2
    assert provenance["bad_rows"]["count"] == 1
    [row] = provenance["bad_rows"]["first"]
    assert row["why"] in str(caught.value)
    assert str(tmp_path) not in json.dumps(provenance)
    place = {"text": "b.txt" if source["kind"] == "text" and "separator" not in source else f"[{row['row']}]"}
    expected = place.get(source["kind"], f":{row['row']}:" if row["file"].endswith(".jsonl") else f"[{row['row']}]")
    assert expected in str(caught.value)
    assert row["row"] == (0 if expected == "b.txt" else 2 if row["file"].endswith(".jsonl") else 1)
    [line] = lines(source, tokenizer, bad_rows="skip")
    assert f"bad rows left out: 1; the first is {row['file']}, row {row['row']}: " in line


@pytest.mark.parametrize("column", BAD_VALUES)
@pytest.mark.parametrize("kind", ROW_KINDS)
def test_without_a_bad_row_nothing_is_left_out_or_said(tmp_path, tokenizer, kind, column):
    good = next(iter(BAD_VALUES[column].values()))[0]
    source = rows_of(kind, column, good, good)(tmp_path)
    for policy in ("error", "skip"):
        documents, provenance = drain(source, tokenizer, bad_rows=policy)
        assert len(documents) == 3
        assert not provenance.keys() & {"bad_rows", "special_tokens_spelled", "not_read_by_template"}


def test_only_the_first_are_listed_and_all_are_counted(tmp_path, tokenizer):
    source = write_rows(tmp_path, "jsonl", [{"text": None}] * (N_LISTED + 5) + [{"text": "good"}])
    _, provenance = drain(source, tokenizer, bad_rows="skip")
    assert provenance["bad_rows"]["count"] == N_LISTED + 5
    assert [row["row"] for row in provenance["bad_rows"]["first"]] == list(range(1, N_LISTED + 1))


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_a_source_of_nothing_but_bad_rows_is_an_error_that_says_why(tmp_path, tokenizer, kind):
    source = write_rows(tmp_path, kind, [{"text": 3}, {"text": 4}])
    with pytest.raises(ConfigError, match=r"all its rows are bad \(2\); .*expected text, got int 3"):
        drain(source, tokenizer, bad_rows="skip")


def test_a_damaged_file_is_no_bad_row(tmp_path, tokenizer):
    whole = gzip.compress(b"\n".join([GOOD] * 1000))
    (tmp_path / "a.jsonl").write_bytes(whole[:-9])
    with pytest.raises(ConfigError, match="cannot be read"):
        drain({"kind": "jsonl", "paths": [str(tmp_path / "a.jsonl")]}, tokenizer, bad_rows="skip")
    (tmp_path / "a.jsonl").write_bytes(whole)
    assert len(drain({"kind": "jsonl", "paths": [str(tmp_path / "a.jsonl")]}, tokenizer, bad_rows="skip")[0]) == 1000


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_a_column_that_no_row_has_is_no_bad_row(tmp_path, tokenizer, kind):
    source = write_rows(tmp_path, kind, [{"input_ids": [1, 2], "id": 3}])
    with pytest.raises(ConfigError, match=r"no column 'text'; it has 'input_ids', 'id'"):
        drain(source, tokenizer, bad_rows="skip")


def test_bad_rows_are_counted_once_where_the_corpus_repeats(tmp_path, tokenizer, corpus):
    from strata_sae.pipeline.extractor.sources import Stream, drawn
    from strata_sae.pipeline.extractor.tokens import DocumentTokenizer

    source = write_rows(tmp_path, "jsonl", [{"text": "good"}, {"text": None}])
    settings = corpus([source], bad_rows="skip", repeat=True, n_tokens=12)
    stream = Stream(settings, 0, DocumentTokenizer(tokenizer, settings))
    assert sum(taken for _, taken, _ in drawn(settings, [stream])) == 12
    assert stream.provenance()["documents_repeated"] == 2
    assert stream.provenance()["bad_rows"]["count"] == 1
