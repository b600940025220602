"""One document, and how the row of a table or an object of a JSON file becomes one, or is refused."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple, TypeAlias

from strata_sae.pipeline.config.corpus import HubDataset, JsonLines, Parquet
from strata_sae.pipeline.errors import ConfigError, one_line
from strata_sae.pipeline.reading.document_columns import Value

Cell: TypeAlias = bool | int | float | str | bytes | date | Sequence["Cell"] | Mapping[str, "Cell"] | None
"""What a row holds in a column: JSON, or what tables know besides."""

RowSource = JsonLines | Parquet | HubDataset
LONGEST_KEPT = 1000
"""Characters of a text that is kept beside a document."""
LARGEST_KEPT = 2.0**53
"""Size of a number that is kept: up to here, integers are exact as floating-point numbers."""


class Place(NamedTuple):
    """Where a row was read."""

    where: str
    """For errors: `data/corpus.jsonl:17`."""
    file: str = ""
    """For records, which name no folder of this machine: `corpus.jsonl`."""
    row: int = 0


class BadRow(ConfigError):
    """A row that is no document: raised, or returned in place of a document where such rows are left out."""

    def __init__(self, place: Place, why: str) -> None:
        why = one_line(why)
        super().__init__(
            f"{place.where}: {why}; mend or remove it, or set corpus.bad_rows: skip, which leaves such rows out"
        )
        self.place = place
        self.why = why

    def __reduce__(self) -> "tuple[type[BadRow], tuple[Place, str]]":
        return BadRow, (self.place, self.why)


@dataclass(frozen=True)
class Document:
    """Text, the messages of a chat, or token ids: exactly one of the three is set."""

    place: Place
    text: str | None = None
    messages: list[dict[str, Cell]] | None = None
    """`{role, content, ...}`, whole, in the order of the conversation."""
    token_ids: list[int] | None = None
    beside: dict[str, Cell] | None = None
    """The other columns of a chat's row, but for nulls: a template may read some of them."""
    drops_system: bool | None = None
    """Of a chat of a source with `system_drop_probability`: whether it is stored without its system prompt."""
    origin: Path | str | None = None
    """The file, or the commit of a hub dataset, it came from, for provenance."""
    kept: dict[str, Value] | None = None
    """What its source's `columns` hold for it."""


def shown(value: Cell) -> str:
    """Type and value, cut to a length that fits an error."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def half_of_a_pair(text: str) -> int | None:
    """The first character of a string that UTF-8 cannot hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def from_row(row: Cell, source: RowSource, place: Place, origin: Path | str | None) -> Document | BadRow:
    """The document in the source's column of a row, or what is wrong with the row."""
    try:
        return _document(row, source, place, origin)
    except BadRow as bad:
        return bad
    except RecursionError:
        return BadRow(place, "is nested too deeply")


def _document(row: Cell, source: RowSource, place: Place, origin: Path | str | None) -> Document:
    if not isinstance(row, dict):
        raise BadRow(place, f"expected a JSON object, got {shown(row)}")
    column = source.column
    if column not in row:
        raise BadRow(place, no_column(column, row))
    value, kept = row[column], kept_of(row, source.columns, place) if source.columns else None
    if source.chat:
        # A table gives every message the fields of all messages; a field that a message lacks is null.
        columnar = not isinstance(source, JsonLines)
        whole = {name: without_nulls(item) if columnar else item for name, item in row.items() if item is not None}
        messages = messages_of(whole.pop(column, None), column, place)
        return Document(place, messages=messages, beside=whole, origin=origin, kept=kept)
    if source.tokens:
        return Document(place, token_ids=_token_ids(value, column, place), origin=origin, kept=kept)
    return Document(place, text=_text(value, column, place), origin=origin, kept=kept)


def kept_of(row: Mapping[str, Cell], columns: Sequence[str], place: Place) -> dict[str, Value]:
    """What is kept of a row beside its document; a column that it lacks is null, as is a number that is NaN.

    Raises: BadRow for what is no number, truth value or short text.
    """
    return {name: _kept(row.get(name), name, place) for name in columns}


def _kept(value: Cell, name: str, place: Place) -> Value:
    if isinstance(value, date):
        value = value.isoformat()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str):
        half = half_of_a_pair(value)
        if len(value) <= LONGEST_KEPT and half is None:
            return value
        why = f"half of a surrogate pair at character {half}" if half is not None else f"{len(value):,} characters"
        raise BadRow(place, f"column {name!r}: {why}; what is kept has at most {LONGEST_KEPT:,}, all of them text")
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= LARGEST_KEPT):
        return value
    raise BadRow(place, f"column {name!r}: expected a number, a truth value or text to keep, got {shown(value)}")


