"""One document, and a row that is none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from strata_sae.pipeline.errors import ConfigError


class Place(NamedTuple):
    """Where a row was read."""

    where: str
    """For errors: `data/corpus.jsonl:17`."""
    file: str
    """For records, which name no folder of this machine: `corpus.jsonl`."""
    row: int


class BadRow(ConfigError):
    """A row that is no document: raised, or handed on in the document's stead where such rows are left out."""

    def __init__(self, place: Place, why: str) -> None:
        why = one_line(why)
        super().__init__(
            f"{place.where}: {why}; mend or remove it, or set corpus.bad_rows: skip, which leaves such rows out"
        )
        self.place = place
        self.why = why


@dataclass(frozen=True)
class Document:
    """Text, the messages of a chat, or token ids: exactly one of the three is set."""

    where: str
    """Where it was read, for errors: `data/corpus.jsonl:17`."""
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    """`{role, content, ...}`, whole, in the order of the conversation."""
    token_ids: list[int] | None = None
    beside: dict[str, Any] | None = None
    """The other columns of a chat's row, but for nulls: a template may read some of them."""
    origin: Path | str | None = None
    """The file, or the commit of a hub dataset, it came from, for provenance."""
    file: str = ""
    row: int = 0

    @property
    def place(self) -> Place:
        """Where it was read."""
        return Place(self.where, self.file, self.row)


def one_line(text: object) -> str:
    """What another's error says, which may be many lines, in one."""
    return " ".join(str(text).split())


def shown(value: Any) -> str:
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
