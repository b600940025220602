"""The files that a source's patterns, or its folder, name."""

import glob
import re
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.files import head_of, printable
from strata_sae.pipeline.paths import as_path

_KEY = "corpus.sources: paths"
# What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` leave in their folder.
SAVED_DATASET, SAVED_DATASETS = "state.json", "dataset_dict.json"


def matching(patterns: list[str]) -> list[Path]:
    """The files that the patterns name, each once, sorted. Raises: ConfigError for a pattern that names no file."""
    found: set[Path] = set()
    for pattern in patterns:
        if said := elsewhere(pattern):
            raise ConfigError(f"{_KEY}: {pattern!r} {said}")
        path = as_path(pattern, _KEY)
        if path.is_dir():
            raise ConfigError(f"{_KEY}: {pattern!r} is a folder{_folder_advice(path, pattern)}")
        # Where a file has such a name, brackets are part of the name, not of a pattern.
        names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
        files = {Path(name) for name in names if Path(name).is_file()}
        if not files:
            raise ConfigError(
                f"{_KEY}: {pattern!r} matches no file (looked in {printable(Path.cwd())}); correct it or remove it"
            )
        found |= files
    return sorted(found, key=lambda path: path.as_posix())


def elsewhere(address: str) -> str | None:
    """Why an address that is not a path of this machine is refused; None for a path."""
    if repository := re.match(
        r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)datasets/([^/]+/[^/@?#]+)", address
    ):
        return f"lies on the hub; use `kind: dataset`, `path: {repository.group(1)}`"
    if re.match(r"[a-z][a-z0-9+.-]*://", address, re.IGNORECASE):
        return "is an address, and only files of this machine are read; download it, and name the file"
    return None


def _folder_advice(folder: Path, pattern: str) -> str:
    if is_saved_dataset(folder):
        return f" that `save_to_disk` wrote; use `kind: dataset`, `path: {pattern}`"
    return f"; name its files: {pattern.rstrip('/')}/*"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder."""
    return (folder / SAVED_DATASETS).is_file() or (
        (folder / SAVED_DATASET).is_file() and (folder / "dataset_info.json").is_file()
    )


def local_files(folder: Path) -> list[Path]:
    """The files of a local folder in the form of a dataset, sorted; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def refuse_table(path: Path) -> None:
    """Raises: ConfigError for CSV, which only the name tells from text."""
    if {".csv", ".tsv"} & _suffixes(path) and head_of(path).lstrip()[:1] not in (b"{", b"["):
        raise ConfigError(
            f"{printable(path)}: is a table; use `kind: dataset`, with `path` a folder of such files only"
        )


def refuse_json_lines(path: Path) -> None:
    """Raises: ConfigError for JSON lines whose name says so: read as text, their keys would be stored, too."""
    if {".jsonl", ".ndjson"} & _suffixes(path):
        first_line = head_of(path).split(b"\n")[0].strip()
        if first_line.startswith(b'{"'):
            raise ConfigError(f"{printable(path)}: holds JSON lines; set `kind: jsonl`")


def _suffixes(path: Path) -> set[str]:
    return {suffix.lower() for suffix in path.suffixes[-2:]}
