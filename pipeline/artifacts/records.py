"""JSON records: written canonically and durably, read with errors a person can act on, compared by key."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.artifacts.durable import write_bytes
from pipeline.errors import CheckpointError


def canonical_json(record: Any) -> str:
    """The one spelling of a record: sorted keys, ASCII, newline at the end.

    Raises: ValueError if it holds a NaN or an infinity, which JSON cannot spell.
    """
    return json.dumps(record, sort_keys=True, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, record: Any) -> None:
    """Write a record atomically and durably."""
    write_bytes(path, canonical_json(record).encode("utf-8"))


def read_json(path: Path) -> Any:
    """The record in a file. Raises: CheckpointError if the file is missing, unreadable or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); run the stage that writes it") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); delete it and run the stage that writes it") from error


def fingerprint(record: Any) -> str:
    """sha256 (hex) of the canonical JSON: equal records, equal fingerprints."""
    return hashlib.sha256(canonical_json(record).encode("utf-8")).hexdigest()


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
