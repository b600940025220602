"""One document, checked as it is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Document:
    """Text, or the messages of a chat: exactly one of the two is set."""

    where: str
    """Where it was read, for errors: `data/corpus.jsonl:17`."""
    text: str | None = None
    messages: list[dict[str, str]] | None = None
    """`{role, content}`, in the order of the conversation."""
    origin: Path | str | None = None
    """The file, or the commit of a hub dataset, it came from, for provenance."""


def from_row(row: dict[str, Any], column: str, chat: bool, where: str, origin: Path | str | None) -> Document:
    """The document in one column of a row.

    Raises: ConfigError where the column is missing or holds something else than text (or messages, for `chat`).
    """
    if column not in row:
        raise ConfigError(
            f"{where}: no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}: set the source's `column`"
        )
    value = row[column]
    if chat:
        return Document(where, messages=_messages(value, column, where), origin=origin)
    return Document(where, text=checked_text(value, f"{where}: column {column!r}"), origin=origin)


def checked_text(value: Any, where: str) -> str:
    """`value`, if it is a string that UTF-8 can hold. Raises: ConfigError."""
    if not isinstance(value, str):
        hint = "; messages need `chat: true`" if isinstance(value, list) else ""
        raise ConfigError(f"{where}: expected text, got {_shown(value)}{hint}; mend or remove this row")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{where}: half of a surrogate pair at character {error.start} is not text; mend or remove this row"
        ) from error
    return value


def _messages(value: Any, column: str, where: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        hint = "; plain text needs `chat: false`" if isinstance(value, str) else ""
        raise ConfigError(
            f"{where}: column {column!r}: expected a list of {{role, content}} messages, got {_shown(value)}{hint}"
        )
    messages = []
    for number, message in enumerate(value):
        place = f"{where}: column {column!r}: message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ConfigError(f"{place}: expected a mapping with the keys role and content, got {_shown(message)}")
        messages.append({key: checked_text(message[key], f"{place}: {key}") for key in ("role", "content")})
    return messages


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
