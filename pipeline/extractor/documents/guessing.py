"""Sources for files and folders of which nothing else is said: what `strata init --text` writes into a config."""

import glob
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.files import pieces
from strata_sae.pipeline.extractor.documents.finding import is_saved_dataset, local_files
from strata_sae.pipeline.strict_yaml import Yaml

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
"""Ending of a file's name -> kind of source; what ends otherwise is plain text."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
FEWEST_DOCUMENTS = 20
"""A single file of text is cut at blank lines where that gives so many documents, and else at every line end: with a
tenth held out, two documents are scored at least."""


class Guess(NamedTuple):
    """Sources as a config has them, and how large their files are."""

    sources: list[dict[str, Yaml]]
    n_bytes: int
    cut: bool
    """Whether a file is cut into documents, some of which may be empty of tokens."""


def guess_sources(paths: list[Path]) -> Guess:
    """A source for each kind among the files and folders. Raises: ConfigError where there is nothing to read."""
    patterns: dict[str, list[str]] = defaultdict(list)
    sources: list[dict[str, Yaml]] = []
    files: list[Path] = []
    for path in paths:
        if path.is_dir() and is_saved_dataset(path):
            sources.append({"kind": "dataset", "path": str(path)})
        elif path.is_dir():
            # Patterns reach no hidden file or folder, either (`.git`).
            found = [file for file in local_files(path) if not any(map(_is_hidden, file.relative_to(path).parts))]
            for kind, pattern in _patterns(path, found):
                patterns[kind].append(pattern)
            files += found
        elif path.is_file():
            patterns[_kind(path)].append(str(path))
            files.append(path)
        else:
            raise ConfigError(f"--text: there is no file or folder {path}; give one that is there")
    if not files and not sources:
        raise ConfigError(f"--text: {', '.join(map(str, paths))}: holds no file; give files, or a folder with some")
    sources += [{"kind": kind, "paths": [*found]} for kind, found in sorted(patterns.items())]
    cut = len(files) == 1 and _kind(files[0]) == "text"
    if cut:
        n_parts = sum(1 for _ in islice(pieces(files[0], b"\n\n"), FEWEST_DOCUMENTS))
        sources[-1]["separator"] = "\n\n" if n_parts == FEWEST_DOCUMENTS else "\n"
    return Guess(sources, sum(file.stat().st_size for file in files), cut)


def _patterns(folder: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    """(kind, pattern) of all files of a folder; where a pattern would reach files of another kind, each by its name."""
    for ending in sorted({_ending(file) for file in files}):
        those = [file for file in files if _ending(file) == ending]
        kind = _kind(those[0])
        if all(_kind(file) == kind for file in files if file.name.endswith(ending)):
            yield kind, f"{glob.escape(str(folder))}/**/*{glob.escape(ending)}"
        else:
            yield from ((kind, str(file)) for file in those)


def _kind(path: Path) -> str:
    return KINDS.get(_without_compression(path).suffix.lower(), "text")


def _ending(path: Path) -> str:
    """All that the kind is known by: `.txt`, `.jsonl.gz`."""
    inner = _without_compression(path)
    return inner.suffix + path.name[len(inner.name) :]


def _without_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in COMPRESSED else path


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
