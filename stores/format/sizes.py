"""How large a store will be, before a byte of it is written."""

import math

import numpy as np

from strata_sae.stores.format.arrays import ArraySpec
from strata_sae.stores.format.encodings import CRC_BYTES
from strata_sae.stores.format.plan import Plan

_INDEX_ENTRY_BYTES = 16
_FRAME_BYTES = 2**16


def shard_bytes(spec: ArraySpec, shard: int) -> int:
    """Size of a shard file: exact without compression, and a bound with it for anything zstd can shrink at all."""
    chunk = spec.rows_per_chunk * math.prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize + CRC_BYTES
    return spec.shard_chunks(shard) * chunk + spec.chunks_per_shard * _INDEX_ENTRY_BYTES + CRC_BYTES


def largest_shard_bytes(spec: ArraySpec, shard: int) -> int:
    """What a shard file can have at most: zstd adds to what it cannot shrink, an eighth and its own frames at worst."""
    n_bytes = shard_bytes(spec, shard)
    return n_bytes if spec.compressor == "none" else n_bytes + n_bytes // 8 + _FRAME_BYTES


def unit_bytes(plan: Plan, unit: int) -> int:
    """Size of a unit's shard files."""
    return sum(shard_bytes(spec, unit) for specs in plan.site_specs.values() for spec in specs.values())


def activation_bytes(plan: Plan) -> int:
    """Size of the shard files of all sites; exact without compression."""
    columns = sum(shard_bytes(spec, 0) for specs in plan.column_specs.values() for spec in specs.values())
    return columns + sum(unit_bytes(plan, unit) for unit in range(plan.n_units))


def token_map_bytes(plan: Plan) -> int:
    """Size of the token map before compression, which is always on: a bound."""
    return sum(shard_bytes(spec, shard) for spec in plan.token_specs.values() for shard in range(spec.n_shards))
