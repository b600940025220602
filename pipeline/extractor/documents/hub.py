"""Datasets of the Hugging Face hub, and local folders in their form: one row is one document."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

from strata_sae.pipeline.config.corpus import HubDataset
from strata_sae.pipeline.errors import ConfigError, one_line
from strata_sae.pipeline.extractor.documents import finding
from strata_sae.pipeline.extractor.documents.document import (
    BadRow,
    Cell,
    Document,
    Place,
    check_columns,
    from_row,
    no_column,
)
from strata_sae.pipeline.extractor.documents.files import file_record, foreign, head_of, needed, printable
from strata_sae.pipeline.paths import as_path
from strata_sae.stores.files.canonical import Json

_KEY = "corpus.sources: path"


class Table(Protocol):
    """A `Dataset` or an `IterableDataset` of `datasets`, which leaves its types open."""

    features: Mapping[str, str] | None
    split: str | None

    def __iter__(self) -> Iterator[dict[str, Cell]]:
        """The rows."""

    def select_columns(self, names: list[str]) -> "Table":
        """The same rows with these columns only."""


def read(source: HubDataset) -> Iterator[Document | BadRow]:
    """Every row of the split; rows are counted from 0."""
    folder = _folder(source)
    if not folder.is_dir():
        yield from _rows(source, source.path, source.path)
        return
    with plainly_named(folder) as path:
        yield from _rows(source, str(path), printable(folder.resolve().name))


def _rows(source: HubDataset, path: str, name: str) -> Iterator[Document | BadRow]:
    """Every row of what `datasets` finds at `path`; records call it `name`."""
    datasets = needed("datasets", source.path)
    where = f"dataset {source.path!r}"
    # `datasets` and the libraries under it raise every kind of exception for a missing name, split, file or network.
    try:
        commit, table = _table(datasets, source, path)
        rows = iter(_only(table, source))
    except ConfigError:
        raise
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
        place = Place(f"{printable(source.path)}/{source.split}[{row_number}]", f"{name}/{source.split}", row_number)
        if source.column not in row:  # true of every row: all have the same columns
            raise ConfigError(f"{place.where}: {no_column(source.column, row)}")
        if row_number == 0:
            check_columns(place.where, source.columns, list(row))
        yield from_row(row, source, place, commit)
        row_number += 1


def _table(datasets: ModuleType, source: HubDataset, path: str) -> tuple[str | None, Table]:
    """The commit of a dataset of the hub (None for a folder), and its rows."""
    if finding.is_saved_dataset(Path(path)):
        return None, saved_split(datasets.load_from_disk(path), source)
    builder = datasets.load_dataset_builder(path, source.name, revision=source.revision)
    if Path(path).is_dir():
        check_all_read(builder.config.data_files or {}, Path(path), source)
    found = re.search(r"@([0-9a-f]{40})(?:/|$)", str(builder.base_path))
    commit = found.group(1) if found else None
    # The commit that was found, not the branch again, so that the recorded commit is the one that is read.
    revision = commit if commit is not None else source.revision
    options = {"split": source.split, "revision": revision, "streaming": source.streaming}
    return commit, datasets.load_dataset(path, source.name, **options)


def provenance(source: HubDataset, commits: list[str]) -> dict[str, Json]:
    """What was asked for, and what it was: the commit of a hub dataset, or the files of a local folder."""
    folder = as_path(source.path, _KEY)
    record: dict[str, Json] = {"name": source.name, "split": source.split, "revision": source.revision}
    if folder.is_dir():
        files: list[Json] = [file_record(path) for path in finding.local_files(folder)]
        return {**record, "path": printable(folder.resolve().name), "files": files}
    return {**record, "path": source.path, "commits": [*commits]}


def _folder(source: HubDataset) -> Path:
    """The folder that `path` names, if it names one. Raises: ConfigError for a file, and for an address."""
    if said := finding.elsewhere(source.path):
        raise ConfigError(f"{_KEY}: {source.path!r} {said}")
    path = as_path(source.path, _KEY)
    if path.is_dir() and source.revision is not None:
        raise ConfigError(f"{_KEY}: {source.path!r} is a folder, which has no revisions; set `revision: null`")
    if path.is_file():
        what = foreign(head_of(path))
        kind = "parquet" if what and "parquet" in what.advice else "jsonl"
        raise ConfigError(
            f"{_KEY}: {source.path!r} is a file, not a folder; use `kind: {kind}`, `paths: [{source.path}]`, "
            f"or name the folder that it lies in"
        )
    if not path.is_dir() and (source.path.startswith((".", "/", "~")) or source.path.count("/") > 1):
        raise ConfigError(f"{_KEY}: {source.path!r}: there is no such folder; correct it")
    return path


def _only(table: Table, source: HubDataset) -> Table:
    """The table without columns that are not read, so that no image beside the text is decoded."""
    features = getattr(table, "features", None)
    wanted = list(dict.fromkeys([source.column, *source.columns]))
    only = features and features.keys() >= set(wanted) and not source.chat
    return table.select_columns(wanted) if only else table


def _unreadable(where: str, source: HubDataset, error: Exception) -> ConfigError:
    folder = as_path(source.path, _KEY)
    if folder.is_dir():
        endings = Counter("".join(path.suffixes[-2:]) for path in finding.local_files(folder))
        held = ", ".join(ending for ending, _ in endings.most_common(8)) or "no file"
        advice = (
            f"Check these names; the folder holds {held}, and `datasets` reads files of one kind: .parquet, .jsonl, "
            f".json, .csv, .txt or .arrow"
        )
    else:
        advice = (
            "Check these names and the network; without a network, copy the dataset to a folder and set `path` to it, "
            "or use a `jsonl` or `parquet` source"
        )
    return ConfigError(
        f"{where} (name {source.name!r}, split {source.split!r}, revision {source.revision!r}) cannot be read: "
        f"{type(error).__name__}: {one_line(error)}. {advice}"
    )


_TABLES = {".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv"}
_PACKED = {".gz", ".bz2", ".xz", ".zst"}
_DESCRIPTIONS = {finding.SAVED_DATASET, finding.SAVED_DATASETS, "dataset_info.json", "dataset_infos.json"}
_PLAIN = re.compile(r"[^\[\]*?{}!\n\r\ud800-\udfff]*")


def saved_split(saved: Table | dict[str, Table], source: HubDataset) -> Table:
    """The split of what `save_to_disk` wrote: of a dataset that was saved alone, the dataset."""
    if source.name is not None:
        raise ConfigError(
            f"{_KEY}: {source.path!r}: a folder of `save_to_disk` has no configurations; set `name: null`"
        )
    if isinstance(saved, dict):
        if source.split not in saved:
            raise ConfigError(
                f"{_KEY}: {source.path!r} has no split {source.split!r}, but {', '.join(map(repr, saved))}; set `split`"
            )
        return saved[source.split]
    own = str(saved.split) if saved.split is not None else "train"
    if source.split != own:
        raise ConfigError(f"{_KEY}: {source.path!r} holds one split, {own!r}, not {source.split!r}; set `split: {own}`")
    return saved


def check_all_read(data_files: Mapping[str, list[str]], folder: Path, source: HubDataset) -> None:
    """Raises: ConfigError for files that `datasets` would leave out silently: of another kind, or of no split.

    `datasets` reads files of one kind, and only those named after a split if any file or folder is named so.
    """
    card = folder / "README.md"
    if card.is_file() and b"data_files:" in card.read_bytes():  # the card says which files are read
        return
    read = {os.path.realpath(file) for files in data_files.values() for file in files}
    kinds = _TABLES if any({".json", ".jsonl"} & set(Path(file).suffixes) for file in read) else _TABLES - {".json"}
    left = [path for path in _data_files(folder, kinds) if os.path.realpath(path) not in read]
    if read and left:
        splits = ", ".join(repr(str(split)) for split in data_files)
        raise ConfigError(
            f"{_KEY}: {source.path!r}: `datasets` would read {len(read):,} of its files (splits {splits}) and leave "
            f"out {len(left):,}, the first {printable(left[0].relative_to(folder))}: it reads files of one kind, by "
            f"their names where one is named after a split; put what belongs together into a folder of its own"
        )


@contextmanager
def plainly_named(folder: Path) -> Iterator[Path]:
    """The folder; or, within the block, a folder of links to its files under names that `datasets` can read.

    `datasets` reads brackets in a folder's name as a pattern, resolves links, and needs names in UTF-8.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    if all(_PLAIN.fullmatch(str(path)) for path in (folder.absolute(), *files)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="strata-") as place:
        for path in files:
            link = Path(place) / printable(path.relative_to(folder)).replace("\n", " ")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        yield Path(place)


def _data_files(folder: Path, kinds: set[str]) -> list[Path]:
    """The files under a folder whose suffix says that they hold rows, sorted; without hidden files and folders."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _DESCRIPTIONS]
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [path for path in shown if kinds & {path.suffix, Path(path.stem).suffix if path.suffix in _PACKED else ""}]
