"""How long units took: beside the store's content and not part of its identity, since no two machines agree."""

import uuid
from pathlib import Path
from typing import Any

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import canonical_json, read_canonical, sha256
from strata_sae.stores.files.filesystem import FileSystem, write_new
from strata_sae.stores.files.lease import Lease
from strata_sae.stores.format.arrays import STAGING, TIMINGS


def write_timing(files: FileSystem, store: Path, unit: int, n_rows: int, seconds: float) -> None:
    """Record the time one unit took; the newest attempt's record stays."""
    body = {"unit": unit, "rows": n_rows, "seconds": round(seconds, 3)}
    files.make_folder(store / STAGING)
    with Lease(files, store / STAGING / f"timing-{uuid.uuid4().hex[:12]}") as drafts:
        write_new(files, drafts / "timing", canonical_json(body | {"sha256": sha256(canonical_json(body))}))
        files.rename(drafts / "timing", store / TIMINGS / _name(unit))


def read_timing(path: Path) -> dict[str, Any]:
    """One unit's timing. Raises: StoreError if it is damaged."""
    try:
        record = read_canonical(path)
        claimed = record.pop("sha256", None)
        if claimed != sha256(canonical_json(record)):
            raise StoreError(f"{path}: its own checksum differs")
        if set(record) != {"unit", "rows", "seconds"} or path.name != _name(record["unit"]):
            raise StoreError(f"{path}: it is the record of another unit")
        if not all(type(record[key]) in (int, float) and 0 <= record[key] <= 2**53 for key in ("rows", "seconds")):
            raise StoreError(f"{path}: rows and seconds are not what can be counted")
    except StoreError as error:
        raise StoreError(f"{error}; the record is damaged (delete it: it is not needed)") from None
    return record


def total(store: Path) -> dict[str, float] | None:
    """Rows and seconds of all timed units together, and their rate; None where nothing was timed."""
    try:
        records = [read_timing(path) for path in sorted((store / TIMINGS).glob("*.json"))]
    except StoreError:
        return None
    seconds = sum(record["seconds"] for record in records)
    rows = sum(record["rows"] for record in records)
    return {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds} if seconds > 0 else None


def _name(unit: object) -> str:
    return f"{unit:06d}.json" if type(unit) is int else ""
