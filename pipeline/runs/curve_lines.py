"""Lines of a .jsonl file of numbers, as training writes them."""

import math
from pathlib import Path
from typing import Any

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.record_files import MAX_BYTES
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import parse_json

CurveLine = dict[str, Any]
"""Name -> number, or None for what JSON cannot spell; `step` is there and a whole number."""


def read_curves(path: Path) -> list[CurveLine]:
    """The lines of curves.jsonl. Raises: CheckpointError naming the first that is not what training writes."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    return [_line(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _line(data: bytes, where: str) -> CurveLine:
    try:
        line = parse_json(data, where, MAX_BYTES)
    except StoreError as error:
        raise CheckpointError(str(error)) from None
    if (
        not isinstance(line, dict)
        or type(line.get("step")) is not int
        or not all(value is None or _is_number(value) for value in line.values())
    ):
        raise CheckpointError(f"{where}: expected an object of numbers with a whole `step`")
    return dict(line)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
