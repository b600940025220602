"""Safe opening, shared by all formats: no code in a file runs, and its sizes are checked before memory is taken."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from pydantic import JsonValue
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError, one_line
from strata_sae.pipeline.formats.archives import read_npz, read_torch
from strata_sae.pipeline.formats.plain_files import check_memory, file_sha256s, plain_file, quoted, read_bytes
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, parse_json

__all__ = ["expect", "file_sha256s", "matrix_shape", "read_json", "read_npz", "read_safetensors", "read_torch"]

MAX_JSON_BYTES = 4 * 2**20
"""Largest config that is read: those that are known take some thousand bytes."""
MAX_HEADER_BYTES = 2**20
"""Largest header of a safetensors file that is read: that of ten tensors takes a thousand bytes."""
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""safetensors' names of the numbers that are read -> bytes of each."""


def read_json(path: Path, within: Path | None = None) -> dict[str, JsonValue]:
    """The object in a JSON file.

    within: the folder that was given, which no link may leave; None: the file's own.
    Raises: CheckpointError if it is missing, too large, no object, or holds NaN or an infinity.
    """
    data = read_bytes(path, within, MAX_JSON_BYTES)
    try:
        value = parse_json(data, path, MAX_JSON_BYTES)
        is_finite = _is_finite(value)
    except (StoreError, RecursionError) as error:
        raise CheckpointError(f"{one_line(error)}; fetch the folder again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object, which is what a config is; fetch the folder again")
    if not is_finite:
        raise CheckpointError(f"{path}: holds a number beyond all that a float can hold; fetch the folder again")
    return dict(value)


def read_safetensors(path: Path, within: Path | None = None) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name: float32, on the processor.

    Raises: CheckpointError if the file is damaged, its header does not fit it, or a tensor is not of floats.
    """
    found = plain_file(path, within)
    _check_header(found, path)
    try:
        with safetensors.safe_open(found, framework="pt", device="cpu") as file:
            names = list(file.keys())
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            for name, kind in kinds.items():
                if kind not in _FLOATS:
                    raise CheckpointError(
                        f"{path}: {quoted(name)}: holds {quoted(kind)}; allowed: {', '.join(_FLOATS)}; convert it"
                    )
            n_numbers = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
            check_memory(4 * n_numbers, str(path))
            return {name: file.get_tensor(name).to(torch.float32) for name in names}
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: is no whole safetensors file ({one_line(error)[:100]}); fetch it again"
        ) from None


def matrix_shape(tensors: Mapping[str, Tensor], name: str, where: str) -> tuple[int, int]:
    """The two sizes of a matrix. Raises: CheckpointError if there is none of this name, or it is no matrix."""
    if name not in tensors:
        held = ", ".join(quoted(other) for other in sorted(tensors)[:12]) or "nothing"
        raise CheckpointError(f"{where}: {name!r} is missing; it holds {held}; give the format that wrote it")
    shape = tuple(tensors[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{where}: {name!r} has shape {shape}, and must be a matrix; fetch the file again")
    return shape[0], shape[1]


def expect(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Check that tensors are these and no others.

    Raises: CheckpointError naming what is missing, unknown or misshapen, or holds NaN or an infinity.
    """
    if missing := sorted(set(shapes) - set(tensors)):
        raise CheckpointError(f"{where}: {_names(missing)} missing; needed: {', '.join(shapes)}; fetch the file again")
    if unknown := sorted(set(tensors) - set(shapes)):
        raise CheckpointError(
            f"{where}: {_names(unknown)} unknown, so what the SAE computes is not certain; known: {', '.join(shapes)}; "
            "give the format that wrote it"
        )
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{where}: {name!r} has shape {tuple(tensor.shape)}, and the other tensors say {shape}; "
                "fetch the file again"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where}: {name!r} holds NaN or an infinity; no such SAE is read, so train it again")


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(quoted(name) for name in names[:5])}{more} {'is' if len(names) == 1 else 'are'}"


def _check_header(found: Path, path: Path) -> None:
    """Raises: CheckpointError if the length that a safetensors file begins with is not one of its header."""
    try:
        with found.open("rb") as file:
            n_bytes, claimed = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None
    if n_bytes < 8 or claimed > min(n_bytes - 8, MAX_HEADER_BYTES):
        raise CheckpointError(
            f"{path}: says that its header takes {claimed:,} bytes, in a file of {n_bytes:,}; "
            f"allowed: what the file holds, at most {MAX_HEADER_BYTES:,}; fetch it again"
        )


def _is_finite(value: Json) -> bool:
    if isinstance(value, dict):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)
