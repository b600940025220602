"""The index at the end of a shard file: where each chunk lies, as zarr's `sharding_indexed` codec writes it."""

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.arrays import ArraySpec
from strata_sae.stores.format.encodings import CRC_BYTES, crc_matches

MISSING = 2**64 - 1


_ENTRY_BYTES = 16


def index_bytes(spec: ArraySpec) -> int:
    """Size of the index at the end of a shard file."""
    return spec.chunks_per_shard * _ENTRY_BYTES + CRC_BYTES


def read_index(tail: np.ndarray, file_bytes: int, spec: ArraySpec, shard: int, where: str) -> np.ndarray:
    """Places of a shard's chunks from the end of its file (uint8), checked: int64 [chunks, 2] of offset and size.

    Raises: StoreError if the index is damaged, leaves the file, or lacks a chunk that holds rows.
    """
    if len(tail) < index_bytes(spec):
        raise StoreError(f"{where}: {file_bytes} bytes, too short for its index; fetch the file again")
    if not crc_matches(tail):
        raise StoreError(f"{where}: the checksum of its index differs; the file is damaged, fetch it again")
    index = tail[:-CRC_BYTES].view("<u8").reshape(-1, 2)[: spec.shard_chunks(shard)]
    limit = file_bytes - len(tail)
    if (index > limit).any() or (index.sum(axis=1) > limit).any() or (index[:, 1] < CRC_BYTES).any():
        raise StoreError(f"{where}: its index points outside the file or to a missing chunk; fetch the file again")
    ends = index[:, 1].cumsum()
    if (index[:, 0] != ends - index[:, 1]).any() or ends[-1] != limit:
        raise StoreError(f"{where}: its chunks overlap, or leave gaps; fetch the file again")
    return index.astype(np.int64)
