"""Datasets of the Hugging Face hub, and local folders in their form: one row is one document."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.corpus import HubDataset
from pipeline.errors import ConfigError
from pipeline.extractor.documents.document import Document, from_row
from pipeline.extractor.documents.files import file_record, needed
from pipeline.paths import as_path


def read(source: HubDataset) -> Iterator[Document]:
    """Every row of the split; rows are counted from 0."""
    datasets = needed("datasets", source.path)
    path = str(as_path(source.path, "corpus.sources: path"))
    where = f"dataset {source.path!r}"
    # `datasets` and the libraries under it raise every kind of exception for a missing name, split, file or network.
    try:
        builder = datasets.load_dataset_builder(path, source.name, revision=source.revision)
        commit = _commit(builder)
        # The commit that was found, not the branch again: what is recorded is what is read.
        revision = commit if commit is not None else source.revision
        rows = iter(
            datasets.load_dataset(path, source.name, split=source.split, revision=revision, streaming=source.streaming)
        )
    except Exception as error:
        raise _unreadable(where, source, error) from error
    row_number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise _unreadable(f"{where}, row {row_number}", source, error) from error
        yield from_row(row, source.column, source.chat, f"{source.path}/{source.split}[{row_number}]", commit)
        row_number += 1


def provenance(source: HubDataset, commits: list[str]) -> dict[str, Any]:
    """What was asked for, and what it was: the commit of a hub dataset, or the files of a local folder."""
    folder = as_path(source.path, "corpus.sources: path")
    record: dict[str, Any] = {"name": source.name, "split": source.split, "revision": source.revision}
    if folder.is_dir():
        return {**record, "path": folder.resolve().name, "files": [file_record(path) for path in local_files(folder)]}
    return {**record, "path": source.path, "commits": commits}


def local_files(folder: Path) -> list[Path]:
    """The files of a local folder in the form of a dataset, sorted; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _commit(builder: Any) -> str | None:
    found = re.search(r"@([0-9a-f]{40})(?:/|$)", str(builder.base_path))
    return found.group(1) if found else None


def _unreadable(where: str, source: HubDataset, error: Exception) -> ConfigError:
    return ConfigError(
        f"{where} (name {source.name!r}, split {source.split!r}, revision {source.revision!r}) cannot be read: "
        f"{type(error).__name__}: {error}. Check these names and the network; without a network, copy the dataset "
        f"to a folder and set `path` to it, or use a `jsonl` or `parquet` source"
    )
