"""Local folders as datasets: those of `save_to_disk`, and those whose files `datasets` finds itself."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from strata_sae.pipeline.config.corpus import HubDataset
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.files import printable

# What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` leave in their folder.
SAVED_DATASET, SAVED_DATASETS = "state.json", "dataset_dict.json"
_TABLES = {".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv"}
_PACKED = {".gz", ".bz2", ".xz", ".zst"}
_DESCRIPTIONS = {SAVED_DATASET, SAVED_DATASETS, "dataset_info.json", "dataset_infos.json"}
_KEY = "corpus.sources: path"
_PLAIN = re.compile(r"[^\[\]*?{}!\n\r\ud800-\udfff]*")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder."""
    return (folder / SAVED_DATASETS).is_file() or (
        (folder / SAVED_DATASET).is_file() and (folder / "dataset_info.json").is_file()
    )


def saved_split(saved: Any, source: HubDataset) -> Any:
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


def check_all_read(builder: Any, folder: Path, source: HubDataset) -> None:
    """Raises: ConfigError for files that `datasets` passes over without a word: of another kind, or of no split.

    It reads the files of one kind, by names of splits if any file or folder has such a name.
    """
    card = folder / "README.md"
    if card.is_file() and b"data_files:" in card.read_bytes():  # it says what is read
        return
    read = {os.path.realpath(file) for files in (builder.config.data_files or {}).values() for file in files}
    kinds = _TABLES if any({".json", ".jsonl"} & set(Path(file).suffixes) for file in read) else _TABLES - {".json"}
    left = [path for path in _data_files(folder, kinds) if os.path.realpath(path) not in read]
    if read and left:
        splits = ", ".join(repr(str(split)) for split in builder.config.data_files)
        raise ConfigError(
            f"{_KEY}: {source.path!r}: `datasets` would read {len(read):,} of its files (splits {splits}) and leave "
            f"out {len(left):,}, the first {printable(left[0].relative_to(folder))}: it reads files of one kind, by "
            f"their names where one is named after a split; put what belongs together into a folder of its own"
        )


@contextmanager
def plainly_named(folder: Path) -> Iterator[Path]:
    """The folder, or for the time of the block one of links to its files, under names that `datasets` can read.

    It takes brackets in a folder's name for a pattern, follows a link to its end, and knows no bytes but UTF-8's.
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


def suffixes(folder: Path) -> list[str]:
    """The suffixes of the files under a folder, the most frequent first."""
    names = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [suffix for suffix, _ in Counter("".join(path.suffixes[-2:]) for path in names).most_common()]


def _data_files(folder: Path, kinds: set[str]) -> list[Path]:
    """The files under a folder whose suffix says that they hold rows, sorted; hidden ones and hidden folders' not."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _DESCRIPTIONS]
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [path for path in shown if kinds & {path.suffix, Path(path.stem).suffix if path.suffix in _PACKED else ""}]
