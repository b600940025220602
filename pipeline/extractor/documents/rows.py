"""A row of a table, or an object of a JSON file, as a document: the one column that holds it, checked."""

from pathlib import Path
from typing import Any

from strata_sae.pipeline.config.corpus import HubDataset, JsonLines, Parquet
from strata_sae.pipeline.extractor.documents.document import BadRow, Document, Place, half_of_a_pair, shown
from strata_sae.pipeline.extractor.documents.messages import messages_of, without_nulls

RowSource = JsonLines | Parquet | HubDataset


def from_row(row: Any, source: RowSource, place: Place, origin: Path | str | None) -> Document | BadRow:
    """The document in the source's column of a row, or what is wrong with the row."""
    try:
        return _document(row, source, place, origin)
    except BadRow as bad:
        return bad
    except RecursionError:
        return BadRow(place, "is nested too deeply")


def _document(row: Any, source: RowSource, place: Place, origin: Path | str | None) -> Document:
    if not isinstance(row, dict):
        raise BadRow(place, f"expected a JSON object, got {shown(row)}")
    column = source.column
    if column not in row:
        raise BadRow(place, no_column(column, row))
    value = row[column]
    if source.chat:
        # Tables give every message the keys of all: what a message lacks is null there.
        columnar = not isinstance(source, JsonLines)
        whole = {name: without_nulls(item) if columnar else item for name, item in row.items() if item is not None}
        messages = messages_of(whole.pop(column, None), column, place)
        return Document(place.where, messages=messages, beside=whole, origin=origin, file=place.file, row=place.row)
    if source.tokens:
        return Document(
            place.where, token_ids=_token_ids(value, column, place), origin=origin, file=place.file, row=place.row
        )
    text = _text(value, column, place)
    return Document(place.where, text=text, origin=origin, file=place.file, row=place.row)


def no_column(column: str, row: dict[str, Any]) -> str:
    """What to say of a row without its column: the columns it has, and what a likely one needs."""
    likely = ""
    for name, value in row.items():
        if needs := _needs(value):
            likely = f" (`column: {name}` with `{needs}`, perhaps)"
            break
    return f"no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}: set the source's `column`{likely}"


def _needs(value: Any) -> str:
    """The switch for a column of such values, if there is one."""
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return "tokens: true"
        if all(isinstance(item, dict) and item.keys() & {"role", "from"} for item in value):
            return "chat: true"
    return ""


def _text(value: Any, column: str, place: Place) -> str:
    if isinstance(value, bytes):  # some writers of parquet mark no column as UTF-8
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRow(
                place, f"column {column!r}: byte {error.start} (0x{value[error.start]:02x}) is not UTF-8"
            ) from None
    if not isinstance(value, str):
        raise BadRow(place, f"column {column!r}: expected text, got {shown(value)}{_hint(value)}")
    if (half := half_of_a_pair(value)) is not None:
        raise BadRow(place, f"column {column!r}: half of a surrogate pair at character {half} is not text")
    return value


def _hint(value: Any) -> str:
    if needs := _needs(value):
        return f"; {'messages' if needs == 'chat: true' else 'token ids'} need `{needs}`"
    return "; its strings must be joined into one" if isinstance(value, list) else ""


def _token_ids(value: Any, column: str, place: Place) -> list[int]:
    if not isinstance(value, list):
        hint = "; text needs `tokens: false`" if isinstance(value, str) else ""
        raise BadRow(place, f"column {column!r}: expected a list of token ids, got {shown(value)}{hint}")
    for number, item in enumerate(value):
        if type(item) is not int:
            raise BadRow(place, f"column {column!r}: expected integers, got {shown(item)} at place {number}")
    return value
