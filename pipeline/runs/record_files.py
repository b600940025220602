"""Records as files: written with a hash of themselves, and read only if it matches and every key is as it must be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic import JsonValue, ValidationError

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.migration import VERSION, JsonObject, migrated
from strata_sae.pipeline.runs.records import Record
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import parse_json
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.hashing import sha256

R = TypeVar("R", bound=Record)

SELF = "self_sha256"
"""Key of a record's own hash: `fingerprint` of all its other keys."""
MAX_BYTES = 2**30
"""Largest record that is read: examples of a million latents take less."""
YAML_HEAD = f"# {SELF}: "
"""How YAML begins that a stage has written."""
_SAYS = {"missing": "is missing", "extra_forbidden": "is no key of this file"}


class Found(NamedTuple, Generic[R]):
    """A record that was read."""

    record: R
    is_hashed: bool
    """Whether the file carried a hash of itself. Those of earlier versions do not."""


def json_text(data: JsonValue) -> str:
    """The one spelling of a record: sorted keys, ASCII, newline at the end.

    Raises: ValueError if it holds a NaN or an infinity, which JSON cannot spell.
    """
    return json.dumps(data, sort_keys=True, indent=2, allow_nan=False) + "\n"


def fingerprint(data: JsonValue) -> str:
    """sha256 (hex) of the one spelling: equal data, equal fingerprints."""
    return sha256(json_text(data).encode("utf-8"))


def with_fingerprint(record: R) -> R:
    """The record with the hash of its other keys as its `fingerprint`."""
    rest = record.model_dump(mode="json", exclude={"fingerprint"})
    return record.model_copy(update={"fingerprint": fingerprint(rest)})


def write_record(path: Path, record: Record) -> None:
    """Write a record with its own hash, atomically and durably."""
    data = record.model_dump(mode="json")
    write_bytes(path, json_text(data | {SELF: fingerprint(data)}).encode("utf-8"))


def read_record(path: Path, model: type[R]) -> Found[R]:
    """The record in a file; one of an older version in today's words.

    Raises: CheckpointError if the file is missing or no JSON object, if its own hash is not that of its content, or if
        a key is missing, unknown, or holds what it cannot hold.
    """
    try:
        found = parse_json(path.read_bytes(), path, MAX_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from error
    except StoreError as error:
        raise CheckpointError(f"{error}; {model.remedy}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no JSON object; {model.remedy}")
    claimed = found.pop(SELF, None)
    try:
        actual = fingerprint(found)
        record = read_object(found, model, str(path))
    except (ValueError, RecursionError) as error:  # an infinity such as 1e400, or nested too deep
        raise CheckpointError(f"{path}: not readable as JSON ({error}); {model.remedy}") from None
    if claimed not in (None, actual):
        raise CheckpointError(
            f"{path}: its {SELF} is not that of its content, so it was damaged or edited; {model.remedy}"
        )
    if model.has_own_fingerprint:
        rest = {key: value for key, value in found.items() if key != "fingerprint"}
        if found["fingerprint"] != fingerprint(rest):
            raise CheckpointError(f"{path}: fingerprint: is not that of the rest; {model.remedy}")
    return Found(record, claimed is not None)


def read_object(data: JsonObject, model: type[R], where: str) -> R:
    """The record that JSON data spells. Raises: CheckpointError naming `where` and the first key that is wrong."""
    version = data.get("version", 1)
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise CheckpointError(f"{where}: version: is {str(version)[:20]!r}, and this program reads 1 to {VERSION}")
    try:
        todays = data if version == VERSION else migrated(data, model.kind, version) | {"version": VERSION}
        return model.model_validate(todays)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        says = _SAYS.get(first["type"], first["msg"])
        newer = "use the newer version that may have written it, or " if first["type"] == "extra_forbidden" else ""
        raise CheckpointError(f"{where}: {key[:200]}: {says}; {newer}{model.remedy}") from None


def line_of(record: Record) -> bytes:
    """A record as a line of a .jsonl file."""
    data = record.model_dump(mode="json")
    return json.dumps(data, sort_keys=True, allow_nan=False).encode("utf-8") + b"\n"


def read_lines(path: Path, model: type[R]) -> list[R]:
    """The lines of a .jsonl file. Raises: CheckpointError naming the first that is not what its writer writes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    return lines_in(data, model, str(path))


def lines_in(data: bytes, model: type[R], where: str) -> list[R]:
    """The same of bytes that were read. where: the file, for errors."""
    return [_line(line, model, f"{where}:{number}") for number, line in enumerate(data.splitlines(), start=1)]


def read_whole_lines(path: Path, model: type[R]) -> list[R]:
    """The whole lines of a log that a kill may have torn; none of a file that is not there."""
    found = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            found.append(_line(line, model, str(path)))
        except CheckpointError:
            continue
    return found


def _line(data: bytes, model: type[R], where: str) -> R:
    try:
        line = parse_json(data, where, MAX_BYTES)
    except StoreError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(line, dict):
        raise CheckpointError(f"{where}: holds no JSON object")
    return read_object(line, model, where)


def write_yaml(path: Path, text: str) -> None:
    """Write YAML with its own hash in a comment before it, atomically and durably."""
    data = text.encode("utf-8")
    write_bytes(path, f"{YAML_HEAD}{sha256(data)}\n".encode() + data)


def read_yaml(path: Path) -> tuple[str, bool]:
    """The text that `write_yaml` wrote, and whether it carried a hash.

    Raises: CheckpointError if it is missing, not UTF-8, or its hash is not that of the text.
    """
    try:
        whole = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); run train") from error
    except ValueError:
        raise CheckpointError(f"{path}: not UTF-8 text; run train, which writes it again") from None
    head, _, text = whole.partition("\n")
    if not head.startswith(YAML_HEAD):
        return whole, False
    if head.removeprefix(YAML_HEAD) != sha256(text.encode("utf-8")):
        raise CheckpointError(
            f"{path}: its {SELF} is not that of its content, so it was damaged or edited; "
            "run train, which writes it again"
        )
    return text, True


def changed_keys(
    old: Mapping[str, JsonValue] | JsonValue, new: Mapping[str, JsonValue] | JsonValue, prefix: str = ""
) -> list[str]:
    """What differs between two records, one `dotted.path: was X, is Y` per leaf."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [f"{prefix}: was {json.dumps(old)}, is {json.dumps(new)}"]
    lines = []
    for key in sorted(old.keys() | new.keys()):
        path = f"{prefix}.{key}" if prefix else str(key)
        if key not in new:
            lines.append(f"{path}: was {json.dumps(old[key])}, is absent")
        elif key not in old:
            lines.append(f"{path}: was absent, is {json.dumps(new[key])}")
        else:
            lines += changed_keys(old[key], new[key], path)
    return lines
