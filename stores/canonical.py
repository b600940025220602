"""JSON whose bytes are a function of its value, and the hashes that everything in a store is named by."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from stores.errors import StoreError

MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_OBJECTS = 2**20


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, one newline at the end; floats print exactly. NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def parse_canonical(data: bytes, where: Path) -> dict[str, Any]:
    """The object in `data`, which must be exactly what `canonical_json` writes: no byte is left unaccounted for.

    Raises: StoreError if it is not.
    """
    if len(data) > MAX_JSON_BYTES:
        raise StoreError(f"{where}: more than the {MAX_JSON_BYTES} bytes a store's JSON may have")
    if data.count(b"{") + data.count(b"[") > MAX_JSON_OBJECTS:
        raise StoreError(f"{where}: more than the {MAX_JSON_OBJECTS} objects a store's JSON may have")
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
        return parse_canonical(read_plain(path), path)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None


def read_plain(path: Path) -> bytes:
    """Bytes of a small plain file, and never more than a store's JSON may have: links, pipes and bombs are refused.

    Raises: FileNotFoundError if there is none; StoreError if it is anything but a readable plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{path}: not a plain file")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_JSON_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error})") from None


def is_file_records(value: Any) -> bool:
    """Whether plain data is what a plan or commit says of its files: path -> {bytes, sha256}."""
    return isinstance(value, dict) and all(
        isinstance(record, dict)
        and set(record) == {"bytes", "sha256"}
        and type(record["bytes"]) is int
        and record["bytes"] >= 0
        and isinstance(record["sha256"], str)
        for record in value.values()
    )


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
