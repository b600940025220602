"""JSON whose bytes are a function of its value, and the hashes that everything in a store is named by."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, TypeAlias

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.os_errors import explain

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What JSON can hold."""

# A store's JSON may have no more than these: a few bytes of it can take a hundred in memory.
MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_OBJECTS = 2**20
MAX_JSON_KEYS = 2**20
MAX_JSON_VALUES = 2**22
_MAX_DIGITS = 20


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, one newline at the end; floats print exactly. NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def parse_canonical(data: bytes, where: Path | str) -> dict[str, Any]:
    """The object in `data`, which must be exactly what `canonical_json` writes: no byte is left unaccounted for.

    Raises: StoreError if it is not.
    """
    if len(data) > MAX_JSON_BYTES:
        raise StoreError(f"{where}: more than the {MAX_JSON_BYTES} bytes a store's JSON may have")
    counts = {
        f"{MAX_JSON_OBJECTS} objects": data.count(b"{") + data.count(b"[") > MAX_JSON_OBJECTS,
        f"{MAX_JSON_KEYS} keys": data.count(b'":') > MAX_JSON_KEYS,
        f"{MAX_JSON_VALUES} values": data.count(b",") > MAX_JSON_VALUES,
    }
    if too_many := [limit for limit, exceeded in counts.items() if exceeded]:
        raise StoreError(f"{where}: more than the {too_many[0]} a store's JSON may have")
    try:
        value = json.loads(data, parse_int=_integer)
        same = isinstance(value, dict) and canonical_json(value) == data
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not readable as JSON ({error}); the file is damaged, fetch it again") from None
    if not same:
        raise StoreError(f"{where}: not in canonical form; the file is damaged or was edited, fetch it again")
    return dict(value)


def parse_json(data: bytes, where: Path | str, limit_bytes: int = MAX_JSON_BYTES, *, constants: bool = False) -> Any:
    """Any JSON value, from anybody's file: UTF-8, no key twice, no NaN, no number of thousands of digits.

    `constants`: take Infinity and NaN, which Python's writer puts into JSON and other programs rely on.

    Raises: StoreError naming `where` if it is none, or larger than `limit_bytes`; never anything else.
    """
    if len(data) > limit_bytes:
        raise StoreError(f"{where}: more than the {limit_bytes} bytes that are read as JSON")
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_int=_integer,
            parse_constant=float if constants else _no_constant,
            object_pairs_hook=_no_key_twice,
        )
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not readable as JSON ({error})") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key[:40]!a} twice")
        value[key] = item
    return value


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:  # no float could hold it
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def read_canonical(path: Path) -> dict[str, Any]:
    """Parse a canonical JSON file. Raises: StoreError if it is missing, too large or damaged."""
    try:
        return parse_canonical(read_plain(path), path)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: cannot be read ({explain(error)})") from None


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
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({explain(error)})") from None
    except ValueError as error:  # a name that no file can have
        raise StoreError(f"{path}: cannot be read ({error})") from None


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
