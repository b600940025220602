"""What plan.json and the commit records say of a file, and of the store that a derived one was made from."""

import re
from contextlib import suppress
from typing import NamedTuple

from strata_sae.stores.files.canonical import Json, as_int, as_list, as_object, as_text

KINDS = ("slice", "sibling", "shuffle")
MAX_ROWS = 2**48
UNKNOWN_BYTES = -1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CRCS = re.compile(r"([0-9a-f]{8})*")
_CRC_DIGITS = 8


class FileRecord(NamedTuple):
    """What is recorded of one file of a store."""

    path: str
    """Relative to the store."""
    n_bytes: int
    """`UNKNOWN_BYTES` where only the hash is recorded, as the MANIFEST does."""
    sha256: str
    index_crc32c: str = ""
    """Shards of version 2: crc32c of the index, 8 hex digits."""
    chunk_crc32c: str = ""
    """Shards of version 2: crc32c of every chunk that holds rows, 8 hex digits each."""

    def json(self) -> dict[str, Json]:
        """The record as it stands in plan.json and in a commit record."""
        record: dict[str, Json] = {"bytes": self.n_bytes, "sha256": self.sha256}
        if self.index_crc32c:
            record |= {"index_crc32c": self.index_crc32c, "chunk_crc32c": self.chunk_crc32c}
        return record

    def has_checksums_of(self, n_chunks: int | None) -> bool:
        """Whether the record holds the checksums of an index and of `n_chunks` chunks; None: it holds none."""
        if n_chunks is None:
            return not self.index_crc32c
        return len(self.index_crc32c) == _CRC_DIGITS and len(self.chunk_crc32c) == _CRC_DIGITS * n_chunks


def parse_file_record(path: str, value: Json) -> FileRecord:
    """The record of a file, {bytes, sha256} and perhaps {index_crc32c, chunk_crc32c}.

    Raises: ValueError naming the file if it is anything else.
    """
    with suppress(KeyError, ValueError):
        fields = as_object(value)
        n_bytes, sha256 = as_int(fields["bytes"]), as_text(fields["sha256"])
        index, chunks = as_text(fields.get("index_crc32c", "")), as_text(fields.get("chunk_crc32c", ""))
        spelt = _SHA256.fullmatch(sha256) and _CRCS.fullmatch(index) and _CRCS.fullmatch(chunks)
        if spelt and n_bytes >= 0 and len(fields) == (4 if index else 2):
            return FileRecord(path, n_bytes, sha256, index, chunks)
    raise ValueError(f"what is said of {path[:80]!a} is not what a record of a file holds")


def files_json(files: dict[str, FileRecord]) -> dict[str, Json]:
    """Records by path as they stand in plan.json and in a commit record."""
    return {path: record.json() for path, record in files.items()}


class Lineage(NamedTuple):
    """Where a derived store comes from."""

    kind: str
    """One of `KINDS`."""
    store_id: str
    plan_id: str
    order_id: str
    """Names the order of batches that it shares with its source; empty if it has one of its own."""
    rows: tuple[int, int]
    """The source's rows [start, stop)."""

    def json(self) -> dict[str, Json]:
        """The lineage as it stands in plan.json."""
        return {**self._asdict(), "rows": list(self.rows)}


def parse_lineage(value: Json) -> Lineage:
    """The lineage in plan.json. Raises: KeyError, ValueError if it is not one."""
    fields = as_object(value)
    if set(fields) != set(Lineage._fields):
        raise ValueError("lineage has other keys than it must")
    kind, store_id, plan_id, order_id = (as_text(fields[key]) for key in Lineage._fields[:-1])
    return Lineage(kind, store_id, plan_id, order_id, parse_rows(fields["rows"]))


def parse_rows(value: Json) -> tuple[int, int]:
    """Rows [start, stop). Raises: ValueError if the value is no list of two numbers of rows."""
    rows = [as_int(row) for row in as_list(value)]
    if len(rows) != 2 or not all(0 <= row <= MAX_ROWS for row in rows):
        raise ValueError(f"{str(rows)[:40]} is no range of rows")
    return rows[0], rows[1]
