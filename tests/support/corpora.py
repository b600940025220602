"""The same rows as a corpus of every kind of source whose rows have columns."""

import json
from pathlib import Path
from typing import Any

from strata_sae.pipeline.config.corpus import SOURCES, CorpusSettings
from strata_sae.pipeline.extractor.sources import Stream
from strata_sae.pipeline.extractor.tokens import DocumentTokenizer, TokenisedDocument

ROW_KINDS = sorted(kind for kind, settings in SOURCES.items() if "column" in settings.model_fields)


def write_rows(folder: Path, kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write rows for a source of this kind. Returns: the source, without its column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        lines = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
        (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
        return {"kind": kind, "paths": [str(folder / "rows.jsonl")]}
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    if kind == "parquet":
        return {"kind": kind, "paths": [str(folder / "rows.parquet")]}
    assert kind == "dataset", f"rows of a {kind} source: say here how they are written"
    return {"kind": kind, "path": str(folder)}


def drain(source: dict[str, Any], tokenizer: Any, **corpus: Any) -> tuple[list[TokenisedDocument], dict[str, Any]]:
    """Every document of a source, and the source's provenance."""
    documents, stream = drained(source, tokenizer, **corpus)
    return documents, stream.provenance()


def drained(source: dict[str, Any], tokenizer: Any, **corpus: Any) -> tuple[list[TokenisedDocument], Stream]:
    """Every document of a source, and the stream that it came from, at its end."""
    plain = {"n_tokens": None, "prepend_bos": False, "context_length": 64}
    settings = CorpusSettings.model_validate({"sources": [source], **plain, **corpus})
    stream = Stream(settings, 0, DocumentTokenizer(tokenizer, settings))
    documents = []
    while (document := stream.next()) is not None:
        stream.draw(document, len(document.token_id), len(documents))
        documents.append(document)
    return documents, stream


def lines(source: dict[str, Any], tokenizer: Any, **corpus: Any) -> list[str]:
    """What `plan` says of a source beside its counts."""
    return list(drained(source, tokenizer, **corpus)[1].lines())
