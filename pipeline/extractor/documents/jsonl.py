"""JSON lines, of which each is one document; or one JSON array, of which each item is."""

from collections.abc import Iterator
from pathlib import Path

from strata_sae.pipeline.config.corpus import JsonLines
from strata_sae.pipeline.extractor.documents.document import BadRow, Document, Place
from strata_sae.pipeline.extractor.documents.files import Piece, decoded, pieces, printable, too_long
from strata_sae.pipeline.extractor.documents.finding import check_is_no_table, matching
from strata_sae.pipeline.extractor.documents.json_array import array_items, is_array
from strata_sae.pipeline.extractor.documents.rows import from_row
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import parse_json


def read(source: JsonLines) -> Iterator[Document | BadRow]:
    """Every line that is not blank, counted from 1; every item of an array, counted from 0."""
    for path in matching(source.paths):
        check_is_no_table(path)
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
