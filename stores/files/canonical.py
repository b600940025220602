"""JSON whose bytes are a function of its value, read with limits, and the values in it by their type."""

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from strata_sae.stores.errors import StoreError, explain

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
"""What JSON can hold."""

# A store's JSON may have no more than these: a few bytes of it can take a hundred in memory.
MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_OBJECTS = 2**20
MAX_JSON_KEYS = 2**20
MAX_JSON_VALUES = 2**22
_MAX_DIGITS = 20


def canonical_json(value: Json | Mapping[str, Json] | Sequence[Json]) -> bytes:
    """The bytes of a value: sorted keys, no spaces, one newline at the end; floats print exactly. NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def parse_canonical(data: bytes, where: Path | str) -> dict[str, Json]:
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


def parse_json(data: bytes, where: Path | str, limit_bytes: int = MAX_JSON_BYTES, *, constants: bool = False) -> Json:
    """Any JSON value, from anybody's file: UTF-8, no key twice, no NaN, no number of thousands of digits.

    `constants`: take Infinity and NaN, which Python's writer puts into JSON and other programs rely on.

    Raises: StoreError naming `where` if it is none, or larger than `limit_bytes`; never anything else.
    """
    if len(data) > limit_bytes:
        raise StoreError(f"{where}: more than the {limit_bytes} bytes that are read as JSON")
    try:
        value: Json = json.loads(
            data.decode("utf-8"),
            parse_int=_integer,
            parse_constant=float if constants else _no_constant,
            object_pairs_hook=_no_key_twice,
        )
        return value
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not readable as JSON ({error})") from None


def _no_key_twice(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value: dict[str, Json] = {}
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


def read_canonical(path: Path) -> dict[str, Json]:
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


def as_object(value: Json) -> dict[str, Json]:
    """The value, which is an object. Raises: ValueError if it is something else."""
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)} stands where an object must")
    return value


def as_list(value: Json) -> list[Json]:
    """The value, which is a list. Raises: ValueError if it is something else."""
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)} stands where a list must")
    return value


def as_text(value: Json) -> str:
    """The value, which is text. Raises: ValueError if it is something else."""
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} stands where text must")
    return value


def as_int(value: Json) -> int:
    """The value, which is an integer: neither true nor 1.0. Raises: ValueError if it is something else."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{_shown(value)} stands where an integer must")
    return value


def as_number(value: Json) -> float:
    """The value, which is a number. Raises: ValueError if it is something else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{_shown(value)} stands where a number must")
    return value


def _shown(value: Json) -> str:
    return json.dumps(value)[:40]
