"""What hostile stores are made with: changing a file of a store, and every checksum with it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.hashing import file_sha256, sha256

SITE = "blocks.1.hook_resid_post"
ARRAY = f"activations.zarr/sites/{SITE}/values"
SHARD = f"{ARRAY}/c/0/0"
Edit = Callable[[dict[str, Any]], Any]
Case = Callable[[Path], None]
COMMIT = "commits/000/000000.json"
TOKENS = "extras/token_bytes.json"


def rewrite(path: Path, edit: Edit) -> None:
    value = json.loads(path.read_bytes())
    edit(value)
    path.write_bytes(canonical_json(value))


def rewrite_plan(store: Path, edit: Edit) -> None:
    """Change the plan, and make commit records and MANIFEST agree with it, as an attacker would."""
    rewrite(store / "plan.json", edit)
    plan_id = file_sha256(store / "plan.json")
    for commit in (store / "commits").rglob("*.json"):
        rewrite_commit(store, str(commit.relative_to(store)), lambda record: record.update(plan_id=plan_id))
    rewrite(store / "MANIFEST.json", lambda value: value.update(plan_id=plan_id))


def rewrite_commit(store: Path, name: str, edit: Edit) -> None:
    """Change a commit record with its own checksum and the MANIFEST's."""
    path = store / name
    record = json.loads(path.read_bytes())
    del record["sha256"]
    edit(record)
    path.write_bytes(canonical_json(record | {"sha256": sha256(canonical_json(record))}))
    rewrite(store / "MANIFEST.json", lambda value: value["files"].update({name: file_sha256(path)}))


def rewrite_shard(store: Path, change: Callable[[bytes, np.ndarray], tuple[bytes, np.ndarray]]) -> None:
    """Change the bytes and the index of the first shard of `values`; every checksum and hash is made to fit."""
    data = (store / SHARD).read_bytes()
    plan = json.loads((store / "plan.json").read_bytes())
    n_bytes = 16 * (plan["rows_per_unit"] // plan["rows_per_chunk"])
    index = np.frombuffer(data[-n_bytes - 4 : -4], "<u8").reshape(-1, 2).copy()
    body, index = change(data[: -n_bytes - 4], index)
    tail = index.astype("<u8").tobytes()
    data = body + tail + struct.pack("<I", google_crc32c.value(tail))
    (store / SHARD).write_bytes(data)
    ends = [int(offset) + int(size) for offset, size in index.tolist() if offset != 2**64 - 1]
    crcs = [data[end - 4 : end] if 4 <= end <= len(body) else b"\0\0\0\0" for end in ends]
    record = {
        "bytes": len(data),
        "sha256": sha256(data),
        "index_crc32c": f"{google_crc32c.value(tail):08x}",
        "chunk_crc32c": "".join(crc[::-1].hex() for crc in crcs),
    }
    rewrite_commit(store, COMMIT, lambda value: value["files"].update({SHARD: record}))
