"""Files are known by what they hold: read where that is cheap, and else refused with advice that fits."""

import bz2
import gzip
import json
import lzma
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from pydantic import TypeAdapter

from strata_sae.pipeline.config.corpus import SOURCES, Source
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import read_documents
from strata_sae.pipeline.extractor.documents.files import COMPRESSIONS, MARKS
from support.corpora import drain, write_rows

COMPRESS = {
    None: bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
SUFFIXES = ["", ".gz", ".bz2", ".xz", ".zst", ".bin"]
FILE_KINDS = sorted(kind for kind, settings in SOURCES.items() if "paths" in settings.model_fields)
ROWS = [{"text": "one"}, {"text": 'two, "[{\\'}, {"text": "ü]"}]
TEXTS = [row["text"] for row in ROWS]


@pytest.fixture(autouse=True)
def _offline(datasets_offline: None) -> None:
    """For `dataset` sources."""


def texts(kind, **fields):
    source = TypeAdapter(Source).validate_python({"kind": kind, **fields})
    return [document.text for document in read_documents(source)]


def failure(kind, **fields):
    with pytest.raises(ConfigError) as caught:
        texts(kind, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(kind, **fields):
    """What is said of a source; nothing if it is read."""
    try:
        texts(kind, **fields)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("how", [None, *COMPRESSIONS.values()])
def test_compressed_files_are_known_by_their_first_bytes_whatever_their_name(tmp_path, how, suffix):
    lines = tmp_path / f"corpus{suffix}"
    lines.write_bytes(COMPRESS[how](b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)))
    assert texts("jsonl", paths=[str(lines)]) == TEXTS
    lines.write_bytes(COMPRESS[how](b"plain"))
    assert texts("text", paths=[str(lines)]) == ["plain"]


@pytest.mark.parametrize("how", [how for how in COMPRESSIONS.values()])
def test_a_cut_file_is_an_error_however_it_is_compressed(tmp_path, how):
    whole = COMPRESS[how]("\n".join(str(number**3) for number in range(5000)).encode())
    path = tmp_path / "a.txt"
    path.write_bytes(whole[:-12])
    assert str(path) in failure("text", paths=[str(path)])
    path.write_bytes(whole)
    assert len(texts("text", paths=[str(path)])) == 1


@pytest.mark.parametrize("kind", FILE_KINDS)
@pytest.mark.parametrize("mark", range(len(MARKS)))
def test_what_is_no_text_is_said_with_what_to_do(tmp_path, kind, mark):
    begin, what = MARKS[mark]
    if what.advice == f"set `kind: {kind}`":
        pytest.skip("what this kind reads")
    path = tmp_path / f"a.{kind}"
    for how in (None, "gzip"):
        path.write_bytes(COMPRESS[how](begin + b" and more of it"))
        said = failure("text" if kind == "text" else kind, paths=[str(path)])
        assert said.startswith(f"{path}: is ")
        assert (what.name in said and what.advice in said) or (kind == "parquet" and "compressed with gzip" in said)
    # The control: behind a word the same bytes are text, or broken in another way.
    path.write_bytes(b"word " + begin)
    assert f"is {what.name}" not in outcome(kind, paths=[str(path)])


def test_a_tar_archive_and_wide_text_without_a_mark_are_known(tmp_path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.txt", "a.txt")
    assert "is a tar archive; unpack it first" in failure("text", paths=[str(tmp_path / "a.tar.gz")])
    (tmp_path / "w.txt").write_bytes("wide text".encode("utf-16-le"))
    assert "half NUL bytes" in failure("text", paths=[str(tmp_path / "w.txt")])


def test_a_json_array_is_read_however_it_is_printed(tmp_path, monkeypatch):
    path = tmp_path / "array.jsonl"
    for read_bytes in (1, 7, 1 << 20):
        monkeypatch.setattr("strata_sae.pipeline.extractor.documents.files.READ_BYTES", read_bytes)
        for indent in (None, 0, 2):
            for mark in (b"", b"\xef\xbb\xbf", b"\n "):
                path.write_bytes(mark + json.dumps(ROWS, indent=indent).encode() + b"\n")
                assert texts("jsonl", paths=[str(path)]) == TEXTS
    path.write_bytes(b"[ ]")
    assert "holds no document" in failure("jsonl", paths=[str(path)])
    path.write_bytes(b'[{"text": "a"}')
    assert "ends inside its array" in failure("jsonl", paths=[str(path)])
    path.write_bytes(b'[{"text": "a"}]\n[{"text": "b"}]')
    assert "goes on after the end of its array" in failure("jsonl", paths=[str(path)])
    path.write_bytes(b'[{"text": "a"},]')
    assert f"{path}[1]: is not JSON" in failure("jsonl", paths=[str(path)])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{\n "text": "a"\n}\n', "each object must stand on one line"),
        ("a.jsonl", b"Once upon a time\n", "plain text needs `kind: text`"),
        ("a.csv", b"text,id\nhello,1\n", "is a table; use `kind: dataset`"),
        ("a.tsv.gz", b"text\tid\nhello\t1\n", "is a table; use `kind: dataset`"),
        ("a.jsonl", b'{"input_ids": [1, 2]}\n', "`column: input_ids` with `tokens: true`"),
        ("a.jsonl", b'{"conversations": [{"from": "human"}]}\n', "`column: conversations` with `chat: true`"),
        ("a.jsonl", b'{"text": [1, 2]}\n', "token ids need `tokens: true`"),
        ("a.jsonl", b'{"text": ["a", "b"]}\n', "its strings must be joined into one"),
    ],
)
def test_advice_for_json_lines_fits_what_was_given(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert expected in failure("jsonl", paths=[str(tmp_path / name)])


def test_advice_for_other_kinds_fits_what_was_given(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n')
    (tmp_path / "a.csv").write_bytes(b"text,id\nhello,1\n")
    lines, table = str(tmp_path / "a.jsonl"), str(tmp_path / "a.csv")
    assert "holds JSON; set `kind: jsonl`" in failure("parquet", paths=[lines])
    assert "holds JSON lines; set `kind: jsonl`" in failure("text", paths=[lines])
    assert "is a table; use `kind: dataset`" in failure("text", paths=[table])
    assert f"use `kind: jsonl`, `paths: [{lines}]`" in failure("dataset", path=lines)
    pa.parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.bin")
    assert "is a parquet file; set `kind: parquet`" in failure("jsonl", paths=[str(tmp_path / "a.bin")])
    assert "use `kind: parquet`" in failure("dataset", path=str(tmp_path / "a.bin"))
    assert "is a folder, which has no revisions" in failure("dataset", path=str(tmp_path), revision="main")
    assert "there is no such folder" in failure("dataset", path=str(tmp_path / "nothing"))


def test_a_folder_of_csv_is_a_dataset_as_the_advice_says(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,id\nhello,1\n")
    assert texts("dataset", path=str(tmp_path)) == ["hello"]


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "python_docs"])
def test_addresses_are_known_in_every_kind_of_source(kind):
    key = {"path": "{}"} if "path" in SOURCES[kind].model_fields else {"paths": ["{}"]}
    cases = {
        "hf://datasets/someone/text@main/data/*.parquet": "use `kind: dataset`, `path: someone/text`",
        "https://huggingface.co/datasets/someone/text": "use `kind: dataset`, `path: someone/text`",
        "https://example.org/a.jsonl": "is an address",
        "s3://bucket/a.parquet": "is an address",
    }
    for address, expected in cases.items():
        given = {name: address if value == "{}" else [address] for name, value in key.items()}
        assert expected in failure(kind, **given)


def saved(folder, split=None):
    table = datasets.Dataset.from_list(ROWS, split=split)
    table.save_to_disk(str(folder))
    return str(folder)


def test_a_saved_dataset_is_read(tmp_path):
    alone, named = saved(tmp_path / "alone"), saved(tmp_path / "named", split="test")
    assert texts("dataset", path=alone) == TEXTS
    assert texts("dataset", path=named, split="test") == TEXTS
    assert "holds one split, 'test', not 'train'; set `split: test`" in failure("dataset", path=named)
    assert "no configurations" in failure("dataset", path=alone, name="en")
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "dev": datasets.Dataset.from_list(ROWS[1:])}
    )
    both.save_to_disk(str(tmp_path / "both"))
    assert texts("dataset", path=str(tmp_path / "both")) == TEXTS
    assert texts("dataset", path=str(tmp_path / "both"), split="dev") == TEXTS[1:]
    assert "no split 'test', but 'train', 'dev'" in failure("dataset", path=str(tmp_path / "both"), split="test")
    for kind in FILE_KINDS:
        assert f"that `save_to_disk` wrote; use `kind: dataset`, `path: {alone}`" in failure(kind, paths=[alone])


