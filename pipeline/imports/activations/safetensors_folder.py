"""Folders of .safetensors files: a tensor a site, [N, M] or [D, S, M], one file a shard, sorted by name; `token_ids`.

Source of the layout of a file: the safetensors format (an 8-byte length, a JSON header, the numbers).
"""

import math
from typing import NamedTuple

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.imports.activations.activations import OUR_SITE, Activations, Theirs, encoding_of, same
from strata_sae.pipeline.imports.activations.npy_folder import check_tokens
from strata_sae.pipeline.imports.activations.pieces import Joined, RawRows, in_sequences
from strata_sae.pipeline.imports.activations.source_folder import MAX_JSON_BYTES, SourceFolder
from strata_sae.stores import Rows
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_int, as_list, as_object, as_text, parse_json

TOKENS = "token_ids"
TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U16": "<u2", "U8": "|u1"}
"""What rows and token ids may be -> numpy's name."""
_BYTES = {"<f4": 4, "<f2": 2, "<u2": 2, "<i8": 8, "<i4": 4, "<i2": 2, "|u1": 1}


class Described(NamedTuple):
    """A tensor of a file."""

    dtype: str
    """By safetensors' name."""
    shape: tuple[int, ...]
    offset_bytes: int
    """Where its numbers begin in the file."""


def is_one(folder: SourceFolder) -> bool:
    """Whether its files are .safetensors, and none is another format's."""
    return bool(folder.names("*.safetensors")) and not folder.names("*.json") and not folder.names("*.npy")


def read(folder: SourceFolder) -> Activations:
    """Every tensor but `token_ids` is the rows of a site. Raises: ConfigError."""
    shards = {name: read_header(folder, name) for name in folder.names("*.safetensors")}
    if not shards:
        raise ConfigError(f"{folder.path}: holds no .safetensors files; give the folder that they lie in")
    same(folder, {name: sorted(tensors) for name, tensors in shards.items()}, "the names of its tensors")
    names = [name for name in next(iter(shards.values())) if name != TOKENS]
    if not names:
        raise ConfigError(f"{folder.path}: its files hold no tensor but {TOKENS}; add the rows")
    for name, tensors in shards.items():
        _check_shapes(f"{folder.path / name}", tensors)
    rows = {name: _joined(folder, shards, name) for name in names}
    same(folder, {name: found.shape[0] for name, found in rows.items()}, "the number of rows")
    dtypes = {f"{file}: {name}": tensors[name].dtype for file, tensors in shards.items() for name in names}
    same(folder, dtypes, "the type")
    lengths = {f"{file}: {name}": _length(tensors[name]) for file, tensors in shards.items() for name in names}
    same(folder, lengths, "the length of sequences")
    n_rows, length = rows[names[0]].shape[0], next(iter(lengths.values()))
    tokens: dict[str, Rows] = {}
    if TOKENS in next(iter(shards.values())):
        for file, tensors in shards.items():
            described, file_rows = tensors[TOKENS], math.prod(tensors[names[0]].shape[:-1])
            length = check_tokens(
                f"{folder.path / file}: {TOKENS}", TYPES[described.dtype], described.shape, file_rows, length
            )
        same(folder, {file: tensors[TOKENS].dtype for file, tensors in shards.items()}, f"the type of {TOKENS}")
        tokens["token_id"] = _joined(folder, shards, TOKENS, flat=True)
    single = len(names) == 1
    sites = {name: Theirs(name if not single or OUR_SITE.fullmatch(name) else "", rows[name]) for name in names}
    return Activations(
        format="safetensors",
        folder=folder,
        sites=sites,
        encoding=encoding_of(next(iter(dtypes.values())), str(folder.path)),
        tokens=tokens | (in_sequences(n_rows, length) if length else {}),
    )


def read_header(folder: SourceFolder, name: str) -> dict[str, Described]:
    """The tensors of a file by name, each inside of it. Raises: ConfigError if it is no safetensors file."""
    where, n_bytes = folder.path / name, folder.n_bytes(name)
    with folder.file(name).open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if not 2 <= n_header <= min(MAX_JSON_BYTES, n_bytes - 8):
            raise ConfigError(f"{where}: no safetensors file: a header of {n_header:,} bytes in {n_bytes:,}")
        data = file.read(n_header)
    try:
        header = as_object(parse_json(data, where, MAX_JSON_BYTES))
        found = {
            tensor: _described(as_object(value), 8 + n_header, n_bytes)
            for tensor, value in header.items()
            if tensor != "__metadata__"
        }
    except (StoreError, ValueError, KeyError) as error:
        raise ConfigError(f"{where}: no safetensors file that can be read safely ({error})") from None
    if not found:
        raise ConfigError(f"{where}: holds no tensors")
    return found


def _described(value: dict[str, Json], start: int, n_bytes: int) -> Described:
    dtype, shape = as_text(value["dtype"]), tuple(as_int(size) for size in as_list(value["shape"]))
    first, last = (as_int(offset) for offset in as_list(value["data_offsets"]))
    if dtype not in TYPES:
        raise ValueError(f"a tensor of {dtype[:20]!a}; allowed: {', '.join(TYPES)}")
    if not all(0 < size < 2**48 for size in shape):
        raise ValueError(f"shape {shape}")
    if not 0 <= first <= last <= n_bytes - start or last - first != math.prod(shape) * _BYTES[TYPES[dtype]]:
        raise ValueError(f"{shape} of {dtype} at bytes {first} to {last}, in a file of {n_bytes}")
    return Described(dtype, shape, start + first)


def _check_shapes(where: str, tensors: dict[str, Described]) -> None:
    for name, tensor in tensors.items():
        if name != TOKENS and len(tensor.shape) not in (2, 3):
            raise ConfigError(f"{where}: {name[:40]!a}: shape {tensor.shape}; rows are [N, M] or [D, S, M]")


def _length(tensor: Described) -> int | None:
    return tensor.shape[1] if len(tensor.shape) == 3 else None


def _joined(folder: SourceFolder, shards: dict[str, dict[str, Described]], name: str, flat: bool = False) -> Joined:
    """The rows [N, M] of a tensor in all files, or its numbers [N]. Raises: ConfigError if the widths differ."""
    if not flat:
        same(folder, {file: tensors[name].shape[-1] for file, tensors in shards.items()}, f"the width of {name[:40]!a}")
    parts = []
    for file, tensors in shards.items():
        dtype, shape, offset_bytes = tensors[name]
        shape = (math.prod(shape),) if flat else (math.prod(shape[:-1]), shape[-1])
        parts.append(RawRows(folder, file, TYPES[dtype], shape, offset_bytes))
    return Joined(parts)
