"""A folder that somebody else wrote: plain files within it, small JSON, and whether a file is still what it was."""

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError, shown
from strata_sae.pipeline.input_files import FileState, file_sha256
from strata_sae.stores.errors import StoreError, UnfitRows, explain
from strata_sae.stores.files.canonical import Json, as_int, parse_json, read_plain

MAX_JSON_BYTES = 16 * 2**20
MAX_FILES = 100_000


class SourceFolder:
    """The files of a folder, by their names relative to it. Every one that is asked for is remembered."""

    def __init__(self, path: Path) -> None:
        """Raises: ConfigError if there is no such folder."""
        self.path = path
        self._root = Path(os.path.realpath(path))
        self._used: dict[str, FileState] = {}
        if not self._root.is_dir():
            raise ConfigError(f"{path}: no such folder; give the one that the files lie in")

    @property
    def name(self) -> str:
        """Of the folder itself."""
        return self._root.name

    def names(self, pattern: str, below: str = ".") -> list[str]:
        """Names of what lies directly in the folder, or in a folder of it, sorted. None where it cannot be read."""
        prefix = "" if below == "." else f"{below}/"
        try:
            with os.scandir(self._root / below) as entries:
                found = sorted(entry.name for entry in _limited(entries, self.path) if fnmatchcase(entry.name, pattern))
        except OSError:
            return []
        return [prefix + name for name in found]

    def folders(self) -> list[str]:
        """Names of the folders in this one, sorted; no links, nothing hidden."""
        kept = (name for name in self.names("*") if not name.startswith("."))
        return [name for name in kept if stat.S_ISDIR(os.lstat(self._root / name).st_mode)]

    def has(self, name: str) -> bool:
        """Whether a file, or a link to one, has this name."""
        return os.path.isfile(self._root / name)

    def file(self, name: str) -> Path:
        """Where a file lies. Links are followed as long as they stay in the folder.

        Raises: ConfigError if there is none of this name, it lies outside of the folder, or it is no plain file.
        """
        if not isinstance(name, str) or not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
            raise ConfigError(f"{self.path}: {shown(repr(name))} is named as one of its files, which is no file of it")
        path = Path(os.path.realpath(self._root / name))
        if not path.is_relative_to(self._root):
            raise ConfigError(f"{self.path / name}: is a link that leads out of the folder; put the file itself there")
        try:
            found = os.stat(path)
        except OSError as error:
            raise ConfigError(f"{self.path / name}: cannot be read ({explain(error)})") from None
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{self.path / name}: is no plain file")
        self._used.setdefault(name, FileState.of(found))
        return path

    def n_bytes(self, name: str) -> int:
        """Size of a file."""
        return self.file(name).stat().st_size

    def json(self, name: str) -> Json:
        """What a small JSON file holds. Raises: ConfigError if it is none, or has more than 16 MiB."""
        path = self.file(name)
        if self.n_bytes(name) > MAX_JSON_BYTES:
            raise ConfigError(f"{self.path / name}: more than the {MAX_JSON_BYTES:,} bytes that are read as JSON")
        try:
            return parse_json(read_plain(path), self.path / name, MAX_JSON_BYTES, constants=True)
        except (StoreError, FileNotFoundError) as error:
            raise ConfigError(str(error)) from None

    def object(self, name: str) -> dict[str, Json]:
        """The same of a JSON object."""
        found = self.json(name)
        if not isinstance(found, dict):
            raise ConfigError(f"{self.path / name}: holds no JSON object")
        return found

    def count(self, found: dict[str, Json], key: str, name: str, least: int = 1) -> int:
        """An integer of an object of the file `name`. Raises: ConfigError if it is missing, or not from `least` on."""
        try:
            value = as_int(found.get(key))
        except ValueError as error:
            raise ConfigError(f"{self.path / name}: {key}: {error}") from None
        if not least <= value < 2**48:
            raise ConfigError(f"{self.path / name}: {key}: {value} is not allowed; from {least} to 2^48")
        return value

    def unchanged(self, name: str) -> None:
        """Raises: UnfitRows if a file is no longer what it was when it was first asked for."""
        try:
            now = FileState.of(os.stat(self._root / name))
        except OSError as error:
            raise UnfitRows(f"{self.path / name}: cannot be read any more ({explain(error)})") from None
        if now != self._used[name]:
            raise UnfitRows(f"{self.path / name}: was changed while it was read; import it when nobody writes to it")

    def sha256s(self) -> dict[str, str]:
        """Every file that was asked for, by its name -> its hash. Raises: ConfigError if one cannot be read."""
        hashes = {}
        for name in sorted(self._used):
            try:
                hashes[name] = file_sha256(self._root / name)
                self.unchanged(name)
            except OSError as error:
                raise ConfigError(f"{self.path / name}: cannot be read ({explain(error)})") from None
            except UnfitRows as error:
                raise ConfigError(str(error)) from None
        return hashes


def _limited(entries: Iterator[os.DirEntry[str]], path: Path) -> Iterator[os.DirEntry[str]]:
    for number, entry in enumerate(entries):
        if number == MAX_FILES:
            raise ConfigError(f"{path}: more than {MAX_FILES:,} files; import parts of it, one at a time")
        yield entry
