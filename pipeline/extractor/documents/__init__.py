"""Where text comes from: each kind of source has one file, and one line in `READERS`."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from strata_sae.pipeline.config.corpus import HubDataset, Source
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import hub, jsonl, parquet, python_docs, text
from strata_sae.pipeline.extractor.documents.document import BadRow, Document
from strata_sae.pipeline.extractor.documents.files import file_record
from strata_sae.stores.files.canonical import Json

READERS: dict[str, Callable[..., Iterator[Document | BadRow]]] = {
    "python_docs": python_docs.read,
    "text": text.read,
    "jsonl": jsonl.read,
    "parquet": parquet.read,
    "dataset": hub.read,
}
"""Kind of source -> the documents of such settings."""


def read_documents(source: Source, bad_rows: str = "error") -> Iterator[Document | BadRow]:
    """The documents of a source, one at a time, always in the same order; with `bad_rows: skip`, bad rows among them.

    Raises: ConfigError, naming the file and the line or row, for what cannot be read; and for an empty source. A
        damaged file is no bad row.
    """
    empty = True
    for document in READERS[source.kind](source):
        empty = False
        if isinstance(document, BadRow) and bad_rows == "error":
            raise document
        yield document
    if empty:
        raise ConfigError(f"corpus.sources: the {source.kind} source holds no document: {source.model_dump_json()}")


def describe(source: Source, origins: list[Path | str]) -> dict[str, Json]:
    """Provenance of a source whose documents came from these origins: no times, no folders of this machine."""
    record: dict[str, Json] = {"kind": source.kind, "weight": source.weight}
    if source.kind == "python_docs":
        return {**record, "python": platform.python_version()}
    if isinstance(source, HubDataset):
        return {**record, **hub.provenance(source, [str(origin) for origin in origins])}
    return {**record, "files": [file_record(Path(origin)) for origin in origins]}
