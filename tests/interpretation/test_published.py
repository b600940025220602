"""Neuronpedia's files of explanations: each form read, what is not this SAE's refused, hostile files in one line."""

import gzip
import json
import os
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.interpretation import neuronpedia_files, published
from strata_sae.pipeline.interpretation.published import keep_published
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.interpretation_records import MOST_CHARACTERS, PublishedRecord
from strata_sae.pipeline.runs.record_files import read_record, with_fingerprint, write_record
from strata_sae.pipeline.runs.records import ImportedPart, SAERecord
from strata_sae.stores.files.hashing import file_sha256
from support.evaluation_folder import random_weights, write_trained
from support.made_up_run import HOSTILE
from support.sealing import edit

D_SAE = 48
BY = "gpt-4o-mini (oai_token-act-pair)"
UNSAID = "nothing in these files or in the SAE's own says that they belong together: that rests on you"


@pytest.fixture
def folder(tmp_path: Path) -> VariantFolder:
    settings = {"architecture": "topk", "d_sae": D_SAE, "k": 4}
    write_trained(tmp_path / "run", "topk", "ab" * 32, settings, random_weights(D_SAE, 0))
    (path,) = (tmp_path / "run" / "variants").iterdir()
    return VariantFolder(path)


def row(index: int | str | None, text: str | None = "names of methods", **more: Any) -> dict[str, Any]:
    """As their exports have it, with an embedding and further keys."""
    fields = {"modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k", "index": index, "description": text}
    made = {"explanationModelName": "gpt-4o-mini", "typeName": "oai_token-act-pair", "authorId": None}
    return fields | made | {"embedding": [0.25] * 16, "createdAt": "2024-07-30"} | more


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def kept(folder: VariantFolder) -> list[tuple[int, str, str]]:
    record = read_record(folder.published, PublishedRecord).record
    return [(one.latent, one.text, one.by) for one in record.explanations]