def check_columns(where: str, columns: Sequence[str], there: Sequence[str]) -> None:
    """Raises: ConfigError naming the first of a table's `columns` that it does not have."""
    for name in columns:
        if name not in there:
            raise ConfigError(
                f"{where}: columns: no column {name!r}; it has {', '.join(map(repr, there))}: correct the name"
            )


def no_column(column: str, row: Mapping[str, Cell]) -> str:
    """What is wrong with a row without its column: which columns it has, and which setting a likely one needs."""
    likely = ""
    for name, value in row.items():
        if needs := _needs(value):
            likely = f" (`column: {name}` with `{needs}`, perhaps)"
            break
    return f"no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}: set the source's `column`{likely}"


def _needs(value: Cell) -> str:
    """The setting that a column of such values needs, if there is one."""
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return "tokens: true"
        if all(isinstance(item, dict) and item.keys() & {"role", "from"} for item in value):
            return "chat: true"
    return ""


def _text(value: Cell, column: str, place: Place) -> str:
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


def _hint(value: Cell) -> str:
    if needs := _needs(value):
        return f"; {'messages' if needs == 'chat: true' else 'token ids'} need `{needs}`"
    return "; its strings must be joined into one" if isinstance(value, list) else ""


def _token_ids(value: Cell, column: str, place: Place) -> list[int]:
    if not isinstance(value, list):
        hint = "; text needs `tokens: false`" if isinstance(value, str) else ""
        raise BadRow(place, f"column {column!r}: expected a list of token ids, got {shown(value)}{hint}")
    for number, item in enumerate(value):
        if type(item) is not int:
            raise BadRow(place, f"column {column!r}: expected integers, got {shown(item)} at place {number}")
    return value


def messages_of(value: Cell, column: str, place: Place) -> list[dict[str, Cell]]:
    """The messages in a column, each without its null fields and otherwise as it is.

    Raises: BadRow naming message and field.
    """
    messages = _listed(value)
    if not isinstance(messages, list) or not messages:
        hint = "; plain text needs `chat: false`" if isinstance(value, str) else ""
        raise BadRow(
            place, f"column {column!r}: expected a list of {{role, content}} messages, got {shown(value)}{hint}"
        )
    return [_message(item, f"column {column!r}: message {number}", place) for number, item in enumerate(messages)]


def without_nulls(value: Cell) -> Cell:
    """The value without the null fields of its objects, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _listed(value: Cell) -> Cell:
    """A mapping of equally long lists, as some tables hold messages, as a list of mappings; other values unchanged."""
    if not isinstance(value, dict) or not any(keys <= value.keys() for keys in ({"role", "content"}, _SHAREGPT)):
        return value
    columns = list(value.values())
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return value
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]


_SHAREGPT = {"from", "value"}
"""The keys of ShareGPT, from which datasets of chats took theirs: who speaks, and what."""
_SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
_SPEAKERS |= {role: role for role in ("system", "user", "assistant", "tool")}


def _of_sharegpt(value: Cell, where: str, place: Place) -> Cell:
    """A message with ShareGPT's keys as one with `role` and `content`; any other value unchanged."""
    if not isinstance(value, dict) or "role" in value or not value.keys() >= _SHAREGPT:
        return value
    speaker = value["from"]
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise BadRow(place, f"{where}: from: {shown(speaker)} is no speaker that is known: {', '.join(_SPEAKERS)}")
    rest = {key: item for key, item in value.items() if key not in _SHAREGPT}
    return {"role": _SPEAKERS[speaker], "content": value["value"], **rest}


def _message(value: Cell, where: str, place: Place) -> dict[str, Cell]:
    value = _of_sharegpt(value, where, place)
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise BadRow(
            place, f"{where}: expected a mapping with the keys role and content (or from and value), got {shown(value)}"
        )
    message = {key: item for key, item in value.items() if item is not None}
    if message.keys() == {"role"}:
        found = "got NoneType None" if "content" in value else f"it has only {', '.join(map(repr, value))}"
        raise BadRow(place, f"{where}: content: expected text, {found}")
    _check_content(message.get("content", ""), f"{where}: content", place)
    for key, item in message.items():
        _check_strings(item, f"{where}: {key}", place)
    return message


def _check_content(content: Cell, where: str, place: Place) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise BadRow(place, f"{where}: expected text or a list of parts, got {shown(content)}")
    for number, part in enumerate(content):
        if not isinstance(part, dict):
            raise BadRow(
                place, f"{where}: part {number}: expected a mapping like {{type: text, text: ...}}, got {shown(part)}"
            )
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRow(
                place, f"{where}: part {number} is of type {part.get('type')!r}; only {{type: text, text: ...}} is read"
            )


def _check_strings(value: Cell, where: str, place: Place) -> None:
    if isinstance(value, str):
        if (half := half_of_a_pair(value)) is not None:
            raise BadRow(place, f"{where}: half of a surrogate pair at character {half} is not text")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key, where, place)
            _check_strings(item, f"{where}: {key}", place)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item, where, place)
