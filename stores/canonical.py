"""JSON whose bytes are a function of its value, and the hashes that everything in a store is named by."""

import hashlib
import json
from pathlib import Path
from typing import Any

from stores.errors import StoreError

MAX_JSON_BYTES = 64 * 2**20


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, one newline at the end; floats print exactly. NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def parse_canonical(data: bytes, where: Path) -> dict[str, Any]:
    """The object in `data`, which must be exactly what `canonical_json` writes: no byte is left unaccounted for.

    Raises: StoreError if it is not.
    """
    if len(data) > MAX_JSON_BYTES:
        raise StoreError(f"{where}: {len(data)} bytes, more than the {MAX_JSON_BYTES} a store's JSON may have")
    try:
        value = json.loads(data)
        same = isinstance(value, dict) and canonical_json(value) == data
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not readable as JSON ({error}); the file is damaged, fetch it again") from None
    if not same:
        raise StoreError(f"{where}: not in canonical form; the file is damaged or was edited, fetch it again")
    return dict(value)


def read_canonical(path: Path) -> dict[str, Any]:
    """Parse a canonical JSON file. Raises: StoreError if it is missing, too large or damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_canonical(data, path)


def sha256(data: bytes) -> str:
    """Hash of bytes in memory, in hex."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, read in pieces of 4 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(4 * 2**20):
            digest.update(piece)
    return digest.hexdigest()