FORMS = {
    "a.jsonl": lines(row("3"), row("0", " the  start ")),
    "a.jsonl.gz": gzip.compress(lines(row("3"), row("0", " the  start "))),
    "members.jsonl.gz": gzip.compress(lines(row("3"))) + gzip.compress(lines(row("0", "the start"))),
    "unpacked.jsonl.gz": lines(row("3"), row("0", "the start")),  # a browser unpacks what it fetches
    "no-newline.jsonl": lines(row("3"), row("0", "the start"))[:-1],
    "blank.jsonl": b"\n" + lines(row("3")) + b"\n \r\n" + lines(row("0", "the start")),
    "list.json": json.dumps([row(3), row(0, "the start")]).encode(),
    "list.json.gz": gzip.compress(json.dumps([row(3), row(0, "the start")]).encode()),
    "export.json": json.dumps({"explanations": [row(3), row("0", "the start")], "explanationsCount": 2}).encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read(folder: VariantFolder, tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, FORMS[name])
    said = keep_published(folder, path)
    assert said == [
        f"{folder.name}: 2 published explanations of gemma-2-2b/20-gemmascope-res-16k for 2 of 48 latents",
        UNSAID,
    ]
    assert kept(folder) == [(0, "the start", BY), (3, "names of methods", BY)]
    record = read_record(folder.published, PublishedRecord).record
    assert record.files == {name: file_sha256(path)}
    assert (record.n_latents, record.source) == (D_SAE, "neuronpedia")


def test_a_latents_own_file_is_read(folder: VariantFolder, tmp_path: Path) -> None:
    inner = [{"description": "of the site", "explanationModelName": "gpt-4o", "typeName": None}, row("7", "again")]
    data = {
        "modelId": "gemma-2-2b",
        "layer": "20-gemmascope-res-16k",
        "index": "7",
        "explanations": inner,
        "pos_str": [],
    }
    keep_published(folder, written(tmp_path / "feature.json", json.dumps(data).encode()))
    assert kept(folder) == [(7, "of the site", "gpt-4o"), (7, "again", BY)]


@pytest.mark.parametrize("inside", ["", "explanations"])
def test_the_files_of_a_folder_are_read_by_number(folder: VariantFolder, tmp_path: Path, inside: str) -> None:
    for number in (10, 9, 2):
        path = tmp_path / "theirs" / inside / f"batch-{number}.jsonl.gz"
        written(path, gzip.compress(lines(row("1", f"batch {number}"))))
    if inside:  # of another kind, beside it
        written(tmp_path / "theirs" / "release.jsonl", b'{"name": "theirs"}\n')
    written(tmp_path / "theirs" / inside / "README.md", b"mine")
    keep_published(folder, tmp_path / "theirs")
    assert [text for _, text, _ in kept(folder)] == ["batch 2", "batch 9", "batch 10"]


def test_the_same_files_give_the_same_bytes_and_others_replace_it(folder: VariantFolder, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", lines(row("3"), row("3"), row(3, "more")))
    keep_published(folder, path)
    before = folder.published.read_bytes()
    keep_published(folder, path)
    assert folder.published.read_bytes() == before
    assert kept(folder) == [(3, "names of methods", BY), (3, "more", BY)]
    keep_published(folder, written(tmp_path / "b.jsonl", lines(row("4"))))
    assert [latent for latent, _, _ in kept(folder)] == [4]


def test_what_is_not_kept_is_counted(folder: VariantFolder, tmp_path: Path) -> None:
    many = [row("5", f"number {number}") for number in range(7)]
    rows = [row("1", None), row("2", " \n\t "), row("3", "x" * (MOST_CHARACTERS + 1)), row("4", "y" * MOST_CHARACTERS)]
    said = keep_published(folder, written(tmp_path / "a.jsonl", lines(*rows, *many)))
    assert said[1:-1] == [
        "2 entries have no text",
        f"1 explanations are cut after {MOST_CHARACTERS:,} characters",
        "3 explanations are left out: 4 of a latent are kept",
    ]
    texts = {latent: text for latent, text, _ in kept(folder)}
    assert {latent: len(text) for latent, text in texts.items()} == {3: MOST_CHARACTERS, 4: MOST_CHARACTERS, 5: 8}


def import_as(folder: VariantFolder, facts: dict[str, Any]) -> None:
    """As if the SAE were read from SAELens' files."""
    record = read_record(folder.config, SAERecord).record
    part = ImportedPart(format="saelens", path="theirs#ab", sha256={"cfg.json": "cd" * 32}, facts=facts)
    record = with_fingerprint(record.model_copy(update={"imported": part}))
    write_record(folder.config, record)
    edit(folder.training, lambda data: data.update(fingerprint=record.fingerprint))


@pytest.mark.parametrize("where", ["metadata", ""])
def test_an_imported_sae_is_compared_by_its_name(folder: VariantFolder, tmp_path: Path, where: str) -> None:
    path = written(tmp_path / "a.jsonl", lines(row("3")))
    names = {"neuronpedia_id": "gemma-2-2b/20-gemmascope-res-16k"}
    import_as(folder, {where: names} if where else names)
    assert UNSAID not in keep_published(folder, path)
    before = folder.published.read_bytes()
    names = {"neuronpedia_id": "gemma-2-2b/19-gemmascope-res-16k"}
    import_as(folder, {where: names} if where else names)
    with pytest.raises(ConfigError, match=r"is of gemma-2-2b/20-gemmascope-res-16k, but .* calls it gemma-2-2b/19-"):
        keep_published(folder, path)
    assert folder.published.read_bytes() == before


def test_files_of_several_saes_are_refused(folder: VariantFolder, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", lines(row("3"), row("4", layer="21-gemmascope-res-16k")))
    with pytest.raises(ConfigError, match=r"several SAEs .gemma-2-2b/20-gemmascope-res-16k, gemma-2-2b/21-gem"):
        keep_published(folder, path)
    assert not folder.published.exists()


BAD = {
    "another latent": (lines(row("47"), row("48")), r"a.jsonl:2: tells of latent 48, but this SAE has 48 \(0 to 47\)"),
    "no latent": (lines(row(None)), "index: must be the number of a latent, not None"),
    "a negative one": (lines(row(-1)), "index: must be the number of a latent, not -1"),
    "a negative text": (lines(row("-1")), "index: must be the number of a latent, not '-1'"),
    "other digits": (lines(row("\u0663")), "index: must be the number"),
    "a share": (lines(row(1.5)), "index: must be the number of a latent, not 1.5"),  # type: ignore[arg-type]
    "true": (lines(row(True)), "index: must be the number of a latent, not True"),
    "a long number": (lines(row("9" * 5000)), "index: must be the number of a latent"),
    "text of digits": (b'{"index": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
    "no text": (lines(row("1", 5)), "description: must be text, not 5"),  # type: ignore[arg-type]
    "no name": (lines(row("1", explanationModelName={})), "explanationModelName: must be text, not {}"),
    "no object": (b'["a"]\n', "a.jsonl:1: no JSON object"),
    "no JSON": (b"<!DOCTYPE html>\n", "a.jsonl:1: not readable as JSON"),
    "no text at all": (b"\xff\xfe\x00", "not readable as JSON"),
    "nested": (b"[" * 100_000, "not readable as JSON"),
    "a key twice": (b'{"index": 1, "index": 2}', "the key 'index' twice"),
    "nothing": (b"", "holds no explanation"),
    "nothing said": (lines(row("1", None)), "holds no explanation"),
    "cut": (gzip.compress(lines(*[row(str(n)) for n in range(40)]))[:-20], "no whole gzip file"),
    "cut in its head": (gzip.compress(b"a")[:5], "no whole gzip file"),
    "damaged": (b"\x1f\x8b" + bytes(200), "no whole gzip file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_told_and_nothing_is_written(folder: VariantFolder, tmp_path: Path, kind: str) -> None:
    data, said = BAD[kind]
    with pytest.raises(ConfigError, match=said) as caught:
        keep_published(folder, written(tmp_path / "a.jsonl", data))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not folder.published.exists()


def test_forms_that_are_none(folder: VariantFolder, tmp_path: Path) -> None:
    for data in (b"{}", b'{"explanations": {}}', b"5", b"null"):
        with pytest.raises(ConfigError, match="neither a list of explanations nor an object"):
            keep_published(folder, written(tmp_path / "a.json", data))
    for path, said in [("gone", "no such file or folder"), ("empty", "holds no file of explanations")]:
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=said):
            keep_published(folder, tmp_path / path)
    os.mkfifo(tmp_path / "empty" / "pipe.jsonl")
    with pytest.raises(ConfigError, match="not a plain file"):
        keep_published(folder, tmp_path / "empty")


def test_a_bomb_is_stopped_before_it_is_in_memory(
    folder: VariantFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 2**17
    read = []
    pieces = neuronpedia_files._pieces
    monkeypatch.setattr(neuronpedia_files, "_pieces", lambda path: (read.append(len(p)) or p for p in pieces(path)))
    with pytest.raises(ConfigError, match="a line of more than 1,048,576 bytes"):
        keep_published(folder, written(tmp_path / "a.jsonl.gz", bomb))
    assert sum(read) <= 2**20 + 2**17, "of 64 MiB"
    assert max(read) <= 2**16
    read.clear()
    monkeypatch.setattr(neuronpedia_files, "MAX_JSON_BYTES", 2**20)
    with pytest.raises(ConfigError, match=r"more than 1,048,576 bytes; give it as .jsonl"):
        keep_published(folder, written(tmp_path / "a.json.gz", bomb))
    assert sum(read) <= 2**20 + 2**17
    monkeypatch.setattr(neuronpedia_files, "MAX_BYTES", 2**18)
    empty_lines = gzip.compress(b"\n" * 2**20)
    with pytest.raises(ConfigError, match="more than 262,144 bytes of text"):
        keep_published(folder, written(tmp_path / "b.jsonl.gz", empty_lines))
    monkeypatch.setattr(published, "MAX_CHARACTERS", 100)
    rows = lines(*[row(str(number), "names of methods") for number in range(3)])
    with pytest.raises(ConfigError, match="more than 100 characters of explanations"):
        keep_published(folder, written(tmp_path / "c.jsonl", rows))


def test_lines_are_cut_anywhere(folder: VariantFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(str(number), f"number {number} ü\u2028") for number in range(D_SAE)]
    wanted = [(number, f"number {number} ü", BY) for number in range(D_SAE)]
    draw = random.Random(5)
    for read_bytes in (1, 7, draw.randrange(50, 400)):
        monkeypatch.setattr(neuronpedia_files, "_READ_BYTES", read_bytes)
        for name, data in (("a.jsonl", lines(*rows)), ("a.jsonl.gz", gzip.compress(lines(*rows)))):
            keep_published(folder, written(tmp_path / name, data))
            assert kept(folder) == wanted


def test_hostile_text_is_kept_as_text(folder: VariantFolder, tmp_path: Path) -> None:
    rows = [row(str(number), text, explanationModelName=text) for number, text in enumerate(HOSTILE)]
    keep_published(folder, written(tmp_path / "a.jsonl", lines(*rows)))
    texts = {latent: text for latent, text, _ in kept(folder)}
    for number, text in enumerate(HOSTILE):
        whole = " ".join(text.encode("utf-8", "replace").decode().split())
        assert texts.get(number, "") == whole
    said = keep_published(folder, written(tmp_path / "b.jsonl", lines(row("1", modelId="a\x1b[31m\u202eb", layer="c"))))
    assert said[0].isprintable()


def test_an_sae_that_is_not_there_or_damaged_takes_none(folder: VariantFolder, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", lines(row("3")))
    edit(folder.training, lambda data: data.update(fingerprint="0" * 64))
    with pytest.raises(CheckpointError, match=r"training.json: fingerprint"):
        keep_published(folder, path)
    folder.training.unlink()
    with pytest.raises(CheckpointError, match="its training has not ended"):
        keep_published(folder, path)
