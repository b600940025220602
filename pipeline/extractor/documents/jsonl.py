"""JSON lines, each of them one document; or one JSON array, each item of it one document."""

import re
from collections.abc import Iterator
from pathlib import Path

from strata_sae.pipeline.config.corpus import JsonLines
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import files
from strata_sae.pipeline.extractor.documents.document import BadRow, Document, Place, from_row
from strata_sae.pipeline.extractor.documents.files import Piece, decoded, pieces, printable, text_chunks, too_long
from strata_sae.pipeline.extractor.documents.finding import matching, refuse_table
from strata_sae.stores import StoreError
from strata_sae.stores.files.canonical import parse_json


def read(source: JsonLines) -> Iterator[Document | BadRow]:
    """Every line that is not blank, counted from 1; every item of an array, counted from 0."""
    for path in matching(source.paths):
        refuse_table(path)
        where = printable(path)
        if is_array(path):
            for number, piece in enumerate(array_items(path)):
                yield _document(piece, source, Place(f"{where}[{number}]", printable(path.name), number), path)
            continue
        # Only a line feed ends a line: JSON strings may hold every other separator of Unicode.
        for number, piece in enumerate(pieces(path, b"\n"), start=1):
            if piece.data is None or piece.data.strip():
                yield _document(piece, source, Place(f"{where}:{number}", printable(path.name), number), path)


def _document(piece: Piece, source: JsonLines, place: Place, path: Path) -> Document | BadRow:
    if piece.data is None:
        return BadRow(place, too_long())
    text = decoded(piece.data, place, piece.offset)
    if isinstance(text, BadRow):
        return text
    try:
        row = parse_json(text.encode("utf-8"), "it")
    except StoreError as error:
        return BadRow(place, f"is not JSON ({str(error).removeprefix('it: ')}){_hint(text.strip())}")
    return from_row(row, source, place, path)


def _hint(line: str) -> str:
    """What the line probably is."""
    if line == "{":
        return "; each object must stand on one line: `jq -c .` writes it so"
    return "" if line.startswith(("{", "[", '"')) else "; plain text needs `kind: text`"


_MARK = re.compile(rb'["\[\]{},]')
_MARK_IN_STRING = re.compile(rb'["\\]')
_BLANK = b" \t\r\n"


def is_array(path: Path) -> bool:
    """Whether the first character of a file that is not blank opens an array."""
    for chunk in text_chunks(path):
        if begin := chunk.removeprefix(b"\xef\xbb\xbf").lstrip(_BLANK)[:1]:
            return begin == b"["
    return False


def array_items(path: Path) -> Iterator[Piece]:
    """The bytes of each item, unparsed; None in place of one longer than MAX_DOCUMENT_BYTES.

    Raises: ConfigError if the array does not end, or does not end the file.
    """
    scanner = _Scanner()
    for chunk in text_chunks(path):
        yield from scanner.feed(chunk)
        if scanner.goes_on:
            raise ConfigError(
                f"{printable(path)}: goes on after the end of its array; write one object a line, or one array in all"
            )
    if not scanner.ended:
        raise ConfigError(f"{printable(path)}: ends inside its array; is the file complete?")


class _Scanner:
    """Finds where items end, by brackets, commas and strings; it does not parse the items."""

    def __init__(self) -> None:
        self.ended = False
        self.goes_on = False
        self._depth = 0
        self._in_string = self._escaped = False
        self._n_marks = 0  # that opened the array or ended an item
        self._held = bytearray()  # since the last of them
        self._dropped = False
        self._offset = 0  # of the chunk

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """The items that end in this chunk."""
        start = position = 0
        while position < len(chunk) and not self.ended:
            if self._escaped:
                self._escaped, position = False, position + 1
                continue
            found = (_MARK_IN_STRING if self._in_string else _MARK).search(chunk, position)
            if found is None:
                break
            position = found.end()
            if self._opens_or_ends(found.group()):
                self._hold(chunk[start : found.start()])
                yield from self._item(self._offset + found.start())
                start = position
        if self.ended:
            self.goes_on |= bool(chunk[start:].strip(_BLANK))
        else:
            self._hold(chunk[start:])
        self._offset += len(chunk)

    def _opens_or_ends(self, mark: bytes) -> bool:
        """Count a bracket, comma, quote or backslash. Returns: whether it opens the array, or ends an item."""
        if mark == b"\\":
            self._escaped = True
        elif mark == b'"':
            self._in_string = not self._in_string
        elif mark == b",":
            return self._depth == 1
        elif mark in b"[{":
            self._depth += 1
            return self._depth == 1
        else:
            self._depth -= 1
            self.ended = self._depth == 0
            return self.ended
        return False

    def _item(self, stop: int) -> Iterator[Piece]:
        """The item that ends at byte `stop` of the file; none where the array only begins, or is empty."""
        empty = self.ended and self._n_marks == 1 and not self._dropped and not self._held.strip(_BLANK)
        if self._n_marks > 0 and not empty:
            yield Piece(None if self._dropped else bytes(self._held), stop - len(self._held))
        self._n_marks += 1
        self._held.clear()
        self._dropped = False

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > files.MAX_DOCUMENT_BYTES:
            self._held.clear()
            self._dropped = True
