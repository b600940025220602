"""Separators, the text of special tokens, and token ids as a corpus: what is stored, and what the plan says of it."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from strata_sae.pipeline.config.corpus import SOURCES
from strata_sae.pipeline.config.run import differences
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import READERS
from strata_sae.pipeline.extractor.extract import describe_plan
from strata_sae.pipeline.extractor.plan import planned
from support.corpora import ROW_KINDS, drain, lines, write_rows
from support.extraction import extraction_config

STORIES = ["Once upon a time", "\nThere was ü", "The end"]


@pytest.fixture(autouse=True)
def _offline(datasets_offline: None) -> None:
    """For `dataset` sources."""


@pytest.mark.parametrize("separator", ["</s>", "\n--\n", "ü|ü"])
def test_a_separator_cuts_a_file_and_is_not_stored(tmp_path, monkeypatch, tokenizer, separator):
    text = separator.join(["", STORIES[0], "", " \n", *STORIES[1:], ""])
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    source = {"kind": "text", "paths": [str(tmp_path / "a.txt")]}
    for read_bytes in (1, 3, 1 << 20):
        monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.READ_BYTES", read_bytes)
        documents, _ = drain(source | {"separator": separator}, tokenizer)
        assert [tokenizer.decode(document.token_id) for document in documents] == STORIES
    # The control: without one, the separators are stored as text.
    [document] = drain(source, tokenizer)[0]
    assert tokenizer.decode(document.token_id) == text


def test_a_separator_that_stands_nowhere_is_an_error(tmp_path, tokenizer):
    for name, text in {"a": "one", "b": "two"}.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    source = {"kind": "text", "paths": [str(tmp_path / "*.txt")]}
    with pytest.raises(ConfigError, match=r"separator: '\\\\n' is in none .* in double quotes"):
        drain(source | {"separator": "\\n"}, tokenizer)
    # One file of several need not hold it.
    (tmp_path / "b.txt").write_text("two\nthree", encoding="utf-8")
    assert len(drain(source | {"separator": "\n"}, tokenizer)[0]) == 3


@pytest.mark.parametrize("kind", ["text", *ROW_KINDS])
def test_text_that_spells_special_tokens_is_stored_as_text_and_said(tmp_path, tokenizer, kind):
    texts = ["see <|im_start|> here", "a plain one", "and </s> and <|im_start|>"]
    if kind == "text":
        for number, text in enumerate(texts):
            (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
        source = {"kind": "text", "paths": [str(tmp_path / "*.txt")]}
    else:
        source = write_rows(tmp_path, kind, [{"text": text} for text in texts])
    documents, provenance = drain(source, tokenizer)
    assert [len(document.token_id) for document in documents] == [len(text) for text in texts]
    assert not any(document.flags.any() for document in documents)
    assert provenance["special_tokens_spelled"] == {"documents": 2, "tokens": ["<|im_start|>", "</s>"]}
    [line] = lines(source, tokenizer)
    assert "special tokens, such as '<|im_start|>': 2; it is stored as ordinary text" in line
    assert ("set `separator`" in line) == (kind == "text")


def test_a_chat_that_spells_special_tokens_gets_them_and_that_is_said(tmp_path, tokenizer):
    rows = [{"messages": [{"role": "user", "content": content}]} for content in ("see </s>", "plain")]
    source = write_rows(tmp_path, "jsonl", rows) | {"column": "messages", "chat": True}
    [document, plain], provenance = drain(source, tokenizer)
    assert (document.token_id == tokenizer.eos_token_id).sum() == 1
    assert (plain.token_id == tokenizer.eos_token_id).sum() == 0
    assert provenance["special_tokens_spelled"] == {"documents": 1, "tokens": ["</s>"]}
    [line] = lines(source, tokenizer)
    assert "'</s>': 1; it becomes those tokens, as the template's own text does" in line


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_token_ids_are_stored_as_they_are(tmp_path, tokenizer, kind):
    bos, start = tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("<|im_start|>")
    rows = [{"input_ids": [bos, 5, start, 7], "other": "x"}, {"input_ids": [8, 9]}]
    source = write_rows(tmp_path, kind, rows) | {"column": "input_ids", "tokens": True}
    documents, _ = drain(source, tokenizer, prepend_bos=True, append_eos=True)
    assert [document.token_id.tolist() for document in documents] == [row["input_ids"] for row in rows]
    assert [document.flags.tolist() for document in documents] == [[1, 0, 2, 0], [0, 0]]
    assert documents[0].token_id.dtype == np.int32
    [cut, _], _ = drain(source, tokenizer, mode="sequential", context_length=3)
    assert cut.token_id.tolist() == [bos, 5, start]


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_ids_of_text_are_the_same_corpus_as_the_text(tmp_path, tokenizer, kind):
    texts = ["Once upon a time", "there was ü"]
    ids = [{"ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in texts]
    from_ids, _ = drain(write_rows(tmp_path / "i", kind, ids) | {"column": "ids", "tokens": True}, tokenizer)
    from_text, _ = drain(write_rows(tmp_path / "t", kind, [{"text": text} for text in texts]), tokenizer)
    for one, other in zip(from_ids, from_text, strict=True):
        assert np.array_equal(one.token_id, other.token_id)
        assert np.array_equal(one.flags, other.flags)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "expected a list of token ids, got str 'text'; text needs `tokens: false`"),
        ([1.0, 2.0], "expected integers, got float 1.0 at place 0"),
        ([1, True], "expected integers, got bool True at place 1"),
        ([1, 260], r"id 260 at place 1 is no token of the model's tokenizer \(it has 260, up to 259\)"),
    ],
)
def test_what_is_no_token_id_is_named(tmp_path, tokenizer, value, expected):
    source = write_rows(tmp_path, "jsonl", [{"ids": [1, 2]}, {"ids": value}]) | {"column": "ids", "tokens": True}
    with pytest.raises(ConfigError, match=rf"rows\.jsonl:2: .*{expected}"):
        drain(source, tokenizer)


def test_a_column_is_of_one_kind():
    for kind in ROW_KINDS:
        place = {"path": "x"} if "path" in SOURCES[kind].model_fields else {"paths": ["x"]}
        with pytest.raises(ValueError, match="exclude each other"):
            SOURCES[kind].model_validate({"kind": kind, **place, "chat": True, "tokens": True})


def test_the_plan_says_it_and_the_store_records_it(tmp_path):
    (tmp_path / "corpus").mkdir()
    rows = ["a word of the king"] * 20 + [None] + ["the <|end|> of the town"]
    lines_ = "".join(json.dumps({"text": text}) + "\n" for text in rows)
    (tmp_path / "corpus" / "a.jsonl").write_text(lines_, encoding="utf-8")
    source = {"kind": "jsonl", "paths": [str(tmp_path / "corpus" / "a.jsonl")]}
    config = extraction_config(tmp_path, corpus={"sources": [source], "n_tokens": None, "bad_rows": "skip"})
    said = describe_plan(config, show_progress=False)
    assert "corpus.sources[0] (jsonl): bad rows left out: 1; the first is a.jsonl, row 21: " in said
    assert "special tokens, such as '<|end|>': 1; it is stored as ordinary text" in said
    [record] = planned(config, show_progress=False).provenance["corpus"]["sources"]
    assert record["bad_rows"]["count"] == 1
    assert record["special_tokens_spelled"] == {"documents": 1, "tokens": ["<|end|>"]}


def test_settings_of_a_source_that_are_new_do_not_make_an_old_store_another(tmp_path):
    sources = [
        {"kind": "text", "paths": ["a.txt"]},
        {"kind": "jsonl", "paths": ["a.jsonl"]},
        {"kind": "dataset", "path": "someone/text"},
    ]
    now = extraction_config(tmp_path, corpus={"sources": sources}).extraction()
    old = json.loads(json.dumps(now))
    new_keys = {"separator", "tokens"}
    assert any(new_keys & source.keys() for source in old["corpus"]["sources"])
    old["corpus"]["sources"] = [
        {key: value for key, value in source.items() if key not in new_keys} for source in old["corpus"]["sources"]
    ]
    del old["corpus"]["bad_rows"]
    assert differences(old, now) == []
    changed = extraction_config(tmp_path, corpus={"sources": [sources[0] | {"separator": "|"}, *sources[1:]]})
    assert differences(old, changed.extraction()) != []


NAMES = ["with space", "ünï", "br[1]", "st*r", "que?", "ha#sh", "new\nline", "-lead", "br{a}", os.fsdecode(b"bad\xff")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "python_docs"])
def test_names_are_treated_alike_in_every_kind_of_source(tmp_path, tokenizer, kind, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "plain").write_text("ab", encoding="utf-8")
    rows = [{"text": "ab"}]
    if kind == "text":
        source = {"kind": kind, "paths": []}
        shutil.move(folder / "plain", folder / f"{name}.txt")
    else:
        (folder / "plain").unlink()
        suffix = "jsonl" if kind == "jsonl" else "parquet"
        data = json.dumps(rows[0]).encode()
        if suffix == "parquet":
            pa.parquet.write_table(pa.Table.from_pylist(rows), sink := pa.BufferOutputStream())
            data = sink.getvalue().to_pybytes()
        (folder / f"{name}.{suffix}").write_bytes(data)
        source = {"kind": kind}
    [file] = folder.iterdir()
    given = {"path": str(folder)} if kind == "dataset" else {"paths": [str(file)]}
    documents, provenance = drain(source | given, tokenizer)
    assert [tokenizer.decode(document.token_id) for document in documents] == ["ab"]
    json.dumps(provenance, ensure_ascii=False).encode("utf-8")
    documents[0].where.encode("utf-8")
    if kind != "dataset":
        assert len(drain(source | {"paths": [f"{tmp_path}/*/*"]}, tokenizer)[0]) == 1
