"""Names and metadata of a store: which files a plan stands for, and what plain zarr is told about them."""

import re
from collections.abc import Iterable

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json
from strata_sae.stores.format.encodings import CODECS
from strata_sae.stores.format.shards import ArraySpec

VERSION = 2
VERSIONS = (1, 2)
"""Which this program reads; it begins stores of version 2 only."""
SITE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
ARRAYS = "activations.zarr"
PLAN, MANIFEST = "plan.json", "MANIFEST.json"
COMMITS, STATISTICS, TIMINGS, STAGING, EXTRAS = "commits", "statistics", "timings", "staging", "extras"
COMMITS_PER_FOLDER = 1000
EXTRA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
TOKEN_BYTES = "token_bytes.json"
"""The one of the extras that every store has."""
ROW_EXTRAS = ("labels.", "truth.")
"""How names of extras begin that speak of single rows."""

TOKEN_FIELDS = {"token_id": "<i4", "document": "<i8", "position": "<i4", "flags": "|u1"}
TOKEN_ROWS_PER_CHUNK = 2**16
TOKEN_ROWS_PER_SHARD = 2**24
FLAG_BOS, FLAG_SPECIAL, FLAG_TEMPLATE = 1, 2, 4

_ZARR_TYPES = {"<i4": "int32", "<i8": "int64", "|u1": "uint8", "|i1": "int8", "<f4": "float32"}


def group_json() -> dict[str, Json]:
    """Contents of a group's zarr.json."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def token_specs(n_rows: int) -> dict[str, ArraySpec]:
    """The token map's arrays by field."""
    return {
        field: ArraySpec(
            path=f"{ARRAYS}/tokens/{field}",
            shape=(n_rows,),
            dtype=dtype,
            zarr_type=_ZARR_TYPES[dtype],
            fill_value=255 if dtype == "|u1" else -1,
            rows_per_chunk=TOKEN_ROWS_PER_CHUNK,
            rows_per_shard=TOKEN_ROWS_PER_SHARD,
            compressor="zstd",
            attributes={},
        )
        for field, dtype in TOKEN_FIELDS.items()
    }


def site_specs(
    site: str, n_rows: int, d_model: int, encoding: str, compressor: str, rows_per_chunk: int, rows_per_unit: int
) -> dict[str, ArraySpec]:
    """A site's arrays by name.

    `values` [N, M], or with byte planes `high` and `low` [N, M]; `scale` [N] for int8; `norm` [N], the Euclidean norm
    of each row as it was captured.
    """
    if not SITE_NAME.fullmatch(site) or set(site) == {"."}:
        raise StoreError(f"site name {site!r} is not allowed: letters, digits, '_', '.', '-', at most 128")
    codec = CODECS[encoding]
    values = ArraySpec(
        path=f"{ARRAYS}/sites/{site}/values",
        shape=(n_rows, d_model),
        dtype=codec.dtype,
        zarr_type=codec.zarr_type,
        fill_value=codec.fill_value,
        rows_per_chunk=rows_per_chunk,
        rows_per_shard=rows_per_unit,
        compressor=compressor,
        attributes={"dtype": encoding},
    )
    norm = values._replace(
        path=f"{ARRAYS}/sites/{site}/norm",
        shape=(n_rows,),
        dtype="<f4",
        zarr_type="float32",
        fill_value="NaN",
        compressor="none",
        attributes={},
    )
    if compressor == "planes":
        plane = values._replace(dtype="|u1", zarr_type="uint8", fill_value=255)
        high = plane._replace(path=f"{ARRAYS}/sites/{site}/high", compressor="zstd_literals")
        low = plane._replace(path=f"{ARRAYS}/sites/{site}/low", compressor="none")
        return {"high": high, "low": low, "norm": norm}
    if encoding == "int8":
        return {"values": values, "scale": norm._replace(path=f"{ARRAYS}/sites/{site}/scale"), "norm": norm}
    return {"values": values, "norm": norm}


def column_specs(site: str, d_model: int) -> dict[str, ArraySpec]:
    """What int8 keeps per column: value = (q * scale) * column_scale + column_offset."""
    return {
        name: ArraySpec(
            path=f"{ARRAYS}/sites/{site}/{name}",
            shape=(d_model,),
            dtype="<f4",
            zarr_type="float32",
            fill_value="NaN",
            rows_per_chunk=d_model,
            rows_per_shard=d_model,
            compressor="none",
            attributes={},
        )
        for name in ("column_offset", "column_scale")
    }


def group_paths(sites: Iterable[str]) -> list[str]:
    """Folders of the zarr groups, relative to the store."""
    return [ARRAYS, f"{ARRAYS}/tokens", f"{ARRAYS}/sites", *(f"{ARRAYS}/sites/{site}" for site in sites)]
