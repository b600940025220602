"""The codes of one segment in both orders, and whether they are codes at all."""

from typing import NamedTuple

import numpy as np

from strata_sae.stores.codes.gaps import blocks, check_offsets, check_rising, gaps_of
from strata_sae.stores.codes.plan import CodesPlan
from strata_sae.stores.errors import StoreError


class SegmentCodes(NamedTuple):
    """The codes of one segment in both orders. Rows count from the segment's first; no value is 0.

    R rows, P pairs (row, latent), E latents.
    """

    row_offset: np.ndarray
    """int64 [R + 1]: row r has the pairs row_offset[r] to row_offset[r + 1] - 1."""
    row_latent: np.ndarray
    """uint32 [P], rising in each row."""
    latent_offset: np.ndarray
    """int64 [E + 1]."""
    latent_row: np.ndarray
    """uint32 [P], rising in each latent."""
    latent_value: np.ndarray
    """float32 [P]."""


def check_codes(plan: CodesPlan, segment: int, codes: SegmentCodes) -> None:
    """Whether these can be the codes of a segment; takes a second for 64 M pairs.

    Raises: StoreError saying what is not as `SegmentCodes` says, or that the two orders hold other pairs.
    """
    start, stop = plan.segment_rows(segment)
    n_pairs, where = len(codes.row_latent), f"segment {segment}"
    lengths = (len(codes.row_offset), len(codes.latent_offset), len(codes.latent_row), len(codes.latent_value))
    if lengths != (stop - start + 1, plan.d_sae + 1, n_pairs, n_pairs):
        raise StoreError(f"{where}: its arrays have lengths of other rows, latents or pairs")
    for name, offset in (("row", codes.row_offset), ("latent", codes.latent_offset)):
        check_offsets(offset, n_pairs, f"{where}: the offsets of a {name}")
        if offset[0] != 0 or offset[-1] != n_pairs:
            raise StoreError(f"{where}: the offsets of a {name} leave out some of {n_pairs} pairs")
    by_row = pairs_sum(codes.row_offset, codes.row_latent, plan.d_sae, f"{where}: the latents of a row", by_row=True)
    by_latent = pairs_sum(
        codes.latent_offset, codes.latent_row, stop - start, f"{where}: the rows of a latent", by_row=False
    )
    if by_row != by_latent:
        raise StoreError(f"{where}: the latents of its rows are not the rows of its latents")
    for first in range(0, n_pairs, 2**20):
        check_values(codes.latent_value[first : first + 2**20], where)


def check_values(values: np.ndarray, where: str) -> None:
    """Raises: StoreError if a value is 0, or not finite."""
    if not (np.isfinite(values) & (values != 0)).all():
        raise StoreError(f"{where}: a value is 0, or no finite number")


def pairs_sum(offset: np.ndarray, ids: np.ndarray, limit: int, what: str, *, by_row: bool) -> int:
    """A sum over all pairs that says, but for a chance of 2^-64, whether two orders hold the same ones.

    Raises: StoreError if ids do not rise in each stretch, or are not below `limit`.
    """
    total = 0
    for first, last in blocks(offset):
        begin, end = int(offset[first]), int(offset[last])
        some, within = ids[begin:end], offset[first : last + 1] - begin
        check_rising(gaps_of(some, within), within, what)
        if len(some) and int(some.max()) >= limit:
            raise StoreError(f"{what}: {int(some.max())} is beyond the last one, {limit - 1}")
        stretch = np.repeat(np.arange(first, last, dtype=np.uint64), np.diff(within))
        other = some.astype(np.uint64)
        row, latent = (stretch, other) if by_row else (other, stretch)
        total += int(_mixed(row << np.uint64(32) | latent).sum(dtype=np.uint64))
    return total % 2**64


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): each bit of a number changes half of the bits."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)
