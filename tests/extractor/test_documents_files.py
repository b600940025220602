import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from pydantic import TypeAdapter

from strata_sae.pipeline.config.corpus import Source
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import describe, read_documents

LINES = [{"text": "first"}, {"text": "zweite\u2028Zeile ü"}, {"text": ""}, {"text": "last"}]


def source(kind, **fields):
    return TypeAdapter(Source).validate_python({"kind": kind, **fields})


def texts(kind, **fields):
    return [document.text for document in read_documents(source(kind, **fields))]


def failure(kind, **fields):
    with pytest.raises(ConfigError) as caught:
        texts(kind, **fields)
    return str(caught.value)


def jsonl_bytes(rows):
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def test_text_files_are_read_whole_sorted_and_once(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"bee\r\nline\n")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfay")
    (tmp_path / "c[1].txt").write_bytes(b"brackets")
    paths = [str(tmp_path / "b.txt"), str(tmp_path / "[ab].txt"), str(tmp_path / "c[1].txt")]
    assert texts("text", paths=paths) == ["ay", "bee\r\nline\n", "brackets"]


def test_recursive_globs_find_nested_files(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "x.txt").write_text("x", encoding="utf-8")
    assert texts("text", paths=[f"{tmp_path}/**/*.txt"]) == ["x"]


def test_a_pattern_without_files_is_named_even_beside_one_that_matches(tmp_path):
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    message = failure("text", paths=[str(tmp_path / "*.txt"), str(tmp_path / "*.text")])
    assert "*.text'" in message
    assert "matches no file" in message


def test_a_folder_is_refused_with_the_pattern_to_use(tmp_path):
    assert f"{tmp_path}/*" in failure("text", paths=[str(tmp_path)])


def test_bytes_that_are_not_utf8_are_located(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"abc\xe9")
    message = failure("text", paths=[str(tmp_path / "latin.txt")])
    assert "latin.txt: byte 3 (0xe9) is not UTF-8" in message
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xe9"}\n')
    assert "latin.jsonl:2: byte 25 (0xe9)" in failure("jsonl", paths=[str(tmp_path / "latin.jsonl")])


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_plain_and_compressed_give_the_same_documents(tmp_path, suffix):
    path = tmp_path / f"corpus.jsonl{suffix}"
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    # Two members (frames) one after the other, as `cat a.gz b.gz` makes them; the last line has no line feed.
    path.write_bytes(compress(jsonl_bytes(LINES[:2]) + b"\n") + compress(jsonl_bytes(LINES[2:])[:-1]))
    documents = list(read_documents(source("jsonl", paths=[str(path)])))
    assert [document.text for document in documents] == [row["text"] for row in LINES]
    assert [document.place.where.rsplit(":", 1)[1] for document in documents] == ["1", "2", "4", "5"]


def test_long_lines_over_many_reads_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.READ_BYTES", 7)
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(jsonl_bytes(LINES))
    assert texts("jsonl", paths=[str(path)]) == [row["text"] for row in LINES]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_compressed_file_is_an_error(tmp_path, suffix):
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    whole = compress(jsonl_bytes([{"text": str(number)} for number in range(5000)]))
    path = tmp_path / f"corpus.jsonl{suffix}"
    path.write_bytes(whole)
    assert len(texts("jsonl", paths=[str(path)])) == 5000
    path.write_bytes(whole[:-10])
    cause = {".gz": "cannot be read (Compressed file ended", ".zst": "ends inside a zstd frame"}[suffix]
    assert f"{path}: {cause}" in failure("text", paths=[str(path)])
    path.write_bytes(b"not compressed at all")
    assert str(path) in failure("jsonl", paths=[str(path)])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "a"', "is not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"body": "a"}', "no column 'text'; it has 'body'"),
        ('{"text": 3}', "expected text, got int 3"),
        ('{"text": null}', "expected text, got NoneType"),
        ('{"text": [{"role": "user", "content": "hi"}]}', "messages need `chat: true`"),
        ('{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, expected):
    path = tmp_path / "corpus.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n', encoding="utf-8")
    message = failure("jsonl", paths=[str(path)])
    assert message.startswith(f"{path}:2: ")
    assert expected in message


def test_chat_messages_keep_every_field(tmp_path):
    path = tmp_path / "chat.jsonl"
    messages = [{"role": "user", "content": "hi", "timestamp": 1}, {"role": "assistant", "content": "ho"}]
    path.write_text(json.dumps({"messages": messages}), encoding="utf-8")
    [document] = read_documents(source("jsonl", paths=[str(path)], column="messages", chat=True))
    assert document.text is None
    assert document.messages == messages


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain text needs `chat: false`"),
        ([], "expected a list"),
        ([{"role": "user"}], "message 0"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": None}], "message 1: content"),
    ],
)
def test_a_bad_chat_is_named(tmp_path, value, expected):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": value}), encoding="utf-8")
    message = failure("jsonl", paths=[str(path)], column="messages", chat=True)
    assert message.startswith(f"{path}:1: ")
    assert expected in message


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_source_without_documents_is_an_error(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    assert "holds no document" in failure("jsonl", paths=[str(path)])


def test_parquet_rows_come_in_order_over_batches_and_row_groups(tmp_path):
    path = tmp_path / "corpus.parquet"
    rows = [f"row {number}" for number in range(700)]
    pa.parquet.write_table(pa.table({"text": rows, "other": range(700)}), path, row_group_size=300)
    documents = list(read_documents(source("parquet", paths=[str(path)])))
    assert [document.text for document in documents] == rows
    assert documents[-1].place.where == f"{path}[699]"


def test_parquet_chats_are_read(tmp_path):
    path = tmp_path / "chat.parquet"
    messages = [{"role": "user", "content": "hi"}]
    pa.parquet.write_table(pa.table({"messages": [messages]}), path)
    [document] = read_documents(source("parquet", paths=[str(path)], column="messages", chat=True))
    assert document.messages == messages


def test_parquet_faults_are_named(tmp_path):
    path = tmp_path / "corpus.parquet"
    pa.parquet.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), path)
    assert f"{path}[1]: column 'text': expected text, got NoneType" in failure("parquet", paths=[str(path)])
    assert "no column 'body'; it has 'text', 'n'" in failure("parquet", paths=[str(path)], column="body")
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path}: is not a readable parquet file" in failure("parquet", paths=[str(path)])


def test_a_column_of_parquet_whose_name_is_no_utf8_is_a_damaged_file(tmp_path):
    path = tmp_path / "corpus.parquet"
    pa.parquet.write_table(pa.table({"text": ["a"], "bodybody": ["b"]}), path)
    assert texts("parquet", paths=[str(path)]) == ["a"]
    path.write_bytes(path.read_bytes().replace(b"bodybody", b"body\xff\xff\xff\xff"))
    message = failure("parquet", paths=[str(path)])
    assert f"{path}: is not a readable parquet file" in message
    assert "\n" not in message


def test_provenance_has_names_sizes_and_hashes_but_no_folder(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    record = describe(source("text", paths=[str(path)]), [path])
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", from FIPS 180-2
    assert record["files"] == [{"name": "a.txt", "bytes": 3, "sha256": digest}]
    assert str(tmp_path) not in json.dumps(record)
