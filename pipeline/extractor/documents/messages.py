"""The messages of a chat, whole: every field is handed to the template, or refused by its name."""

from typing import Any

from strata_sae.pipeline.extractor.documents.document import BadRow, Place, half_of_a_pair, shown


def messages_of(value: Any, column: str, place: Place) -> list[dict[str, Any]]:
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


def without_nulls(value: Any) -> Any:
    """The value without the null fields of its objects, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    """A mapping of equally long lists, which some tables keep instead of a list of mappings, as that list."""
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        return value
    columns = list(value.values())
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return value
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]


def _message(value: Any, where: str, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise BadRow(
            place, f"{where}: expected a mapping with the keys role and content, got {shown(value)}{_keys(value)}"
        )
    message = {key: item for key, item in value.items() if item is not None}
    if message.keys() == {"role"}:
        found = "got NoneType None" if "content" in value else f"it has only {', '.join(map(repr, value))}"
        raise BadRow(place, f"{where}: content: expected text, {found}")
    _check_content(message.get("content", ""), f"{where}: content", place)
    for key, item in message.items():
        _check_strings(item, f"{where}: {key}", place)
    return message


def _keys(value: Any) -> str:
    if isinstance(value, dict) and {"from", "value"} <= value.keys():
        return "; these are ShareGPT's keys: rename `from` to role (human: user, gpt: assistant) and `value` to content"
    return ""


def _check_content(content: Any, where: str, place: Place) -> None:
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
                place,
                f"{where}: part {number} is of type {part.get('type')!r}; only {{type: text, text: ...}} is read",
            )


def _check_strings(value: Any, where: str, place: Place) -> None:
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
