"""JSON lines: one line is one document."""

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.corpus import JsonLines
from pipeline.errors import ConfigError
from pipeline.extractor.documents.document import Document, from_row
from pipeline.extractor.documents.files import chunks, decoded, matching


def read(source: JsonLines) -> Iterator[Document]:
    """Every line that is not blank; lines are counted from 1."""
    for path in matching(source.paths):
        offset = 0
        for number, line in enumerate(_lines(path), start=1):
            where = f"{path}:{number}"
            text = decoded(line, path, offset)
            offset += len(line)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{where}: is not JSON ({error}); mend or remove this line") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{where}: expected a JSON object a line, got a {type(row).__name__}")
            yield from_row(row, source.column, source.chat, where, path)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their ends. Only a line feed ends one: JSON strings may hold every other separator of Unicode."""
    rest: list[bytes] = []
    for chunk in chunks(path):
        *whole, last = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*rest, line, b"\n"))
            rest = []
        rest.append(last)
    if any(rest):
        yield b"".join(rest)
