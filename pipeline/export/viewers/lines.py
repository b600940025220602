"""Files of lines of JSON, plain or compressed, whose bytes depend on what is written alone."""

import gzip
import json
from collections.abc import Iterable, Mapping
from io import BufferedWriter
from pathlib import Path

from pydantic import JsonValue

from strata_sae.stores.files.filesystem import naming

_LEVEL = 5
"""As SAEDashboard's."""


def line(record: Mapping[str, JsonValue]) -> bytes:
    """A record as one line. Raises: ValueError for a number that JSON has no word for."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def write_lines(path: Path, records: Iterable[Mapping[str, JsonValue]]) -> None:
    """One record a line."""
    with naming(path), path.open("xb") as file:
        file.writelines(line(record) for record in records)


class Compressed:
    """A .jsonl.gz in the making, in the folder it is named in; the stream has no name and no time in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming(path):
            self._file: BufferedWriter = path.open("xb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=self._file, mtime=0)

    def write(self, record: Mapping[str, JsonValue]) -> None:
        """One more line."""
        with naming(self._path):
            self._gzip.write(line(record))

    def close(self) -> None:
        """No more lines follow."""
        with naming(self._path), self._file:
            self._gzip.close()
