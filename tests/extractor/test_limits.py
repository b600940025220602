"""Input that expands, or does not end, is refused by a count: of bytes held, of steps taken."""

import gzip
import json
import tracemalloc

import pytest
import zstandard

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.files import pieces
from support.corpora import drain, write_rows

MEBIBYTE = 1 << 20
COMPRESS = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}
LONG = 64 * MEBIBYTE
# Each holds one document of LONG bytes between two short ones.
FORMS = {
    "jsonl": (b'{"text": "good"}\n{"text": "', b'"}\n{"text": "good"}\n', {"kind": "jsonl"}),
    "array": (b'[{"text": "good"}, {"text": "', b'"}, {"text": "good"}]', {"kind": "jsonl"}),
    "pieces": (b"good</s>", b"</s>good", {"kind": "text", "separator": "</s>"}),
}


def peak_bytes(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", COMPRESS)
@pytest.mark.parametrize("form", FORMS)
def test_a_document_that_expands_without_end_is_a_bad_row_and_is_never_held(
    tmp_path, monkeypatch, tokenizer, form, how
):
    before, after, source = FORMS[form]
    path = tmp_path / "bomb"
    path.write_bytes(COMPRESS[how](before + b"x" * LONG + after))
    assert path.stat().st_size < MEBIBYTE
    monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.MAX_DOCUMENT_BYTES", MEBIBYTE)
    source = source | {"paths": [str(path)]}
    with pytest.raises(ConfigError, match=r"bomb(:2|\[1\]): longer than 1 MiB uncompressed"):
        drain(source, tokenizer)
    found = []
    assert peak_bytes(lambda: found.append(drain(source, tokenizer, bad_rows="skip"))) < LONG / 2
    [(documents, provenance)] = found
    assert [len(document.token_id) for document in documents] == [4, 4]
    assert provenance["bad_rows"]["count"] == 1


def test_without_the_limit_it_would_be_held(tmp_path, monkeypatch):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(b"x" * LONG))
    monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.MAX_DOCUMENT_BYTES", 2 * LONG)
    assert peak_bytes(lambda: list(pieces(path, b"\n"))) > LONG


def test_a_text_file_that_is_too_long_is_told_of_the_separator(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.MAX_DOCUMENT_BYTES", 10)
    (tmp_path / "a.txt").write_bytes(b"x" * 11)
    with pytest.raises(ConfigError, match="if it holds several, set `separator`"):
        drain({"kind": "text", "paths": [str(tmp_path / "a.txt")]}, tokenizer)
    (tmp_path / "a.txt").write_bytes(b"x" * 10)
    assert len(drain({"kind": "text", "paths": [str(tmp_path / "a.txt")]}, tokenizer)[0]) == 1


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("limit", [4, 6, 100])
def test_pieces_are_those_of_split_wherever_the_reads_end(tmp_path, monkeypatch, read_bytes, limit):
    monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.READ_BYTES", read_bytes)
    monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.MAX_DOCUMENT_BYTES", limit)
    data = b"a<>bc<<><>defgh<>ijklmnopq<>r<"
    (tmp_path / "a").write_bytes(data)
    expected, offset = [], 0
    for piece in data.split(b"<>"):
        expected.append((piece if len(piece) <= limit else None, offset))
        offset += len(piece) + 2
    assert [tuple(piece) for piece in pieces(tmp_path / "a", b"<>")] == expected


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
ENDLESS = {
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(200) }}",
    "a filter in a loop": "{% for a in range(9999) %}{% set x = range(9999) | map('string') | list %}{% endfor %}",
    "a cycler": "{% set c = cycler(1, 2) %}{% for a in range(99999) %}{% for b in range(99999) %}{{ c.next() }}"
    "{% endfor %}{% endfor %}",
    "a loop that calls itself": "{% for a in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
}


@pytest.mark.parametrize("endless", ENDLESS)
def test_a_template_that_does_not_end_is_stopped_by_its_steps(tmp_path, monkeypatch, tokenizer, endless):
    monkeypatch.setattr("strata_sae.pipeline.extractor.template.MAX_STEPS", 20_000)
    source = write_rows(tmp_path, "jsonl", [{"messages": CHAT}]) | {"column": "messages", "chat": True}
    ordinary = tokenizer.chat_template
    tokenizer.chat_template = ENDLESS[endless] + ordinary
    with pytest.raises(ConfigError, match=r"rows.jsonl:1: .*refuses these messages \((TooLong|RecursionError)"):
        drain(source, tokenizer)
    # The control: an ordinary template takes far fewer.
    tokenizer.chat_template = ordinary
    assert len(drain(source, tokenizer)[0]) == 1


def test_a_template_that_prints_without_end_is_stopped_by_its_characters(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr("strata_sae.pipeline.extractor.template.MAX_CHARACTERS", 5000)
    source = write_rows(tmp_path, "jsonl", [{"messages": CHAT}]) | {"column": "messages", "chat": True}
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% for a in range(99) %}{{ 'x' * 60 }}{% endfor %}"
    )
    with pytest.raises(ConfigError, match="it prints more than 5,000 characters"):
        drain(source, tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("99", "9")
    assert len(drain(source, tokenizer)[0]) == 1


def test_a_template_that_computes_a_power_is_refused_before_it_is_compiled(tmp_path, tokenizer):
    source = write_rows(tmp_path, "jsonl", [{"messages": CHAT}]) | {"column": "messages", "chat": True}
    tokenizer.chat_template = "{{ 9 ** 9 ** 9 ** 9 }}"
    with pytest.raises(ConfigError, match=r"computes a power \(\*\*\)"):
        drain(source, tokenizer)


def test_json_nested_deeply_is_a_bad_row_in_every_column(tmp_path, tokenizer):
    deep = "[" * 400 + "]" * 400
    lines = [
        f'{{"messages": {json.dumps(CHAT)}, "tools": {deep}}}',
        "[" * 100_000,
        f'{{"messages": {json.dumps(CHAT)}}}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join([lines[2], *lines]), encoding="utf-8")
    source = {"kind": "jsonl", "paths": [str(tmp_path / "a.jsonl")], "column": "messages", "chat": True}
    documents, provenance = drain(source, tokenizer, bad_rows="skip")
    assert len(documents) == 2
    assert [row["row"] for row in provenance["bad_rows"]["first"]] == [2, 3]
