"""What a store keeps of each document beside its rows: the columns of the corpus that its source names."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from strata_sae.stores import ActivationStore, StoreError
from strata_sae.stores.files.canonical import Json, canonical_json, parse_json

DOCUMENT_COLUMNS = "document_columns.json"
"""Among the extras of a store."""
MAX_BYTES = 2**30
Value: TypeAlias = bool | int | float | str | None
_FORMAT = "strata document columns"


class DocumentColumns(NamedTuple):
    """The columns, by name; each has a value for every document, by the document's number in the corpus."""

    columns: Mapping[str, list[Value]]

    @property
    def n_documents(self) -> int:
        """Documents (count)."""
        return max(map(len, self.columns.values()), default=0)

    def to_bytes(self) -> bytes:
        """The file."""
        columns: dict[str, Json] = {name: [*values] for name, values in self.columns.items()}
        return canonical_json({"format": _FORMAT, "version": 1, "n_documents": self.n_documents, "columns": columns})


def kept_columns(store: ActivationStore) -> DocumentColumns | None:
    """The columns that a store keeps; None: it keeps none. Raises: StoreError if the file is damaged."""
    if DOCUMENT_COLUMNS not in store.extras:
        return None
    return columns_of_bytes(store.extra(DOCUMENT_COLUMNS), f"{store.path}/extras/{DOCUMENT_COLUMNS}")


def columns_of_bytes(data: bytes, where: str) -> DocumentColumns:
    """Read back what `to_bytes` made. Raises: StoreError if it is anything else."""
    value = parse_json(data, where, MAX_BYTES)
    if not isinstance(value, dict) or (value.get("format"), value.get("version")) != (_FORMAT, 1):
        raise StoreError(f"{where}: no columns of documents of version 1; fetch the store again")
    named, n_documents = value.get("columns"), value.get("n_documents")
    columns: dict[str, list[Value]] = {}
    for name, values in named.items() if isinstance(named, dict) else ():
        if not isinstance(values, list) or len(values) != n_documents:
            raise StoreError(f"{where}: column {name[:80]!a} has not one value for each document; fetch it again")
        columns[name] = [one for one in values if one is None or isinstance(one, bool | int | float | str)]
        if len(columns[name]) != n_documents:
            raise StoreError(f"{where}: column {name[:80]!a} holds what is no number and no text; fetch it again")
    if not columns:
        raise StoreError(f"{where}: holds no column; fetch the store again")
    return DocumentColumns(columns)
