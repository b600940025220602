"""latents.safetensors: what is known of each latent. Read as views of the file, so that a big one takes no memory."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_int, as_list, as_object, as_text, parse_json

MAX_BYTES_A_LATENT = 16 * 2**10
"""Of all arrays together: the table of `strata codes` has 1.2 kB."""
_HEADER_BYTES = 2**20
_TYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}


def table_bytes(table: Mapping[str, np.ndarray], d_sae: int) -> bytes:
    """The bytes of a table. Raises: StoreError if an array of it has not one entry a latent, or a type of its own."""
    for name, array in table.items():
        if array.ndim < 1 or len(array) != d_sae or array.dtype.str not in _TYPES.values():
            raise StoreError(f"the table of the latents: {name} is {array.dtype} {array.shape}, of {d_sae} latents")
    data = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in table.items()})
    if len(data) > largest_table(d_sae):
        raise StoreError(f"the table of the latents: {len(data)} bytes; it may have {largest_table(d_sae)}")
    return data


def largest_table(d_sae: int) -> int:
    """Bytes that a table may have."""
    return _HEADER_BYTES + MAX_BYTES_A_LATENT * d_sae


def parse_table(data: np.ndarray, d_sae: int, where: Path) -> dict[str, np.ndarray]:
    """The arrays in the bytes (uint8) of a table, read-only views of them; the first axis of each is [d_sae].

    Raises: StoreError if they are no table of so many latents.
    """
    try:
        n_header = int(data[:8].view("<u8")[0])
        if n_header > min(_HEADER_BYTES, len(data) - 8):
            raise ValueError("its header is larger than it may be")
        header = as_object(parse_json(data[8 : 8 + n_header].tobytes(), where))
        body, end, table = data[8 + n_header :], 0, {}
        for name, entry in sorted(header.items(), key=lambda item: _begin(item[1])):
            table[name], end = _array(body, as_object(entry), end, d_sae)
        if end != len(body):
            raise ValueError("bytes of it belong to no array")
    except (KeyError, ValueError, IndexError) as error:
        raise StoreError(f"{where}: not a table of {d_sae} latents ({error}); make the codes again") from None
    return table


def _begin(entry: Json) -> int:
    return as_int(as_list(as_object(entry)["data_offsets"])[0])


def _array(body: np.ndarray, entry: dict[str, Json], begin: int, d_sae: int) -> tuple[np.ndarray, int]:
    """An array and where it ends; it must begin where the one before it ended."""
    shape = [as_int(size) for size in as_list(entry["shape"])]
    dtype = np.dtype(_TYPES[as_text(entry["dtype"])])
    if not shape or shape[0] != d_sae or min(shape) < 0:
        raise ValueError(f"an array has the shape {str(shape)[:60]}")
    end = begin + math.prod(shape) * dtype.itemsize
    if as_list(entry["data_offsets"]) != [begin, end] or end > len(body):
        raise ValueError("the arrays overlap, leave gaps, or leave the file")
    array = np.frombuffer(body[begin:end].data, dtype).reshape(shape)
    array.flags.writeable = False
    return array, end
