"""Folders of .npy files: rows [N, M] or [D, S, M], one file a shard, sorted by name; `token_ids.npy` beside them."""

import math
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError, one_line
from strata_sae.pipeline.formats.npy_headers import read_npy_header
from strata_sae.pipeline.imports.activations.activations import (
    ENCODINGS,
    OUR_SITE,
    Activations,
    Theirs,
    encoding_of,
    same,
)
from strata_sae.pipeline.imports.activations.pieces import Joined, RawRows, in_sequences
from strata_sae.pipeline.imports.activations.source_folder import SourceFolder
from strata_sae.stores import Rows

TOKENS = "token_ids.npy"


class Header(NamedTuple):
    """What an array's file says of it."""

    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    """Where its numbers begin."""


def is_one(folder: SourceFolder) -> bool:
    """Whether its files are .npy, and none is another format's."""
    return bool(_shards(folder)) and not folder.names("*.json") and not folder.names("*.safetensors")


def read(folder: SourceFolder) -> Activations:
    """The rows of all files but `token_ids.npy`. Raises: ConfigError."""
    shards = {name: read_header(folder, name) for name in _shards(folder)}
    if not shards:
        raise ConfigError(f"{folder.path}: holds no .npy files with rows; give the folder that they lie in")
    for name, header in shards.items():
        if len(header.shape) not in (2, 3) or 0 in header.shape:
            raise ConfigError(
                f"{folder.path / name}: shape {header.shape}; rows are [N, M] or [D, S, M], none of them 0"
            )
    same(folder, {name: header.dtype for name, header in shards.items()}, "the type")
    same(folder, {name: header.shape[-1] for name, header in shards.items()}, "the width")
    same(folder, {name: header.shape[1:-1] for name, header in shards.items()}, "the length of sequences")
    first = next(iter(shards.values()))
    encoding = encoding_of(first.dtype, str(folder.path))
    parts = [
        RawRows(
            folder, name, ENCODINGS[encoding], (math.prod(header.shape[:-1]), header.shape[-1]), header.offset_bytes
        )
        for name, header in shards.items()
    ]
    rows_NM = Joined(parts)
    n_rows, length = rows_NM.shape[0], first.shape[1] if len(first.shape) == 3 else None
    tokens: dict[str, Rows] = {}
    if folder.has(TOKENS):
        header = read_header(folder, TOKENS)
        length = check_tokens(str(folder.path / TOKENS), header.dtype, header.shape, n_rows, length)
        tokens["token_id"] = RawRows(folder, TOKENS, header.dtype, (n_rows,), header.offset_bytes)
    site = folder.name if OUR_SITE.fullmatch(folder.name) else ""
    return Activations(
        format="npy",
        folder=folder,
        sites={folder.name: Theirs(site, rows_NM)},
        encoding=encoding,
        tokens=tokens | (in_sequences(n_rows, length) if length else {}),
    )


def check_tokens(where: str, dtype: str, shape: tuple[int, ...], n_rows: int, length: int | None) -> int | None:
    """The length of sequences, once token ids [N] or [D, S] are known to be those of the rows. Raises: ConfigError."""
    if np.dtype(dtype).kind not in "iu" or len(shape) not in (1, 2) or math.prod(shape) != n_rows:
        raise ConfigError(f"{where}: shape {shape}, {dtype}; token ids are integers [N] or [D, S], of {n_rows} rows")
    if len(shape) == 2 and length not in (None, shape[1]):
        raise ConfigError(f"{where}: sequences of {shape[1]} tokens, but the rows' have {length}")
    return shape[1] if len(shape) == 2 else length


def read_header(folder: SourceFolder, name: str) -> Header:
    """What a .npy file holds. Raises: ConfigError if it is none, holds objects, or is not of the size that it says."""
    try:
        with folder.file(name).open("rb") as file:
            found = read_npy_header(file)
        if found.columns_lie_together and len(found.shape) > 1:
            raise ValueError("its columns lie together; save np.ascontiguousarray(rows)")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder.path / name}: no .npy file that can be read safely ({one_line(error)})") from None
    header = Header(found.dtype.str, found.shape, found.offset_bytes)
    needed = header.offset_bytes + math.prod(header.shape) * np.dtype(header.dtype).itemsize
    if folder.n_bytes(name) != needed:
        raise ConfigError(
            f"{folder.path / name}: its header says {header.shape} of {header.dtype}, {needed:,} bytes, but it has "
            f"{folder.n_bytes(name):,}; the file is cut or damaged"
        )
    return header


def _shards(folder: SourceFolder) -> list[str]:
    return [name for name in folder.names("*.npy") if name != TOKENS]