def test_a_changed_folder_gives_its_new_rows(tmp_path, tokenizer):
    for streaming in (True, False):
        for n_rows in (2, 3):
            source = write_rows(tmp_path / "rows", "dataset", [{"text": "abc"}] * n_rows)
            assert len(drain(source | {"streaming": streaming}, tokenizer)[0]) == n_rows


def test_columns_beside_the_text_are_not_looked_at(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "picture": datasets.Image()})
    rows = [{"text": "a", "picture": {"bytes": b"no picture", "path": None}}]
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), tmp_path / "a.parquet")
    # The control: a picture is looked at where it is asked for.
    assert "cannot be read" in failure("dataset", path=str(tmp_path), column="picture")
    for streaming in (True, False):
        assert texts("dataset", path=str(tmp_path), streaming=streaming) == ["a"]


def test_features_that_are_no_text_are_named(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_list([{"text": "a", "label": 1}], features=features).to_parquet(tmp_path / "a.parquet")
    assert "column 'label': expected text, got int 1" in failure("dataset", path=str(tmp_path), column="label")


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["a.parquet", "b.jsonl"], "b.jsonl"),
        (["a.parquet", "sub/test.parquet"], "a.parquet"),
        (["a.parquet", "b.parquet"], None),
        (["train.parquet", "test.parquet", ".cache/train.parquet.metadata"], None),
        (["a.parquet", "b.csv.gz"], "b.csv.gz"),
        (["a.parquet", "README.md", "dataset_infos.json", "notes.json", ".hidden.jsonl", ".cache/a.jsonl"], None),
    ],
)
def test_files_that_datasets_would_pass_over_are_named(tmp_path, names, left):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".parquet":
            pa.parquet.write_table(pa.table({"text": ["a"]}), path)
        else:
            path.write_text("{}" if "infos" in name else '{"text": "b"}\n', encoding="utf-8")
    if left is None:
        assert set(texts("dataset", path=str(tmp_path))) == {"a"}
        return
    assert f"leave out 1, the first {left}" in failure("dataset", path=str(tmp_path))
    # The control: `datasets` says nothing, and gives the rows of the others.
    builder = datasets.load_dataset_builder(str(tmp_path))
    assert not any(file.endswith(left) for files in builder.config.data_files.values() for file in files)
