"""Which files of a source were read, and that they stayed as they were until their hashes were taken."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from strata_sae.pipeline.config.corpus import Source
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.files import printable
from strata_sae.pipeline.extractor.documents.finding import matching
from strata_sae.pipeline.extractor.documents.hub import local_files
from strata_sae.pipeline.input_files import FileState
from strata_sae.pipeline.paths import as_path


def files_of(source: Source) -> list[Path]:
    """The files that a source would be read from now, in their order; empty for one that is not read from files."""
    if source.kind == "dataset":
        return local_files(as_path(source.path, "corpus.sources: path"))
    found: set[Path] = set()
    for pattern in getattr(source, "paths", []):
        with suppress(ConfigError):  # no such file now
            found |= set(matching([pattern]))
    return sorted(found, key=lambda path: path.as_posix())


class ReadFiles:
    """The files of a source as they lay there when reading began."""

    def __init__(self, source: Source, label: str) -> None:
        self._label = label
        self._states = {path: _state(path) for path in files_of(source)}
        self._all = source.kind == "dataset"  # whoever reads a folder as a dataset reads which of its files it wants

    def all_read(self) -> None:
        """The source came to its end."""
        self._all = True

    def parted(self, origins: Iterable[Path | str]) -> tuple[list[Path | str], list[str] | None]:
        """(the files up to the last one with a document in the store, the names of those after it).

        A source that is not read from files: its origins, and None.
        """
        if not self._states:
            return list(origins), None
        paths = list(self._states)
        place = {path: number for number, path in enumerate(paths)}
        if unknown := [path for path in origins if path not in place]:
            raise self._changed(unknown[0])
        read = len(paths) if self._all else max((place[Path(path)] + 1 for path in origins), default=0)
        return list(paths[:read]), [printable(path.name) for path in paths[read:]]

    def check_unchanged(self, paths: Iterable[Path | str]) -> None:
        """Raises: ConfigError for a file whose size, time of change or inode is not what it was."""
        for path in paths:
            if Path(path) in self._states and _state(Path(path)) != self._states[Path(path)]:
                raise self._changed(path)

    def _changed(self, path: Path | str) -> ConfigError:
        return ConfigError(
            f"{self._label}: {path} changed while it was read; when it is complete, run the same command again"
        )


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = FileState.of(os.stat(path))
    except OSError:  # the reader says so, or it is gone
        return None
    return found.n_bytes, found.mtime_ns, found.inode  # not ctime: a hard link or a new mode is no new content
