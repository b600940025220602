"""Records of a run folder: written with a hash of themselves, and read only if it matches and their shape is right."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.durable import write_bytes
from strata_sae.pipeline.runs.records import Shape
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import parse_json

SELF = "self_sha256"
"""Key of a record's own hash: `fingerprint` of all its other keys."""
MAX_BYTES = 2**30
"""Largest record that is read."""
_YAML_HEAD = f"# {SELF}: "


class Record(NamedTuple):
    """A record that was read, without its own hash."""

    data: dict[str, Any]
    is_hashed: bool
    """Whether it carried a hash of itself. Those written by earlier versions do not."""


def canonical_json(record: Any) -> str:
    """The one spelling of a record: sorted keys, ASCII, newline at the end.

    Raises: ValueError if it holds a NaN or an infinity, which JSON cannot spell.
    """
    return json.dumps(record, sort_keys=True, indent=2, allow_nan=False) + "\n"


def fingerprint(record: Any) -> str:
    """sha256 (hex) of the canonical JSON: equal records, equal fingerprints."""
    return hashlib.sha256(canonical_json(record).encode("utf-8")).hexdigest()


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record with its own hash, atomically and durably."""
    write_bytes(path, canonical_json({**record, SELF: fingerprint(record)}).encode("utf-8"))


def read_record(path: Path, shape: type[Shape]) -> Record:
    """The record in a file.

    Raises: CheckpointError if the file is missing or no JSON object, if its own hash is not that of its content, or
    if a value has not the type that `shape` says.
    """
    try:
        found = parse_json(path.read_bytes(), path, MAX_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from error
    except StoreError as error:
        raise CheckpointError(f"{error}; {shape.remedy}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no JSON object; {shape.remedy}")
    claimed = found.pop(SELF, None)
    try:
        actual = fingerprint(found)
        shape.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise CheckpointError(f"{path}: {key[:200]}: {first['msg']}; {shape.remedy}") from None
    except (ValueError, RecursionError) as error:  # an infinity such as 1e400, or nested too deep
        raise CheckpointError(f"{path}: not readable as JSON ({error}); {shape.remedy}") from None
    if claimed not in (None, actual):
        raise CheckpointError(
            f"{path}: its {SELF} is not that of its content, so it was damaged or edited; {shape.remedy}"
        )
    return Record(found, claimed is not None)


def write_yaml(path: Path, text: str) -> None:
    """Write YAML with its own hash in a comment before it, atomically and durably."""
    data = text.encode("utf-8")
    write_bytes(path, f"{_YAML_HEAD}{hashlib.sha256(data).hexdigest()}\n".encode() + data)


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
    if not head.startswith(_YAML_HEAD):
        return whole, False
    if head.removeprefix(_YAML_HEAD) != hashlib.sha256(text.encode("utf-8")).hexdigest():
        raise CheckpointError(
            f"{path}: its {SELF} is not that of its content, so it was damaged or edited; "
            "run train, which writes it again"
        )
    return text, True


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """What differs between two records, one `dotted.path: was X, is Y` per leaf."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
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
