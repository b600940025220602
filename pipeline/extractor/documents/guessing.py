"""Sources for files and folders of which nothing else is said: what `strata init --text` writes into a config."""

from collections import defaultdict
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
            found = local_files(path)
            for ending in sorted({file.suffix for file in found}):
                patterns[_kind(path / f"_{ending}", found)].append(f"{path}/**/*{ending}")
            files += found
        elif path.is_file():
            patterns[_kind(path, [path])].append(str(path))
            files.append(path)
        else:
            raise ConfigError(f"--text: there is no file or folder {path}; give one that is there")
    if not files and not sources:
        raise ConfigError(f"--text: {', '.join(map(str, paths))}: holds no file; give files, or a folder with some")
    sources += [{"kind": kind, "paths": [*found]} for kind, found in sorted(patterns.items())]
    cut = len(files) == 1 and not KINDS.get(_ending(files[0]))
    if cut:
        n_parts = sum(1 for _ in islice(pieces(files[0], b"\n\n"), FEWEST_DOCUMENTS))
        sources[-1]["separator"] = "\n\n" if n_parts == FEWEST_DOCUMENTS else "\n"
    return Guess(sources, sum(file.stat().st_size for file in files), cut)


def _kind(path: Path, files: list[Path]) -> str:
    """The kind of files that end as `path` does; `files` tell what a compressed one holds."""
    if path.suffix in COMPRESSED:
        path = next(file for file in files if file.suffix == path.suffix)
    return KINDS.get(_ending(path), "text")


def _ending(path: Path) -> str:
    """The ending of a name, that of a compression aside."""
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix.lower()
