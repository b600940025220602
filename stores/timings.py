"""How long units took: beside the store's content and not part of its identity, since no two machines agree."""

import json
import uuid
from pathlib import Path
from typing import Any

from stores.canonical import canonical_json, parse_canonical, sha256
from stores.errors import StoreError
from stores.filesystem import FileSystem, write_new
from stores.format import STAGING, TIMINGS
from stores.lease import Lease


def write_timing(files: FileSystem, store: Path, unit: int, n_rows: int, seconds: float) -> None:
    """Record the time one unit took; the newest attempt's record stays."""
    body = {"unit": unit, "rows": n_rows, "seconds": round(seconds, 3)}
    files.make_folder(store / STAGING)
    with Lease(files, store / STAGING / f"timing-{uuid.uuid4().hex[:12]}") as drafts:
        write_new(files, drafts / "timing", canonical_json(body | {"sha256": sha256(canonical_json(body))}))
        files.rename(drafts / "timing", store / TIMINGS / f"{unit:06d}.json")


def read_timing(path: Path) -> dict[str, Any]:
    """One unit's timing. Raises: StoreError if it is damaged."""
    try:
        record = parse_canonical(path.read_bytes(), path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    claimed = record.pop("sha256", None)
    if claimed != sha256(canonical_json(record)) or set(record) != {"unit", "rows", "seconds"}:
        raise StoreError(f"{path}: its own checksum differs; the record is damaged (delete it: it is not needed)")
    return record


def total(store: Path) -> dict[str, float] | None:
    """Rows and seconds of all timed units together, and their rate; None where nothing was timed."""
    try:
        records = [read_timing(path) for path in sorted((store / TIMINGS).glob("*.json"))]
    except (StoreError, json.JSONDecodeError):
        return None
    seconds = sum(record["seconds"] for record in records)
    rows = sum(record["rows"] for record in records)
    return {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds} if seconds > 0 else None
