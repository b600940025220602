import json

import pytest

from strata_sae.pipeline.config.corpus import HubDataset
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import describe, read_documents


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    path = tmp_path / "corpus"
    path.mkdir()
    rows = [{"text": f"row {number}", "n": number} for number in range(5)]
    (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    yield path
    datasets.enable_progress_bars()


def source(path, **fields):
    return HubDataset.model_validate({"kind": "dataset", "path": str(path), **fields})


@pytest.mark.parametrize("streaming", [True, False])
def test_a_local_folder_gives_its_rows(folder, streaming):
    documents = list(read_documents(source(folder, streaming=streaming)))
    assert [document.text for document in documents] == [f"row {number}" for number in range(5)]
    assert documents[3].place.where == f"{folder}/train[3]"


def test_faults_are_named(folder):
    with pytest.raises(ConfigError, match="Available splits"):
        list(read_documents(source(folder, split="test")))
    with pytest.raises(ConfigError, match=r"train\[0\]: no column 'body'; it has 'text', 'n'"):
        list(read_documents(source(folder, column="body")))
    with pytest.raises(ConfigError, match=r"train\[0\]: column 'n': expected text, got int 0"):
        list(read_documents(source(folder, column="n")))


def test_without_a_network_the_message_says_what_to_do(folder):
    with pytest.raises(ConfigError, match=r"nobody/nothing.*without a network, copy the dataset to a folder"):
        list(read_documents(source("nobody/nothing")))


def test_a_row_that_fails_while_streaming_is_numbered(folder):
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "broken\n')
    with pytest.raises(ConfigError, match=r"row \d+ .*cannot be read"):
        list(read_documents(source(folder)))


def test_provenance_of_a_folder_is_its_files(folder):
    record = describe(source(folder), [])
    assert [file["name"] for file in record["files"]] == ["train.jsonl"]
    assert record["path"] == "corpus"


def test_the_commit_that_was_found_is_the_one_that_is_read(monkeypatch):
    import datasets

    commit, asked = "0123456789abcdef" * 2 + "01234567", []

    class Builder:
        base_path = f"hf://datasets/someone/text@{commit}"

    def load_dataset(path, name, *, split, revision, streaming):
        asked.append((path, name, split, revision, streaming))
        return [{"text": "a"}]

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, name, revision: Builder)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = source("someone/text", revision="main")
    [document] = read_documents(hub)
    assert asked == [("someone/text", None, "train", commit, True)]
    assert describe(hub, [document.origin])["commits"] == [commit]
