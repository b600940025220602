"""The header of an array in numpy's format, read without its numbers, and without anything in it being run."""

from typing import IO, NamedTuple

import numpy as np

_HEADER_BYTES = 2**16


class Header(NamedTuple):
    """What is said of an array."""

    dtype: np.dtype
    shape: tuple[int, ...]
    columns_lie_together: bool
    offset_bytes: int
    """Where its numbers begin."""


def read_npy_header(file: IO[bytes]) -> Header:
    """The header that a file begins with. Raises: ValueError if it is none, or of an array of objects."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = readers[version](file, max_header_size=_HEADER_BYTES)
    except Exception as error:  # numpy raises what its reader of literals does: SyntaxError, TokenError, MemoryError
        raise ValueError(str(error) or type(error).__name__) from None
    if dtype.hasobject:
        raise ValueError("it holds objects, which only a pickle could make")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    return Header(dtype, shape, bool(fortran), file.tell())
