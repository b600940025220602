"""The number that each document has: a column that the store kept, or a CSV of the user."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.reading.document_columns import Value, kept_columns
from strata_sae.stores import ActivationStore

MOST_BYTES = 2**28
"""Of a CSV of targets."""
LARGEST = 1e70
"""Size of a number, and of one divided by a difference: fourth powers and their sums are numbers of float64."""
DOCUMENT = "document"
_TRUTHS = {"true": 1.0, "false": 0.0}
_LISTED = 8


class Target(NamedTuple):
    """A number of each document, by its number in the corpus."""

    name: str
    """As it was asked for."""
    values: Mapping[int, float]
    """Of the documents that have one; 0 or 1 where is_binary."""
    is_binary: bool
    """Whether it is a yes or no; otherwise a quantity."""
    means: str
    """In words, for the page."""

    def of(self, documents: np.ndarray) -> np.ndarray:
        """The targets of documents, float64 [D]; NaN where there is none."""
        return np.array([self.values.get(document, math.nan) for document in documents.tolist()], np.float64)


def target_of(store: ActivationStore, name: str, file: Path | None) -> Target:
    """The target of that name; of `<column>=<value>`, whether the column holds that value.

    Raises: ConfigError where there is no such column, or it is no quantity and no yes or no; StoreError where the
        store's file is damaged.
    """
    columns = _of_store(store) if file is None else _of_file(file)
    where = f"{file}" if file is not None else f"{store.path}"
    wanted: str | None = None
    column = name
    if name not in columns and "=" in name:
        column, _, wanted = name.partition("=")
    if column not in columns:
        raise ConfigError(
            f"--target: {column!a} is no column of {where}; {_told(columns)}"
            + ("" if columns or file else _how_to_get_one(column))
        )
    known = {document: value for document, value in columns[column].items() if value is not None}
    return _one_against_rest(name, column, wanted, known) if wanted is not None else _target(name, known)


def _told(columns: Mapping[str, object]) -> str:
    return f"there are: {', '.join(columns)}" if columns else "it keeps none"


def _how_to_get_one(column: str) -> str:
    return (
        f". Name a CSV with the columns document and {column} by --targets, or extract again with "
        f"`columns: [{column}]` at the source"
    )


def _one_against_rest(name: str, column: str, wanted: str, known: Mapping[int, Value]) -> Target:
    values = {document: float(_spelled(value) == wanted) for document, value in known.items()}
    if not 0 < sum(values.values()) < len(values):
        often = ", ".join(spelling for spelling, _ in Counter(map(_spelled, known.values())).most_common(_LISTED))
        raise ConfigError(f"--target: {name!a}: {column} is {wanted!a} of no document, or of all; it is: {often}")
    return Target(name, values, True, f"1 where {column} is {wanted!a}, else 0")


def _target(name: str, known: Mapping[int, Value]) -> Target:
    """A column of numbers, of truth values, or of two different texts."""
    spelled = {_spelled(value) for value in known.values()}
    if len(spelled) < 2:
        raise ConfigError(f"--target: {name!a} is the same of all {len(known):,} documents that have it")
    if all(isinstance(value, bool | int | float) for value in known.values()):
        values = {document: float(value) for document, value in known.items() if not isinstance(value, str | None)}
        low, high = min(values.values()), max(values.values())
        if max(abs(low), abs(high)) > LARGEST or high - low < 1 / LARGEST:
            raise ConfigError(
                f"--target: {name!a} holds numbers of {low:g} to {high:g}, whose powers are none: give it in another "
                "unit"
            )
        is_binary = set(values.values()) == {0.0, 1.0}
        return Target(name, values, is_binary, "0 or 1" if is_binary else "a quantity")
    if len(spelled) > 2:
        often = ", ".join(spelling for spelling, _ in Counter(map(_spelled, known.values())).most_common(_LISTED))
        raise ConfigError(
            f"--target: {name!a} holds text of {len(spelled):,} kinds ({often}); ask for one of them against the rest: "
            f"--target {name}=<kind>"
        )
    zero, one = sorted(spelled)
    values = {document: float(_spelled(value) == one) for document, value in known.items()}
    return Target(name, values, True, f"1 where it is {one!a}, 0 where it is {zero!a}")


def _spelled(value: Value) -> str:
    """A value as it is asked for: different values never have one spelling, and 3.0 of a CSV is 3."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)


def _of_store(store: ActivationStore) -> dict[str, dict[int, Value]]:
    kept = kept_columns(store)
    return {} if kept is None else {name: dict(enumerate(values)) for name, values in kept.columns.items()}


def _of_file(path: Path) -> dict[str, dict[int, Value]]:
    """The columns of a CSV with the column `document`. Raises: ConfigError saying what is wrong with it, and where."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--targets: {path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--targets: {path}: byte {error.start} is not UTF-8; save it as a CSV in UTF-8") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"--targets: {path}: is larger than {MOST_BYTES:,} bytes; give the column that is asked for")
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        header = next(rows, [])
        if DOCUMENT not in header or len(set(header)) < len(header):
            raise ConfigError(
                f"--targets: {path}: its first line is {', '.join(header)[:200]!a}; it names the columns, each once, "
                f"and `{DOCUMENT}` is one of them: the document's number in the store"
            )
        return _columns(path, header, ((rows.line_num, row) for row in rows))
    except csv.Error as error:
        raise ConfigError(f"--targets: {path}: line {rows.line_num}: is no CSV ({error})") from None


def _columns(path: Path, header: list[str], rows: Iterator[tuple[int, list[str]]]) -> dict[str, dict[int, Value]]:
    place = header.index(DOCUMENT)
    columns: dict[str, dict[int, Value]] = {name: {} for name in header if name != DOCUMENT}
    seen: set[int] = set()
    for line, row in rows:
        if not row:
            continue
        number = row[place] if len(row) == len(header) else ""
        if not (number.isascii() and number.isdecimal() and len(number) <= 18) or int(number) in seen:
            raise ConfigError(
                f"--targets: {path}: line {line}: expected {len(header)} cells, and in `{DOCUMENT}` the "
                f"number of a document that no line above has, got {','.join(row)[:80]!a}"
            )
        seen.add(int(number))
        for name, cell in zip(header, row, strict=True):
            if name != DOCUMENT:
                columns[name][int(number)] = cell
    return {name: _as_numbers(cells) for name, cells in columns.items()}


def _as_numbers(cells: dict[int, Value]) -> dict[int, Value]:
    """Cells as numbers where all of them are some, or true and false; empty ones are null."""
    texts = {document: str(cell).strip() or None for document, cell in cells.items()}
    try:
        numbers = {document: None if text is None else _number(text) for document, text in texts.items()}
    except ValueError:
        return {**texts}
    return {**numbers}


def _number(text: str) -> float | None:
    """Raises: ValueError where it is none; an infinite one is text."""
    number = _TRUTHS[text.lower()] if text.lower() in _TRUTHS else float(text)
    if math.isinf(number):
        raise ValueError(text)
    return None if math.isnan(number) else number
